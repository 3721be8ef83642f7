"""One gateway in front of many hosts, for load: the gateway is real, the hosts are stand-ins.

The hosts have addresses of this machine's end of the lab's bridge while the tests run, and the
gateway is deployed to as any is.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import FLEET_AGENTS, fleet_settings, login
from tests.lab.deploys import ROOT, command
from tests.lab.fleet import command_here, states, well
from tests.lab.fleet_upstream import Host, StandIns, serving
from vllm_hosts.host.nginx import LIMITS_CONF
from vllm_hosts.host.paths import GATEWAY_CLIENT
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool, Replica

#: How many stand-ins, and how many streams at the same time. Issue 16 wants 5,000; HAProxy is given
#: three open files for each and some thousands besides, and a process here may have 20,000.
HOSTS = int(os.environ.get("LAB_LOAD_HOSTS", "50"))
AGENTS = int(os.environ.get("LAB_LOAD_AGENTS", "4"))
STREAMS = int(os.environ.get("LAB_LOAD_STREAMS", "4800"))
#: Its own, so that the fleet's two are left alone.
GATEWAY = "gw3"
INVENTORY = "inventory/lab-load.py"
_TEXT = """# Written by tests/lab/fleet_many.py, and removed at its end.
from tests.lab.fleet_many import groups as _groups

gateways, gpu_hosts, lab = _groups()
"""


def groups() -> tuple[list[Any], list[Any], Any]:
    """The inventory: gateways, GPU hosts, and settings of both."""
    agents = [
        FLEET_AGENTS[0]
        | {"name": f"agent{one}", "served_model_name": f"lab/{one}", "port": 8001 + one, "gpus": []}
        for one in range(AGENTS)
    ]
    front = [(GATEWAY, login(GATEWAY))]
    behind = [
        (f"load{one}", {"ssh_hostname": address(one), "agents": agents}) for one in range(HOSTS)
    ]
    settings = fleet_settings()
    settings["edge"] = settings["edge"] | {
        "connections": ceil(STREAMS / AGENTS) + 20,
        "expected_clients": AGENTS,
        "connections_per_source": STREAMS + 1000,
    }
    return front, behind, ([name for name, _ in [*front, *behind]], settings)


#: Where the lab's machine is itself a container, nobody may have as many open files as nginx asks
#: for, and it would be left with those that it has by itself. What the machine allows does here.
_FILES = (
    "most=$(ulimit -Hn);"
    f" sed -i -E 's/^(worker_rlimit_nofile) [0-9]+;/\\1 '$most';/' {LIMITS_CONF}"
    " && systemctl reload nginx && sleep 1"
)


def address(number: int) -> str:
    """Of a stand-in's: above those of the lab's hosts."""
    return str(layout.BRIDGE_V4.network[100 + number])


@dataclass(frozen=True)
class Many:
    """The gateway, and whom it knows."""

    settings: HostSettings
    ca_file: Path
    #: By model.
    keys: dict[str, SecretStr]
    standins: StandIns

    @property
    def urls(self) -> list[str]:
        return [f"https://{self.settings.address}"]

    @property
    def client_key(self) -> SecretStr:
        return next(iter(self.keys.values()))

    @property
    def client_certificate(self) -> Path:
        """The gateway's own, with which stand-ins answer without it too."""
        return lab_hosts.root(GATEWAY) / GATEWAY_CLIENT.lstrip("/")

    def wait_whole(self, timeout: float = 60) -> None:
        """Until the gateway sends all agents requests."""
        deadline = time.monotonic() + timeout
        while True:
            found = states(GATEWAY, self.settings.pools)
            wrong = {name: state for name, state in found.items() if state != "UP"}
            if len(found) == HOSTS * AGENTS and not wrong:
                return
            assert time.monotonic() < deadline, (
                f"{len(found)} of {HOSTS * AGENTS} agents are known;"
                f" not up: {sorted(wrong.items())[:5]}"
            )
            time.sleep(1)


@contextmanager
def many(folder: Path, *, interval: float) -> Iterator[Many]:
    """The gateway, deployed to, and its stand-ins; nothing is left of them afterwards."""
    path = ROOT / INVENTORY
    with ExitStack() as stack:
        stack.callback(lab_hosts.remove, [GATEWAY])
        lab_hosts.up(len(lab_hosts.gpu_host_names()), gateways=int(GATEWAY[2:]))
        lab_hosts.reset([GATEWAY])
        stack.callback(shutil.rmtree, path.parent / ".vllm-hosts" / path.stem, ignore_errors=True)
        stack.callback(path.unlink, missing_ok=True)
        path.write_text(_TEXT)
        store = KeyStore(path)
        clients = [f"client{one}" for one in range(AGENTS)]
        store.update(
            lambda content: _with(content, clients), start=store_content.new_content(utc_now())
        )
        settings = validate(load(path))[GATEWAY]
        stack.enter_context(addresses())
        hosts = _certificates(settings.pools, store.local_ca(), folder)
        standins = stack.enter_context(serving(folder, hosts, store.folder / "ca.pem", interval))
        well(command("pyinfra", "-y", "--limit", GATEWAY, INVENTORY, "deploy.py"))
        lab_hosts.run(GATEWAY, _FILES)
        keys = {
            pool.model: store.client_key(client)
            for pool, client in zip(settings.pools, clients, strict=True)
        }
        found = Many(settings, store.folder / "ca.pem", keys, standins)
        found.wait_whole()
        yield found


def _with(content: store_content.Content, clients: Sequence[str]) -> store_content.Content:
    for client in clients:
        content = store_content.add_client(content, client, utc_now())
    return content


def _certificates(pools: Sequence[Pool], ca: LocalCa, folder: Path) -> list[Host]:
    """Of each host, where it listens, and its certificate for all of its agents."""
    hosts: dict[str, list[Replica]] = {}
    for pool in pools:
        for replica in pool.replicas:
            hosts.setdefault(replica.host, []).append(replica)
    found = []
    for host, agents in hosts.items():
        issued = ca.issue([one.inner_name for one in agents], 30, utc_now())
        certificate, key = folder / f"{host}.pem", folder / f"{host}.key"
        certificate.write_bytes(issued.certificate_pem)
        key.write_bytes(issued.key_pem.get_secret_value())
        found.append((agents[0].address, agents[0].port, str(certificate), str(key)))
    return found


@contextmanager
def addresses() -> Iterator[None]:
    """The stand-ins' addresses are this machine's, on the lab's bridge."""
    wanted = [f"{address(one)}/32" for one in range(HOSTS)]
    try:
        for one in wanted:
            done = command_here("ip", "addr", "replace", one, "dev", layout.BRIDGE)
            assert done.returncode == 0, done.stderr
        yield
    finally:
        for one in wanted:
            command_here("ip", "addr", "del", one, "dev", layout.BRIDGE)
