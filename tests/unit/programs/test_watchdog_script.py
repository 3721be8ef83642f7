"""The script with which a host restarts agents whose engine hangs, run for real on this machine.

Docker is a stand-in that writes down what it is asked to restart; agents are HTTP servers.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host import paths
from vllm_hosts.host.marks import owner_of
from vllm_hosts.host.vllm_metrics import metrics as read_metrics
from vllm_hosts.host.watchdog import REASONS, watched
from vllm_hosts.roles.watchdog.plan import script

KEY = "internal-key-of-qwen"
LOOKS, LIMIT = 2, 2
#: Seconds in which an agent has to answer, where one does not.
PATIENCE = 2
#: In the place of Docker: states are files, and a restart is a line and another start.
DOCKER = """#!/bin/bash
case "$1 $2" in
    'container inspect')
        case "$4" in '{{{{.Name}}}} '*) named=yes ;; *) named= ;; esac
        # As Docker does it: by name, and otherwise by the beginning of an identifier.
        if [ -e "{folder}/containers/$5" ]; then
            echo "${{named:+/$5 }}$(cat "{folder}/containers/$5")"
        else
            [ -e "{folder}/other" ] && echo "${{named:+/somebody-s }}$(cat "{folder}/other")"
        fi ;;
    'restart -t')
        echo "$4" >>{folder}/restarted
        cp {folder}/lock {folder}/lock-then
        [ ! -e {folder}/fails ] || exit 1
        echo "running starting $(date +%s.%N)" >"{folder}/containers/$4" ;;
    *) echo "docker $*" >>{folder}/odd; exit 1 ;;
