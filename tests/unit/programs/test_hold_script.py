"""The shell that holds a host for one deploy, run for real on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from shutil import rmtree

import pytest

from vllm_hosts.connect import lock
from vllm_hosts.connect.lock import Purpose
from vllm_hosts.host import frames, paths
from vllm_hosts.host.marks import DEPLOY_SINCE, left_of, owner_of
from vllm_hosts.operations import confirmed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lock belongs to root")

SINCE = "2026-11-26T08:00:00Z"


class Host:
    """This machine, with lock, history and marks of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"{DEPLOY_SINCE}_{token_hex(4)}"
        self.lock, self.history = folder / "lock", folder / "state/history"
        self.undo, self.unconfirmed = folder / "undo", folder / "state/unconfirmed"
        self.programs = folder / "programs"
        self.programs.mkdir()
        # The script's seconds are short ones here, and no disk is waited for.
        self.program("sleep", 'exec /bin/sleep "0.$1"')
        self.program("sync", ":")
        # Of the timers that roll changes back; none is there.
        self.program("systemctl", "exit 1")

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def moved(self, script: str) -> str:
        """A script whose paths and mark are the test's."""
        for old, new in (
            (f"mark={DEPLOY_SINCE}\n", f"mark={self.mark}\n"),
            (f"lock={paths.LOCK}\n", f"lock={self.lock}\n"),
            (f"history={paths.HISTORY}\n", f"history={self.history}\n"),
            (f"undo={paths.UNDO}\n", f"undo={self.undo}\n"),
            (f"unconfirmed={paths.UNCONFIRMED}\n", f"unconfirmed={self.unconfirmed}\n"),
            (f"deployed={paths.DEPLOYED}\n", f"deployed={self.folder}/deployed\n"),
        ):
            assert old in script
            script = script.replace(old, new)
        return script

    @property
    def environment(self) -> dict[str, str]:
        path = f"{self.programs}:{os.environ['PATH']}"
        return {"PATH": path, self.mark: SINCE, "SSH_CONNECTION": "192.0.2.7 50000 192.0.2.1 22"}

    def start(self, what: str = "deploy.py of prod.py", patience: int = 60) -> Holder:
        script = self.moved(lock._script(Purpose(what, "abc"), SINCE, patience))
        return Holder(
            subprocess.Popen(
                ["sh", "-c", script],
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )

    @contextmanager
    def left(self, seconds: float) -> Iterator[int]:
        """A program of a deploy whose login is gone."""
        file = self.folder / "left.pid"
        script = f"setsid /bin/sleep {seconds} & echo $! >{file}"
        subprocess.run(["sh", "-c", script], env=self.environment, check=True)
        pid = int(file.read_text())
        # Whoever has reaped it, no process of Python's stands above it any more.
        while Path(f"/proc/{pid}/stat").read_text().split()[3] == str(os.getpid()):
            time.sleep(0.01)
        yield pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Holder:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def end(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(10)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_host_is_held_until_the_connection_ends(host: Host) -> None:
    first = host.start()
    assert first.line() == "lock taken"
    owner = owner_of(host.lock.read_text())
    assert owner is not None
    assert (owner.what, owner.since, owner.pid) == (
        "deploy.py of prod.py",
        SINCE,
        first.process.pid,
    )
    assert owner.address == "192.0.2.7"
    assert owner.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert host.lock.stat().st_mode & 0o7777 == 0o600
    second = host.start("keys.py of prod.py")
    kind, _, rest = second.line().partition(" held ")
    assert (kind, owner_of(rest)) == ("lock waits", owner)
    assert first.end() == 0
    assert second.line() == "lock taken"
    second.end()
    # Neither changed anything.
    assert not host.history.exists()
    assert sorted(path.name for path in host.folder.iterdir()) == ["lock", "programs"]
    assert host.lock.read_text() == ""


def test_a_holder_that_is_killed_holds_nothing(host: Host) -> None:
    first = host.start()
    first.line()
    first.process.kill()
    first.process.wait()
    second = host.start()
    # What the first one started keeps nothing either, and is no work of a deploy.
    assert second.line() == "lock taken"
    second.end()
    assert sorted(path.name for path in host.folder.iterdir()) == ["lock", "programs"]


def test_who_waits_in_vain_is_told_whose_the_host_is(host: Host) -> None:
    first = host.start()
    first.line()
    second = host.start(patience=1)
    lines = [second.line() for _ in range(2)]
    assert second.process.wait(20) == 1
    first.end()
    assert lines[0].startswith("lock waits held ")
    assert lines[1].startswith("lock refused held ")
    assert '"what": "deploy.py of prod.py"' in lines[1]


def test_what_a_deploy_has_left_is_waited_for(host: Host) -> None:
    with host.left(1) as pid:
        second = host.start()
        kind, _, rest = second.line().partition(" left ")
        left = left_of(rest.split(";"))
        assert (kind, left.programs) == ("lock waits", ((pid, SINCE, "sleep"),))
        assert left.sentence == (
            f"sleep (pid {pid}), left by a run of 2026-11-26 08:00:00 UTC that was cut off"
        )
        lines = []
        while "taken" not in (line := second.line()):
            lines.append(line)
        assert all(line.startswith("lock waits left ") for line in lines)
        second.end()


def test_what_does_not_end_is_named(host: Host) -> None:
    with host.left(60) as pid:
        second = host.start(patience=2)
        lines = [second.line() for _ in range(2)]
        assert second.process.wait(20) == 1
        assert lines[1] == f"lock refused left process {pid} {SINCE} sleep;"
    # And nobody holds the host.
    assert host.lock.read_text() == ""


def test_a_change_that_nobody_confirmed_is_waited_for(host: Host) -> None:
    """What the next deploy saved as the old state would be the change itself."""
    (host.undo / "firewall").mkdir(parents=True)
    (host.undo / "firewall/undo.sh").touch()
    host.program(
        "systemctl", f"case $* in *undo-firewall.timer*) [ ! -e {host.folder}/over ];; esac"
    )
    second = host.start()
    assert second.line() == "lock waits left undo firewall;"
    (host.folder / "over").touch()
    while (line := second.line()) != "lock taken":
        assert line == "lock waits left undo firewall;"
    second.end()


class Unconfirmed:
    """A change of a file and of what runs, as operations make it, that nobody confirmed."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.unit = host.folder / "units/undo.service"
        monkeypatch.setattr(confirmed, "_FOLDER", str(host.undo))
        monkeypatch.setattr(confirmed, "_KEPT", str(host.unconfirmed))
        monkeypatch.setattr(confirmed, "_UNIT", str(self.unit))
        monkeypatch.setattr(confirmed, "DEPLOYED", f"{host.folder}/deployed")
        monkeypatch.setattr(confirmed, "COPIES", f"{host.folder}/copies")
        host.program("systemd-run", ":")
        host.program("systemctl", f'echo "$*" >>{host.folder}/asked; exit 1')

    def change(self, name: str) -> tuple[Path, Path]:
        """The file and what runs, both changed; the timer is gone."""
        folder = self.host.folder
        conf, live = folder / f"{name}.conf", folder / f"{name}.live"
        for path in (conf, live):
            path.write_text("before")
        command = confirmed.armed(
            name, [str(conf)], save=f"cp {live} saved", undo=f"cp saved {live}; cat"
        )
        script = command.get_raw_value()
        subprocess.run(["sh", "-c", script], env=self.host.environment, check=True)
        for path in (conf, live):
            path.write_text("after")
        return conf, live

    @property
    def left(self) -> list[Path]:
        kept = [self.host.unconfirmed] if self.host.unconfirmed.exists() else []
        return [*kept, *(one for one in self.unit.parent.glob("**/*") if not one.is_dir())]


@pytest.fixture
def unconfirmed(host: Host, monkeypatch: pytest.MonkeyPatch) -> Unconfirmed:
    return Unconfirmed(host, monkeypatch)


def test_a_change_whose_timer_is_gone_is_undone_by_who_comes_next(
    host: Host, unconfirmed: Unconfirmed
) -> None:
    """Otherwise some later boot did it. Two of them: each is carried out, and nothing is left."""
    changed = [*unconfirmed.change("firewall"), *unconfirmed.change("ssh")]
    assert unconfirmed.left
    (host.folder / "asked").unlink()
    holder = host.start()
    lines = [holder.line() for _ in range(3)]
    assert lines == [
        "lock waits left undo firewall", "lock waits left undo ssh", "lock taken",
    ]  # fmt: skip
    left = left_of(lines[0].removeprefix("lock waits left ").split(";"))
    assert left.sentence == (
        "a change of firewall that nobody confirmed, which is being rolled back"
    )
    assert [path.read_text() for path in changed] == ["before"] * 4
    assert unconfirmed.left == []
    # What systemd has read of the unit for the next boot is gone with it.
    assert "daemon-reload\n" in (host.folder / "asked").read_text()
    # What the script reads is not what the deploy says.
    holder.say(json.dumps({"changed": ["one"]}) + "\n")
    assert holder.end() == 0
    assert '"one"' in host.history.read_text()
    second = host.start()
    assert second.line() == "lock taken"
    second.end()


def test_after_a_boot_only_files_are_put_back(host: Host, unconfirmed: Unconfirmed) -> None:
    """The one in which a boot could not do it has loaded what there is by then."""
    conf, live = unconfirmed.change("firewall")
    rmtree(host.undo)
    (host.folder / "asked").unlink()
    holder = host.start()
    assert [holder.line(), holder.line()] == ["lock waits left undo firewall", "lock taken"]
    holder.end()
    assert (conf.read_text(), live.read_text(), unconfirmed.left) == ("before", "after", [])
    assert "daemon-reload\n" in (host.folder / "asked").read_text()


@pytest.mark.parametrize("booted", [False, True])
def test_a_change_that_cannot_be_undone_keeps_others_out(
    host: Host, unconfirmed: Unconfirmed, booted: bool
) -> None:
    conf, _ = unconfirmed.change("firewall")
    if booted:
        rmtree(host.undo)
    conf.unlink()
    conf.mkdir()
    for _ in range(2):
        holder = host.start()
        assert holder.line() == "lock waits left undo firewall"
        kind, _, why = holder.line().partition(" firewall ")
        assert (kind, holder.process.wait(10)) == ("lock refused unconfirmed", 1)
        assert "overwrite directory" in why
        # And nobody holds the host.
        assert host.lock.read_text() == ""
    conf.rmdir()
    holder = host.start()
    assert [holder.line(), holder.line()] == ["lock waits left undo firewall", "lock taken"]
    holder.end()
    assert (conf.read_text(), unconfirmed.left) == ("before", [])


def test_one_that_does_not_end_is_ended(host: Host, unconfirmed: Unconfirmed) -> None:
    """Before whoever waits for the host on the other side gives up."""
    unconfirmed.change("firewall")
    (host.undo / "firewall/undo.sh").write_text("echo at work; exec /bin/sleep 50\n")
    host.program("timeout", '[ "$1 $3" = "-k 25" ] && shift 3 && exec /usr/bin/timeout 0.2 "$@"')
    holder = host.start()
    assert holder.line() == "lock waits left undo firewall"
    assert holder.line() == "lock refused unconfirmed firewall it did not end in 25 s"
    assert holder.process.wait(10) == 1
    (host.programs / "timeout").unlink()
    # Whoever wants the change as it is says so by removing the folder, and no boot does it.
    rmtree(host.unconfirmed / "firewall")
    holder = host.start()
    assert holder.line() == "lock taken"
    holder.end()
    assert unconfirmed.left == []


def test_others_wait_while_it_is_undone_whatever_happens_to_who_does_it(
    host: Host, unconfirmed: Unconfirmed
) -> None:
    unconfirmed.change("firewall")
    script = host.undo / "firewall/undo.sh"
    began, go = host.folder / "began", host.folder / "go"
    wait = f": >{began}; until [ -e {go} ]; do /bin/sleep 0.05; done"
    script.write_text(f"{wait}\n{script.read_text()}")
    first = host.start()
    assert first.line() == "lock waits left undo firewall"
    # What it says comes before it has a process of its own, which keeps the lock.
    while not began.exists():
        assert first.process.poll() is None
        time.sleep(0.05)
    first.process.kill()
    first.process.wait()
    second = host.start()
    assert second.line().startswith("lock waits held ")
    go.touch()
    while (line := second.line()) != "lock taken":
        assert line.startswith("lock waits held ")
    second.end()
    assert unconfirmed.left == []


def changed(*steps: str, ended: str = "cut off") -> str:
    return json.dumps({"who": "a@b", "changed": steps, "ended": ended}) + "\n"


def test_what_changed_is_written_down_once_at_the_end(host: Host) -> None:
    for number in range(2):
        holder = host.start()
        holder.line()
        holder.say(changed("one"))
        holder.say(changed("one", "two"))
        assert not host.history.exists() or number
        holder.say(changed("one", "two", ended="done"))
        assert holder.end() == 0
    lines = host.history.read_text().splitlines()
    assert len(lines) == 2
    stamp, address, text = lines[0].split(" ", 2)
    assert (address, json.loads(text)["changed"]) == ("192.0.2.7", ["one", "two"])
    assert json.loads(text)["ended"] == "done"
    assert time.time() - time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) < 3600 * 26
    assert host.history.stat().st_mode & 0o7777 == 0o600
    assert host.history.parent.stat().st_mode & 0o7777 == 0o755


def test_a_deploy_that_is_cut_off_leaves_what_it_had_said(host: Host) -> None:
    holder = host.start()
    holder.line()
    holder.say(changed("one"))
    holder.say('{"who": "a@b", "chan')
    assert holder.end() == 0
    [line] = host.history.read_text().splitlines()
    assert json.loads(line.split(" ", 2)[2]) == {
        "who": "a@b", "changed": ["one"], "ended": "cut off",
    }  # fmt: skip


def test_the_history_is_bounded(host: Host) -> None:
    host.history.parent.mkdir()
    host.history.write_text("".join(f"line {number} {'x' * 2000}\n" for number in range(600)))
    holder = host.start()
    holder.line()
    holder.say(changed("one", ended="done"))
    holder.end()
    assert host.history.stat().st_size < 503_000
    assert host.history.read_text().splitlines()[-1].endswith('"ended": "done"}')
    assert not host.history.with_name("history.new").exists()


def test_a_dead_connection_is_noticed(host: Host) -> None:
    """It is written to, so that the kernel finds out; then the host is free."""
    host.program("timeout", "shift 2; exit 124")
    holder = host.start()
    assert holder.line() == "lock taken"
    assert holder.line() == "lock alive"
    assert holder.process.stdout is not None
    holder.process.stdout.close()
    assert holder.process.wait(10) is not None


def test_who_is_not_root_is_told_so(host: Host) -> None:
    host.program("id", "echo 1000")
    holder = host.start()
    assert holder.line() == "lock user 1000"
    assert holder.process.wait(10) == 1


@pytest.mark.parametrize(
    "line",
    ["", "1", 'x b - {"who": "a", "what": "b", "since": "c"}', "1 a - {}", "1 a - {]", "1 a - []"],
)
def test_a_record_that_is_none(line: str) -> None:
    assert owner_of(line) is None


def test_what_was_killed_on_the_spot_is_cleared_away(host: Host) -> None:
    """New versions beside their targets may hold secrets, and no later run has to need them."""
    env = host.folder / "opt/.env"
    env.parent.mkdir()
    for path in (env, env.with_name(".env.vllm-hosts-new"), env.with_name("x.vllm-hosts-new")):
        path.touch()
    (host.folder / "deployed").write_text(f"{'a' * 64}  {env}\n-  /no/such\n")
    kept = host.history.parent / "way-back/now"
    kept.mkdir(parents=True)
    for name in ("compose.yaml", "compose.yaml.vllm-hosts-new"):
        (kept / name).touch()
    (host.folder / "state.removed/before").mkdir(parents=True)
    holder = host.start()
    assert holder.line() == "lock taken"
    holder.end()
    assert sorted(path.name for path in env.parent.iterdir()) == [".env", "x.vllm-hosts-new"]
    assert [path.name for path in kept.iterdir()] == ["compose.yaml"]
    assert not (host.folder / "state.removed").exists()


@contextmanager
def at_work(words: str) -> Iterator[int]:
    """A process whose script has these words."""
    process = subprocess.Popen(["sh", "-c", f"read -r end; : {words}"], stdin=subprocess.PIPE)
    with process:
        yield process.pid


def test_folders_that_a_killed_run_left_go_at_once_and_those_in_use_stay(host: Host) -> None:
    mark = token_hex(8)
    with (
        at_work("mktemp -d /run/vllm-hosts-look.$$.XXXXXX") as looks,
        at_work("mktemp -d elsewhere") as stranger,
        at_work(f"mkdir /run/vllm-hosts-rehearsal.{mark}"),
    ):
        gone = [
            *("vllm-hosts.abc123", "vllm-hosts.new456", "lock.abc123"),
            # Its process is gone, or that number is somebody else's by now.
            *("vllm-hosts-look.9999999.abc123", f"vllm-hosts-look.{stranger}.abc123"),
            *(f"vllm-hosts-rehearsal.{token_hex(8)}", "vllm-hosts-verify.abcd1234"),
        ]
        stay = [
            *(f"vllm-hosts-look.{looks}.abc123", f"vllm-hosts-rehearsal.{mark}"),
            *("vllm-hosts-verify.efgh5678", "vllm-hosts-watchdog", "vllm-hosts-undo"),
            *("vllm-hosts.lock", "vllm-hosts-balancer", "vllm-hosts-mirror"),
        ]
        for name in (*gone, *stay):
            (host.folder / name).mkdir()
            (host.folder / name / "key").touch()
        os.utime(host.folder / "vllm-hosts.abc123", (0, 0))
        os.utime(host.folder / "vllm-hosts-verify.abcd1234", (0, 0))
        holder = host.start()
        assert holder.line() == "lock taken"
        holder.end()
    there = sorted(path.name for path in host.folder.iterdir())
    assert there == sorted([*stay, "lock", "programs"])


def test_a_look_keeps_its_folder_until_it_is_killed(host: Host) -> None:
    program = frames.program().replace("/run/", f"{host.folder}/")
    look = subprocess.Popen(["sh", "-c", program], stdin=subprocess.PIPE, text=True)
    assert look.stdin is not None
    look.stdin.write("\n".join(frames.given(["exec /bin/sleep 20"])) + "\n")
    look.stdin.close()
    while not (there := [*host.folder.glob("vllm-hosts-look.*/taken/0")]):
        time.sleep(0.01)
    folder = there[0].parents[1]
    for alive in (True, False):
        holder = host.start()
        assert holder.line() == "lock taken"
        assert folder.exists() == alive
        holder.end()
        look.kill()
        look.wait()


def test_lines_that_come_in_pieces_are_one(host: Host) -> None:
    host.program("timeout", 'shift 2; exec /usr/bin/timeout 0.2 "$@"')
    holder = host.start()
    assert holder.line() == "lock taken"
    for text in (changed("a = b"), changed("a = b", "c\\d"), changed("a = b", "e", ended="done")):
        for piece in (text[:20], text[20:-1], text[-1:]):
            holder.say(piece)
            assert holder.line() == "lock alive"
    assert holder.end() == 0
    [line] = host.history.read_text().splitlines()
    assert json.loads(line.split(" ", 2)[2])["changed"] == ["a = b", "e"]


def test_where_nothing_can_be_noted_the_host_is_held_all_the_same(host: Host) -> None:
    """/run is memory, and may be full by then."""
    run = host.folder / "run"
    run.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "lab", run], check=False
    ).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        host.lock = run / "lock"
        host.program("timeout", 'shift 2; exec /usr/bin/timeout 0.2 "$@"')
        holder = host.start()
        assert holder.line() == "lock taken"
        with suppress(OSError):
            (run / "filler").write_bytes(b"x" * 100_000)
        for number in range(3):
            holder.say(changed(*(f"{step} {'x' * 1500}" for step in range(number + 1))))
            assert holder.line() == "lock alive"
            assert subprocess.run(["flock", "-n", host.lock, "true"], check=False).returncode == 1
        holder.say(changed("one", "two", ended="done"))
        assert holder.end() == 0
        # Whoever comes now is let in as well.
        other = host.start()
        assert other.line() == "lock taken"
        assert other.end() == 0
    finally:
        subprocess.run(["umount", "-l", run], check=True)
    [line] = host.history.read_text().splitlines()
    assert json.loads(line.split(" ", 2)[2])["changed"] == ["one", "two"]


def test_a_run_that_cannot_be_written_to_is_said_and_not_the_end_of_the_shell(host: Host) -> None:
    host.lock = host.folder / "no-such/lock"
    holder = host.start()
    assert holder.line() == "lock unwritable"
    assert holder.end() == 1


def test_the_last_line_of_a_host_that_is_left_goes_into_the_system_s_log(host: Host) -> None:
    """remove.py has taken the history away, and no new one begins."""
    host.program("logger", f'echo "$*" >{host.folder}/logged')
    first = host.start("remove.py of prod.py")
    assert first.line() == "lock taken"
    Path(f"{host.lock}.removed").touch()
    first.say('{"what": "remove.py of prod.py", "ended": "done"}\n')
    assert first.end() == 0
    logged = (host.folder / "logged").read_text()
    assert (
        logged == '-t vllm-hosts -- 192.0.2.7 {"what": "remove.py of prod.py", "ended": "done"}\n'
    )
    assert not host.history.exists()
    # What is there from a run that was killed counts for nobody else.
    Path(f"{host.lock}.removed").touch()
    second = host.start()
    assert second.line() == "lock taken"
    second.say('{"what": "deploy.py of prod.py", "ended": "done"}\n')
    assert second.end() == 0
    assert "deploy.py of prod.py" in host.history.read_text()
