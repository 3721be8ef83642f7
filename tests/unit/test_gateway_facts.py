"""What is asked on a gateway: its networks, who has the virtual address, and its HAProxy."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Here
from tests.unit.test_rotation import BEFORE, STAT, STATES, seen
from vllm_hosts.errors import HostError
from vllm_hosts.facts import rotation, virtual_address
from vllm_hosts.facts.balancer import BalancerState
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.rotation import BalancerSeen
from vllm_hosts.facts.virtual_address import VirtualGround, VirtualHeld, VirtualState
from vllm_hosts.host import balancer

ETH0 = {
    "ifname": "eth0",
    "addr_info": [{"family": "inet", "local": "192.0.2.1", "prefixlen": 24}],
}
HERE = {"ifname": "keepalived", "addr_info": [{"family": "inet6", "local": "2001:db8::9",
        "prefixlen": 128}, {"family": "inet", "local": "192.0.2.99", "prefixlen": 32}]}  # fmt: skip


class Gateway(Here):
    """This machine, with stand-ins for what is asked there."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "bin").mkdir()
        super().__init__(folder / "bin")
        self.folder = folder
        monkeypatch.setattr(virtual_address, "KEEPALIVED_CONF", f"{folder}/keepalived.conf")
        monkeypatch.setattr(rotation, "DRAINED", f"{folder}/drained")
        self.program("timeout", f'echo "$*" >>{folder}/sent; exit 1')
        self.program("sleep", f'echo "sleep $*" >>{folder}/sent')
        self.ip("192.0.2.9 dev eth0 src 192.0.2.1")

    def ip(self, route: str) -> None:
        words = {
            "-j address show": json.dumps([ETH0, HERE]),
            "-j neigh show": json.dumps(
                [{"dst": "192.0.2.9", "lladdr": "02:99", "state": ["REACHABLE"]}]
            ),
            "-j -4 route show default": json.dumps([{"gateway": "192.0.2.254"}]),
            "-j -6 route show default": json.dumps([{"gateway": "fe80::1"}]),
            "route get 192.0.2.9": route,
        }
        cases = "".join(f"'{asked}') echo '{said}' ;;\n" for asked, said in words.items())
        self.program("ip", f'case "$*" in {cases}*) echo odd >&2; exit 1 ;; esac')

    def look(self, fact: HostFact[Any], **asked: object) -> Any:
        done = self.run(str(fact.command(**asked)))
        assert done.stderr == ""
        return fact.process(done.stdout.splitlines())

    def sent(self) -> list[str]:
        path = self.folder / "sent"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    return Gateway(tmp_path, monkeypatch)


ASKED = {"address": "192.0.2.9", "peers": ["192.0.2.2", "192.0.2.3"]}


class TestGround:
    def test_who_answers_before_the_first_deploy(self, gateway: Gateway) -> None:
        (gateway.folder / "keepalived.conf").write_text("192.0.2.90/24\n")
        found = gateway.look(VirtualGround(), **ASKED)
        assert [one.name for one in found.interfaces] == ["eth0", "keepalived"]
        assert found.ours is False
        assert found.neighbours == {ip_address("192.0.2.9"): "02:99"}
        assert found.routers == {ip_address("192.0.2.254"), ip_address("fe80::1")}
        assert gateway.sent() == [
            *(f"2 bash -c echo >/dev/udp/192.0.2.{last}/9" for last in (9, 2, 3)),
            # Until the kernel has its answers.
            "sleep 1",
        ]
        assert (VirtualGround.steady, VirtualGround.seconds) == (True, 60)

    @pytest.mark.parametrize("route", ["192.0.2.9 via 192.0.2.254 dev eth0", ""])
    def test_nobody_is_asked_who_is_elsewhere(self, gateway: Gateway, route: str) -> None:
        gateway.ip(route)
        found = gateway.look(VirtualGround(), **ASKED)
        assert gateway.sent() == []
        assert found.neighbours and found.routers

    def test_nobody_is_asked_once_it_may_be_here(self, gateway: Gateway) -> None:
        (gateway.folder / "keepalived.conf").write_text("  192.0.2.9/24 dev eth0\n")
        found = gateway.look(VirtualGround(), **ASKED)
        assert (found.ours, found.neighbours, found.routers) == (True, {}, frozenset())
        assert len(found.interfaces) == 2 and gateway.sent() == []

    def test_what_ip_does_not_print(self) -> None:
        with pytest.raises(HostError, match="^the gateway's network addresses could not be"):
            VirtualGround().process(["== addresses", "{", END])
        # Over several lines.
        lines = ["== addresses", "[{", '"ifname": "eth0"', "}]", "== neighbours", "[", "]"]
        found = VirtualGround().process([*lines, END])
        assert [one.name for one in found.interfaces] == ["eth0"]


