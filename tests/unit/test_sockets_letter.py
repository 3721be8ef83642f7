"""What ``ss`` is asked, who may hold which port, and the sentences about those who may not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes import listening
from tests.unit.samples import QWEN, settings
from vllm_hosts.host.sockets import (
    DOCKER,
    LISTENING,
    OWNERS,
    Program,
    Socket,
    read,
    unexpected_sockets,
)
from vllm_hosts.text import LIMIT


def test_what_is_asked() -> None:
    """Listening, TCP and UDP, in numbers, with programs and owners, and without a header."""
    assert LISTENING == "ss -Hltunpe"
    assert {"docker-proxy", "dockerd"} == DOCKER


def test_owners_are_named_once_each(tmp_path: Path) -> None:
    (tmp_path / "ss").write_text(
        '#!/bin/sh\n[ "$*" = -Hltune ] || exit 1\ncat <<E\n'
        "tcp LISTEN 0 5 *:1 *:* uid:1000 ino:9\ntcp LISTEN 0 5 *:2 *:* ino:8\n"
        "udp UNCONN 0 5 *:3 *:* uid:33 ino:7\ntcp LISTEN 0 5 *:4 *:* uid:1000 ino:6\nE\n"
    )
    (tmp_path / "getent").write_text(
        "#!/bin/sh\nshift\n"
        'for one in "$@"; do echo "u$one:x:$one:$one:with a name:/home:/bin/sh"; done\n'
    )
    for name in ("ss", "getent"):
        (tmp_path / name).chmod(0o755)
    search = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-euc", OWNERS], env=search, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["u1000:1000", "u33:33"]
    lines = ["tcp LISTEN 0 5 *:1 *:* uid:1000 ino:9"]
    assert [one.user for one in read(lines, done.stdout.splitlines())] == ["u1000"]


@pytest.mark.parametrize(
    ("where", "program", "protocol"),
    [
        *(
            (f"0.0.0.0:{port}", name, "udp")
            for port, names in (
                (68, "dhclient systemd-network dhcpcd NetworkManager udhcpc"),
                (546, "dhclient systemd-network dhcpcd NetworkManager"),
            )
            for name in names.split()
        ),
        # By socket activation systemd holds it.
        ("0.0.0.0:22", "systemd", "tcp"),
        ("0.0.0.0:22", "sshd", "tcp"),
        ("127.0.0.1:8001", "docker-proxy", "tcp"),
        ("127.0.0.1:8001", "dockerd", "tcp"),
    ],
)
def test_who_may_hold_a_port(where: str, program: str, protocol: str) -> None:
    [one] = read([f'{protocol} X 0 5 {where} *:* users:(("{program}",pid=1,fd=1))'])
    assert list(unexpected_sockets([one], settings(), [22])) == []
    other = Socket(one.protocol, one.address, one.port, (Program("cat", "1"),))
    assert len(list(unexpected_sockets([other], settings(), [22]))) == 1


def test_the_addresses_of_an_agent_are_all_named() -> None:
    exposed = {
        **QWEN,
        "expose": {
            "networks": ["198.51.100.0/24", "2001:db8::/32"],
            "unguarded_routes": "accepted",
        },
    }
    host = settings(agents=[exposed])
    [agent] = host.agents
    wide = listening("198.51.100.7:8001", 'users:(("docker-proxy",pid=7,fd=4))')
    [said] = unexpected_sockets([wide], host, [22])
    assert said.endswith(f", not only on {' and '.join(agent.listen_addresses)}")
    assert len(agent.listen_addresses) > 1


@pytest.mark.parametrize(
    ("count", "who"),
    [
        (1, "a0 (pid 0)"),
        (2, "a0 (pid 0) and a1 (pid 1)"),
        (3, "a0 (pid 0) and a1 (pid 1) and 1 more"),
        (5, "a0 (pid 0) and a1 (pid 1) and 3 more"),
    ],
)
def test_two_holders_are_named_and_the_others_counted(count: int, who: str) -> None:
    holders = tuple(Program(f"a{number}", str(number)) for number in range(count))
    one = Socket("tcp", "*", 1, holders)
    assert (one.who, one.user) == (who, "")
    assert str(one) == f"tcp *:1 ({', '.join(f'a{number}' for number in range(count))})"


def test_names_are_no_longer_than_needed() -> None:
    one = Socket("tcp", "::1", 1, (Program("n" * 90, "1"),), 7, "u" * 90)
    assert one.who == f"{'n' * 40} ... (pid 1, user {'u' * 40} ...)"


def test_one_holder_among_others() -> None:
    one = Socket("tcp", "*", 443, (Program("nginx", "1"), Program("cat", "2")))
    assert one.shared_by("nginx") and one.shared_by("apache2", "cat")
    assert not one.shared_by("apache2") and not one.held_by("nginx")


def test_a_line_that_is_none_of_ss_s() -> None:
    for line in ("raw UNCONN 0 5 *:1 *:* ino:9", "tcp LISTEN 0 5 *:1", f"tcp {'x' * 900}"):
        with pytest.raises(ValueError, match="^not a line of ss: ") as caught:
            list(read([line]))
    assert len(str(caught.value)) == len("not a line of ss: ' ...'") + 200


def test_a_line_without_more_says_of_nobody() -> None:
    [one] = read(["tcp LISTEN 0 5 *:1 *:*"])
    assert one == Socket("tcp", "*", 1, (), None, "")
    # What is longer than anything that ss writes is not read to its end.
    [one] = read([f"tcp LISTEN 0 5 *:1 *:* {'x' * LIMIT} ino:9"])
    assert one.uid is None
