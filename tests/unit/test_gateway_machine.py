"""What a gateway needs of its machine, and what may listen there and on a host behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.fakes import listening
from tests.unit.fleets import fleet
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_preflight import GOOD, GOOD_RELEASE, NGINX, PROXY
from vllm_hosts.host.nvidia_smi import NOT_INSTALLED
from vllm_hosts.host.release import Release
from vllm_hosts.host.sockets import edge_ports, strangers, unexpected_sockets
from vllm_hosts.host.system import System
from vllm_hosts.roles.preflight.haproxy import haproxy_problems
from vllm_hosts.roles.preflight.plan import folders, own_folders, problems
from vllm_hosts.settings.exposure import closed_ports, exposed

GATEWAY, BEHIND = fleet()["gw1"], fleet()["gpu1"]
#: A small machine without anything.
SMALL = replace(
    GOOD,
    free=dict.fromkeys(folders(GATEWAY), 1 << 30),
    present=frozenset(),
    gpus=(),
    gpu_failure=NOT_INSTALLED,
)
UBUNTU_22 = Release("ubuntu", "22.04", "jammy", "Ubuntu 22.04.5 LTS", "amd64")
HAPROXY = 'users:(("haproxy",pid=4,fd=5))'


def test_a_small_machine_is_enough_for_a_gateway() -> None:
    assert folders(GATEWAY) == ["/usr", "/var", "/var/lib/vllm/agents", "/run", "/tmp"]
    assert own_folders(GATEWAY) == []
    assert problems(GATEWAY, GOOD_RELEASE, SMALL) == []


@pytest.mark.parametrize(
    ("system", "sentence"),
    [
        (
            replace(SMALL, free=SMALL.free | {"/usr": 100 << 20}),
            "/usr has 0.1 GiB free, and a gateway's packages need 0.25; make room",
        ),
        (
            replace(SMALL, listeners=(listening("0.0.0.0:443", HAPROXY),)),
            "port 443 is taken by haproxy (pid 4); stop it: see ps -fp 4, then kill 4, or set"
            " edge.https_port",
        ),
        (
            replace(SMALL, user="1000"),
            "commands do not run as root; connect as root, or set _sudo = True for this host",
        ),
    ],
)
def test_what_a_gateway_lacks(system: System, sentence: str) -> None:
    assert problems(GATEWAY, GOOD_RELEASE, system) == [sentence]


def test_a_machine_that_changes_sides_is_emptied_first() -> None:
    """Agents would go on behind a firewall without the rules for them, and HAProxy with its key."""
    out = (
        "; leave it in {} as well, or take {} off first: pyinfra INVENTORY remove.py --limit {},"
        " and deploy again"
    )
    was = replace(SMALL, present=frozenset({"/var/lib/vllm/agents"}))
    assert problems(GATEWAY, GOOD_RELEASE, was) == [
        "this gateway was a GPU host, and its agents are still there"
        + out.format("gpu_hosts", "them", "gw1")
    ]
    assert problems(BEHIND, GOOD_RELEASE, replace(GOOD, present=GOOD.present | was.present)) == []
    was = replace(GOOD, present=GOOD.present | {"/var/lib/vllm-hosts/balancer"})
    for host in (BEHIND, settings(name="gpu1")):
        assert problems(host, GOOD_RELEASE, was) == [
            "this GPU host was a gateway, and its HAProxy is still there"
            + out.format("gateways", "it", "gpu1")
        ]
    assert "/var/lib/vllm-hosts/balancer" in folders(BEHIND)


def test_the_port_for_gateways_is_nginx_s() -> None:
    taken = replace(GOOD, listeners=(listening("0.0.0.0:8443", HAPROXY),))
    [problem] = problems(BEHIND, GOOD_RELEASE, taken)
    assert problem.startswith("port 8443 is taken by haproxy (pid 4)")
    assert problem.endswith(", or set gateway.port")
    ours = replace(GOOD, listeners=(listening("0.0.0.0:8443", NGINX),))
    assert problems(BEHIND, GOOD_RELEASE, ours) == []


class TestHaproxy:
    def told(
        self, release: Release = GOOD_RELEASE, installed: str = "", *offered: str
    ) -> list[str]:
        there = {"haproxy": installed} if installed else {}
        return list(haproxy_problems(release, there, {"haproxy": offered} if offered else {}))

    @pytest.mark.parametrize(
        "version", ["2.6.12-1+deb12u3", "3.0.11-1", "2.8.5-1ubuntu3.4", "1:2.6.0-1", "2.6"]
    )
    def test_new_enough(self, version: str) -> None:
        assert self.told(GOOD_RELEASE, version) == []
        assert self.told(UBUNTU_22, "", version) == []

    def test_ubuntu_22_04_s_own_is_too_old(self) -> None:
        sentence = (
            "this gateway would get HAProxy {} (Ubuntu 22.04.5 LTS), and gateways need 2.6; use a"
            " machine with Debian 12, Debian 13 or Ubuntu 24.04 as gateway (hosts behind it may be"
            " older), or give this one an archive with a newer haproxy"
        )
        # Before apt has its lists, and with them.
        assert self.told(UBUNTU_22) == [sentence.format("2.4")]
        assert self.told(UBUNTU_22, "", "2.4.24-0ubuntu0.22.04.1") == [sentence.format("2.4.24")]

    def test_one_that_is_there_counts_before_what_is_offered(self) -> None:
        [sentence] = self.told(UBUNTU_22, "2.4.24-0ubuntu0.22.04.1", "2.8.5-1~jammy")
        assert sentence.startswith("this gateway has HAProxy 2.4.24 ")
        assert self.told(UBUNTU_22, "2.8.5-1~jammy", "2.4.24-0ubuntu0.22.04.1") == []

    def test_elsewhere_it_is_not_too_old(self) -> None:
        assert self.told() == []


SSH = listening("0.0.0.0:22", 'users:(("sshd",pid=1,fd=3))')
EDGE = (SSH, listening("0.0.0.0:443", NGINX), listening("0.0.0.0:80", NGINX))


def test_ports_of_nginx_and_the_settings_that_say_so() -> None:
    edge = {443: "edge.https_port", 80: "edge.http_port"}
    assert edge_ports(GATEWAY) == edge
    assert edge_ports(BEHIND) == edge | {8443: "gateway.port"}


def test_what_listens_on_a_gateway() -> None:
    """No port is an agent's there, whatever number those of hosts have."""
    local = listening("127.0.0.1:8001", 'users:(("exporter",pid=1,fd=3))')
    assert list(unexpected_sockets((*EDGE, local), GATEWAY, [22])) == []
    wide = listening("0.0.0.0:8443", HAPROXY)
    assert list(unexpected_sockets((*EDGE, wide), GATEWAY, [22])) == [
        "something listens on tcp 0.0.0.0:8443 (haproxy); stop it, or name its port in"
        " firewall.extra_tcp_ports"
    ]
    assert closed_ports(GATEWAY) == []


