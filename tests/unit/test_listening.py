"""Sockets as the hosts suite reads them, and which of them the settings leave room for."""

from __future__ import annotations

import pytest

from tests.unit.samples import settings
from tests.unit.test_sockets import NGINX, PROXY, SSHD, line
from vllm_hosts.errors import HostError
from vllm_hosts.suite.listening import Listener, expected, read

SETTINGS = settings(firewall={"extra_tcp_ports": [9100], "extra_udp_ports": [51820]})


def one(protocol: str, where: str, users: str) -> Listener:
    [found] = read(line(protocol, where, users))
    return found


@pytest.mark.parametrize(
    ("where", "address", "port"),
    [
        ("0.0.0.0:22", "0.0.0.0", 22),
        ("*:9100", "*", 9100),
        ("[::]:80", "::", 80),
        ("127.0.0.53%lo:53", "127.0.0.53", 53),
        ("[fe80::1]%eth0:546", "fe80::1", 546),
        ("[::ffff:127.0.0.1]:9300", "127.0.0.1", 9300),
        ("[::FFFF:127.0.0.1]%lo:9300", "127.0.0.1", 9300),
        ("[::ffff:0.0.0.0]:9300", "0.0.0.0", 9300),
    ],
)
def test_reading_an_address(where: str, address: str, port: int) -> None:
    found = one("tcp", where, NGINX)
    assert (found.address, found.port, found.programs) == (address, port, ("nginx",))


def test_what_cannot_be_read_is_not_checked() -> None:
    with pytest.raises(HostError, match="cannot be parsed"):
        list(read("Netid State"))


@pytest.mark.parametrize(
    ("protocol", "where", "users", "fine"),
    [
        ("tcp", "0.0.0.0:22", SSHD, True),
        ("tcp", "0.0.0.0:2222", SSHD, False),
        ("tcp", "0.0.0.0:22", 'users:(("cat",pid=1,fd=1))', False),
        ("tcp", "[::]:443", NGINX, True),
        ("tcp", "127.0.0.1:443", 'users:(("cat",pid=1,fd=1))', False),
        ("tcp", "0.0.0.0:9999", NGINX, False),
        ("tcp", "0.0.0.0:9090", PROXY, False),
        ("tcp", "*:9100", 'users:(("node_exporter",pid=5,fd=3))', True),
        ("tcp", "127.0.0.1:40311", 'users:(("containerd",pid=8,fd=9))', True),
        ("tcp", "[::ffff:127.0.0.1]:9300", 'users:(("java",pid=8,fd=9))', True),
        ("tcp", "[::ffff:10.0.0.5]:9300", 'users:(("java",pid=8,fd=9))', False),
        ("tcp", "[::ffff:0.0.0.0]:9300", 'users:(("java",pid=8,fd=9))', False),
        ("tcp", "0.0.0.0:111", "", False),
        ("udp", "0.0.0.0:9100", 'users:(("cat",pid=1,fd=1))', False),
        ("udp", "0.0.0.0:51820", "", True),
        ("udp", "10.0.0.5%eth0:68", 'users:(("systemd-network",pid=7,fd=14))', True),
        ("udp", "0.0.0.0:68", 'users:(("cat",pid=1,fd=1))', False),
        ("udp", "0.0.0.0:68", "", False),
        ("udp", "[::1]:323", 'users:(("chronyd",pid=7,fd=6))', True),
    ],
)
def test_what_may_listen(protocol: str, where: str, users: str, fine: bool) -> None:
    assert expected(one(protocol, where, users), SETTINGS, {22}) is fine
