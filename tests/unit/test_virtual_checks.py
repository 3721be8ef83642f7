"""Who is asked, and who is heard, where gateways share an address: by real programs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.unit.fleets import fleet
from tests.unit.here import Here
from tests.unit.real_haproxy import RealBalancer
from tests.unit.real_nginx import LUA_LIBRARIES, program
from tests.unit.test_firewall import AROUND
from vllm_hosts.host.paths import BALANCER_RUN
from vllm_hosts.roles.firewall.plan import rules
from vllm_hosts.roles.virtual_address.plan import answers_script
from vllm_hosts.suite.packets import Table, listing
from vllm_hosts.suite.test_virtual_address import changeable, heard

GATEWAY = fleet({"gateway": {"virtual_ip": "192.0.2.9"}})["gw1"]
assert GATEWAY.virtual is not None
SHARED = GATEWAY.virtual


class _Redirects(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(308)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def nginx() -> Iterator[HTTPServer]:
    """What stands for nginx's port 80."""
    server = HTTPServer(("127.0.0.1", 0), _Redirects)
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_gateway_answers_while_nginx_and_haproxy_do(tmp_path: Path, nginx: HTTPServer) -> None:
    (tmp_path / "haproxy").mkdir()
    (tmp_path / "programs").mkdir()
    here = Here(tmp_path / "programs")
    here.program("socat", f'LD_LIBRARY_PATH={LUA_LIBRARIES} exec {program("socat")} "$@"')
    port = nginx.server_address[1]
    with RealBalancer(tmp_path / "haproxy", GATEWAY, count=1) as balancer:
        script = answers_script(GATEWAY).replace(BALANCER_RUN, str(balancer.run))
        script = script.replace("TCP4:127.0.0.1:80 ", f"TCP4:127.0.0.1:{port} ")
        # It is none of its matter whether an agent lives.
        balancer.replicas[0].alive = False
        assert here.run(script.replace("%", "%%") % ()).rc == 0
        assert balancer.replicas[0].asked == []
        assert here.run(script.replace(f":{port} ", ":1 ")).rc == 1
    assert here.run(script).rc == 1


def nft(text: str) -> Table:
    done = subprocess.run(
        ["unshare", "--net", "sh", "-ec", "nft -f - && nft -t -j list ruleset"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return Table(listing(done.stdout))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("", []),
        (
            "ip protocol 112 accept",
            ["lets in VRRP from 10.0.0.9", "lets in VRRP from 198.51.100.9"],
        ),
        ("meta l4proto vrrp accept", ["lets in VRRP from 10.0.0.9", "lets in VRRP from fd00::9"]),
        ("ip saddr 203.0.113.77 ip protocol 112 accept", ["lets in VRRP from 203.0.113.77"]),
        ("ip protocol 112 drop", ["keeps out VRRP from 192.0.2.2"]),
        (
            "ip saddr 192.0.2.2 ip protocol 112 accept",
            ["lets in VRRP in the name of 192.0.2.2 from other networks"],
        ),
    ],
)
def test_only_gateways_are_heard(rule: str, says: list[str]) -> None:
    text = rules(GATEWAY, [22], AROUND)
    first = 'iif "lo" accept\n'
    found = heard(nft(text.replace(first, f"{first}\t\t{rule}\n", 1)), SHARED)
    assert [one for one in says if f"the firewall {one}" not in found] == []
    assert bool(found) == bool(says)


def test_addresses_of_the_other_kind_are_heard_as_well() -> None:
    host = fleet({"gateway": {"virtual_ip": "2001:db8::9", "virtual_source": "2001:db8::1"}})["gw1"]
    assert host.virtual is not None
    shared = replace(host.virtual, peers=(ip_address("2001:db8::2"),))
    host = host.model_copy(update={"virtual": shared})
    assert heard(nft(rules(host, [22], AROUND)), shared) == []


def test_what_others_could_change_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "keepalived"
    folder.mkdir(mode=0o755)
    for name in ("keepalived.conf", "gateway-answers"):
        (folder / name).touch(mode=0o644)
    here: Any = Here(tmp_path)
    here.program("find", 'exec /usr/bin/find "$@"')
    owner = folder.owner()
    assert [one for one in changeable(here, str(folder)) if "root" in one] == []
    (folder / "gateway-answers").chmod(0o777)
    assert f"{folder}/gateway-answers is {owner}'s, with 777" in changeable(here, str(folder))
    (folder / "keepalived.conf").unlink()
    assert any("has no configuration" in one for one in changeable(here, str(folder)))
