"""Facts of a few lines that much is decided by, to the letter."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts import edge
from vllm_hosts.facts.answered_inside import AnsweredInside
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.edge import EdgeRuns
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.ssh import PasswordLogins
from vllm_hosts.facts.units import Units
from vllm_hosts.host import inside
from vllm_hosts.host.probe import Response
from vllm_hosts.host.release import Release
from vllm_hosts.host.systemctl import UnitState


def lines(here: Here, fact: HostFact[Any], **asked: object) -> list[str]:
    done = here.run(str(fact.command(**asked)))
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


@pytest.mark.parametrize(
    ("password", "keyboard", "ways"),
    [
        ("no", "no", ()),
        ("yes", "no", ("passwordauthentication",)),
        ("no", "yes", ("kbdinteractiveauthentication",)),
        ("yes", "odd", ("passwordauthentication", "kbdinteractiveauthentication")),
    ],
)
def test_ways_in_with_a_password(
    here: Here, password: str, keyboard: str, ways: tuple[str, ...]
) -> None:
    here.program(
        "sshd",
        f'[ "$*" = -T ] && printf "%s\\n" "PermitRootLogin without-password" banner'
        f' "passwordauthentication {password}" "kbdinteractiveauthentication {keyboard}"'
        ' "acceptenv LANG LC_*"',
    )
    here.program("mkdir", '[ "$*" = "-p /run/sshd" ]')
    fact = PasswordLogins()
    assert fact.process(lines(here, fact)) == ways
    assert fact.steady


def test_sshd_that_leaves_one_out_is_not_one_without_passwords() -> None:
    with pytest.raises(HostError, match="^sshd's effective configuration could not be"):
        PasswordLogins().process(["== effective", "passwordauthentication no", END])


class TestEdge:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.map = tmp_path / "internal.map"
        monkeypatch.setattr(edge, "INTERNAL_MAP", str(self.map))

    @pytest.mark.parametrize(("said", "runs"), [("active", True), ("failed", False), ("", False)])
    def test_one_of_ours_that_serves(self, here: Here, said: str, runs: bool) -> None:
        here.program("systemctl", f'[ "$*" = "is-active nginx.service" ] && echo {said}')
        fact = EdgeRuns()
        # Without ours nginx may run for others.
        assert fact.process(lines(here, fact)) is False
        self.map.write_text("")
        assert fact.process(lines(here, fact)) is False
        self.map.write_text("a b;\n")
        assert fact.process(lines(here, fact)) is runs

    def test_what_systemctl_never_says(self) -> None:
        with pytest.raises(HostError, match="^the edge could not be understood"):
            EdgeRuns().process(["== edge", "perhaps", END])


def test_units_now_and_at_boot(here: Here) -> None:
    here.program(
        "systemctl",
        'case "$*" in "is-enabled a" | "is-enabled b") echo enabled ;;'
        ' "is-enabled c") echo disabled; exit 1 ;; "is-active a" | "is-active c") echo active ;;'
        ' "is-active b") echo inactive; exit 3 ;; *) echo odd >&2; exit 4 ;; esac',
    )
    fact = Units()
    assert fact.process(lines(here, fact, names=["a", "b", "c", "none"])) == {
        "a": UnitState(enabled=True, active=True),
        "b": UnitState(enabled=True, active=False),
        "c": UnitState(enabled=False, active=True),
        "none": UnitState(enabled=False, active=False),
    }
    assert fact.steady
    with pytest.raises(HostError, match="^systemd's units could not be understood"):
        fact.process(["== enabled a", "enabled", END])


class TestRelease:
    DEBIAN = ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"', "ID=debian", "VERSION_ID='13'", "odd",
              "VERSION_CODENAME=trixie")  # fmt: skip

    def test_as_its_file_says(self) -> None:
        found = OsRelease().process(
            ["== release", *self.DEBIAN, "", "== architecture", "amd64", "", END]
        )
        assert found == Release("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)", "amd64")
        assert OsRelease.steady

    def test_one_that_says_little(self) -> None:
        found = OsRelease().process(["== release", "ID=arch", "== architecture", "x86_64", END])
        assert found == Release("arch", "", "", "arch", "x86_64")

    @pytest.mark.parametrize(
        "said", [["== release", "NAME=x", "== architecture", "amd64"], ["== release", "ID=x"],
                 ["== release", "ID=x", "== architecture"]]
    )  # fmt: skip
    def test_one_that_says_less(self, said: list[str]) -> None:
        with pytest.raises(HostError, match="^the operating system's release could not be"):
            OsRelease().process([*said, END])

    def test_the_architecture_where_there_is_no_dpkg(self, here: Here) -> None:
        here.program("dpkg", '[ "$*" = --print-architecture ] && echo amd64')
        here.program("uname", '[ "$*" = -m ] && echo x86_64')
        fact = OsRelease()
        found = fact.process(lines(here, fact))
        assert found.architecture == "amd64" and found.os_id and found.codename
        here.program("dpkg", "echo odd >&2; exit 127")
        assert fact.process(lines(here, fact)).architecture == "x86_64"


class TestInside:
    def test_it_is_asked_as_a_gateway_would(self) -> None:
        given = ("qwen.internal", 8443, "/v1/models", "{}", "controller")
        assert inside.script(*given).strip() in AnsweredInside().command(*given)
        # It ends by itself before it is taken for one that hangs.
        assert AnsweredInside.seconds == inside.PATIENCE + 30

    def test_what_it_answers(self) -> None:
        answer = b64encode(b"HTTP/1.1 200 OK\r\n\r\n{}").decode()
        found = AnsweredInside().process(["== said", f"answer {answer}", END])
        assert found == Response(200, {}, b"{}")

    def test_why_there_is_no_answer(self) -> None:
        """Which is no fact that could not be read."""
        found = AnsweredInside().process(["== absent", "== said", END])
        assert isinstance(found, ConnectionRefusedError)
        found = AnsweredInside().process(["== said", "handshake failure", END])
        assert isinstance(found, OSError)
        assert str(found) == "its port for gateways answers handshake failure"

    def test_what_the_script_never_prints(self) -> None:
        with pytest.raises(HostError, match="^the machine's own answer to gateways could not be"):
            AnsweredInside().process(["== said", "answer ~", END])
