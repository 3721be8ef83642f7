"""The same job with pyinfra's own operations, for hosts that deploy.py has deployed to.

It is bench/ansible/site.yml in pyinfra's words: files come from the hosts, as if templates had made
them. pyinfra finds out what there is to do before it does anything, so that what is asked is asked
first here.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from http.client import HTTPSConnection
from shlex import quote
from socket import create_connection
from typing import Any

from pyinfra import host  # type: ignore[attr-defined]
from pyinfra.api.exceptions import DeployError
from pyinfra.facts.files import Directory, File
from pyinfra.facts.server import Command, LinuxDistribution
from pyinfra.operations import apt, files, server, systemd
from pyinfra.operations.util import any_changed

UNITS = ("nginx", *(f"vllm-hosts-{name}.timer" for name in ("keys", "edge-logs", "watchdog")))
CLOSED = (
    "/v1/models",
    "/invocations",
    "/metrics",
    "/tokenize",
    "/docs",
    "/no-such-agent/v1/models",
)
#: Waits for an agent. A minimal Debian has no curl, and Docker hangs up on who asks too early.
HEALTHY = r"""bash -c 'trap "" PIPE; until exec 3<>/dev/tcp/127.0.0.1/%s &&
printf "GET /health HTTP/1.0\r\n\r\n" >&3 && head -1 <&3 | grep -q " 200 "
do sleep 0.2; done' 2>/dev/null"""
data: Any = host.data


def asked(command: str) -> str:
    """What a command prints. It is no operation: nothing is changed."""
    return host.get_fact(Command, command) or ""


def insist(holds: object, what: str) -> None:
    """Fail the host if something does not hold."""
    if not holds:
        raise DeployError(f"{host.name}: {what}")


def put(*parts: str) -> list[Any]:
    """The files whose paths contain one of these."""
    return [
        files.put(
            name=f"{one['path']} is there",
            src=f"{data.files}{one['path']}",
            dest=one["path"],
            user=one["owner"],
            group=one["group"],
            mode=one["mode"],
        )
        for one in data.managed
        if next((part for part in ORDER if part in one["path"]), "") in parts
    ]


#: By the first of these that is in its path, a file belongs to a step; else to the last one.
ORDER = ("/etc/apt/", "/etc/docker/", "firewall", "/opt/vllm/", "/tls/", "/etc/nginx/")

# What has to hold.
insist(host.get_fact(LinuxDistribution)["name"] in ("Debian", "Ubuntu"), "not supported")
insist(asked("flock --nonblock /run/vllm-hosts-stock.lock echo free") == "free", "is deployed to")
insist(asked("cat /etc/vllm-hosts/store"), "belongs to no inventory")
insist(asked("nvidia-smi --query-gpu=index,name --format=csv,noheader"), "has no GPU")
for model in data.models:
    insist(host.get_fact(Directory, model), f"has no {model}")

sources = put("/etc/apt/")
apt.update(name="Archives are read", _if=any_changed(*sources))
apt.packages(name="Packages are installed", packages=data.packages)
free = set(data.held) - set(asked("apt-mark showhold").split())
if free:
    server.shell(name="Packages are held", commands=f"apt-mark hold {' '.join(sorted(free))}")

daemon = put("/etc/docker/")
systemd.service(name="Docker restarts", service="docker", restarted=True, _if=any_changed(*daemon))
systemd.service(name="Docker runs", service="docker", enabled=True)
insist("runc" in asked("docker info --format '{{json .Runtimes}}'"), "Docker has no runtime")
if not asked(f"docker image ls --quiet {quote(data.image)}"):
    server.shell(name="vLLM's image is there", commands=f"docker pull {quote(data.image)}")

rules = put("firewall")
systemd.service(
    name="The firewall is loaded",
    service="vllm-hosts-firewall",
    reloaded=True,
    _if=any_changed(*rules),
)
systemd.service(name="The firewall is in force", service="vllm-hosts-firewall", enabled=True)
insist(asked("nft --json list table inet vllm_hosts"), "has no firewall")

for one in data.folders:
    files.directory(
        name=f"{one['path']} is there",
        path=one["path"],
        # pyinfra knows owners by name: one without a name would be changed in each run.
        user=None if one["owner"].isdecimal() else one["owner"],
        group=None if one["group"].isdecimal() else one["group"],
        mode=one["mode"],
    )
compose = put("/opt/vllm/")
start = "docker compose --project-directory /opt/vllm up --detach --remove-orphans"
running = set(asked("docker ps --format '{{.Names}}'").split())
here = {agent["name"] for agent in data.agents} <= running
server.shell(
    name="Agents run as in compose.yaml",
    commands=start,
    _if=any_changed(*compose) if here else None,
)
server.shell(
    name="Agents are healthy",
    commands=[HEALTHY % agent["port"] for agent in data.agents],
    _if=any_changed(*compose) if here else None,
)

edge = [*put("/tls/"), *put("/etc/nginx/")]
rest = put("")
systemd.daemon_reload(name="Units are read", _if=any_changed(*rest))
server.shell(name="nginx accepts it", commands="nginx -t", _if=any_changed(*edge))
systemd.service(name="nginx reloads", service="nginx", reloaded=True, _if=any_changed(*edge))
for unit in UNITS:
    systemd.service(name=f"{unit} runs", service=unit, enabled=True)

# What a run proves.
sockets = asked("ss -Hltn")
for agent in data.agents:
    for everybody in ("0.0.0.0", "*", "[::]"):
        insist(f"{everybody}:{agent['port']} " not in sockets, f"{agent['name']} is exposed")
env = host.get_fact(File, "/opt/vllm/.env")
insist(env and (env["mode"], env["user"]) == (600, "root"), ".env can be read by others")
# Nothing secret is sent.
unverified = ssl._create_unverified_context()  # noqa: S323
connection = HTTPSConnection(data.address, timeout=10, context=unverified)
for path in CLOSED:
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    insist(answer.status in (401, 429), f"{path} answers {answer.status}")
for agent in data.agents:
    with suppress(OSError), create_connection((data.address, agent["port"]), 1):
        raise DeployError(f"{host.name}: port {agent['port']} opens from here")
