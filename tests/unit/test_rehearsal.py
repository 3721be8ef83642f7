"""The rehearsal: its command, its answers (recorded from vLLM itself), and what follows."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest

from tests.rehearsal.record import ANSWERS
from vllm_hosts.capacity import AgentPlan, HostPlan, PlannedGpu, Verdict, estimates
from vllm_hosts.capacity.estimates import DRIVER
from vllm_hosts.capacity.show import as_json, lines
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.hub.hub_models import Download, HubModel
from vllm_hosts.rehearsal import remembered
from vllm_hosts.rehearsal.answer import Answer, Room, read, unrehearsed
from vllm_hosts.rehearsal.asking import Said, beside
from vllm_hosts.rehearsal.container import MOST, Asked, Rehearsed, Request, key, script, words
from vllm_hosts.rehearsal.fact import Heard, Rehearsals
from vllm_hosts.rehearsal.on_host import Fetch
from vllm_hosts.rehearsal.planned import instead, planned, taken
from vllm_hosts.rehearsal.remembered import keep, recall
from vllm_hosts.rehearsal.verdict import Outcome, setting, verdict
from vllm_hosts.settings import Agent

#: What vLLM 0.32.0's CPU build printed: ``tests/rehearsal/record.py``.
RECORDED = Path(__file__).parent / "recorded" / "rehearsal"
MARK = "mark-1f2e3d"
CONTAINER = Rehearsed(
    agent="qwen",
    image="vllm/vllm-openai@sha256:abc",
    command=("Qwen/Qwen3-8B", "--max-model-len", "4096"),
    environment={"VLLM_NO_USAGE_STATS": "1", "HF_HUB_CACHE": "/models/hub"},
    user="64101:64101",
    gpus=("0", "1"),
    folders={"/models": "/var/lib/vllm/huggingface"},
)


def agent(**values: Any) -> Agent:
    """An agent as settings have it."""
    return Agent.model_validate({"name": "qwen", "model": "Qwen/Qwen3-8B", "port": 8001, **values})


def recorded(name: str) -> Answer:
    """An answer as vLLM gave it."""
    text = (RECORDED / f"{name}.json").read_text()
    return read(f"noise\n{MARK}{text}{MARK}\n", MARK)


def option(command: list[str], name: str) -> list[str]:
    """All values of an option."""
    return [value for word, value in itertools.pairwise(command) if word == name]


# The command


def test_the_rehearsal_reaches_nobody_and_keeps_nothing() -> None:
    command = words(CONTAINER, Request(MARK, None))
    assert command[:5] == ["docker", "run", "--rm", "--interactive", "--pull"]
    assert option(command, "--network") == ["none"]
    assert option(command, "--cap-drop") == ["ALL"]
    assert option(command, "--security-opt") == ["no-new-privileges:true"]
    assert option(command, "--user") == ["64101:64101"]
    assert option(command, "--memory") == option(command, "--memory-swap") == ["6g"]
    assert option(command, "--gpus") == ['"device=0,1"']
    assert {"--read-only", "--init"} <= set(command)
    assert "--publish" not in command and "--env-file" not in command
    assert all(value.endswith(",readonly") for value in option(command, "--mount"))


def test_it_has_the_agents_words_and_environment_and_no_key() -> None:
    given = replace(
        CONTAINER,
        environment={
            **CONTAINER.environment,
            "HF_TOKEN": "hf_secret",
            "VLLM_API_KEY": "secret",
            "HF_HUB_OFFLINE": "0",
        },
    )
    command = words(given, Request(MARK, 24 << 30, (0, (1, 2, 3))))
    image = command.index(CONTAINER.image)
    assert command[image + 1 :: 2][:2] == ["-c", "rehearsal"]
    assert json.loads(command[image + 4]) == {
        "mark": MARK,
        "memory": 24 << 30,
        "others": [0, [1, 2, 3]],
        "seconds": 180,
    }
    assert tuple(command[image + 5 :]) == CONTAINER.command
    assert option(command, "--env") == [
        "HF_HUB_CACHE=/models/hub",
        "HF_HUB_OFFLINE=1",
        "VLLM_NO_USAGE_STATS=1",
    ]
    assert "secret" not in shlex.join(command)


def test_the_script_compiles_and_imports_nothing_of_ours() -> None:
    compile(script(), "rehearse.py", "exec")
    assert "vllm_hosts" not in script()


def test_an_answer_is_remembered_until_something_changes_that_decides_it() -> None:
    def of(
        digest: str = "sha256:a",
        commit: str = "commit",
        card: str = "H100, 81559, 590",
        memory: int | None = 5,
        **changes: Any,
    ) -> str:
        asked = Asked(replace(CONTAINER, **changes), Request(MARK + str(changes), memory))
        return key(asked, digest, {"Qwen/Qwen3-8B": commit}, (card,))

    others = [
        of(digest="sha256:b"),
        of(commit="other"),
        of(card="L4, 23034, 590"),
        of(memory=6),
        of(command=("Qwen/Qwen3-8B",)),
        of(environment={}),
    ]
    assert of() == of() == of(folders={})
    assert len({of(), *others}) == 7


#: A docker that runs the image's command here, without the options in front of it.
FAKE_DOCKER = """#!/bin/sh
[ "$1" = run ] || exit 0
while [ "$1" != IMAGE ]; do shift; done
shift; exec sh "$@"
"""
#: A vLLM whose interpreter is not the first Python, and which says what it was given.
FAKE_PYTHON = """#!/bin/sh
cat >/dev/null; mark=$(printf %s "$2" | sed 's/.*"mark": "\\([^"]*\\)".*/\\1/')
said=$(printf %s "$3" | sed 's/"/\\\\"/g')
echo "== noise"; printf '%s{"format": 1, "vllm": "%s", "weights": 1}%s' "$mark" "$said" "$mark"
exit ${END:-0}
"""


def run_here(
    tmp_path: Path, agents: list[Rehearsed], fetch: Fetch | None = None, **environment: str
) -> Heard:
    """The fact's own script, run on this machine with those."""
    for name, text in (
        ("docker", FAKE_DOCKER),
        ("own-python", FAKE_PYTHON),
        ("vllm", f"#!{tmp_path}/own-python\n"),
    ):
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
    fact, mark = Rehearsals(), token_hex(16)
    needs = tuple(fetch.models) if fetch else ()
    asked = [
        Asked(replace(one, image="IMAGE"), Request(mark, None), needs if one.folders else ())
        for one in agents
    ]
    command = fact.command(asked, fetch or Fetch(), mark)
    # What Linux takes as one argument, with what pyinfra and sudo put around it.
    assert len(shlex.quote(command)) < 100_000
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not Path(f"/run/vllm-hosts-rehearsal.{mark[:16]}").exists()
    return fact.process(done.stdout.splitlines())