esac
"""


class Agent:
    """An API with an engine behind it, which may hang."""

    def __init__(self, address: str, port: int = 0) -> None:
        self.tokens, self.running, self.waiting = 100, 0, 0
        #: What comes of a request for a token: a status, or None for an end without an answer.
        self.answers: dict[str, int | None] = {"/v1/completions": 200}
        self.metrics: int | None = 200
        #: Tokens that others get while one waits.
        self.others = 0
        self.first, self.more = b"", b""
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        #: Who is asked says nothing, and does not end.
        self.hangs = False
        #: Seconds that it takes for a request for a token.
        self.delay = 0.0
        self.ended = threading.Event()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.say(agent.metrics, agent.page())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                agent.asked.append((self.path, body, self.headers["Authorization"]))
                time.sleep(agent.delay)
                status = agent.answers.get(self.path, 404)
                agent.tokens += agent.others + (status == 200)
                self.say(status, b'{"text": "\xff\x00\x1b[31m"}')

            def say(self, status: int | None, body: bytes) -> None:
                if status is None:
                    if agent.hangs:
                        agent.ended.wait(30)
                    return
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((address, port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def page(self) -> bytes:
        label = '{engine="0",model_name="a b"}'
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{label} {float(self.running)}",
            f"vllm:num_requests_waiting{label} {float(self.waiting)}",
            f"vllm:kv_cache_usage_perc{label} 0.25",
            f"vllm:prompt_tokens_total{label} 1.234567e+06",
            f"vllm:prompt_tokens_created{label} {time.time()}",
            f"vllm:generation_tokens_total{label} {float(self.tokens)}",
            # Of the API's process alone: they move however dead the engine is.
            f"process_cpu_seconds_total {time.monotonic()}",
            f"vllm:admission_rejections_total{label} {time.monotonic()}",
        ]
        return self.first + "\n".join([*lines, ""]).encode() + self.more

    def die(self, status: int | None = 500) -> None:
        """The engine; None: it says nothing."""
        self.answers = dict.fromkeys(self.answers, status)

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()


class Host:
    """This machine, with a test's own lock, state and Docker."""

    def __init__(self, folder: Path, port: int, *others: dict[str, Any]) -> None:
        self.folder = folder
        for name in ("containers", "seen", "counts", "bin"):
            (folder / name).mkdir()
        (folder / "bin/docker").write_text(DOCKER.format(folder=folder))
        (folder / "bin/docker").chmod(0o755)
        (folder / ".env").write_text(f"VLLM_API_KEY_QWEN={KEY}\nVLLM_API_KEY_CODER=other\n")
        (folder / "lock").touch()
        host = settings(
            agents=[QWEN, *others],
            vllm={"watchdog_restarts": LIMIT},
        )
        text = script(host)
        for old, new in (
            (f"seen={paths.WATCHDOG_SEEN}\n", f"seen={folder}/seen\n"),
            (f"counts={paths.WATCHDOG}\n", f"counts={folder}/counts\n"),
            (f"lock={paths.LOCK}\n", f"lock={folder}/lock\n"),
            ("env=/opt/vllm/.env\n", f"env={folder}/.env\n"),
            ("looks=10\n", f"looks={LOOKS}\n"),
            ("port=8000\n", f"port={port}\n"),
            (f"={host.cell('qwen').address} ", "=127.0.0.1 "),
            *[(f"={host.cell('coder').address} ", "=127.0.0.2 ") for _ in others],
        ):
            assert old in text
            text = text.replace(old, new)
        (folder / "watch").write_text(text)
        self.container("qwen")

    def impatient(self) -> None:
        script = self.folder / "watch"
        script.write_text(script.read_text().replace("patience=20\n", f"patience={PATIENCE}\n"))

    def container(self, name: str, state: str = "running", health: str = "healthy") -> None:
        self.start = getattr(self, "start", 0) + 1
        (self.folder / "containers" / name).write_text(f"{state} {health} start-{self.start}\n")

    def health(self, name: str, health: str) -> None:
        path = self.folder / "containers" / name
        state, _, start = path.read_text().split()
        path.write_text(f"{state} {health} {start}\n")

    def look(self, times: int = 1) -> str:
        said = ""
        for _ in range(times):
            done = subprocess.run(
                ["bash", str(self.folder / "watch")],
                env={"PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                check=True,
                timeout=30,
                umask=0,
            )
            assert done.stderr == ""
            said += done.stdout
        assert not (self.folder / "odd").exists()
        kept = [*(self.folder / "seen").iterdir(), *(self.folder / "counts").iterdir()]
        assert {one.name for one in kept} <= {"qwen", "coder"}
        return said

    @property
    def restarted(self) -> list[str]:
        path = self.folder / "restarted"
        return path.read_text().split() if path.exists() else []

    def noted(self) -> list[str]:
        paths = [self.folder / name / "qwen" for name in ("seen", "counts")]
        return [
            line
            for path in paths
            if path.exists()
            for line in path.read_text(errors="replace").splitlines()
        ]

    def note(self, *lines: str) -> None:
        counts = [line for line in lines if line.split()[0] in ("total", "gave-up", "restart")]
        for name, part in (
            ("counts", counts),
            ("seen", [one for one in lines if one not in counts]),
        ):
            (self.folder / name / "qwen").write_text("".join(f"{line}\n" for line in part))


@pytest.fixture
def agent() -> Iterator[Agent]:
    made = Agent("127.0.0.1")
    yield made
    made.close()


@pytest.fixture
def host(tmp_path: Path, agent: Agent) -> Host:
    return Host(tmp_path, agent.port)


def sourced(host: Host, commands: str) -> list[str]:
    """What functions of the script print."""
    words = ["bash", "-c", f". {host.folder}/watch; cd {host.folder}; {commands}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


#: By verdict: state, health, loaded, said, moved, busy, probe.
RULE = {
    "away": [
        "exited healthy yes known yes no -",
        "paused healthy yes known no yes silent",
        "restarting healthy yes - no no -",
        "absent - no - no no -",
    ],
    # However long it takes, and whatever it answers meanwhile.
    "loading": [
        "running starting no - no no -",
        "running unhealthy no silent no no -",
        "running unhealthy no known no yes silent",
    ],
    "alive": [
        "running healthy yes known yes no -",
        "running unhealthy yes known yes yes silent",
        "running healthy yes known no no answered",
        "running healthy yes known yes yes failed",
    ],
    "stalled": [
        "running healthy yes known no no silent",
        "running unhealthy yes known no yes silent",
    ],
    "failed": ["running healthy yes known no no failed"],
    # A model that makes no token here: only requests that run and do not move say something.
    "stuck": ["running healthy yes known no yes refused"],
    "silent": ["running unhealthy yes silent no no -"],
    "unknown": [
        "running healthy yes known no no refused",
        # Docker's own check gets through.
        "running healthy yes silent no no -",
        # An agent that counts nothing cannot be told from a busy one.
        "running healthy yes none no no -",
        "running unhealthy yes none no no -",
    ],
}


def test_the_rule(host: Host) -> None:
    cases = [(verdict, case) for verdict, cases in RULE.items() for case in cases]
    said = sourced(host, "; ".join(f"judge {case}" for _, case in cases))
    assert said == [verdict for verdict, _ in cases]


def test_what_follows(host: Host) -> None:
    """Of looks in a row, restarts within the hour, and whether it gave up."""
    cases = {
        "0 0 ''": "wait",
        "1 0 ''": "wait",
        "2 0 ''": "restart",
        "9 1 ''": "restart",
        "2 2 ''": "give-up",
        "3 0 '1 stalled'": "wait",
    }
    assert sourced(host, "; ".join(f"decide {case}" for case in cases)) == [*cases.values()]


def test_every_reason_has_its_words(host: Host) -> None:
    assert sourced(host, 'printf "%s\\n" "${!why[@]}" | sort') == sorted(REASONS)


class TestAnAgentThatIsWell:
    def test_one_that_idles_makes_a_token_at_every_other_look(
        self, host: Host, agent: Agent
    ) -> None:
        assert host.look(4) == ""
        assert host.restarted == []
        asked = {"model": "qwen", "prompt": "a", "max_tokens": 1}
        assert agent.asked == [("/v1/completions", asked, f"Bearer {KEY}")] * 2

    def test_one_whose_tokens_move_is_not_asked_at_all(self, host: Host, agent: Agent) -> None:
        agent.running, agent.waiting = 32, 500
        agent.die()
        host.note("began start-1", "loaded yes", "progress 1,2,3", f"row {LOOKS - 1}")
        for _ in range(LOOKS):
            agent.tokens += 1
            host.look()
        assert (agent.asked, host.restarted) == ([], [])
        assert "row 0" in host.noted()

    def test_a_token_that_waits_behind_others_says_nothing(self, host: Host, agent: Agent) -> None:
        """Nothing had moved since the last look, the request did not come back, and others' did."""
        agent.die(None)
        agent.others = 7
        host.note("began start-1", "loaded yes", f"row {LOOKS - 1}", "progress")
        host.look()
        assert len(agent.asked) == 1
        assert host.restarted == []
        assert "row 0" in host.noted()

    def test_one_life_sign_begins_the_row_anew(self, host: Host, agent: Agent) -> None:
        agent.die()
        host.look(LOOKS - 1)
        assert f"row {LOOKS - 1}" in host.noted()
        agent.tokens += 1
        host.look()
        assert "row 0" in host.noted()
        assert host.restarted == []

    def test_one_that_loads_again_and_again_is_left_to_it(self, host: Host, agent: Agent) -> None:
        agent.die()
        host.container("qwen", health="starting")
        host.look(LOOKS)
        # Longer than it may: still loading.
        host.health("qwen", "unhealthy")
        host.look(LOOKS)
        assert (agent.asked, host.restarted) == ([], [])

    @pytest.mark.parametrize("state", ["exited", "paused", "restarting", "created"])
    def test_one_that_does_not_run_stays_so(self, host: Host, state: str) -> None:
        host.container("qwen", state)
        host.note("began start-2", "loaded yes", "row 9")
        host.look()
        assert host.restarted == []
        assert "row 0" in host.noted()

    def test_one_whose_name_begins_the_identifier_of_another_container(self, host: Host) -> None:
        """Docker answers with that one, and would restart it."""
        (host.folder / "containers/qwen").unlink()
        (host.folder / "other").write_text("running unhealthy start-1\n")
        host.note("began start-1", "loaded yes", f"row {LOOKS - 1}")
        (host.folder / "watch").write_text(
            (host.folder / "watch").read_text().replace("=127.0.0.1 ", "=127.0.0.9 ")
        )
        assert host.look(LOOKS) == ""
        assert host.restarted == []

    def test_one_without_a_container(self, host: Host) -> None:
        (host.folder / "containers/qwen").unlink()
        assert host.look(2) == ""
        assert host.restarted == []


class TestAnAgentThatHangs:
    def test_it_is_restarted_after_looks_in_a_row(self, host: Host, agent: Agent) -> None:
        agent.die(None)
        assert host.look(LOOKS - 1) == ""
        said = host.look()
        assert said == f"<4>agent qwen: {REASONS['stalled']}; restarting it\n"
        assert host.restarted == ["qwen"]
        seen = watched(host.noted())
        assert seen.total == 1
        assert [one.why for one in seen.restarts] == [REASONS["stalled"]]
        assert seen.gave_up is None
        # Whoever waits for the host meanwhile says for whom.
        owner = owner_of((host.folder / "lock-then").read_text())
        assert owner is not None
        assert (owner.who, owner.what) == ("root", "watchdog, restarting qwen")
        assert (host.folder / "lock").read_text() == ""
        # It loads now.
        host.look(LOOKS)
        assert host.restarted == ["qwen"]

    def test_one_that_keeps_the_request_for_ever(self, host: Host, agent: Agent) -> None:
        agent.die(None)
        agent.hangs = True
        host.impatient()
        host.note("began start-1", "loaded yes", f"row {LOOKS - 1}")
        assert REASONS["stalled"] in host.look()
        assert host.restarted == ["qwen"]

    def test_one_whose_engine_is_dead(self, host: Host, agent: Agent) -> None:
        agent.die()
        host.health("qwen", "unhealthy")
        host.note("began start-1", "loaded yes", f"row {LOOKS - 1}")
        assert REASONS["failed"] in host.look()
        assert host.restarted == ["qwen"]

    def test_one_that_makes_no_tokens_and_whose_requests_do_not_move(
        self, host: Host, agent: Agent
    ) -> None:
        agent.answers = {}
        agent.running = 3
        host.look(LOOKS)
        assert host.restarted == ["qwen"]
        paths = [path for path, _, _ in agent.asked]
        assert paths == ["/v1/completions", "/v1/embeddings", "/pooling", "/classify"] * LOOKS

    def test_one_that_does_not_answer_at_all(self, host: Host, agent: Agent) -> None:
        agent.metrics = None
        host.note("began start-1", "loaded yes", f"row {LOOKS - 1}")
        host.look()
        assert host.restarted == [], "Docker's own check is answered"
        host.health("qwen", "unhealthy")
        assert REASONS["silent"] in host.look(LOOKS)
        assert host.restarted == ["qwen"]
        assert agent.asked == []

    def test_only_that_one(self, tmp_path: Path, agent: Agent) -> None:
        other = Agent("127.0.0.2", agent.port)
        try:
            host = Host(tmp_path, agent.port, CODER)
            host.container("coder")
            agent.die()
            host.look(LOOKS)
            assert host.restarted == ["qwen"]
            assert {sent for _, _, sent in other.asked} == {"Bearer other"}
            assert other.asked[0][1]["model"] == "coder-14b"
        finally:
            other.close()

    def test_two_at_once(self, tmp_path: Path, agent: Agent) -> None:
        """A card that is lost takes all of its agents along."""
        other = Agent("127.0.0.2", agent.port)
        try:
            host = Host(tmp_path, agent.port, CODER)
            host.container("coder")
            agent.die()
            other.die()
            host.look(LOOKS)
            assert sorted(host.restarted) == ["coder", "qwen"]
        finally:
            other.close()

    def test_not_more_often_than_it_may(self, host: Host, agent: Agent) -> None:
        agent.die()
        now = int(time.time())
        host.note("began start-1", "loaded yes", f"row {LOOKS - 1}", "total 7",
                  f"restart {now - 7200} failed", f"restart {now - 3000} stalled")  # fmt: skip
        host.look()
        assert host.restarted == ["qwen"]
        host.health("qwen", "healthy")
        said = host.look(LOOKS)
        assert host.restarted == ["qwen"]
        assert "it was restarted 2 times within an hour, and is left as it is" in said
        seen = watched(host.noted())
        assert seen.total == 8
        assert seen.gave_up is not None
        assert seen.gave_up.why == REASONS["failed"]
        # It stays so, whatever the hour, and is said once.
        host.note(*(line for line in host.noted() if not line.startswith("restart")))
        assert host.look() == ""
        assert host.restarted == ["qwen"]

    @pytest.mark.parametrize("revived", ["by itself", "by somebody"])
    def test_once_it_is_well_again_it_is_watched_again(
        self, host: Host, agent: Agent, revived: str
    ) -> None:
        host.note("began start-1", "loaded yes", "row 9", f"gave-up {int(time.time())} stalled")
        if revived == "by somebody":
            host.container("qwen")
        host.look()
        assert watched(host.noted()).gave_up is None
        agent.die()
        agent.tokens = 0
        host.look(LOOKS + 1)
        assert host.restarted == ["qwen"]

    @pytest.mark.parametrize("year", [365 * 86400, -365 * 86400])
    def test_a_clock_that_was_wrong_allows_no_more_than_that(
        self, host: Host, agent: Agent, year: int
    ) -> None:
        agent.die()
        then = int(time.time()) + year
        host.note(
            "began start-1", "loaded yes", f"row {LOOKS - 1}", *[f"restart {then} stalled"] * 2
        )
        host.look()
        assert host.restarted == ["qwen"]

    def test_one_that_docker_cannot_restart_is_counted_too(self, host: Host, agent: Agent) -> None:
        agent.die()
        (host.folder / "fails").touch()
        said = host.look(LOOKS * (LIMIT + 1))
        assert said.count("Docker could not restart it") == LIMIT
        assert host.restarted == ["qwen"] * LIMIT
        assert "is left as it is" in said

    def test_one_that_somebody_stopped_meanwhile(self, host: Host, agent: Agent) -> None:
        """Between the look and the restart: nobody's decision is undone."""
        said = sourced(
            host,
            f"PATH={host.folder}/bin:$PATH; recall qwen; began=start-0; restart qwen stalled",
        )
        assert (said, host.restarted) == ([], [])


class TestDeploys:
    def test_while_one_is_at_work_nobody_is_asked(self, host: Host, agent: Agent) -> None:
        agent.die()
        host.look(LOOKS - 1)
        asked = len(agent.asked)
        with (host.folder / "lock").open("a") as lock:
            lock.write("a deploy's record")
            lock.flush()
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert host.look(2) == ""
        assert (len(agent.asked), host.restarted) == (asked, [])
        assert "row 0" in host.noted()
        assert (host.folder / "lock").read_text() == "a deploy's record"

    def test_one_that_began_since_the_look(self, host: Host) -> None:
        with (host.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            said = sourced(host, f"PATH={host.folder}/bin:$PATH; recall qwen; restart qwen stalled")
        assert (said, host.restarted) == ([], [])

    def test_no_deploy_since_the_boot(self, host: Host, agent: Agent) -> None:
        (host.folder / "lock").unlink()
        agent.die()
        host.look(LOOKS)
        assert host.restarted == ["qwen"]
        assert (host.folder / "lock").stat().st_mode & 0o777 == 0o600


class TestWhatItKeeps:
    def test_it_is_small_and_for_root_only(self, host: Host, agent: Agent) -> None:
        now = int(time.time())
        lines = [f"restart {now - 90000 + number} stalled" for number in range(50)]
        host.note("total 50", *lines)
        (host.folder / "counts/qwen").chmod(0o600)
        (host.folder / "seen/qwen").unlink()
        agent.die()
        host.look(LOOKS)
        for folder in ("seen", "counts"):
            path = host.folder / folder / "qwen"
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.stat().st_size < 500
        kept = watched(host.noted()).restarts
        assert (len(kept), kept[:9]) == (10, watched(lines).restarts[-9:])

    def test_nothing_is_written_to_the_disk_where_nothing_happens(
        self, host: Host, agent: Agent
    ) -> None:
        host.look(2)
        assert [*(host.folder / "counts").iterdir()] == []

    def test_what_is_damaged_counts_as_nothing(self, host: Host, agent: Agent) -> None:
        (host.folder / "counts/qwen").write_bytes(
            b"row a[$(touch /tmp/x)]\ntotal 0x1\nrestart x\nrestart 1 2 3\n\xff\xfe" + b"x" * 9000
        )
        assert host.look() == ""
        seen = watched(host.noted())
        assert (seen.total, seen.restarts) == (0, ())

    def test_an_agent_that_is_gone_is_forgotten(self, host: Host) -> None:
        files = [host.folder / folder / "former" for folder in ("seen", "counts")]
        for file in files:
            file.touch()
        host.look()
        assert [file.exists() for file in files] == [False, False]

    def test_what_cannot_be_counted_is_not_done(self, host: Host, agent: Agent) -> None:
        said = sourced(
            host,
            f"PATH={host.folder}/bin:$PATH; recall qwen; began=start-1;"
            " count() { return 1; }; restart qwen stalled",
        )
        assert host.restarted == []
        assert "it is not restarted, since" in said[0]

    def test_which_way_a_token_came_is_remembered(self, host: Host, agent: Agent) -> None:
        agent.answers = {"/pooling": 200}
        host.look(3)
        paths = [path for path, _, _ in agent.asked]
        assert paths == ["/v1/completions", "/v1/embeddings", "/pooling", "/pooling"]
        assert agent.asked[-1][1] == {"model": "qwen", "input": "a"}


class TestWhatAnAgentSays:
    def numbers(self, host: Host) -> list[str]:
        return sourced(host, "numbers qwen")[0].split()

    def test_only_what_an_engine_moves_counts(self, host: Host, agent: Agent) -> None:
        first = self.numbers(host)
        assert first == self.numbers(host)
        assert first == ["known", "0,0,0.25,0,1234567,100,0,0", "no"]
        agent.running = 2
        assert self.numbers(host) == ["known", "2,0,0.25,0,1234567,100,0,0", "yes"]
        # As our own reader has it.
        known = read_metrics(agent.page().decode())
        assert (known.running, known.prompt_tokens, known.generation_tokens) == (2, 1234567, 100)

    def test_an_answer_in_chunks_reads_the_same(self, host: Host, agent: Agent) -> None:
        """HTTP/1.0 knows none, and a server may send them all the same."""
        agent.first, agent.more = b"1f4\r\n", b"\r\n0\r\n\r\n"
        assert self.numbers(host) == ["known", "0,0,0.25,0,1234567,100,0,0", "no"]

    @pytest.mark.parametrize(
        "more",
        [
            b"vllm:generation_tokens_total{} $(touch x)\n",
            b"vllm:generation_tokens_total NaN\nvllm:prompt_tokens_total -1\n",
            b"vllm:generation_tokens_total 1e99999\n\x00\xff\x1b[2J\n",
            b"vllm:no_such 7\n" * 1000,
        ],
    )
    def test_anything_else_is_no_number(self, host: Host, agent: Agent, more: bytes) -> None:
        agent.more = more
        assert self.numbers(host) == ["known", "0,0,0.25,0,1234567,100,0,0", "no"]

    def test_a_line_of_words_only_costs_no_memory(self, host: Host, agent: Agent) -> None:
        """One agent could otherwise end the watchdog, which has a limit, for all of them."""
        agent.first = b"vllm:num_requests_running" + b" 1" * 7_000_000 + b"\n"
        said = sourced(host, "ulimit -v 100000; numbers qwen")
        assert said[0].split()[0] == "known"

    def test_an_answer_without_end_is_none(self, host: Host, agent: Agent) -> None:
        assert int(sourced(host, 'echo "$size"')[0]) == 16 << 20
        agent.more = b"x" * 200_000
        agent.more += b"\nvllm:generation_tokens_total 5\n"
        assert self.numbers(host)[0] == "known"
        assert sourced(host, "size=100000; numbers qwen")[0].split()[0] == "silent"

    def test_answers_that_take_their_time_hold_nobody_up(self, host: Host, agent: Agent) -> None:
        """Each path of those that may have a token, a little before it would be too late."""
        agent.answers, agent.delay = {}, 1.2
        host.impatient()
        assert sourced(host, "probe qwen ''") == ["refused -"]
        assert len(agent.asked) <= 2

    def test_one_that_counts_nothing_is_not_judged(self, host: Host, agent: Agent) -> None:
        agent.metrics = 404
        agent.die()
        host.health("qwen", "healthy")
        host.look(LOOKS)
        host.health("qwen", "unhealthy")
        host.look(LOOKS)
        assert (agent.asked, host.restarted) == ([], [])

    def test_nobody_at_the_port(self, host: Host, agent: Agent) -> None:
        agent.close()
        assert self.numbers(host) == ["silent", "-", "no"]


def test_the_key_is_in_no_argument_and_no_environment(host: Host, agent: Agent) -> None:
    """Every program that it starts writes down how it was started."""
    for name in ("timeout", "bash", "cat", "head", "awk", "tr"):
        real = subprocess.check_output(["sh", "-c", f"command -v {name}"], text=True).strip()
        (host.folder / "bin" / name).write_text(
            f'#!/bin/sh\n{{ echo {name} "$@"; env; }} >>{quote(str(host.folder))}/started\n'
            f'exec {real} "$@"\n'
        )
        (host.folder / "bin" / name).chmod(0o755)
    host.look()
    assert agent.asked[0][2] == f"Bearer {KEY}"
    seen = (host.folder / "started").read_text()
    assert "timeout -k 5" in seen
    assert KEY not in seen
