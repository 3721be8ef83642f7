"""The watchdog on hosts where it is, is not, or is not to be."""

from __future__ import annotations

import shlex
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.recording import InLine
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.host.files import NOTHING, Absent, File, Folder
from vllm_hosts.host.watchdog import REASONS, Restart, Watched, watched
from vllm_hosts.roles.watchdog import plan, watchdog

UNITS = "/etc/systemd/system/vllm-hosts-watchdog"
SCRIPT = "/usr/local/lib/vllm-hosts/watch-agents"
STATE, SEEN = "/var/lib/vllm-hosts/watchdog", "/run/vllm-hosts-watchdog"


def test_where_it_lies_and_who_may_read_it() -> None:
    entries = plan.watchdog_entries(settings())
    assert [(one.path, one.mode) for one in entries if isinstance(one, File | Folder)] == [
        ("/usr/local/lib/vllm-hosts", 0o755),
        (STATE, 0o700),
        (SCRIPT, 0o700),
        (f"{UNITS}.service", 0o644),
        (f"{UNITS}.timer", 0o644),
    ]
    assert plan.nothing() == [Absent(SCRIPT), Absent(f"{UNITS}.service"), Absent(f"{UNITS}.timer")]


def test_it_does_what_the_settings_say() -> None:
    vllm = {"watchdog_interval": 7, "watchdog_looks": 4, "watchdog_restarts": 9, "directory": "/x"}
    host = settings(agents=[QWEN, CODER], vllm=vllm)
    text = plan.script(host)
    for line in ("looks=4", "limit=9", "env=/x/.env", "port=8000", "lock=/run/vllm-hosts.lock"):
        assert f"\n{line}\n" in text
    files = {one.path: one.content.decode() for one in plan.watchdog_entries(host)
             if isinstance(one, File)}  # fmt: skip
    assert "OnUnitActiveSec=7s" in files[f"{UNITS}.timer"]
    assert f"ExecStart={SCRIPT}\n" in files[f"{UNITS}.service"]
    # The agents' own networks, and nothing else.
    assert "IPAddressDeny=any\nIPAddressAllow=198.18.0.0/16\n" in files[f"{UNITS}.service"]
    assert f"ReadWritePaths={STATE} /run\n" in files[f"{UNITS}.service"]


def test_a_model_s_name_is_one_word_of_the_shell_and_of_json() -> None:
    name = "a'b\"c $(x) `y`"
    agent = settings().agents[0].model_copy(update={"served_model_name": name})
    text = plan.script(settings().model_copy(update={"agents": (agent,)}))
    [line] = [line for line in text.splitlines() if line.startswith("address[qwen]=")]
    assert shlex.split(line)[2] == "model[qwen]=" + '"a\'b\\"c $(x) `y`"'


@pytest.mark.parametrize(
    "wrong", [{"watchdog_interval": 4}, {"watchdog_looks": 2}, {"watchdog_restarts": 11}]
)
def test_limits_have_limits(wrong: dict[str, int]) -> None:
    with pytest.raises((SettingsError, ValueError), match=next(iter(wrong))):
        settings(vllm=wrong)


class TestHosts:
    def test_a_timer_that_does_not_run(self, in_line: InLine) -> None:
        recorder = in_line()
        fresh = looks.FRESH["Units"]["vllm-hosts-watchdog.timer"]
        recorder.host.facts["Units"]["vllm-hosts-watchdog.timer"] = fresh
        assert recorder.run(watchdog).changed == ["Watchdog | The timer for it runs"]

    def test_a_script_that_somebody_edited(self, in_line: InLine) -> None:
        recorder = in_line()
        found = recorder.host.paths[SCRIPT]
        recorder.host.paths[SCRIPT] = replace(found, sha256="0" * 64)
        done = recorder.run(watchdog)
        assert done.changed == ["Watchdog | The host restarts agents whose engine hangs"]
        assert set(done.operations[0].written) == {SCRIPT}

    def test_switched_off_it_goes(self, in_line: InLine) -> None:
        recorder = in_line(vllm={"watchdog": False})
        recorder.host.paths[SEEN] = recorder.host.paths[STATE]
        done = recorder.run(watchdog)
        stopped, _, folders = done.operations
        assert stopped.commands == ["systemctl disable --quiet --now vllm-hosts-watchdog.timer"]
        for path in (SCRIPT, f"{UNITS}.service", f"{UNITS}.timer"):
            assert recorder.host.paths[path].kind == "-"
        assert STATE in folders.commands[0] and SEEN in folders.commands[0]
        assert done.changed == [
            "Watchdog | No watchdog restarts agents",
            "Watchdog | Nothing of a watchdog is installed",
            "Watchdog | Nothing that a watchdog noted is there",
        ]

    def test_where_it_never_was(self, in_line: InLine) -> None:
        recorder = in_line(vllm={"watchdog": False})
        for path in (SCRIPT, f"{UNITS}.service", f"{UNITS}.timer", STATE):
            recorder.host.paths[path] = NOTHING
        done = recorder.run(watchdog)
        assert (len(done.operations), done.changed) == (3, [])


class TestWhatItNotes:
    def test_its_words_for_people(self) -> None:
        """As sentences have them: in the host's log, and in the doctor's."""
        assert REASONS == {
            "stalled": "a request for one token did not come back, and no token moved",
            "failed": "a request for one token got an error of the server, and no token moved",
            "stuck": "requests run, and no token moved",
            "silent": "nothing answers on its port",
        }

    def test_what_was_noted_stays_as_it_was(self) -> None:
        restart = Restart(datetime.now(UTC), "x")
        for value, name in ((Watched(), "total"), (restart, "why")):
            with pytest.raises(FrozenInstanceError):
                setattr(value, name, None)

    def test_of_an_agent_that_it_restarted(self) -> None:
        found = watched(["total 12", "gave-up 1795700000 failed", "restart 1795690000 stuck"])
        assert found.total == 12
        assert [one.why for one in found.restarts] == [REASONS["stuck"]]
        assert found.restarts[0].at.isoformat() == "2026-11-26T10:46:40+00:00"
        assert found.gave_up == Restart(found.gave_up.at, REASONS["failed"])  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "line",
        ["", "total", "total -1", "total 9999999999999", "gave-up ", "gave-up 1 \x1b[2J",
         "restart stuck", "restart 1", "restart 99999999999999 stuck", "restart 1 stuck now",
         "restart \u0661 stuck", "other 1 stuck"],
    )  # fmt: skip
    def test_what_is_not_written_so_counts_as_nothing(self, line: str) -> None:
        assert watched([line]) == Watched()