def test_every_agent_is_asked_with_the_interpreter_that_runs_vllm(tmp_path: Path) -> None:
    two = [CONTAINER, replace(CONTAINER, agent="coder", command=('it\'s; $(false) "x"', "--a"))]
    found = run_here(tmp_path, two).answers
    assert found["qwen"].vllm == "Qwen/Qwen3-8B"
    assert found["coder"].vllm == 'it\'s; $(false) "x"'


def test_a_host_with_many_agents_is_asked_in_one_look(tmp_path: Path) -> None:
    many = [replace(CONTAINER, agent=f"agent-{number}") for number in range(16)]
    assert len(run_here(tmp_path, many).answers) == 16


def test_a_container_that_ends_otherwise_leaves_a_reason(tmp_path: Path) -> None:
    assert run_here(tmp_path, [CONTAINER], END="137").answers["qwen"].vllm == "Qwen/Qwen3-8B"
    (tmp_path / "docker").write_text("#!/bin/sh\necho no such image >&2; exit 125\n")
    [answer] = run_here(tmp_path, [CONTAINER]).answers.values()
    assert "ended with 125 and no answer: no such image" in answer.unknown["all"]


#: A docker whose fetching container says what the test wants, and runs others as above.
FETCHING_DOCKER = """#!/bin/sh
case $* in *--small*) cat >/dev/null; echo "$SAID" >&2; echo "$OUT"; exit ${FETCHED:-0} ;; esac
[ "$1" = run ] || exit 0
while [ "$1" != IMAGE ]; do shift; done
shift; exec sh "$@"
"""
MODEL = HubModel("Qwen/Qwen3-8B")


