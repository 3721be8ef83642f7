"""Which listening sockets a host may have."""

from __future__ import annotations

import pytest

from tests.unit.fakes import listening
from tests.unit.samples import CODER, QWEN, settings
from tests.unit.test_facts import SYSTEM
from vllm_hosts.facts.base import END
from vllm_hosts.facts.system import SystemState
from vllm_hosts.host.sockets import Program, read, strangers, unexpected_sockets

SETTINGS = settings(
    agents=[QWEN, CODER], firewall={"extra_tcp_ports": [9100], "extra_udp_ports": [51820]}
)
SSHD = 'users:(("sshd",pid=71,fd=3))'
PROXY = 'users:(("docker-proxy",pid=812,fd=7))'
NGINX = 'users:(("nginx",pid=90,fd=6),("nginx",pid=91,fd=6))'


def line(protocol: str, where: str, users: str) -> str:
    state = "LISTEN" if protocol == "tcp" else "UNCONN"
    return f"{protocol}   {state} 0      4096   {where:>20}      0.0.0.0:*    {users}"


GOOD = [
    line("tcp", "0.0.0.0:22", SSHD),
    line("tcp", "[::]:22", SSHD),
    line("tcp", "127.0.0.1:8001", PROXY),
    line("tcp", "127.0.0.1:8002", PROXY),
    line("tcp", "0.0.0.0:443", NGINX),
    line("tcp", "[::]:80", NGINX),
    line("tcp", "*:9100", 'users:(("node_exporter",pid=5,fd=3))'),
    line("tcp", "127.0.0.1:40311", 'users:(("containerd",pid=8,fd=9))'),
    line("udp", "127.0.0.53%lo:53", 'users:(("systemd-resolve",pid=6,fd=13))'),
    line("udp", "10.0.0.5%eth0:68", 'users:(("systemd-network",pid=7,fd=14))'),
    line("udp", "[fe80::1]%eth0:546", 'users:(("systemd-network",pid=7,fd=14))'),
    line("udp", "0.0.0.0:51820", ""),
    # Java, on loopback by way of IPv6.
    line("tcp", "[::ffff:127.0.0.1]:9300", 'users:(("java",pid=5,fd=3))'),
    line("tcp", "[::ffff:127.0.1.1]%lo:9301", 'users:(("java",pid=5,fd=3))'),
    line("udp", "[::ffff:127.0.0.1]:9302", 'users:(("java",pid=5,fd=3))'),
    line("tcp", "[::ffff:127.0.0.1]:8001", PROXY),
    line("tcp", "[::ffff:0.0.0.0]:22", SSHD),
    line("udp", "[::1]:323", 'users:(("chronyd",pid=7,fd=6))'),
]


def test_a_host_as_it_should_be() -> None:
    assert list(unexpected_sockets(read(GOOD), SETTINGS, [22])) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (line("tcp", "0.0.0.0:8001", PROXY), "agent 'qwen' listens on"),
        (line("tcp", "[::]:8002", PROXY), "agent 'coder' listens on"),
        (line("tcp", "10.0.0.5:8001", PROXY), "agent 'qwen' listens on"),
        (line("tcp", "127.0.0.1:8001", 'users:(("python3",pid=1,fd=1))'), "is taken"),
        (line("tcp", "127.0.0.1:8001", ""), "is taken"),
        (line("tcp", "[::ffff:0.0.0.0]:9300", 'users:(("java",pid=1,fd=1))'), "0.0.0.0:9300"),
        (line("tcp", "[::ffff:10.0.0.5]:9300", 'users:(("java",pid=1,fd=1))'), "10.0.0.5:9300"),
        (line("tcp", "[::ffff:127.0.0.1]:8001", 'users:(("java",pid=1,fd=1))'), "is taken"),
        (line("tcp", "[::ffff:10.0.0.5]:8001", PROXY), "agent 'qwen' listens on"),
        (line("tcp", "[::127.0.0.1]:9300", 'users:(("java",pid=1,fd=1))'), "9300 (java)"),
        (line("tcp", "*:9999", 'users:(("cat",pid=1,fd=1))'), "*:9999 (cat)"),
        (line("tcp", "[::]:9998", 'users:(("cat",pid=1,fd=1))'), "[::]:9998 (cat)"),
        (line("tcp", "0.0.0.0:22", 'users:(("cat",pid=1,fd=1))'), ":22 (cat)"),
        (line("tcp", "0.0.0.0:2222", SSHD), ":2222 (sshd)"),
        (line("tcp", "0.0.0.0:443", 'users:(("apache2",pid=1,fd=1))'), ":443 (apache2)"),
        (line("tcp", "0.0.0.0:111", ""), "an unknown program"),
        (line("udp", "0.0.0.0:53", 'users:(("dnsmasq",pid=1,fd=1))'), "extra_udp_ports"),
        (line("udp", "0.0.0.0:68", 'users:(("cat",pid=1,fd=1))'), ":68 (cat)"),
        (line("udp", "0.0.0.0:68", ""), "an unknown program"),
    ],
)
def test_what_should_not_listen(bad: str, words: str) -> None:
    [problem] = unexpected_sockets(read([*GOOD, bad]), SETTINGS, [22])
    assert words in problem