def test_what_listens_on_a_host_behind_gateways() -> None:
    agents = [listening(f"127.0.0.1:{port}", PROXY) for port in (8001, 8002)]
    ours = (*EDGE, *agents, listening("0.0.0.0:8443", NGINX))
    assert list(unexpected_sockets(ours, BEHIND, [22])) == []
    assert list(strangers(ours, BEHIND, own={8001, 8002}, of_sites=set())) == []
    [one] = unexpected_sockets((*EDGE, *agents, listening("0.0.0.0:8443", HAPROXY)), BEHIND, [22])
    assert "0.0.0.0:8443 (haproxy)" in one
    # What is in the way there has a sentence of its own.
    taken = [listening("0.0.0.0:8443", HAPROXY)]
    assert list(strangers(taken, BEHIND, own=set(), of_sites=set())) == []
    assert len(list(strangers(taken, GATEWAY, own=set(), of_sites=set()))) == 1


def test_what_a_host_behind_lets_others_do_is_said_of_it_alone() -> None:
    open_one = QWEN | {"expose": {"networks": ["10.0.0.0/8"], "unguarded_routes": "accepted"}}
    found = fleet(agents=[open_one, CODER])
    assert len(exposed(found["gpu1"])) == 1
    assert exposed(found["gw1"]) == []
    assert closed_ports(found["gpu1"]) == [8002, 8443]