def fetching(tmp_path: Path, **environment: str) -> Heard:
    """A rehearsal for which the model's small files are fetched."""
    (tmp_path / "docker").write_text(FETCHING_DOCKER)
    (tmp_path / "docker").chmod(0o755)
    download = Download("IMAGE", "64102:64101", "/var/lib/vllm", None, None, 4)
    fetch = Fetch({MODEL.key: MODEL}, download)
    return run_here(tmp_path, [CONTAINER], fetch, **({"OUT": "", "SAID": ""} | environment))


def test_small_files_are_fetched_first_and_the_commit_is_known(tmp_path: Path) -> None:
    heard = fetching(tmp_path, OUT=f"commit {'c' * 40}")
    assert heard.commits == {MODEL.key: "c" * 40}
    assert heard.answers["qwen"].vllm == "Qwen/Qwen3-8B"


def test_who_needs_no_files_does_not_wait_for_those_of_others(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        FETCHING_DOCKER.replace(
            "cat >/dev/null;", f"sleep 1; echo fetched >>{tmp_path}/log;"
        ).replace('[ "$1" = run ]', f'[ "$1" = run ] && echo "$*" >>{tmp_path}/log')
    )
    docker.chmod(0o755)
    download = Download("IMAGE", "64102:64101", "/var/lib/vllm", None, None, 4)
    two = [replace(CONTAINER, agent="own", folders={}), CONTAINER]
    run_here(tmp_path, two, Fetch({MODEL.key: MODEL}, download), OUT="", SAID="")
    log = (tmp_path / "log").read_text()
    assert log.index("rehearsal-own") < log.index("fetched") < log.index("rehearsal-qwen")


def test_a_model_that_cannot_be_had_is_the_reason(tmp_path: Path) -> None:
    heard = fetching(tmp_path, SAID="it is gated", FETCHED="3")
    assert heard.commits == {} and heard.answers["qwen"].unknown == {"all": "it is gated"}
    heard = fetching(tmp_path, SAID="0.1 GB of 0.2 GB", FETCHED="124")
    assert heard.answers["qwen"].unknown["all"].endswith("small files ended with 124")


