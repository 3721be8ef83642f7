"""What agents print, read on a host by this machine's own shell and awk."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.unit.fakes import docker
from vllm_hosts.agents.logs import Reader, fresh
from vllm_hosts.errors import HostError
from vllm_hosts.facts.agents import AgentLines, AgentLogs, LogLine, Logs
from vllm_hosts.facts.base import END

A_MINUTE = timedelta(minutes=1)
INTERNAL = "sk-internal-of-the-host_1"
CLIENT = "kZ2aX-client_key-of-43-characters-000000000"
TOKEN = "hf_0123456789abcdef"


def logs(
    folder: Path, text: str, since: dict[str, str] | None = None, everything: bool = False
) -> AgentLines:
    (folder / "log").write_text(text)
    environment = docker(
        folder, f'[ "$1" = ps ] && echo one || {{ echo "$*" >{folder}/asked; cat {folder}/log; }}'
    )
    fact = AgentLogs()
    command = fact.command(
        agents=["one", "gone"],
        directory=str(folder),
        lines=7,
        since=since or {},
        edge_folder=str(folder),
        everything=everything,
    )
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=True)
    assert done.stderr == b""
    found = fact.process(done.stdout.decode().split("\n"))
    assert abs(datetime.fromisoformat(found.read_at[:19] + "+00:00") - datetime.now(UTC)) < A_MINUTE
    assert found.agents["gone"] == AgentLines(None)
    return found.agents["one"]


def test_no_key_of_the_host_is_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"# .env\nVLLM_API_KEY={INTERNAL}\nHF_TOKEN={TOKEN}\n")
    line = f'"Bearer {CLIENT}" "alice Bearer {CLIENT}"; # until 1800000000\n'
    (tmp_path / "clients.map").write_text(f"# Keys of clients\n{line}")
    found = logs(
        tmp_path,
        f"2026-11-25T09:00:00.1Z a={INTERNAL}, {{'Authorization': 'Bearer {CLIENT}'}}\n"
        f"2026-11-25T09:00:00.2Z {CLIENT}{INTERNAL}{INTERNAL} token:{TOKEN} {CLIENT}\n"
        "2026-11-25T09:00:00.3Z Authorization: Bearer, as it should be\n",
    )
    assert found.lines is not None
    shown = "\n".join(line.text for line in found.lines)
    assert INTERNAL not in shown and TOKEN not in shown
    assert f"'Bearer {CLIENT}" not in shown and not shown.endswith(CLIENT)
    assert found.lines[0].text == "a=*MASKED*, {'Authorization': 'Bearer *MASKED*'}"
    assert found.lines[2].text == "Authorization: Bearer, as it should be"


def test_logs_of_a_host_without_files_of_keys(tmp_path: Path) -> None:
    found = logs(tmp_path, "2026-11-25T09:00:00.1Z == heading\n2026-11-25T09:00:00.2Z \n")
    assert found.lines == (
        LogLine("2026-11-25T09:00:00.1Z", "== heading"),
        LogLine("2026-11-25T09:00:00.2Z", ""),
    )


def test_what_a_line_could_do_to_a_terminal(tmp_path: Path) -> None:
    found = logs(
        tmp_path,
        "2026-11-25T09:00:00.1Z \x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\ttab\n"
        "2026-11-25T09:00:00.2Z Loading:  10%\rLoading: 100%\r\n",
    )
    assert found.lines is not None
    assert [line.text for line in found.lines] == [
        "\ufffdred\ufffd \ufffd \ufffd\ttab",
        "Loading: 100%",
    ]


@pytest.mark.parametrize("at", ["now", "2026-13-25T09:00:00Z", "0001-01-01T00:00:00Z", "\x1b[2J"])
def test_a_time_that_is_none(at: str) -> None:
    fact = AgentLogs()
    fact.asked = ["one"]
    with pytest.raises(HostError, match="could not be understood"):
        fact.process(["== read at", at, "== one", "present", END])


def test_an_agent_that_nobody_asked_for_has_no_lines() -> None:
    fact = AgentLogs()
    fact.asked = ["one"]
    lines = ["== read at", "2026-10-02T11:20:42.1Z", "== one", "== \x1b]0;owned\x07", "present"]
    assert fact.process([*lines, END]).agents == {"one": AgentLines(None)}
    with pytest.raises(HostError, match="KeyError"):
        fact.process([*lines[:2], END])


def test_bytes_that_are_no_text_cost_no_line(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"2026-11-25T09:00:00.1Z caf\xc3\xa9 \xff\xfe!\n")
    environment = docker(tmp_path, f'[ "$1" = ps ] && echo one || cat {tmp_path}/raw')
    fact = AgentLogs()
    command = fact.command(["one"], str(tmp_path), 7, {}, str(tmp_path))
    done = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, check=True)
    found = fact.process(done.stdout.decode().splitlines())
    assert found.agents["one"].lines == (LogLine("2026-11-25T09:00:00.1Z", "caf\u00e9 !"),)


def test_reading_on(tmp_path: Path) -> None:
    stamp = "2026-11-25T09:00:00.123456789Z"
    logs(tmp_path, "", {"one": stamp})
    asked = (tmp_path / "asked").read_text()
    assert asked == f"logs --timestamps --tail 7 --since {stamp} one\n"
    old, new = LogLine(stamp, "old"), LogLine("2026-11-25T09:00:00.123456790Z", "new")
    assert fresh(AgentLines((old, new)), stamp) == [new]
    assert fresh(AgentLines((old, new)), None) == [old, new]


def access(path: str, status: str, before: str = "") -> str:
    return f'{before}INFO:     127.0.0.1:40178 - "GET {path} HTTP/1.1" {status}'


ROUTINE = (
    access("/health", "200 OK"),
    access("/metrics", "200 OK"),
    access("/metrics/", "200"),
    access("/health", "200 OK\r", "(APIServer pid=1) "),
)
TELLING = (
    access("/health", "503 Service Unavailable"),
    access("/metrics", "404 Not Found"),
    access("/v1/models", "200 OK"),
    access("/healthy", "200 OK"),
    "WARNING: " + access("/health", "200 OK"),
    access("/health", "200 OK") + "; and then it died",
    "INFO: the last word",
)


def test_checks_that_went_well_are_left_out_and_do_not_count(tmp_path: Path) -> None:
    telling = [f"2026-11-25T09:00:0{i}.1Z {line}" for i, line in enumerate(TELLING)]
    routine = [f"2026-11-25T09:01:0{i}.1Z {line}" for i, line in enumerate(ROUTINE)]
    text = "\n".join(["2026-11-25T08:00:00.1Z older", *telling, *routine * 30, ""])
    assert [line.text for line in logs(tmp_path, text).lines or ()] == list(TELLING)
    shown = logs(tmp_path, text, everything=True).lines or ()
    assert sum("/health HTTP" in line.text for line in shown) > 60


def test_following_an_agent_that_says_nothing_reads_no_more_with_time() -> None:
    first = LogLine("2026-11-25T09:00:00.000000001Z", "first")
    answers = [
        Logs("2026-11-25T09:00:00.500000000Z", {"one": AgentLines((first,))}),
        Logs("2026-11-25T10:00:00.500000000Z", {"one": AgentLines(())}),
        Logs("2026-11-25T10:00:01.500000000Z", {"one": AgentLines(())}),
    ]
    asked: list[str] = []

    class Connections:
        def each(self, *_: object, **__: object) -> dict[str, Logs]:
            asked.append(reader._seen.get("gpu1", {}).get("one", ""))
            return {"gpu1": answers.pop(0)}

    chosen = SimpleNamespace(connections=Connections(), agents={"gpu1": ["one"]})
    reader = Reader(chosen, 5)  # type: ignore[arg-type]
    assert [line for _, _, line in reader.read().lines] == [first]
    reader.read()
    reader.read()
    assert asked == ["", first.stamp, "2026-11-25T09:59:50.000000000Z"]


def test_what_docker_says_in_the_place_of_a_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="configured logging driver does not support reading"):
        logs(tmp_path, "Error: configured logging driver does not support reading\n")


@pytest.mark.parametrize("between", ["\x07", "\x1b[0m", "\u200b", "\x9b0m"])
def test_a_key_that_was_cut_in_two_stays_so(between: str) -> None:
    line = f"> 2026-10-02T11:20:41.123456789Z first{between}second"
    lines = ["== read at", "2026-10-02T11:20:42.000000000Z", "== one", "present", line, END]
    fact = AgentLogs()
    fact.asked = ["one"]
    [found] = fact.process(lines).agents["one"].lines or ()
    assert "firstsecond" not in found.text and found.text.isprintable()
