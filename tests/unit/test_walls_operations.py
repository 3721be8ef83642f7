"""What closes a host, step by step: the firewall, sshd, and services that have to run."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api.exceptions import ConnectError
from pyinfra.context import ctx_host

from tests.unit.operation_steps import Steps
from vllm_hosts.errors import HostError
from vllm_hosts.facts.firewall import Loaded, Others
from vllm_hosts.facts.nginx import Nginx
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.files import NOTHING, Absent, File, Found
from vllm_hosts.host.systemctl import UnitState
from vllm_hosts.operations import firewall, log_files, record, service, ssh

PATH = "/etc/x.conf"
ENTRY = File(PATH, b"new\n")
ROOT = ("root", "0")
RIGHT = Found("f", 0o644, ROOT, ROOT, ENTRY.sha256)
WELL = Loaded(in_force=True, enabled=True, active=True)
TABLE = "table inet vllm_hosts"


def protected(steps: Steps, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("armed", "change", "confirmed"):
        monkeypatch.setattr(module, name, lambda *given, _name=name, **more: (_name, *given, more))


class TestFirewall:
    @pytest.fixture
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> Steps:
        facts = {"TreeState": TreeFound({PATH: RIGHT}, ""), "FirewallLoaded": WELL}
        steps = Steps(firewall, monkeypatch, facts)
        protected(steps, firewall, monkeypatch)
        return steps

    def run(self, steps: Steps) -> list[Any]:
        done = steps.run(
            firewall.firewall_in_force, lambda: [ENTRY], PATH, "x.service",
            afterwards=lambda: steps.told.append(("afterwards",)),
        )  # fmt: skip
        assert steps.told[0] == ("remember", [ENTRY])
        assert steps.asked == [
            ("TreeState", {"paths": [PATH], "stamp": None}),
            ("FirewallLoaded", {"rules": PATH, "unit": "x.service"}),
        ]
        return done

    ARMED = (
        "armed",
        "firewall",
        [PATH],
        {
            "save": (
                f"{{ echo '{TABLE}'; echo 'delete {TABLE}'; nft -s -t list {TABLE} 2>/dev/null"
                " || :; } >table.nft"
            ),
            "undo": "nft -f table.nft",
        },
    )
    CONFIRMED: tuple[Any, ...] = (
        "confirmed",
        "firewall",
        "is this machine's network in firewall.ssh_from, and is sshd's port the same?",
        {"before": ":"},
    )
    LOAD = f"systemctl daemon-reload && nft -f {PATH}"
    RELOADED = ("leads_to", "the firewall's table is reloaded; open connections stay")

    def test_where_all_is_well_nothing_is_done(self, steps: Steps) -> None:
        assert self.run(steps) == []
        assert steps.told[1:] == [
            ("entries_differ", [], steps.facts["TreeState"].paths), ("afterwards",)
        ]  # fmt: skip

    def test_another_file_is_written_loaded_and_confirmed(self, steps: Steps) -> None:
        steps.facts["TreeState"] = TreeFound({PATH: NOTHING}, "")
        changed = ("change", [ENTRY], {"validate": f"nft -c -f {PATH}", "activate": self.LOAD})
        assert self.run(steps) == [self.ARMED, changed, self.CONFIRMED]
        assert steps.told[1:] == [
            ("entries_differ", [ENTRY], {PATH: NOTHING}), self.RELOADED, ("afterwards",)
        ]  # fmt: skip

    @pytest.mark.parametrize("active", [True, False])
    def test_another_table_is_loaded_and_confirmed(self, steps: Steps, active: bool) -> None:
        steps.facts["FirewallLoaded"] = replace(WELL, in_force=False, active=active)
        done = self.run(steps)
        assert done[:3] == [self.ARMED, self.LOAD, self.CONFIRMED]
        assert ("differs", TABLE, "is not the one that its file describes") in steps.told
        # A host that has none has none to lose.
        assert (self.RELOADED in steps.told) == active
        assert (len(done) == 4) != active

    def test_a_fresh_host_loses_no_table(self, steps: Steps) -> None:
        steps.facts = {
            "TreeState": TreeFound({PATH: NOTHING}, ""),
            "FirewallLoaded": Loaded(False, False, False),
        }
        done = self.run(steps)
        assert [one[0] for one in done[:3]] == ["armed", "change", "confirmed"]
        # From the confirmation on a boot has it too.
        enabled = "systemctl enable --quiet x.service && sync /etc/systemd/system/*.wants"
        assert done[2] == (*self.CONFIRMED[:3], {"before": enabled})
        assert done[3:] == ["systemctl enable --now x.service"]
        assert self.RELOADED not in steps.told

    @pytest.mark.parametrize("lacking", ["enabled", "active"])
    def test_it_has_to_be_loaded_at_boot_too(self, steps: Steps, lacking: str) -> None:
        steps.facts["FirewallLoaded"] = replace(WELL, **{lacking: False})
        assert self.run(steps) == ["systemctl enable --now x.service"]
        assert ("differs", "x.service", "is not started at boot") in steps.told

    def test_a_run_that_only_looks_goes_no_further(self, steps: Steps) -> None:
        steps.executing = False
        self.run(steps)
        assert ("afterwards",) not in steps.told

    @pytest.mark.parametrize("executing", [True, False])
    def test_other_firewalls_are_named(
        self, steps: Steps, monkeypatch: pytest.MonkeyPatch, executing: bool
    ) -> None:
        monkeypatch.setattr(Others, "sentences", lambda self, ports: [f"let {ports} in"])
        steps.facts["OtherFirewalls"] = Others.__new__(Others)
        steps.executing = executing
        assert steps.run(firewall.other_firewalls_noted, [443]) == []
        assert steps.told == [("log", "    let [443] in")] * executing


class TestSshd:
    RELOAD = "systemctl reload ssh.service 2>/dev/null || systemctl try-restart ssh.service"

    @pytest.fixture
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> Steps:
        steps = Steps(ssh, monkeypatch, {"TreeState": TreeFound({PATH: NOTHING}, "")})
        protected(steps, ssh, monkeypatch)
        required = lambda: steps.told.append(("key login",))  # noqa: E731
        monkeypatch.setattr(ssh, "_require_key_login", required)
        return steps

    def commands(self, entry: File | Absent) -> list[tuple[object, ...]]:
        return [
            (
                "armed",
                "ssh",
                [PATH],
                {"save": ":", "undo": self.RELOAD},
            ),
            (
                "change",
                [entry],
                {"validate": "mkdir -p /run/sshd && sshd -t", "activate": self.RELOAD},
            ),
            ("confirmed", "ssh", "does a login with a key work for this user?", {}),
        ]

    def test_a_file_that_is_there_changes_nothing(self, steps: Steps) -> None:
        steps.facts["TreeState"] = TreeFound({PATH: RIGHT}, "")
        assert steps.run(ssh.sshd_configured, [ENTRY]) == []
        assert steps.told == [("remember", [ENTRY])]

    def test_it_is_written_where_a_key_is_known_to_work(self, steps: Steps) -> None:
        told: list[tuple[object, ...]] = [
            ("remember", [ENTRY]),
            ("entries_differ", [ENTRY], {PATH: NOTHING}),
            ("leads_to", "sshd is reloaded; open connections stay"),
        ]
        assert steps.run(ssh.sshd_configured, [ENTRY]) == self.commands(ENTRY)
        assert steps.told == [*told, ("key login",)]
        assert steps.asked == [("TreeState", {"paths": [PATH], "stamp": None})]
        steps.executing = False
        assert steps.run(ssh.sshd_configured, [ENTRY]) == self.commands(ENTRY)
        assert steps.told == told

    def test_its_absence_needs_no_key(self, steps: Steps) -> None:
        steps.facts["TreeState"] = TreeFound({PATH: RIGHT}, "")
        gone = Absent(PATH)
        assert steps.run(ssh.sshd_configured, [gone]) == self.commands(gone)
        assert ("key login",) not in steps.told

    def test_passwords_that_are_still_taken_fail_a_run(self, steps: Steps) -> None:
        steps.facts["PasswordLogins"] = ("one", "two")
        with pytest.raises(HostError) as refused:
            steps.run(ssh.passwords_refused)
        assert str(refused.value) == (
            "sshd still accepts passwords (one, two): another file in /etc/ssh sets it before"
            " ours; see: sshd -T"
        )
        steps.executing = False
        assert steps.run(ssh.passwords_refused) == []
        steps.executing, steps.facts["PasswordLogins"] = True, ()
        assert steps.run(ssh.passwords_refused) == []


class Connector:
    """A new connection, with which method it logs in."""

    method: str | None = "publickey"
    error: Exception | None = None
    story: list[str] = []  # noqa: RUF012

    def __init__(self, state: object, host: object) -> None:
        assert (state, host) == ("state", ctx_host.get())

    def connect(self) -> None:
        self.story.append("connect")
        if self.error:
            raise self.error
        handler = SimpleNamespace(auth_method=self.method)
        transport = SimpleNamespace(auth_handler=handler)
        self.client = SimpleNamespace(get_transport=lambda: transport)

    def disconnect(self) -> None:
        self.story.append("disconnect")


class Local:
    """A connection that is none of SSH's."""

    def __init__(self, *_: object) -> None: ...
    def connect(self) -> None: ...
    def disconnect(self) -> None: ...


