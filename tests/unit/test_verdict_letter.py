"""What a rehearsal's answer means for a deploy, in whole sentences."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from tests.unit.samples import QWEN, settings
from vllm_hosts.capacity.others import HeldMemory
from vllm_hosts.rehearsal.answer import Answer, Refusal, Room
from vllm_hosts.rehearsal.verdict import AgentVerdict, Judged, Outcome, judged, setting, verdict
from vllm_hosts.settings import Agent

GIB = 1 << 30
HAS = Answer(vllm="0.33.0", max_model_len=4096, weights=15 * GIB, cache=3 * GIB // 2)
SHORT = Room(other=0, room=GIB, fits=False, longest=1024)
NONE = Room(other=0, room=-GIB, fits=False, longest=0)


def agent(**given: Any) -> Agent:
    return settings(agents=[QWEN | given]).agents[0]


def refused(sentence: str, stage: str = "arguments") -> Answer:
    return replace(HAS, refused=Refusal(stage, sentence))


def test_what_is_accepted_has_nothing_to_say() -> None:
    fits = replace(SHORT, fits=True)
    for answer in (HAS, replace(HAS, rooms=(fits, replace(fits, other=GIB)))):
        assert verdict(agent(), answer) == AgentVerdict(Outcome.ACCEPTED, "")
    with pytest.raises(FrozenInstanceError):
        verdict(agent(), HAS).sentence = "x"  # type: ignore[misc]
    assert {one.value for one in Outcome} == {"accepted", "doubted", "refused", "unknown"}


def test_what_is_refused() -> None:
    sentence = "agent 'qwen': vLLM 0.33.0 would not start with this: no lora here; change"
    assert verdict(agent(), refused("no lora here. ")) == AgentVerdict(
        Outcome.REFUSED, f"{sentence} extra_args (--enable-lora)"
    )
    assert verdict(agent(), replace(refused("no lora here"), vllm=None)).sentence.startswith(
        "agent 'qwen': vLLM would not start"
    )
    long = verdict(agent(), refused("x" * 9000)).sentence
    assert f": {'x' * 500} ...; change" in long or f": {'x' * 500}; change" in long


def test_what_an_agent_finds_on_the_hub_is_not_known_here() -> None:
    online = agent().model_copy(update={"env": {"HF_HUB_OFFLINE": "0"}})
    assert not online.offline and agent().offline
    assert verdict(online, refused("no model. ", "model")) == AgentVerdict(
        Outcome.DOUBTED,
        "agent 'qwen' asks the hub as it starts; without it vLLM 0.33.0 says: no model",
    )
    long = verdict(online, refused("x" * 9000, "configuration")).sentence
    assert len(long.rpartition(": ")[2].removesuffix(" ").removesuffix(" ...")) == 500
    # Its arguments are the same there.
    assert verdict(online, refused("x")).stops
    assert verdict(agent(), refused("x", "model")).stops


WEIGHTS = "weights take 15.00 GiB on each GPU"
LITTLE = (
    "and 0.00 GiB are left for the KV cache, too little for a single token; raise"
    " gpu_memory_utilization, gpus, or take a smaller or quantized model"
)
LENGTH = (
    "one sequence of 4096 tokens needs 1.50 GiB in the KV cache, and 1.00 GiB are left; set"
    " max_model_len to 1024 or lower"
)


@pytest.mark.parametrize(
    ("room", "sentence"),
    [(SHORT, f"{WEIGHTS}, {LENGTH}"), (NONE, f"{WEIGHTS}, {LITTLE}")],
)
def test_what_does_not_fit(room: Room, sentence: str) -> None:
    answer = replace(HAS, rooms=(room,))
    assert verdict(agent(), answer) == AgentVerdict(
        Outcome.REFUSED, f"agent 'qwen': vLLM 0.33.0 would not start: {sentence}"
    )
    doubted = replace(HAS, rooms=(replace(SHORT, fits=True), replace(room, other=2 * GIB)))
    assert verdict(agent(), doubted) == AgentVerdict(
        Outcome.DOUBTED,
        "agent 'qwen' probably does not fit, going by an estimate of 2.00 GiB for what vLLM takes"
        f" beside weights and cache: {sentence}",
    )


def test_the_ways_out_that_are_left() -> None:
    whole = verdict(agent(gpu_memory_utilization=1.0), replace(HAS, rooms=(NONE,))).sentence
    assert "raise gpus, or" in whole
    unsaid = replace(HAS, weights=None, cache=None)
    assert "start: there are weights on each GPU, one sequence of 4096 tokens needs 0.00 GiB" in (
        verdict(agent(), replace(unsaid, rooms=(SHORT,))).sentence
    )
    token = replace(SHORT, room=3, longest=1)
    assert verdict(agent(), replace(HAS, rooms=(token,))).sentence.endswith(
        "set max_model_len to 1 or lower"
    )


def test_a_length_that_follows_the_memory() -> None:
    follows = replace(HAS, auto_length=True)
    assert not verdict(agent(), replace(follows, rooms=(replace(SHORT, longest=1),))).stops
    assert verdict(agent(), replace(follows, rooms=(NONE,))).stops


@pytest.mark.parametrize(
    ("unknown", "words"),
    [
        ({"all": "no image"}, "agent 'qwen': it could not be rehearsed (no image); going on"),
        (
            {"weights": "too old", "memory": "no card"},
            "agent 'qwen': its memory and weights could not be rehearsed (too old; no card);"
            " going on",
        ),
    ],
)
def test_what_is_not_known(unknown: dict[str, str], words: str) -> None:
    said = verdict(agent(), replace(HAS, unknown=unknown))
    assert said == AgentVerdict(Outcome.UNKNOWN, words)
    assert not said.stops


class TestJudged:
    HELD = HeldMemory(True, "others hold the card")
    GUESS = HeldMemory(False, "others may need the card")
    ALL_THE_SAME = (
        "; its container was not touched (to deploy all the same: capacity.preflight = 'warn')"
    )

    def run(self, answer: Answer, held: HeldMemory | None, preflight: str = "refuse") -> Judged:
        host = settings(capacity={"preflight": preflight})
        return judged(host, host.agents, {"qwen": answer}, {"qwen": held})

    def test_what_vllm_refuses_stops_a_host_where_settings_say_so(self) -> None:
        said = verdict(agent(), refused("x")).sentence
        assert self.run(refused("x"), None) == Judged([f"{said}{self.ALL_THE_SAME}"], [])
        assert self.run(refused("x"), None, "warn") == Judged([], [said])

    def test_what_others_hold_stops_it_where_that_is_certain(self) -> None:
        words = f"{self.HELD.sentence}{self.ALL_THE_SAME}"
        assert self.run(HAS, self.HELD) == Judged([words], [])
        assert self.run(HAS, self.HELD, "warn") == Judged([], [self.HELD.sentence])
        assert self.run(HAS, self.GUESS) == Judged([], [self.GUESS.sentence])

    def test_where_all_is_well_nothing_is_said(self) -> None:
        assert self.run(HAS, None) == Judged([], [])
        host = settings()
        assert judged(host, host.agents, {"qwen": HAS}, {}) == Judged([], [])


@pytest.mark.parametrize(
    ("given", "sentence", "found"),
    [
        ({}, "argument --max-model-len: no", "max_model_len"),
        ({}, "argument --quantization: no", "quantization"),
        ({}, "argument --tool_call_parser: no", "tool_call_parser"),
        ({}, "argument --tensor-parallel-size: no", "tensor_parallel_size"),
        ({}, "argument --gpu-memory-utilization: no", "gpu_memory_utilization"),
        ({}, "ambiguous option: --revision.", "revision"),
        ({}, "expected one argument for --served-model-name", "served_model_name"),
        # Only where it is about the arguments themselves.
        ({}, "see --revision of it", "the model, or vllm.image"),
        ({}, "no--revision, and x-revision", "the model, or vllm.image"),
        ({"extra_args": ["--max_num-seqs=x"]}, "see --max-num-seqs", "extra_args (--max-num-seqs)"),
        ({"extra_args": ["-O9"]}, "see -x, and -O9", "extra_args, env, or the model"),
        ({"extra_args": ["-cc=9"]}, "see -cc", "extra_args (-cc)"),
        ({}, "Invalid tool call parser", "tool_call_parser"),
        ({}, "set tool_call_parser", "tool_call_parser"),
        ({}, "the reasoning parser", "extra_args (--reasoning-parser)"),
        ({}, "set trust_remote_code", "extra_args (--trust-remote-code)"),
        ({}, "a speculative method", "extra_args (--speculative-config)"),
        ({}, "no Draft Model", "extra_args (--speculative-config)"),
        ({}, "max_model_len (9) is more", "max_model_len"),
        ({}, "the model's max seq len", "max_model_len"),
        ({}, "see max_position_embeddings", "max_model_len"),
        ({}, "kv cache dtype", "extra_args (--kv-cache-dtype)"),
        ({}, "no such cache_dtype", "extra_args (--kv-cache-dtype)"),
        ({}, "LoRA is off", "extra_args (--enable-lora)"),
        ({}, "Model architecture X", "model, or vllm.image for a version that knows it"),
        ({}, "a model type `x`", "model, or vllm.image for a version that knows it"),
        (
            {},
            "Transformers does not recognize it",
            "model, or vllm.image for a version that knows it",
        ),
        ({}, "tensor parallel 3", "tensor_parallel_size"),
        ({}, "32 attention heads", "tensor_parallel_size"),
        ({}, "not divisible by 3", "tensor_parallel_size"),
        ({}, "unknown quantization", "quantization or the model"),
        ({"quantization": "awq"}, "unknown quantization", "quantization"),
        ({}, "no ScaledMM", "quantization or the model"),
        ({}, "no kernel", "quantization or the model"),
        ({}, "gpu_memory_utilization", "max_model_len"),
        ({}, "KV cache", "max_model_len"),
        ({}, "out of memory", "max_model_len"),
        ({}, "nobody knows", "the model, or vllm.image"),
        ({"extra_args": ["--x"]}, "nobody knows", "extra_args, env, or the model"),
        ({"env": {"X": "1"}}, "nobody knows", "extra_args, env, or the model"),
    ],
)
def test_the_setting_to_change(given: dict[str, Any], sentence: str, found: str) -> None:
    assert setting(agent(**given), sentence) == found


@pytest.mark.parametrize("name", ["--kv-cache-memory-bytes", "--kv-cache-memory"])
def test_a_cache_of_a_size_of_its_own(name: str) -> None:
    given = agent(extra_args=[f"{name}=1073741824"])
    answer = replace(HAS, rooms=(SHORT,))
    assert verdict(given, answer).sentence == (
        "agent 'qwen': vLLM 0.33.0 would not start: its KV cache is set to 1.0 GiB, and one"
        f" sequence of 4096 tokens needs 1.5; raise extra_args ({name}), or lower max_model_len"
    )
    assert "needs 0.0; raise" in verdict(given, replace(answer, cache=None)).sentence


@pytest.mark.parametrize(
    ("given", "sentence", "found"),
    [
        ([], "argument --tool-call-parser: invalid choice", "tool_call_parser"),
        ([], "argument --tensor_parallel_size: invalid int", "tensor_parallel_size"),
        (["--max-num-seqs=0"], "Max num seqs has to be positive", "extra_args (--max-num-seqs)"),
        (["--max_num_seqs=0"], "max_num_seqs: odd", "extra_args (--max_num_seqs)"),
        # One word alone may mean anything, and begins a sentence.
        (["--seed=1"], "Seed is odd", "extra_args, env, or the model"),
        (["--seed=1"], "seed: odd", "extra_args (--seed)"),
        (["--seed=1"], "seeds: odd", "extra_args, env, or the model"),
        (["--hf-overrides.x=1"], "hf overrides are odd", "extra_args (--hf-overrides)"),
    ],
)
def test_words_of_arguments_in_a_sentence(given: list[str], sentence: str, found: str) -> None:
    assert setting(agent(extra_args=given), sentence) == found


def test_what_all_agents_have_to_say_is_kept() -> None:
    with pytest.raises(FrozenInstanceError):
        Judged([], []).problems = []  # type: ignore[misc]