class TestVirtual:
    @pytest.mark.parametrize(
        ("address", "held"),
        [("192.0.2.99", True), ("2001:db8::9", True), ("192.0.2.9", False)],
    )
    def test_whether_it_is_here(self, gateway: Gateway, address: str, held: bool) -> None:
        for said, runs in (("active", True), ("inactive", False)):
            gateway.program(
                "systemctl",
                f'[ "$*" = "is-active vllm-hosts-keepalived.service" ] && echo {said}; exit 3',
            )
            found = gateway.look(VirtualState(), address=address)
            assert found == VirtualHeld(held=held, runs=runs)
        with pytest.raises(FrozenInstanceError):
            found.held = not held

    def test_what_is_no_answer(self) -> None:
        for lines in (
            ["== addresses", "[]", "== address a", "== address b", "== active", "active"],
            ["== addresses", "[]", "== active", "active"],
            ["== addresses", "{", "== address a", "== active", "active"],
            ["== addresses", "[]", "== address a", "== active", "perhaps"],
        ):
            with pytest.raises(HostError, match="^who has the virtual address could not be"):
                VirtualState().process([*lines, END])
        whole = ["== addresses", "[", "]", "== address a", "== active", "active", END]
        assert VirtualState().process(whole) == VirtualHeld(held=False, runs=True)


class TestRotation:
    @pytest.fixture(autouse=True)
    def answers(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        parts = {"admin": STATES, "now": STAT, "before 47": BEFORE}
        text = "".join("\n".join([f"== {name}", *part, ""]) for name, part in parts.items())
        (gateway.folder / "said").write_text(text)
        monkeypatch.setattr(rotation, "query", lambda: f"cat {gateway.folder}/said")

    def test_as_haproxy_sees_it(self, gateway: Gateway) -> None:
        gateway.program("systemctl", '[ "$*" = "-q is-active vllm-hosts-balancer.service" ]')
        assert gateway.look(BalancerSeen()) == seen()
        (gateway.folder / "drained").mkdir()
        for name in ("qwen.haaaa", "qwen.hbbbb"):
            (gateway.folder / "drained" / name).touch()
        assert gateway.look(BalancerSeen()) == seen("qwen.haaaa", "qwen.hbbbb") != seen()
        assert BalancerSeen.seconds == 120

    def test_where_none_runs(self, gateway: Gateway) -> None:
        gateway.program("systemctl", "exit 3")
        assert gateway.look(BalancerSeen()) is None

    def test_what_is_no_answer(self) -> None:
        with pytest.raises(HostError, match="^HAProxy's view of the agents could not be"):
            BalancerSeen().process(["== admin", *STATES, "== now", *STAT, END])


class TestBalancer:
    SOCKET = "HAProxy's runtime socket, as root (check ssh_user, _sudo and the sudo password),"

    def of(self, user: str, *admin: str) -> balancer.Servers:
        return BalancerState().process(["== user", user, "== admin", *admin, "== now", *STAT, END])

    def test_all_servers(self) -> None:
        assert self.of("0", *STATES) == balancer.servers({"admin": STATES, "now": STAT})
        assert BalancerState.seconds == 120

    def test_who_is_not_root_is_told_so(self) -> None:
        with pytest.raises(HostError) as found:
            self.of("1000", *STATES)
        assert str(found.value) == (
            "commands do not run as root; connect as root, or set _sudo = True"
        )

    def test_a_silent_one(self) -> None:
        with pytest.raises(HostError) as found:
            self.of("0")
        assert str(found.value) == (
            "HAProxy does not answer on its runtime socket; see systemctl status"
            " vllm-hosts-balancer.service there, or deploy to this gateway first"
        )

    def test_an_odd_one(self) -> None:
        with pytest.raises(HostError) as found:
            self.of("0", "odd")
        assert str(found.value).startswith(f"{self.SOCKET} could not be understood: ")

    def test_what_is_asked(self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
        text = "\n".join(["== admin", *STATES, "== now", *STAT])
        monkeypatch.setattr(balancer, "query", lambda: f"echo '{text}'")
        gateway.program("id", '[ "$*" = -u ] && echo 0')
        assert gateway.look(BalancerState()) == self.of("0", *STATES)
