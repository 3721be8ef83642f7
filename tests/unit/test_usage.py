"""`vllm-hosts usage`: the edge's logs, added up by this machine's own awk."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.unit.examples import examples
from tests.unit.fakes import LocalHost
from tests.unit.projects import own_lock
from vllm_hosts.errors import HostError
from vllm_hosts.facts.token_usage import TokenUsage
from vllm_hosts.host.access_log import Counts, TokenSums, read_usage, script, together

PROD = "inventory/prod.py"


def entry(day: str = "2026-11-20", **more: Any) -> dict[str, Any]:
    """A line of the log, as nginx writes it."""
    return {
        "time": f"{day}T10:00:00+01:00",
        "client": "alice",
        "agent": "qwen",
        "model": "Qwen/Qwen3-8B",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "bytes": 10,
        "seconds": 0.5,
        "upstream_seconds": "0.5",
        "upstream_status": "200",
        "prompt_tokens": None,
        "cached_tokens": None,
        "completion_tokens": None,
        "limit": "PASSED",
        "address": "192.0.2.7",
        "request_id": "ab",
    } | more


def lines(entries: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(one, separators=(",", ":")) + "\n" for one in entries)


def ran(folder: Path, by: str = "client", since: str = "") -> list[str]:
    done = subprocess.run(
        ["sh", "-c", script(str(folder), by, since)], capture_output=True, text=True, check=True
    )
    assert not done.stderr
    return done.stdout.splitlines()


def used(folder: Path, by: str = "client", since: str = "") -> TokenSums:
    return read_usage(ran(folder, by, since))


def counted(prompt: int, cached: int | None, completion: int, **more: Any) -> dict[str, Any]:
    tokens = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": completion}
    return entry(**(tokens | more))


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Three generations of a log."""
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "access.log").write_text(
        lines(
            [
                counted(10, None, 5, day="2026-11-22", client="bob", model="sql"),
                counted(7, 2, 0, day="2026-11-22"),
                # Answered, and nobody knows with how many.
                entry(day="2026-11-22"),
                # These have no tokens.
                entry(day="2026-11-22", method="GET", path="/v1/models"),
                entry(day="2026-11-22", status=429),
                entry(day="2026-11-22", path="/v1/messages/count_tokens"),
                entry(day="2026-11-22", client="", status=401),
            ]
        )
        + 'half a line {"time":"2026'
    )
    (folder / "access.log.1").write_text(lines([counted(3_000_000_000, 1, 4, day="2026-11-21")]))
    with gzip.open(folder / "access.log.2.gz", "wt") as file:
        file.write(lines([counted(3_000_000_000, 1, 4)]))
    (folder / "error.log").write_text("no access\n")
    return folder


def test_all_generations_are_added_up(logs: Path) -> None:
    assert used(logs) == TokenSums(
        "2026-11-20",
        {"alice": Counts(3, 6_000_000_007, 4, 8, 1), "bob": Counts(1, 10, 0, 5, 0)},
    )
    assert used(logs, "model").counts == {
        "Qwen/Qwen3-8B": Counts(3, 6_000_000_007, 4, 8, 1),
        "sql": Counts(1, 10, 0, 5, 0),
    }
    days = used(logs, "day", "2026-11-21")
    assert days.counts == {
        "2026-11-21": Counts(1, 3_000_000_000, 1, 4, 0),
        "2026-11-22": Counts(2, 17, 2, 5, 1),
    }
    assert days.since == "2026-11-20", "what there is, and not what was asked for"


def test_lines_of_before_have_no_tokens(tmp_path: Path) -> None:
    old = {name: value for name, value in entry().items() if "tokens" not in name}
    del old["model"]
    (tmp_path / "access.log").write_text(lines([old]))
    assert used(tmp_path, "model").counts == {"": Counts(uncounted=1)}


def test_an_empty_log(tmp_path: Path) -> None:
    (tmp_path / "access.log").touch()
    assert used(tmp_path) == TokenSums(None, {})


