"""The script that rehearses a host's agents, run here with a docker of the test's."""

from __future__ import annotations

import base64
import gzip
import io
import os
import signal
import subprocess
import tarfile
import time
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.host import fetching
from vllm_hosts.hub.hub_models import Download, HubModel
from vllm_hosts.hub.local import small_files as files_of
from vllm_hosts.rehearsal import on_host
from vllm_hosts.rehearsal.container import Asked, Rehearsed, Request
from vllm_hosts.rehearsal.on_host import Fetch, copied, packed, place, shell, small_files

MARK = "0123456789abcdef0123456789abcdef"
RUN = "/run/vllm-hosts-rehearsal.0123456789abcdef"
QWEN = Rehearsed("qwen", "IMAGE", ("Qwen/Qwen3-8B",), {}, "1:1", (), {})
MODEL = HubModel("Qwen/Qwen3-8B")
DOWNLOAD = Download("IMAGE", "0:0", "/cache", None, None, 4)
ENOUGH = "MemAvailable: 99999999 kB\n"


class Machine:
    """A host in a folder. ``docker``: shell that runs for each rehearsal, or ``fetch`` for each
    model; what it was told to do is in ``log``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.bin = folder, folder / "run", folder / "bin"
        self.run.mkdir()
        self.bin.mkdir()
        self.docker, self.fetch = 'echo "hello $agent"', f"echo commit {'c' * 40}"
        self.memory, self.processors = ENOUGH, 2

    @property
    def log(self) -> list[str]:
        file = self.folder / "log"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def place(self) -> Path:
        return self.run / Path(RUN).name

    def started(self, agents: list[Rehearsed], fetch: Fetch, **words: Any) -> Any:
        needs = words.pop("needs", {})
        given = words.pop("given", "")
        seconds = words.pop("seconds", 9)
        asked = [
            Asked(one, Request(MARK, None, seconds=seconds), needs.get(one.agent, ()))
            for one in agents
        ]
        (self.folder / "meminfo").write_text(f"MemTotal: 1 kB\n{self.memory}")
        self._program("nproc", f"echo {self.processors}")
        self._program("docker", f"""
            echo "$1 $2 $3" >>{self.folder}/log
            [ "$1" = run ] || exit 0
            agent=none; previous=
            for word in "$@"; do
                [ "$previous" != --name ] || agent=${{word#vllm-hosts-rehearsal-}}
                previous=$word
            done
            agent=${{agent%-*}}; place={self.place}
            echo "$agent" >>{self.folder}/log
            case " $* " in *' --small '*) {self.fetch} ;; *) {self.docker} ;; esac
        """)  # fmt: skip
        script = shell(asked, fetch, MARK, **words).replace("/run/", f"{self.run}/")
        script = script.replace("find /run ", f"find {self.run} ")
        script = script.replace("/proc/meminfo", f"{self.folder}/meminfo")
        script = script.replace(f"target={self.run}/", "target=/run/")
        process = subprocess.Popen(
            ["sh", "-c", f"umask 022\n{script}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(given)
        return process

    def said(self, agents: list[Rehearsed], fetch: Fetch = Fetch(), **words: Any) -> Any:  # noqa: B008
        """By agent, how it ended and what it said; and the commits."""
        process = self.started(agents, fetch, **words)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
        assert not self.place.exists()
        found: dict[str, Any] = {}
        for line in out.splitlines():
            name, code, text = line.split(" ")
            found[name] = text if name == "=" else (code, base64.b64decode(text).decode())
        return found

    def _program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.bin / name).chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def agents(number: int) -> list[Rehearsed]:
    return [replace(QWEN, agent=f"a{one}") for one in range(number)]


class TestPlaces:
    def test_all_of_it_is_in_memory_and_goes_together(self) -> None:
        assert place(MARK) == RUN
        assert small_files(MARK) == f"{RUN}/models"
        assert copied(MARK, "0") == f"{RUN}/copies/0"

    def test_files_of_the_controller_s_travel_packed(self, tmp_path: Path) -> None:
        for name in ("config.json", "sub/a.json"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(os.urandom(4000).hex())
            (tmp_path / name).chmod(0o600)
        files = files_of(str(tmp_path))
        lines = packed({"0": files, "1": files[:1]})
        assert {len(line) for line in lines[:-1]} == {4096}
        content = gzip.decompress(base64.b64decode("".join(lines)))
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            found = {one.name: (one.mode, tar.extractfile(one).read()) for one in tar}  # type: ignore[union-attr]
        assert found == {
            f"{folder}/{name}": (0o644, (tmp_path / name).read_bytes())
            for folder, name in (("0", "config.json"), ("0", "sub/a.json"), ("1", "config.json"))
        }
        (tmp_path / "config.json").write_text("other")
        with pytest.raises(HostError, match="was changed"):
            packed({"0": files})

    def test_what_is_fetched_stays_what_it_was(self) -> None:
        with pytest.raises(FrozenInstanceError):
            Fetch().download = DOWNLOAD  # type: ignore[misc]


class TestAsked:
    def test_each_agent_has_its_own_answer(self, machine: Machine) -> None:
        machine.docker = 'cat >"$place/seen-$agent"; cmp "$place/script" "$place/seen-$agent" && echo "hello $agent"; [ "$agent" != a1 ] || exit 3'  # noqa: E501
        found = machine.said(agents(3))
        assert found == {
            "a0": ("0", "hello a0\n"),
            "a1": ("3", "hello a1\n"),
            "a2": ("0", "hello a2\n"),
        }
        # Whatever happens, nothing of it runs on.
        gone = f"rm --force vllm-hosts-rehearsal-a0-{MARK[:8]}"
        assert gone in machine.log[-1]

    def test_nobody_else_reads_it(self, machine: Machine) -> None:
        machine.docker = 'stat -c "%a" "$place" "$place/script" "$place/answer-0"'
        assert machine.said([QWEN])["qwen"][1] == "700\n600\n600\n"

    def test_one_that_prints_nothing_leaves_its_last_words(self, machine: Machine) -> None:
        machine.docker = "seq -s '' 999 >&2; echo no such image >&2; exit 125"
        code, said = machine.said([QWEN])["qwen"]
        assert (code, len(said), said[-14:]) == ("125", 600, "no such image\n")

    def test_no_more_is_kept_than_an_answer_has(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(on_host, "MOST", 9)
        machine.docker = "printf 0123456789"
        assert machine.said([QWEN])["qwen"] == ("0", "012345678")

    def test_one_that_does_not_end_is_ended(self, machine: Machine) -> None:
        machine.docker = "exec sleep 20"
        assert machine.said([QWEN], seconds=-59)["qwen"] == ("124", "")
        asked = [Asked(QWEN, Request(MARK, None, seconds=180))]
        assert "timeout -k 10 240 docker run" in shell(asked, Fetch(), MARK)

    def test_copies_of_the_controller_s_are_readable_for_its_user(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        source = tmp_path / "model"
        source.mkdir()
        (source / "config.json").write_text("{}")
        given = "".join(f"{line}\n" for line in packed({"0": files_of(str(source))}))
        machine.docker = (
            'stat -c "%a %u" "$place/copies" "$place/copies/0" "$place/copies/0/config.json"'
        )
        code, said = machine.said([QWEN], copies=True, given=given)["qwen"]
        assert (code, said.splitlines()) == ("0", ["755 0", "755 0", "644 0"])

    def test_what_does_not_come_whole_is_no_answer(self, machine: Machine) -> None:
        process = machine.started([QWEN], Fetch(), copies=True, given="AAAA\n")
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out) == (1, "")
        assert not machine.place.exists() and "run" not in " ".join(machine.log)

    def test_one_that_is_there_already_is_left_alone(self, machine: Machine) -> None:
        machine.place.mkdir()
        process = machine.started([QWEN], Fetch())
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out, machine.log) == (1, "", [])
        assert machine.place.exists()

    def test_what_a_killed_run_has_left_goes_after_half_an_hour(self, machine: Machine) -> None:
        for name, minutes in (("vllm-hosts-rehearsal.old", 32), ("vllm-hosts-rehearsal.new", 29),
                              ("others.old", 99)):  # fmt: skip
            (machine.run / name).mkdir()
            (machine.run / name / "file").touch()
            at = time.time() - 60 * minutes
            os.utime(machine.run / name, (at, at))
        machine.said([QWEN])
        left = sorted(one.name for one in machine.run.iterdir())
        assert left == ["others.old", "vllm-hosts-rehearsal.new"]

    def test_a_run_that_is_cut_off_leaves_nothing(self, machine: Machine) -> None:
        machine.docker = "exec sleep 20"
        process = machine.started([QWEN], Fetch())
        until = time.monotonic() + 10
        while len(machine.log) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode != 0
        assert not machine.place.exists()
        assert machine.log[-1].startswith("rm --force")


class TestSideBySide:
    def most(self, machine: Machine, expected: int, number: int) -> int:
        """How many ran at once: each waits until so many are there, and a little for more."""
        machine.docker = f"""
            : >"$place/now-$agent"; tries=0
            until [ "$(ls "$place" | grep -c now-)" -ge {expected} ] || [ $tries = 200 ]; do
                sleep 0.02; tries=$((tries + 1))
            done
            sleep 0.1; ls "$place" | grep -c now-; sleep 0.1; rm "$place/now-$agent"
        """
        found = machine.said(agents(number))
        assert len(found) == number
        return max(int(said) for _, said in found.values())

    def test_as_many_as_there_are_processors(self, machine: Machine) -> None:
        assert self.most(machine, 2, 4) == 2
        machine.processors = 3
        assert self.most(machine, 3, 3) == 3

    def test_as_many_as_main_memory_has_room_for(self, machine: Machine) -> None:
        machine.memory = f"MemAvailable: {(6 << 20) - 1} kB\n"
        assert self.most(machine, 1, 2) == 1

    def test_where_there_is_no_room_nobody_is_asked(self, machine: Machine) -> None:
        machine.memory = f"MemAvailable: {(3 << 20) - 1} kB\n"
        assert machine.said([QWEN])["qwen"] == (
            "lacking", "less than 3 GiB of main memory are free\n",
        )  # fmt: skip
        assert "run" not in machine.log[0]
        machine.memory = f"MemAvailable: {3 << 20} kB\n"
        assert machine.said([QWEN])["qwen"][0] == "0"

    def test_others_may_take_all_the_time(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "+ 420))" in shell([], Fetch(), MARK)
        monkeypatch.setattr(on_host, "_ALL", 0)
        assert machine.said([QWEN])["qwen"] == ("lacking", "other agents took the time for it\n")


class TestFetched:
    FETCH = Fetch({MODEL.key: MODEL}, DOWNLOAD)
    NEEDS = {"qwen": (MODEL.key,)}  # noqa: RUF012

    def said(self, machine: Machine, *more: Rehearsed) -> Any:
        return machine.said([*more, QWEN], self.FETCH, needs=self.NEEDS)

    def test_small_files_come_before_who_needs_them(self, machine: Machine) -> None:
        machine.fetch = (
            f"cat >/dev/null; sleep 0.3; echo x >$place/models/y; echo commit {'c' * 40}"
        )
        machine.docker = 'stat -c "%a" "$place/models"; cat "$place/models/y" 2>/dev/null || :'
        other = replace(QWEN, agent="other")
        found = self.said(machine, other)
        assert found["="] == "c" * 40
        assert found["qwen"] == ("0", "750\nx\n")
        # Who needs none of it does not wait.
        assert found["other"] == ("0", "750\n")
        words = " ".join(machine.log)
        assert "network inspect vllm-fetch" in words
        assert words.endswith("network rm vllm-fetch")
        assert f"vllm-hosts-rehearsal-fetch-{MARK[:8]}" in shell([], self.FETCH, MARK)

    def test_the_program_is_the_one_of_downloads_and_ends_in_time(self, machine: Machine) -> None:
        machine.fetch = 'cat >"$place/given"; echo "commit $(wc -c <"$place/given")"'
        assert self.said(machine)["="] == str(len(fetching.PROGRAM.read_bytes()))
        script = shell([], self.FETCH, MARK)
        assert "timeout -k 10 120 docker run" in script and " --small" in script
        assert f"source={RUN}/models" in script

    def test_a_model_that_cannot_be_had_is_the_reason(self, machine: Machine) -> None:
        machine.fetch = "cat >/dev/null; echo first >&2; echo it is gated >&2; exit 3"
        found = self.said(machine)
        assert found == {"qwen": ("lacking", "it is gated\n")}
        machine.fetch = "cat >/dev/null; echo 0.1 GB of 0.2 GB >&2; exit 124"
        words = "fetching Qwen/Qwen3-8B's small files ended with 124\n"
        assert self.said(machine) == {"qwen": ("lacking", words)}

    def test_without_models_no_network_is_made(self, machine: Machine) -> None:
        machine.said([QWEN])
        assert "network" not in " ".join(machine.log)

    def test_whose_they_are(self) -> None:
        download = replace(DOWNLOAD, user="64102:64103")
        script = shell([], Fetch({MODEL.key: MODEL}, download), MARK)
        assert f"mkdir -m 0750 {RUN}/models; chown 64102:64103 {RUN}/models" in script


def test_every_container_goes_and_every_model_is_waited_for() -> None:
    asked = [Asked(one, Request(MARK, None), ("one", "two")) for one in agents(2)]
    script = shell(asked, Fetch(), MARK)
    names = " ".join(f"vllm-hosts-rehearsal-{name}-01234567" for name in ("a0", "a1", "fetch"))
    assert f"docker rm --force {names} >/dev/null" in script
    assert "for lack in memory time one two; do" in script
    assert "for number in 0 1; do" in script