class TestKeyLogin:
    def require(self, connector: type) -> None:
        host: Any = SimpleNamespace(state="state")
        with ctx_host.use(host):
            host.connector = connector("state", host)
            ssh._require_key_login()

    @pytest.mark.parametrize("method", ["publickey", "password", None])
    def test_only_a_key_will_do(self, monkeypatch: pytest.MonkeyPatch, method: str | None) -> None:
        story: list[str] = []
        monkeypatch.setattr(Connector, "method", method)
        monkeypatch.setattr(Connector, "story", story)
        if method == "publickey":
            self.require(Connector)
        else:
            with pytest.raises(HostError) as refused:
                self.require(Connector)
            assert str(refused.value) == (
                "ssh_hardening disables passwords, but this login was not seen to work with a key"
                f" (it used {method or 'no SSH'}); set ssh_key for this host, or"
                " ssh_hardening.enabled = False"
            )
        assert story == ["connect", "disconnect"]

    @pytest.mark.parametrize("error", [ConnectError("no"), OSError("no"), EOFError("no")])
    def test_no_connection_is_said(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        story: list[str] = []
        monkeypatch.setattr(Connector, "error", error)
        monkeypatch.setattr(Connector, "story", story)
        with pytest.raises(HostError, match="no new SSH connection opens: no"):
            self.require(Connector)
        assert story == ["connect", "disconnect"]

    def test_a_connection_of_another_kind_proves_nothing(self) -> None:
        with pytest.raises(HostError, match=r"\(it used no SSH\)"):
            self.require(Local)


class TestServices:
    @pytest.mark.parametrize(
        ("active", "enabled"), [(True, True), (True, False), (False, True), (False, False)]
    )
    def test_what_has_to_run_now_and_at_boot(
        self, monkeypatch: pytest.MonkeyPatch, active: bool, enabled: bool
    ) -> None:
        units = {
            "a": UnitState(enabled, active),
            "b": UnitState(True, True),
            "c": UnitState(enabled, active),
        }
        facts = {"NginxState": Nginx("1", active, enabled), "Units": units}
        steps = Steps(service, monkeypatch, facts)
        idle = not (active and enabled)
        assert (
            steps.run(service.nginx_enabled)
            == ["nginx -t && systemctl enable --now nginx.service"] * idle
        )
        why = "does not run, or not at boot"
        assert steps.told == [("differs", "nginx.service", why)] * idle
        found = steps.run(service.units_enabled, ("a", "b", "c"))
        assert found == ["systemctl enable --now a c"] * idle
        assert steps.told == [("differs", name, why) for name in ("a", "c")] * idle
        assert steps.asked == [("Units", {"names": ["a", "b", "c"]})]


class TestRecord:
    GONE = Absent("/etc/gone")

    @pytest.mark.parametrize(
        ("there", "noted"),
        [
            (RIGHT, True),
            (replace(RIGHT, deployed=(ENTRY.sha256,)), False),
            (replace(RIGHT, deployed=(ENTRY.sha256, "0")), True),
            (replace(RIGHT, sha256="0"), False),
            (NOTHING, False),
            (replace(RIGHT, kind="l"), False),
        ],
    )
    def test_only_what_is_as_it_should_be_is_recorded(self, there: Found, noted: bool) -> None:
        assert record.unnoted([ENTRY], {PATH: there}) == [ENTRY] * noted

    @pytest.mark.parametrize(
        ("there", "noted"),
        [(NOTHING, True), (replace(NOTHING, deployed=("",)), False), (RIGHT, False)],
    )
    def test_so_is_what_is_gone(self, there: Found, noted: bool) -> None:
        assert record.unnoted([self.GONE], {self.GONE.path: there}) == [self.GONE] * noted

    @pytest.mark.parametrize(
        ("asked_for", "wanted", "there", "done"),
        [
            (False, [ENTRY], RIGHT, [("noting", [ENTRY])]),
            (True, [ENTRY], RIGHT, []),
            (False, [], RIGHT, []),
            (False, [ENTRY], NOTHING, []),
        ],
    )
    def test_a_run_that_collects_differences_records_nothing(
        self, monkeypatch: pytest.MonkeyPatch, asked_for: bool, wanted: list[File], there: Found,
        done: list[object],
    ) -> None:  # fmt: skip
        steps = Steps(record, monkeypatch, {"TreeState": TreeFound({PATH: there}, "")})
        monkeypatch.setattr(record, "remembered", lambda: wanted)
        monkeypatch.setattr(record, "asked_for", lambda: asked_for)
        monkeypatch.setattr(record, "noting", lambda left: ("noting", left))
        assert steps.run(record.deployed_noted) == done
        asks = bool(wanted) and not asked_for
        assert steps.asked == [("TreeState", {"paths": [PATH]})] * asks


class TestLogs:
    KEPT = Found("f", 0o640, ("www-data", "33"), ("adm", "4"), "1")

    def test_logs_are_made_before_nginx_makes_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = Steps(log_files, monkeypatch, {})
        steps.facts["TreeState"] = TreeFound({"/a.log": self.KEPT, "/b.log": NOTHING}, "")
        [script] = steps.run(log_files.log_files_present, ["/a.log", "/b.log"])
        assert script.splitlines() == [
            "set -eu; umask 077",
            "[ -f /b.log ] && [ ! -L /b.log ] || { rm -f /b.log; : >/b.log; }",
            "chown www-data:adm /b.log; chmod 0640 /b.log",
            "! systemctl -q is-active nginx.service ||"
            " systemctl kill -s USR1 --kill-who=main nginx.service",
        ]
        assert steps.asked == [("TreeState", {"paths": ["/a.log", "/b.log"], "content": False})]
        assert [one[0] for one in steps.told] == ["entries_differ"]
        steps.facts["TreeState"] = TreeFound({"/a.log": self.KEPT}, "")
        assert steps.run(log_files.log_files_present, ["/a.log"]) == []
        assert steps.told == []