def test_logs_that_rotate_meanwhile_are_read_again(tmp_path: Path) -> None:
    """Each reading creates another file, as a rotation would; at last they are given up."""
    (tmp_path / "access.log").write_text(lines([counted(1, 0, 1)]))
    once = script(str(tmp_path), "client", "")
    rotating = once.replace("done | nice", "date > access.log.$(date +%N); done | nice")
    assert rotating != once
    done = subprocess.run(["sh", "-c", rotating], capture_output=True, text=True, check=True)
    assert done.stdout == "changed\n"
    with pytest.raises(HostError, match="rotated while they were read; try again"):
        TokenUsage().parse(["== user", "0", "== usage", "changed"])


def test_more_than_people_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "access.log").write_text(
        lines(counted(1, 0, 1, client=f"c{number}") for number in range(5001))
    )
    with pytest.raises(HostError, match="more than 5000 of these; see fewer days with --since"):
        TokenUsage().parse(["== user", "0", "== usage", *ran(tmp_path)])


@pytest.mark.parametrize(
    "said", [["12 1 1 1 0 alice"], ["since", "1 2 3"], ["since", "1 2 3 4 -5 a"], ["since", "x"]]
)
def test_another_answer_is_none(said: list[str]) -> None:
    with pytest.raises(HostError, match="could not be understood"):
        TokenUsage().process(["== user", "0", "== usage", *said, "vllm-hosts-end"])


@pytest.mark.parametrize(
    "name",
    [
        *("a\x1b[2Jb", "=cmd|'/C calc'!A0", "+1+1", "-1", "@SUM(A1)", '{"time":"2026', "a b"),
        *('"x', "a,b", "\u202eabc", "a" * 999),
    ],
)
def test_what_is_no_name_is_counted_and_never_shown(name: str) -> None:
    """A host may lie, and a spreadsheet would compute it; a full disk leaves half a line."""
    assert read_usage(
        ["since 2026-11-01", f"1 2 3 4 5 {name}", "1 0 0 0 0 org/x.y_Z-1"]
    ).counts == {
        "": Counts(1, 2, 3, 4, 5),
        "org/x.y_Z-1": Counts(1),
    }


_TOKENS = st.none() | st.integers(0, 10**9)


@given(
    entries=st.lists(
        st.builds(
            entry,
            day=st.sampled_from(["2026-11-20", "2026-11-21"]),
            client=st.sampled_from(["", "alice", "bob-2"]),
            model=st.sampled_from(["m", "org/x.y_Z-1", ""]),
            method=st.sampled_from(["POST", "GET"]),
            status=st.sampled_from([200, 200, 400, 499]),
            path=st.sampled_from(["/v1/chat/completions", "/a/v1/messages/count_tokens", ""]),
            prompt_tokens=_TOKENS,
            cached_tokens=_TOKENS,
            completion_tokens=_TOKENS,
            upstream_status=st.text(max_size=5),
        ),
        max_size=20,
    ),
    by=st.sampled_from(["client", "model", "day"]),
    since=st.sampled_from(["", "2026-11-21"]),
)
@hypothesis_settings(max_examples=examples(10))
def test_any_log_adds_up_as_in_python(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], by: str, since: str
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "access.log").write_text(lines(entries))
    sums: dict[str, Counts] = {}
    for one in entries:
        day = one["time"][:10]
        prompt, completion = one["prompt_tokens"], one["completion_tokens"]
        if not one["client"] or day < since:
            continue
        if prompt is None and completion is None:
            if one["method"] != "POST" or one["status"] != 200 or "count" in one["path"]:
                continue
            counts = Counts(uncounted=1)
        else:
            counts = Counts(1, prompt or 0, one["cached_tokens"] or 0, completion or 0)
        key = day if by == "day" else one[by]
        sums[key] = sums.get(key, Counts()) + counts
    assert used(folder, by, since).counts == sums


def test_hosts_are_added() -> None:
    one, other = (
        TokenSums("a", {"x": Counts(1, 2, 3, 4, 5)}),
        TokenSums(None, {"x": Counts(1), "y": Counts()}),
    )
    assert together([one, other]) == {"x": Counts(2, 2, 3, 4, 5), "y": Counts()}