def test_a_line_that_is_not_one() -> None:
    with pytest.raises(ValueError, match="not a line of ss"):
        list(read(["Netid State"]))


DOCKER_WIDE = line("tcp", "0.0.0.0:9000", PROXY)


class TestStrangers:
    """What preflight says: a deploy would end with it, and does not close it itself."""

    def said(self, *lines: str, own: frozenset[int] = frozenset()) -> list[str]:
        there = read([*GOOD, *lines])
        return list(strangers(there, SETTINGS, own=own, of_sites=frozenset({8088})))

    @pytest.mark.parametrize(
        ("there", "words"),
        [
            (DOCKER_WIDE, "(docker-proxy); publish it on 127.0.0.1, stop it, or name its port in"),
            (line("tcp", "[::]:9000", PROXY), "tcp [::]:9000 (docker-proxy); publish it"),
            (line("tcp", "*:3000", 'users:(("node",pid=5,fd=3))'), "(node); stop it, or name"),
            (line("udp", "0.0.0.0:5353", 'users:(("avahi-daemon",pid=5,fd=3))'), "extra_udp_ports"),
            (line("tcp", "0.0.0.0:8088", NGINX), "tcp 0.0.0.0:8088 (nginx); stop it"),
            (line("tcp", "0.0.0.0:111", 'users:(("rpcbind",pid=5,fd=3))'), "(rpcbind)"),
        ],
    )
    def test_what_stays_open_is_named(self, there: str, words: str) -> None:
        [problem] = self.said(there)
        assert words in problem

    @pytest.mark.parametrize(
        "there",
        [
            # Of an agent that was exposed, or is no longer wanted.
            line("tcp", "0.0.0.0:8009", PROXY),
            line("tcp", "0.0.0.0:8001", PROXY),
            # The edge, before it moves.
            line("tcp", "0.0.0.0:8443", NGINX),
            # Taken ports are preflight's own sentence.
            line("tcp", "0.0.0.0:443", 'users:(("apache2",pid=5,fd=3))'),
            line("tcp", "127.0.0.1:9000", PROXY),
            line("tcp", "0.0.0.0:2222", SSHD),
        ],
    )
    def test_what_the_deploy_sees_to_is_not(self, there: str) -> None:
        assert self.said(there, own=frozenset({8009})) == []