def test_a_rehearsal_that_is_cut_off_leaves_nothing(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/log; [ "$1" != run ] || exec sleep 20\n')
    docker.chmod(0o755)
    mark = token_hex(16)
    command = Rehearsals().command([Asked(CONTAINER, Request(mark, None))], Fetch(), mark)
    process = subprocess.Popen(
        ["sh", "-c", command],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        start_new_session=True,
    )
    place = Path(f"/run/vllm-hosts-rehearsal.{mark[:16]}")
    wait_until(lambda: (tmp_path / "log").exists())
    assert place.exists()
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(timeout=20)
    wait_until(lambda: not place.exists())
    assert f"rm --force vllm-hosts-rehearsal-qwen-{mark[:8]}" in (tmp_path / "log").read_text()


def wait_until(true: Callable[[], bool]) -> None:
    """Within ten seconds."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_agent_without_an_answer_is_no_answer() -> None:
    fact = Rehearsals()
    fact.command([Asked(CONTAINER, Request(MARK, None))], Fetch(), MARK)
    with pytest.raises(HostError, match="could not be understood"):
        fact.process([END])


# Answers


def test_a_model_that_is_accepted() -> None:
    answer = recorded("fits")
    assert answer.whole
    assert (answer.vllm, answer.architecture) == ("0.32.0", "Qwen3ForCausalLM")
    assert answer.weights is not None and answer.cache is not None
    # Logged by vLLM 0.9.2 for this model: 15.2683 GiB, and 136080 tokens in 18.69 GiB.
    assert answer.weights / 2**30 == pytest.approx(15.2683, rel=0.001)
    assert answer.cache_token == pytest.approx(18.69 * 2**30 / 136080, rel=0.001)
    assert [room.fits for room in answer.rooms] == [True, True]
    assert verdict(agent(), answer).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("name", "given", "vllm", "way_out"),
    [
        ("unknown_argument", {"extra_args": ["--no-such"]}, "unrecognized", "--no-such"),
        ("ambiguous", {"extra_args": ["--kv-cache-dtyp", "fp8"]}, "ambiguous", "--kv-cache-dtyp"),
        ("no_number", {"extra_args": ["--max-num-seqs", "many"]}, "invalid", "--max-num-seqs"),
        ("parser", {"tool_call_parser": "nobody"}, "invalid tool call parser", "tool_call_parser"),
        (
            "reasoning_parser",
            {"extra_args": ["--reasoning-parser", "x"]},
            "Reasoning parser 'x' not found",
            "--reasoning-parser",
        ),
        ("too_long", {"max_model_len": 50000}, "greater than the derived", "max_model_len"),
        ("yarn", {"max_model_len": 131072}, "greater than the derived", "max_model_len"),
        ("architecture", {}, "are not supported for now", "vllm.image"),
        ("model_type", {}, "does not recognize this architecture", "vllm.image"),
        ("quantization", {"quantization": "none-such"}, "quantization", "quantization"),
        ("bitsandbytes", {"quantization": "bitsandbytes"}, "Unknown quantization", "quantization"),
        (
            "online_config",
            {"extra_args": ["--quantization-config", '{"linear": {"weight": "fp8_per_channel"}}']},
            "unknown quantization name 'fp8_per_channel'",
            "--quantization-config",
        ),
        ("online_mxfp8", {"quantization": "mxfp8"}, "Failed to find a kernel", "quantization"),
        ("heads", {"gpus": [0, 1, 2], "tensor_parallel_size": 3}, "divisible", "tensor_parallel"),
        (
            "draft",
            {"extra_args": ["--speculative-config", "{}"]},
            "same vocabulary size",
            "--speculative-config",
        ),
        ("dtype", {"extra_args": ["--kv-cache-dtype", "fp9"]}, "fp9", "--kv-cache-dtype"),
        (
            "load_format",
            {"extra_args": ["--load-format", "nonsense"]},
            "Load format `nonsense` is not supported",
            "extra_args (--load-format)",
        ),
        ("ends", {"extra_args": ["--help"]}, "ends with exit code 0", "extra_args"),
    ],
)
def test_what_vllm_refuses_is_one_sentence_of_its_own_with_the_way_out(
    name: str, given: dict[str, Any], vllm: str, way_out: str
) -> None:
    said = verdict(agent(**given), recorded(name))
    assert said.outcome is Outcome.REFUSED and said.stops
    assert said.sentence.startswith("agent 'qwen': vLLM")
    assert vllm in said.sentence and way_out in said.sentence.rpartition("; change ")[2]
    assert "\n" not in said.sentence


@pytest.mark.parametrize(
    "name",
    [
        "fits",
        "long_allowed",
        "overrides",
        "longrope",
        "model_max_length",
        "files_of_32_bits",
        "modelopt_cache",
        "cache_fp8",
        "no_prefix_caching",
        "parallel",
        "stages",
        "experts",
        "adapters",
        "window",
        "mla",
        "kernel",
        "blocks",
    ],
)
def test_what_vllm_takes_is_refused_by_nobody(name: str) -> None:
    answer = recorded(name)
    assert answer.refused is None and not answer.unknown
    assert not verdict(agent(), answer).stops


@pytest.mark.parametrize(
    ("name", "length", "cache_token"),
    [
        # LongRoPE: the length that it was trained with, while nobody asks for another.
        ("longrope", 4096, 131072),
        # In place of max_position_embeddings, and not the smaller of both.
        ("model_max_length", 32768, 131072),
        ("long_allowed", 65536, 147456),
        ("overrides", 65536, 147456),
        # ModelOpt's files ask for a cache of 8 bits themselves.
        ("modelopt_cache", 32000, 163840),
        ("cache_fp8", 40960, 73728),
        # Four GPUs share one sequence of MLA.
        ("parallel", 163840, 7776),
        ("mla", 163840, 31104),
        # A layer of a draft model that EAGLE adds: 33 layers of 4096 bytes.
        ("drafts", 131072, 135168),
    ],
)
def test_lengths_and_caches_that_a_plan_of_ours_had_wrong(
    name: str, length: int, cache_token: int
) -> None:
    answer = recorded(name)
    assert (answer.max_model_len, answer.cache_token) == (length, cache_token)


def test_files_of_32_bits_are_weighed_as_they_are_loaded() -> None:
    answer = recorded("files_of_32_bits")
    assert answer.dtype == "bfloat16" and answer.weights is not None
    # 29.2 GB of files.
    assert answer.weights < 14.7e9


def test_one_sequence_that_is_larger_than_all_there_is() -> None:
    answer = recorded("too_small")
    assert [room.fits for room in answer.rooms] == [False, False]
    assert "KV cache is needed" in answer.rooms[0].sentence
    said = verdict(agent(), answer)
    assert said.outcome is Outcome.REFUSED
    assert "weights take 15.27 GiB" in said.sentence
    assert f"set max_model_len to {answer.rooms[0].longest} or lower" in said.sentence


def test_weights_that_are_larger_than_all_there_is() -> None:
    said = verdict(agent(), recorded("no_room"))
    assert said.outcome is Outcome.REFUSED
    assert "too little for a single token; raise gpu_memory_utilization" in said.sentence


def test_an_estimate_refuses_nobody() -> None:
    answer = recorded("fits")
    small = replace(answer.rooms[1], fits=False, longest=1024, other=2 << 30)
    said = verdict(agent(), replace(answer, rooms=(answer.rooms[0], small)))
    assert said.outcome is Outcome.DOUBTED and not said.stops
    assert "probably does not fit, going by an estimate of 2.00 GiB" in said.sentence


def test_a_length_that_follows_the_memory_is_refused_only_where_nothing_fits() -> None:
    answer = recorded("auto")
    assert answer.auto_length and not answer.rooms[0].fits and answer.rooms[0].longest > 0
    assert not verdict(agent(max_model_len="auto"), answer).stops
    nothing = (Room(other=0, room=-1, fits=False, longest=0),)
    assert verdict(agent(max_model_len="auto"), replace(answer, rooms=nothing)).stops


@pytest.mark.parametrize(
    ("name", "what", "why"),
    [
        ("quantised_while_loading", "weights", "quantised while they are loaded"),
        ("offloaded", "weights", "main memory"),
        ("drafts", "weights", "draft model"),
        ("meta", "memory", "meta tensor"),
        ("no_config", "all", "no config.json"),
        ("uninspected", "all", "failed to be inspected"),
    ],
)
def test_what_cannot_be_rehearsed_goes_on_and_says_so(name: str, what: str, why: str) -> None:
    answer = recorded(name)
    assert why in answer.unknown[what] and answer.weights is None and not answer.rooms
    said = verdict(agent(), answer)
    assert said.outcome is Outcome.UNKNOWN and not said.stops
    assert "could not be rehearsed" in said.sentence and said.sentence.endswith("; going on")


@pytest.mark.parametrize(
    ("output", "code", "why"),
    [
        ("", 1, "it printed nothing"),
        ("docker: \x1b[31mno such image\n", 125, "no such image"),
        (f"{MARK}{{}}{MARK}", 0, "cannot be read"),
        (f"{MARK}not json{MARK}", 0, "cannot be read"),
        (f'{MARK}{{"format": 2}}{MARK}', 0, "of format 2"),
        (f'{MARK}{{"format": 1, "weights": -1}}{MARK}', 0, "weights is no count"),
        (f'{MARK}{{"format": 1, "weights": 1e999}}{MARK}', 0, "cannot be read"),
        (f'{MARK}{{"format": 1, "weights": true}}{MARK}', 0, "weights is no count"),
        (
            f'{MARK}{{"format": 1, "refused": {{"stage": "x", "sentence": "y"}}}}{MARK}',
            0,
            "refusal",
        ),
        (f'{MARK}{{"format": 1, "vllm": "0.33.0"}}{MARK}', 0, "neither figures nor why"),
        (f'{MARK}{{"format": 1, "unknown": {{"all": "\\u001b"}}}}{MARK}', 0, "does not say why"),
        (
            f'{MARK}{{"format": 1, "weights": 1, "rooms": [{{"room": 1, "fits": false}}]}}{MARK}',
            0,
            "not of what is to fit",
        ),
        (f"{MARK}{'[' * 1000}{MARK}", 0, "nested"),
        (f"{MARK}{' ' * MOST}{{}}{MARK}", 0, "larger than"),
        (f"{MARK} cut off", 137, "killed for its memory"),
        ("", 142, "too long"),
    ],
)
def test_an_answer_that_is_none(output: str, code: int, why: str) -> None:
    answer = read(output.encode(), MARK, code)
    assert why in answer.unknown["all"] and not verdict(agent(), answer).stops
    assert "\x1b" not in answer.unknown["all"]


def test_text_of_the_image_is_shown_safely() -> None:
    text = json.dumps(
        {
            "format": 1,
            "refused": {"stage": "model", "sentence": "no\x1b]0;x\x07pe\n\u202eabc" * 999},
        }
    )
    answer = read(f"{MARK}{text}{MARK}", MARK)
    said = verdict(agent(), answer).sentence
    assert said.isprintable() and len(said) < 800


def test_nothing_of_an_unmarked_answer_counts() -> None:
    text = '{"format": 1, "refused": {"stage": "model", "sentence": "no"}}'
    assert read(text, MARK).refused is None
    with pytest.raises(ValueError, match="without a mark"):
        read(text, "")


def test_the_setting_that_a_sentence_is_about() -> None:
    assert setting(agent(extra_args=["--dtype=x"]), "argument --dtype: invalid") == (
        "extra_args (--dtype)"
    )
    assert setting(agent(), "argument --max-model-len: invalid int") == "max_model_len"
    # Fields of vLLM's configuration classes.
    given = agent(extra_args=["--max-num-seqs", "0", "--hf-overrides={bad", "--seed", "1"])
    assert setting(given, "max_num_seqs: Input should be") == "extra_args (--max-num-seqs)"
    assert setting(given, "hf_overrides.dict[str,any]: Input") == "extra_args (--hf-overrides)"
    assert setting(given, "tensor parallel size, and Seeds") == "tensor_parallel_size"
    assert setting(agent(), "something else") == "the model, or vllm.image"
    assert setting(agent(env={"VLLM_USE_X": "1"}), "else") == "extra_args, env, or the model"


def test_unrehearsed_says_why() -> None:
    said = verdict(agent(), unrehearsed("the image is not there"))
    assert said.sentence == (
        "agent 'qwen': it could not be rehearsed (the image is not there); going on"
    )


# The plan


def test_figures_of_the_plan_are_vllms_own() -> None:
    answer = recorded("fits")
    card = PlannedGpu(0, "NVIDIA A100-SXM4-40GB", 42949672960 + DRIVER)
    made = planned(agent(), answer, [card])
    assert made.verdict is Verdict.FITS and not made.problems and not made.warnings
    assert made.needs is not None and made.needs.weights.exact
    assert made.needs.weights.how == "vLLM 0.32.0 said it"
    assert (made.needs.weights.bytes, made.needs.cache) == (answer.weights, answer.cache)
    assert made.largest_max_model_len == 40960 and made.sequences == answer.rooms[1].times
    assert made.budget == int(42949672960 * 0.92)


def test_how_many_at_once_is_left_out_where_vllm_does_not_say() -> None:
    """Not every version keeps that figure."""
    answer = recorded("fits")
    answer = replace(answer, rooms=tuple(replace(room, times=None) for room in answer.rooms))
    card = PlannedGpu(0, "NVIDIA A100-SXM4-40GB", 42949672960 + DRIVER)
    made = planned(agent(), answer, [card])
    assert made.verdict is Verdict.FITS and made.sequences is None
    host = HostPlan("gpu1", (card,), (made,))
    [row] = [line.text for line in lines(host) if line.text.endswith("  fits")]
    assert row.split()[-2:] == ["-", "fits"] and as_json(host)["agents"][0]["sequences"] is None


def test_a_model_that_keeps_no_cache_is_planned_by_what_vllm_said() -> None:
    """One for embeddings, of an architecture that formulas do not know."""
    models = json.loads(ANSWERS.read_text())
    answer = read(f"{MARK}{json.dumps(models['bge-m3'])}{MARK}", MARK)
    formulas = AgentPlan("qwen", "BAAI/bge-m3", (0,), Verdict.UNKNOWN)
    asked = instead(agent(), Said(answer), formulas, [PlannedGpu(0, "NVIDIA L4", 8 << 30)])
    assert asked.verdict is Verdict.FITS and asked.source == "vLLM 0.32.0"
    assert asked.needs is not None and asked.needs.weights.bytes == answer.weights
    assert asked.largest_max_model_len == answer.max_model_len and asked.sequences is None
    small = instead(agent(), Said(answer), formulas, [PlannedGpu(0, "NVIDIA L4", 1 << 30)])
    assert small.verdict is Verdict.PROBABLY_NOT
    assert "weights take 1.1 GiB" in small.warnings[0]


def test_a_fixed_cache_is_refused_by_the_plan_too_where_weights_are_unknown() -> None:
    """--kv-cache-memory-bytes beside weights that are quantised while they are loaded."""
    room = Room(other=0, room=1, fits=False, longest=0)
    answer = replace(recorded("quantised_while_loading"), rooms=(room,))
    formulas = AgentPlan("qwen", "Qwen/Qwen3-8B", (0,), Verdict.UNKNOWN)
    asked = instead(agent(), Said(answer), formulas, [PlannedGpu(0, "NVIDIA L4", 8 << 30)])
    assert verdict(agent(), answer).stops
    assert asked.verdict is Verdict.DOES_NOT_FIT and asked.problems
    given = agent(extra_args=["--kv-cache-memory-bytes=1"])
    said = verdict(given, answer).sentence
    assert said.endswith("raise extra_args (--kv-cache-memory-bytes), or lower max_model_len")


def test_a_plan_of_what_vllm_refuses_or_does_not_say() -> None:
    refused = planned(agent(), recorded("too_long"), [])
    assert refused.verdict is Verdict.DOES_NOT_FIT and "max_model_len" in refused.problems[0]
    unknown = planned(agent(), recorded("meta"), [])
    assert unknown.verdict is Verdict.UNKNOWN and "could not be" in unknown.warnings[0]
    assert unknown.needs is None


def test_a_plan_says_whose_figures_it_has() -> None:
    card = PlannedGpu(0, "NVIDIA A100-SXM4-40GB", 42949672960 + DRIVER)
    formulas = AgentPlan("qwen", "Qwen/Qwen3-8B", (0,), Verdict.FITS)
    asked = instead(agent(), Said(recorded("fits")), formulas, [card])
    assert asked.source == "vLLM 0.32.0" and asked.needs and asked.needs.weights.exact
    earlier = instead(agent(), Said(recorded("fits"), remembered=True), formulas, [card])
    assert earlier.source == "vLLM 0.32.0, which said so earlier"
    refused = instead(agent(), Said(recorded("too_long")), formulas, [card])
    assert refused.verdict is Verdict.DOES_NOT_FIT and refused.problems
    for name in ("offloaded", "no_config"):
        unknown = instead(agent(), Said(recorded(name)), formulas, [card])
        assert replace(unknown, source="formulas") == formulas
        assert unknown.source.startswith("formulas: vLLM did not say (")


def test_what_is_estimated_beside_it() -> None:
    answer = recorded("fits")
    activations, graphs, context = taken(agent(), answer)
    assert answer.vocabulary == 151936 and answer.hidden == 4096
    assert 0.3 < activations / 2**30 < 1.5
    two = agent(gpus=[0, 1], extra_args=["--enforce-eager"])
    assert taken(two, answer)[1:] == (0, estimates.CONTEXT_WITH_PEERS)
    assert graphs and context
    # The script makes the same sum of its parts, and the driver's.
    whole, word, width = beside(agent())
    drawing = word * (answer.sequences or 0) * answer.vocabulary
    made = whole + drawing + width * (answer.batched_tokens or 0) * answer.hidden
    driver = int(0.92 * DRIVER)
    assert made == sum(taken(agent(), answer)) + driver


def test_answers_are_kept_until_they_are_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("fits", "too_long", "auto", "drafts"):
        keep(name, recorded(name))
        assert recall(name) == recorded(name)
    assert (remembered.folder() / "fits.json").stat().st_mode & 0o777 == 0o600
    keep("cut off", unrehearsed("it took too long"))
    assert recall("cut off") is None and recall("nobody asked") is None
    (remembered.folder() / "fits.json").write_text('{"format": 1, "weights": -1}')
    assert recall("fits") is None
    monkeypatch.setattr(remembered, "MOST", 2)
    keep("newest", recorded("fits"))
    assert recall("newest") and len(list(remembered.folder().iterdir())) == 2