@pytest.fixture
def host(tmp_path: Path, logs: Path) -> LocalHost:
    made = LocalHost.make(tmp_path)
    made.project.write(
        PROD,
        f"{own_lock(tmp_path)}"
        "from vllm_hosts.host import paths as _paths\n"
        f"_paths.EDGE_LOGS = {str(logs)!r}\n"
        "gpu_hosts = [('@local', {'ssh_hostname': '192.0.2.1'})]\n",
    )
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="the logs belong to root")
class TestCommand:
    def test_a_table(self, host: LocalHost) -> None:
        done = host.project.run("vllm-hosts", "usage", PROD)
        assert (done.returncode, done.stdout.splitlines()) == (
            0,
            [
                "client  requests         prompt  cached  completion  uncounted",
                "alice          3  6,000,000,007       4           8          1",
                "bob            1             10       0           5          0",
                "all            4  6,000,000,017       4          13          1",
                "@local: logs since 2026-11-20",
            ],
        )

    def test_csv_and_json(self, host: LocalHost) -> None:
        words = ["vllm-hosts", "usage", PROD, "--by", "day", "--since", "2026-11-22"]
        table = host.project.run(*words, "--csv").stdout
        assert [*csv.DictReader(table.splitlines())] == [
            {
                "day": "2026-11-22",
                "requests": "2",
                "prompt_tokens": "17",
                "cached_tokens": "2",
                "completion_tokens": "5",
                "uncounted": "1",
            }
        ]
        assert json.loads(host.project.run(*words, "--json").stdout) == {
            "by": "day",
            "usage": [
                {
                    "day": "2026-11-22",
                    "requests": 2,
                    "prompt_tokens": 17,
                    "cached_tokens": 2,
                    "completion_tokens": 5,
                    "uncounted": 1,
                }
            ],
            "hosts": [{"host": "@local", "logs_since": "2026-11-20", "error": None}],
        }

    def test_a_host_without_an_edge_and_one_that_does_not_answer(
        self, host: LocalHost, logs: Path
    ) -> None:
        (logs / "access.log").unlink()
        text = (host.project.folder / PROD).read_text()
        down = "('down', {'ssh_hostname': '127.0.0.1', 'ssh_port': 1}), "
        host.project.write(PROD, text.replace("gpu_hosts = [", f"gpu_hosts = [{down}"))
        done = host.project.run("vllm-hosts", "usage", PROD)
        assert done.returncode == 1
        assert "@local: this host has no access log of an edge; deploy to it first" in done.stdout
        assert "down: cannot be reached" in done.stdout

    def test_a_gateway_s_requests_are_its_own(self, host: LocalHost) -> None:
        """It has no agents, and what clients used of all hosts'."""
        text = (host.project.folder / PROD).read_text()
        text = text.replace("gpu_hosts = ", "gateways = ")
        down = "gpu_hosts = ['192.0.2.9']\n"
        host.project.write(PROD, text + down)
        done = host.project.run("vllm-hosts", "usage", PROD, "--host", "@local")
        assert done.stdout.splitlines()[-1] == "@local: logs since 2026-11-20"
        assert "alice          3  6,000,000,007" in done.stdout

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--since", "soon"], "'soon' is neither a day such as 2026-11-01 nor a number such"),
            (["--since", "2026-13-01"], "'2026-13-01' is neither a day"),
            (["--csv", "--json"], "--csv and --json exclude each other; leave one out"),
            (["--by", "agent"], "'agent' is not one of"),
        ],
    )
    def test_misuse(self, host: LocalHost, words: list[str], said: str) -> None:
        done = host.project.run("vllm-hosts", "usage", PROD, *words)
        assert done.returncode == 2
        assert said in done.stdout


def test_what_came_through_a_gateway_is_counted_there(tmp_path: Path) -> None:
    """At the host, its line says the gateway; its own edge's lines do not."""
    folder = tmp_path / "logs"
    folder.mkdir()
    passed = {"time": "2026-11-20T10:00:00+01:00", "gateway": "gw1.example.com"} | entry()
    refused = {"time": "2026-11-20T10:00:00+01:00", "gateway": ""} | entry(status=400)
    own = counted(5, None, 2, client="controller")
    (folder / "access.log").write_text(lines([passed, passed | {"prompt_tokens": 7}, refused, own]))
    assert used(folder).counts == {"controller": Counts(1, 5, 0, 2)}
