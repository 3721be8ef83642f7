"""How a gateway's HAProxy and keepalived take up new files, to the letter: with stand-ins for the
programs, which note what they are asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.here import Ended, Here
from vllm_hosts.host.paths import KEEPALIVED_CONF, KEEPALIVED_RUN
from vllm_hosts.operations import balancer, keepalived

WELL = os.getpid()
GONE = 999_999_999


class Gateway:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        self.here = Here(folder / "bin")
        self.program("systemctl", '[ "$1" != -q ] || [ -e active ]')
        self.program("sleep", ":")
        self.write("active", "")
        self.write("asked", "")

    def program(self, name: str, does: str) -> None:
        self.here.program(name, f"cd {self.folder}; echo {name} $* >>asked\n{does}")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def asked(self) -> list[str]:
        return (self.folder / "asked").read_text().splitlines()

    def run(self, script: str) -> Ended:
        script = script.replace(KEEPALIVED_RUN, str(self.folder))
        return self.here.run(script.replace(KEEPALIVED_CONF, f"{self.folder}/conf"))


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.mark.parametrize(("program", "unit"), [
    (balancer, "vllm-hosts-balancer.service"), (keepalived, "vllm-hosts-keepalived.service"),
])  # fmt: skip
def test_one_that_does_not_run_is_not_reloaded(
    gateway: Gateway, program: object, unit: str
) -> None:
    (gateway.folder / "active").unlink()
    assert gateway.run(program.RELOAD) == Ended(0, "", "")  # type: ignore[attr-defined]
    assert gateway.asked == ["systemctl daemon-reload", f"systemctl -q is-active {unit}"]


class TestHaproxy:
    """Its processes are known by what they answer, one line of ``says`` after the other."""

    @pytest.fixture(autouse=True)
    def ready(self, gateway: Gateway) -> None:
        self.gateway = gateway
        gateway.program(
            "socat",
            "[ \"$(cat)\" = 'show info' ] || exit\n"
            'printf "Name: x\\nPid: %s\\nTask Pid: 7\\n" "$(head -n 1 says)" | grep -v ": $"\n'
            "sed -i 1d says; echo words >&2",
        )
        gateway.write("now", "1000\n")
        gateway.program("date", "cat now; echo $(($(cat now) + 20)) >now.new; mv now.new now")

    def reloaded(self, *says: str) -> Ended:
        self.gateway.write("says", "".join(f"{line}\n" for line in says))
        return self.gateway.run(balancer.RELOAD)

    @pytest.mark.parametrize("meanwhile", ["11", ""])
    def test_a_new_process_is_waited_for(self, meanwhile: str) -> None:
        assert self.reloaded("11", meanwhile, "12", "13") == Ended(0, "", "")
        asked = [line for line in self.gateway.asked if not line.startswith("date")]
        assert asked == [
            "systemctl daemon-reload",
            "systemctl -q is-active vllm-hosts-balancer.service",
            "socat -t 20 - UNIX-CONNECT:/run/vllm-hosts-balancer/admin.sock",
            "systemctl reload vllm-hosts-balancer.service",
            "socat -t 20 - UNIX-CONNECT:/run/vllm-hosts-balancer/admin.sock",
            "sleep 0.1",
            "socat -t 20 - UNIX-CONNECT:/run/vllm-hosts-balancer/admin.sock",
        ]
        assert (self.gateway.folder / "says").read_text() == "13\n"

    @pytest.mark.parametrize("after", ["11", ""])
    def test_one_that_goes_on_as_before_is_said(self, after: str) -> None:
        done = self.reloaded("11", *[after] * 9)
        assert (done.rc, done.stderr) == (1, "")
        assert done.stdout == (
            "HAProxy does not take up its new configuration; see journalctl -u"
            " vllm-hosts-balancer.service\n"
        )
        # For a minute: 20 s between two looks at the clock.
        assert self.gateway.asked.count("sleep 0.1") == 2

    def test_a_reload_that_fails_ends_it(self) -> None:
        self.gateway.program("systemctl", '[ "$1" != reload ]')
        assert self.reloaded("11", "12") == Ended(1, "", "")
        assert self.gateway.asked[-1].startswith("systemctl reload")


class TestKeepalived:
    def reloaded(self, gateway: Gateway, before: int, after: int) -> Ended:
        gateway.write("vrrp.pid", f"{before}\n")
        gateway.program(
            "systemctl", f'[ "$1" != reload ] || echo {after} >vrrp.pid; [ "$2" != fails ]'
        )
        return gateway.run(keepalived.RELOAD)

    def test_the_same_process_goes_on(self, gateway: Gateway) -> None:
        assert self.reloaded(gateway, WELL, WELL) == Ended(0, "", "")
        assert gateway.asked == [
            "systemctl daemon-reload",
            "systemctl -q is-active vllm-hosts-keepalived.service",
            "systemctl reload vllm-hosts-keepalived.service",
            "sleep 2",
        ]

    @pytest.mark.parametrize(("before", "after"), [(WELL, GONE), (GONE, WELL), (GONE, GONE)])
    def test_another_process_has_not_kept_the_address(
        self, gateway: Gateway, before: int, after: int
    ) -> None:
        done = self.reloaded(gateway, before, after)
        assert done.rc == 1
        assert done.stdout == (
            "keepalived does not take its new configuration; see journalctl -u"
            " vllm-hosts-keepalived.service\n"
        )

    def test_a_reload_that_fails_ends_it(self, gateway: Gateway) -> None:
        gateway.write("vrrp.pid", f"{WELL}\n")
        gateway.program("systemctl", '[ "$1" != reload ]')
        assert gateway.run(keepalived.RELOAD) == Ended(1, "", "")
        assert "sleep 2" not in gateway.asked

    @pytest.mark.parametrize("code", [0, 1, 4])
    def test_its_file_is_tried_as_another_one(
        self, gateway: Gateway, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        """With root in the place of its script's user, and nothing else."""
        (gateway.folder / "tmp").mkdir()
        monkeypatch.setenv("TMPDIR", f"{gateway.folder}/tmp")
        gateway.write("conf", "a\n    script_user www-data\n        script_user kept\nb\n")
        gateway.program("keepalived", f'cp "${{2#--use-file=}}" tried; exit {code}')
        assert gateway.run(keepalived.VALIDATE).rc == code
        assert (gateway.folder / "tried").read_text() == (
            "a\n    script_user root\n        script_user kept\nb\n"
        )
        assert os.listdir(gateway.folder / "tmp") == []
        assert gateway.asked[0].startswith("keepalived --config-test --use-file=/")
        gateway.program("mktemp", "exit 1")
        assert gateway.run(keepalived.VALIDATE).rc == 1


def test_what_clients_notice() -> None:
    assert balancer.RELOADED == (
        "HAProxy is reloaded; open requests are finished, and no connection is refused"
    )
    assert keepalived.RELOADED == (
        "keepalived is reloaded; the gateway that has the virtual address keeps it"
    )
