"""Hosts that have what fresh ones do not, or lack what they have: IPv6, a firewall, a disk, a site.

What was there works afterwards, and what cannot be is said before anything is changed.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout, states
from lab.settings import AGENTS
from tests.lab.deploys import INVENTORY, changes, command, deploy
from tests.lab.faults import run as run_of_faults

pytestmark = pytest.mark.nightly

HOST = "gpu2"


@pytest.fixture(scope="module")
def lent(lab: None) -> Iterator[None]:
    """gpu2 for the states; as it was afterwards."""
    yield
    lab_hosts.reset([HOST])
    run = deploy("--limit", HOST)
    assert run.code == 0, run.output[-4000:]


@pytest.fixture
def host(lent: None) -> str:
    """gpu2, fresh."""
    lab_hosts.reset([HOST])
    return HOST


def converged(host: str, settings: dict[str, Any] | None = None) -> None:
    """A second run changes nothing, and every promise is kept."""
    again = deploy("--limit", host, settings=settings)
    assert (again.code, changes(again)) == (0, {host: 0}), again.output[-6000:]
    found = command("vllm-hosts", "verify", INVENTORY, "--host", host, settings=settings)
    assert found.code == 0, found.output[-4000:]


def from_outside(host: str, path: str, name: str) -> str:
    """What the neighbour gets for a name of a site."""
    address = lab_hosts.host(host).ipv4
    return lab_hosts.run(
        "neighbour", f"curl -sS -m 10 -H 'Host: {name}' http://{address}{path}", check=False
    ).stdout


def test_a_host_without_ipv6(host: str) -> None:
    states.without_ipv6(host)
    assert lab_hosts.run(host, "ls /proc/net/if_inet6 /proc/sys/net/ipv6", check=False).stdout == ""
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    assert run.output.count("this host has no IPv6 (ipv6.disable=1)") == 1
    listening = lab_hosts.run(host, "ss -Htln").stdout
    assert "0.0.0.0:443 " in listening
    assert "[::" not in listening
    converged(host)


def test_a_host_with_firewalld(host: str) -> None:
    """It stays; a deploy says what to allow, word for word, and goes through once that is done."""
    states.with_firewalld(host)
    # An agent whose model comes from the hub: the container that fetches it has to get out.
    settings = {"agents": AGENTS[1:]}
    refused = deploy("--limit", host, settings=settings)
    assert refused.code != 0
    said = "firewalld is active too and stays as it is: it has to allow 443/tcp and 80/tcp itself ("
    assert said in refused.output, refused.output[-4000:]
    way = refused.output.partition(said)[2].partition(");")[0]
    lab_hosts.run(host, way)
    # Docker itself puts bridges into a zone of its own.
    shown = "firewall-cmd --permanent --list-all-zones; firewall-cmd --zone=public --list-all"
    rules = lab_hosts.run(host, shown).stdout
    run = deploy("--limit", host, settings=settings)
    assert run.code == 0, run.output[-6000:]
    converged(host, settings)
    assert lab_hosts.run(host, shown).stdout == rules
    # Its reload takes nothing of ours away, and opens nothing.
    lab_hosts.run(host, "firewall-cmd --reload")
    converged(host, settings)


def test_a_disk_of_its_own_for_docker(host: str) -> None:
    states.with_docker_disk(host, "4G")
    # Of a Docker that is not there yet the newest is assumed, whose images go elsewhere.
    small = deploy("--limit", host, settings={"docker": {"source": "distro"}})
    assert small.code != 0
    assert "/var/lib/docker has 3." in small.output, small.output[-4000:]
    assert lab_hosts.run(host, "command -v dockerd", check=False).stdout == ""
    lab_hosts.reset([host])
    states.with_docker_disk(host, "12G")
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    source = lab_hosts.run(host, "findmnt -n -o SOURCE,FSTYPE -T /var/lib/docker").stdout.split()
    assert source[1] == "ext4"
    converged(host)


def test_a_disk_of_docker_that_fills_while_the_image_comes(host: str) -> None:
    states.with_docker_disk(host, "12G")
    filler = "/var/lib/docker/lab-filler"
    fill = f"fallocate -l $(df --output=avail -B1 /var/lib/docker | tail -n 1) {filler} || :"

    def at_the_pull(process: subprocess.Popen[str]) -> None:
        until = time.monotonic() + 600
        pulls = "pgrep -f 'compose .* -p vllm-hosts-[p]ull' || :"
        while not lab_hosts.run(host, pulls).stdout:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.2)
        lab_hosts.run(host, fill)

    full = run_of_faults.deploy_until(host, 1, at_the_pull)
    assert (full.code, full.met) == (1, True), full.output[-6000:]
    assert "no space left on device" in full.output, full.output[-6000:]
    assert run_of_faults.broken(host) == [] and run_of_faults.left(host) == []
    lab_hosts.run(host, f"rm {filler}")
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    converged(host)


def test_a_site_and_containers_of_others(host: str) -> None:
    states.with_site_and_containers(host)
    inspect = "docker inspect -f '{{.Name}} {{.State.StartedAt}} {{.State.Running}}' app db"
    before = lab_hosts.run(host, inspect).stdout
    assert from_outside(host, "/", states.SITE) == f"{states.PAGE}\n"
    assert from_outside(host, "/app/", states.SITE) == f"{states.ANSWER}\n"
    refused = deploy("--limit", host)
    assert refused.code != 0
    way = (
        "/etc/nginx/sites-enabled/default answers port 80 for every name (default_server), which"
        " the edge has to; take default_server from its listen lines"
    )
    assert way in refused.output, refused.output[-4000:]
    wide = "something listens on tcp 0.0.0.0:9001 (docker-proxy); publish it on 127.0.0.1, stop it,"
    assert wide in refused.output, refused.output[-4000:]
    assert lab_hosts.run(host, "ls -d /etc/vllm-hosts /opt/vllm", check=False).stdout == ""
    lab_hosts.run(host, f"sed -i 's/ default_server//' {states.SITE_FILE}; systemctl reload nginx")
    lab_hosts.run(host, "docker rm -f wide")
    run = deploy("--limit", host)
    assert run.code == 0, run.output[-6000:]
    # Not even restarted.
    assert lab_hosts.run(host, inspect).stdout == before
    assert from_outside(host, "/", states.SITE) == f"{states.PAGE}\n"
    assert from_outside(host, "/app/", states.SITE) == f"{states.ANSWER}\n"
    asked = lab_hosts.run(
        host,
        "docker exec app busybox wget -q -O - -T 5 http://db:8080/;"
        f" docker exec app busybox nc -w 5 {layout.BRIDGE_V4.ip} {layout.APT_PROXY_PORT}"
        " </dev/null && echo out",
        check=False,
    ).stdout
    assert asked == f"{states.ANSWER}\nout\n"
    converged(host)
    drift = command("vllm-hosts", "drift", INVENTORY, "--json", "--host", host)
    found = json.loads(drift.output[drift.output.index("{") :])
    assert (drift.code, found[host]["drifted"]) == (0, [])