@pytest.mark.parametrize(
    ("line", "ports"),
    [
        ('a|Up 2 hours|0.0.0.0:8009->8000/tcp, [::]:8009->8000/tcp|"/opt/vllm"', {8009}),
        ('a|Up 2 hours (Paused)|0.0.0.0:8009->8000/tcp|"/opt/vllm"', {8009}),
        ('a|Restarting (1) 2 seconds ago|0.0.0.0:8009->8000/tcp|"/opt/vllm"', {8009}),
        ('a|Up 2 hours|8000/tcp|"/opt/vllm"', set()),
        # What does not run has no ports, whatever is said of it.
        ('a|Exited (0) 2 hours ago|0.0.0.0:8009->8000/tcp|"/opt/vllm"', set()),
        ('a|Created|0.0.0.0:8009->8000/tcp|"/opt/vllm"', set()),
        ('a|Up 2 hours|0.0.0.0:8009->8000/tcp|"/srv/theirs"', set()),
        ('a|Up 2 hours|0.0.0.0:8009->8000/tcp|""', set()),
        # A label is whatever somebody writes.
        ('a|Up 2 hours|0.0.0.0:8009->8000/tcp|"x\\nb|Up 1 hour|:1->1/tcp|\\"/opt/vllm"', set()),
        ("a 0.0.0.0:8009->8000/tcp", set()),
    ],
)
def test_the_ports_of_our_containers(line: str, ports: set[int]) -> None:
    at = SYSTEM.index("== containers") + 1
    found = SystemState().process([*SYSTEM[:at], line, *SYSTEM[at + 1 :], "exit 0", END])
    assert found.project_ports.get("/opt/vllm", frozenset()) == ports


class TestHolder:
    """Who listens, and whom root is told to end."""

    def test_programs_and_numbers(self) -> None:
        said = 'users:(("python3",pid=4711,fd=3),("my prog (x)",pid=12,fd=4))'
        one = listening("*:1", said, user="alice")
        assert one.who == "python3 (pid 4711, user alice) and my prog (x) (pid 12, user alice)"
        assert one.holders == (Program("python3", "4711"), Program("my prog (x)", "12"))
        assert one.pids == ["4711", "12"]
        nobody = listening("*:1")
        assert (nobody.who, nobody.pids) == ("", [])

    @pytest.mark.parametrize(
        "name", ['x",pid=1,fd=1)', '",pid=812,fd=1)', 'a"b', '",pid=1,fd=1)("']
    )
    def test_a_name_puts_nobody_else_s_number_in_its_place(self, name: str) -> None:
        assert len(name) <= 15
        said = f'users:(("{name}",pid=4711,fd=3))'
        one = listening("*:1", said, user="alice")
        assert one.pids == ["4711"]
        assert one.who.endswith(" (pid 4711, user alice)")
        # Who calls itself almost so is not the one.
        assert not one.shared_by(name.partition('"')[0])


class TestOwner:
    """Whose a socket is decides whether it is a way in for SSH."""

    @pytest.mark.parametrize(
        ("rest", "uid"),
        [
            ('users:(("sshd",pid=9,fd=3)) ino:9 sk:1 cgroup:/system.slice/ssh.service <->', 0),
            ('users:(("sshd",pid=9,fd=3)) uid:1000 ino:9 sk:1', 1000),
            ('users:(("x uid:0 y",pid=9,fd=3)) uid:4711 ino:9 sk:1', 4711),
            ("uid:33 ino:9 sk:1", 33),
            # With -e ss says at least the inode.
            ('users:(("sshd",pid=9,fd=3))', None),
            # A name or a group that pretends is believed no more than the truth.
            ('users:(("x")) uid:0 ino",pid=9,fd=3)) uid:1000 ino:9 sk:1', None),
            ('users:(("sshd",pid=9,fd=3)) uid:1000 ino:9 sk:1 cgroup:/a)) uid:0 ino:9', None),
        ],
    )
    def test_a_socket_is_root_s_only_where_nothing_says_otherwise(
        self, rest: str, uid: int | None
    ) -> None:
        [one] = read([f"tcp LISTEN 0 5 *:22 *:* {rest}"])
        assert one.uid == uid

    def test_a_group_s_name_puts_no_number_in_a_program_s_place(self) -> None:
        rest = 'users:(("a"b",pid=4711,fd=3)) uid:7 ino:9 sk:1 cgroup:/("x",pid=1,fd=1)) '
        [one] = read([f"tcp LISTEN 0 5 *:22 *:* {rest}"], [])
        assert (one.pids, one.user) == (["4711"], "7")

    def test_names_are_those_that_the_host_has_for_them(self) -> None:
        lines = ["tcp LISTEN 0 5 *:1 *:* uid:7 ino:9", "tcp LISTEN 0 5 *:2 *:* ino:9"]
        assert [one.user for one in read(lines, ["alice:7"])] == ["alice", "root"]
        assert [one.user for one in read(lines)] == ["", ""]
