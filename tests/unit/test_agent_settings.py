"""One agent's settings: their defaults, their bounds, and what each mistake is answered with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from vllm_hosts.settings import Agent, vllm_words
from vllm_hosts.settings.agent import RequestLimits

MINIMAL: dict[str, Any] = {"name": "qwen", "model": "Qwen/Qwen3-8B", "port": 8001}
EGRESS = {"networks": ["192.0.2.0/24"]}
ACCEPTED = "accepted"


def agent(**changes: Any) -> Agent:
    return Agent.model_validate({**MINIMAL, **changes})


def refused(**changes: Any) -> str:
    """The one sentence that a mistake is answered with."""
    with pytest.raises(ValidationError) as error:
        agent(**changes)
    [found] = error.value.errors()
    return str(found["msg"])


def test_defaults() -> None:
    assert agent().model_dump() == {
        **MINIMAL,
        "revision": None,
        "allow_pickle": False,
        "ignore_files": (),
        "extra_models": (),
        "copy_from": None,
        "served_model_name": None,
        "gpus": (0,),
        "gpu_memory_utilization": 0.92,
        "max_model_len": None,
        "tensor_parallel_size": None,
        "quantization": None,
        "prefix_caching": True,
        "tool_call_parser": None,
        "shm_size": "8g",
        "memory": None,
        "pids": 8192,
        "weight": 1,
        "egress": None,
        "expose": None,
        "allowed_media_domains": (),
        "request_limits": {
            "choices": 128,
            "prompts": 256,
            "logprobs": 20,
            "images": 32,
            "videos": 8,
            "audio_clips": 8,
            "queued": 4096,
        },
        "extra_args": (),
        "env": {},
        "accepted_risks": (),
    }
    egress = agent(egress=EGRESS).egress
    assert egress is not None
    assert (egress.tcp_ports, egress.names) == ((443,), False)


#: Setting, the first and the last value that are taken.
BOUNDS = [
    ("port", 1024, 65535),
    ("gpu_memory_utilization", 0.01, 1),
    ("tensor_parallel_size", 1, None),
    ("pids", 256, None),
    ("request_limits.choices", 1, 16384),
    ("request_limits.prompts", 1, 16384),
    ("request_limits.logprobs", 0, 1000),
    ("request_limits.images", 0, 999),
    ("request_limits.videos", 0, 999),
    ("request_limits.audio_clips", 0, 999),
    ("request_limits.queued", 1, None),
]


@pytest.mark.parametrize(("setting", "first", "last"), BOUNDS)
def test_bounds(setting: str, first: float, last: float | None) -> None:
    section, _, name = setting.rpartition(".")

    def taken(value: float) -> Any:
        given = {section: {name: value}} if section else {name: value}
        found = agent(**given)
        return getattr(getattr(found, section) if section else found, name)

    step = 0.01 if isinstance(first, float) else 1
    assert taken(first) == first
    with pytest.raises(ValidationError):
        taken(first - step)
    if last is not None:
        assert taken(last) == last
        with pytest.raises(ValidationError):
            taken(last + step)


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": [0, 1]},
        {"ignore_files": ["consolidated*", "original/*.pth"]},
        {"extra_models": ["Qwen/Qwen3-0.6B"]},
        {"extra_args": ["--seed", "1"]},
        {"env": {"NCCL_P2P_DISABLE": "1"}},
        {"egress": {**EGRESS, "tcp_ports": [80, 443], "names": True}},
        {"expose": {"networks": ["10.0.0.0/8", "2001:db8::/32"], "unguarded_routes": ACCEPTED}},
        {
            "allowed_media_domains": ["a.example.com"],
            "egress": {**EGRESS, "names": True},
        },
        {"gpu_memory_utilization": 1},
        {"copy_from": "x", "model": "/srv/models/mine"},
        {"served_model_name": "Qwen/Qwen3-8B:v1@x"},
        {"name": "a1"},
        {"name": "a" * 32},
        {"revision": "refs/pr/1"},
        {"revision": "v1.0"},
        {"model": "/srv/models/a+b@c.d_e"},
    ],
)
def test_what_is_taken(changes: dict[str, Any]) -> None:
    found = agent(**changes).model_dump(mode="json", exclude_unset=True)
    assert {name: found[name] for name in changes} == changes


NAME = "a name of 2 to 32 lower-case letters, digits and dashes that starts with a letter"
MODEL = "a hub id such as 'Qwen/Qwen3-8B' or an absolute folder on the host"
HUB_ID = "a hub id such as 'Qwen/Qwen3-8B'"
REVISION = "a commit, a tag or a branch"
PATTERN = "a file's name or a pattern such as 'consolidated*'"
SERVED = "a model name without spaces"
WORD = "one word of letters, digits and . _ -"


@pytest.mark.parametrize(
    ("setting", "values", "hint"),
    [
        ("name", ["a", "A1", "1a", "a" * 33, "a-", "a b", "a\n", "a;b", "a_b", ""], NAME),
        ("model", ["Qwen", "a/b/c", "../x", "/", "/a/", "/a b", "a/b\n", "/a;b", "/$x"], MODEL),
        ("revision", ["", "-v", "a b", "a..b", "a//b", "../x", "a\n", "a;b", "/a"], REVISION),
        ("served_model_name", ["", "a b", "-a", "a\n", 'a"b', "a;b", "a{b"], SERVED),
        ("quantization", ["", "a b", "a\n", "a;b", "a/b"], WORD),
        ("tool_call_parser", ["", "a b", "a\n", "a;b", "a/b"], WORD),
    ],
)
def test_names_that_are_none(setting: str, values: list[str], hint: str) -> None:
    for value in values:
        assert refused(**{setting: value}) == f"Value error, {value!r} is not {hint}"


@pytest.mark.parametrize("name", ["default", "include"])
def test_a_name_that_is_nginx_s_own(name: str) -> None:
    assert refused(name=name) == (
        f"Value error, {name!r} is a word of nginx's own where its configuration names agents; call"
        f" it otherwise, such as '{name}-1'"
    )


@pytest.mark.parametrize("value", ["", "a b", "a\n", "a;b", "$(id)"])
def test_patterns_and_hub_ids_that_are_none(value: str) -> None:
    assert refused(ignore_files=[value]) == f"Value error, {value!r} is not {PATTERN}"
    assert refused(extra_models=[value]) == f"Value error, {value!r} is not {HUB_ID}"
    assert refused(extra_models=["/srv/a"]) == f"Value error, '/srv/a' is not {HUB_ID}"


class TestNetworks:
    @pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
    def test_an_agent_s_own_port_is_not_for_everybody(self, network: str) -> None:
        said = refused(expose={"networks": ["10.0.0.0/8", network], "unguarded_routes": ACCEPTED})
        assert said == (
            f"Value error, {network} means everybody, and an agent's own port is for named networks"
            " only; write the networks themselves, such as '10.0.0.0/8'"
        )

    def test_as_wide_as_networks_get(self) -> None:
        wide = {"networks": ["128.0.0.0/1"], "unguarded_routes": ACCEPTED}
        assert agent(expose=wide).expose is not None

    def test_some_network_has_to_be_named(self) -> None:
        assert "at least 1 item" in refused(expose={"networks": [], "unguarded_routes": ACCEPTED})
        assert "at least 1 item" in refused(egress={"networks": []})
        assert "at least 1 item" in refused(egress={**EGRESS, "tcp_ports": []})

    def test_who_exposes_an_agent_says_what_that_opens(self) -> None:
        assert "Field required" in refused(expose={"networks": ["10.0.0.0/8"]})

    @pytest.mark.parametrize(
        ("networks", "addresses"),
        [
            (None, ("127.0.0.1",)),
            (["10.0.0.0/8"], ("0.0.0.0",)),
            (["10.0.0.0/8", "2001:db8::/32"], ("0.0.0.0", "::")),
        ],
    )
    def test_where_an_agent_listens(
        self, networks: list[str] | None, addresses: tuple[str, ...]
    ) -> None:
        expose = networks and {"networks": networks, "unguarded_routes": ACCEPTED}
        assert agent(expose=expose).listen_addresses == addresses


class TestArguments:
    @pytest.mark.parametrize("argument", ["", "a\nb", "a\x1b[2J", "\t"])
    def test_a_word_is_one_line_that_shows(self, argument: str) -> None:
        for arguments in ([argument], ["--seed", argument]):
            assert refused(extra_args=arguments) == (
                "Value error, an argument must be a non-empty single line without control"
                " characters"
            )

    @pytest.mark.parametrize(
        ("argument", "words"),
        [
            ("--seed 1", "--seed and its value are in one word; write two, such as '--seed',"
                " 'VALUE', or '--seed=VALUE'"),
            (" --seed  1 2", "--seed and its value are in one word; write two, such as"
                " '--seed', 'VALUE', or '--seed=VALUE'"),
            ("-tp 2", "-tp and its value are in one word; write two, such as '-tp', 'VALUE', or"
                " '-tp=VALUE'"),
            ("--seed ", "'--seed ' has a space beside the argument; write '--seed'"),
            (" --seed", "' --seed' has a space beside the argument; write '--seed'"),
        ],
    )  # fmt: skip
    def test_an_argument_and_its_value_are_two_words(self, argument: str, words: str) -> None:
        assert refused(extra_args=[argument]) == f"Value error, {words}"

    @pytest.mark.parametrize("value", ['{"a": "--seed 1"}', "a b", "- x", "-1 2"])
    def test_a_value_may_have_spaces(self, value: str) -> None:
        assert agent(extra_args=["--x", value]).extra_args == ("--x", value)

    @pytest.mark.parametrize("argument", ["--uds", "--config", "--port", "--api-key"])
    def test_what_would_go_around_us_is_refused(self, argument: str) -> None:
        assert f"{argument} is refused" in refused(extra_args=[argument, "x"])

    def test_variables(self) -> None:
        assert refused(env={"A": "1", "NOTE": "two\nlines"}) == (
            "Value error, the value of NOTE must be a single line without control characters"
        )
        for name in ("VLLM_API_KEY", "HF_TOKEN", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            assert name in refused(env={"A": "1", name: "1"})

    def test_risks_are_named_together(self) -> None:
        arguments = ["--trust-remote-code", "--middleware=a.b"]
        sentences = list(vllm_words.unaccepted("qwen", arguments, {}, ()))
        assert len(sentences) == 2
        assert refused(extra_args=arguments) == f"Value error, {'; '.join(sentences)}"
        found = agent(
            extra_args=["--trust-remote-code"], accepted_risks=["--trust-remote-code"]
        ).risks
        assert list(found) == ["--trust-remote-code"]
        assert agent().risks == {}


class TestModel:
    @pytest.mark.parametrize(
        ("name", "value"), [("revision", "v1"), ("ignore_files", ["consolidated*"])]
    )
    def test_a_folder_has_no_revision(self, name: str, value: Any) -> None:
        assert refused(model="/srv/a", **{name: value}) == (
            f"Value error, {name} is for hub ids, and model /srv/a is a folder on the host; leave"
            f" {name} out"
        )
        assert agent(**{name: value}).is_folder is False

    def test_a_hub_id_comes_from_the_hub(self) -> None:
        assert refused(copy_from="/srv/a") == (
            "Value error, copy_from needs a folder as model, such as '/srv/models/mine';"
            " 'Qwen/Qwen3-8B' is a hub id"
        )
        assert agent(model="/srv/a").is_folder
        assert agent(model="/srv/a", copy_from="b").copy_from == "b"
        assert "at least 1 character" in refused(model="/srv/a", copy_from="")

    @pytest.mark.parametrize("value", ["1", "on", "YES", "true"])
    def test_an_agent_that_never_asks_the_hub(self, value: str) -> None:
        assert agent(env={"HF_HUB_OFFLINE": value}).offline
        assert agent().offline

    @pytest.mark.parametrize("value", ["0", "no", "OFF", ""])
    def test_an_agent_that_asks_the_hub_has_to_reach_it(self, value: str) -> None:
        env = {"HF_HUB_OFFLINE": value}
        assert refused(env=env) == (
            "Value error, env HF_HUB_OFFLINE lets the agent query the hub, which it cannot reach;"
            " remove it, or name the hub's networks in egress"
        )
        assert not agent(env=env, egress=EGRESS).offline

    def test_media_come_from_servers_that_the_agent_reaches_by_name(self) -> None:
        domains = ["images.example.com"]
        for egress in (None, EGRESS):
            assert refused(allowed_media_domains=domains, egress=egress) == (
                "Value error, allowed_media_domains names servers that the agent cannot reach; add"
                " an egress with their networks and 'names': True, or remove it"
            )
        found = agent(allowed_media_domains=domains, egress={**EGRESS, "names": True})
        assert found.media_domains == ("images.example.com",)
        assert agent().media_domains == ("none.invalid",)

    def test_what_clients_write(self) -> None:
        assert agent().client_model_name == "qwen"
        assert agent(served_model_name="Qwen/Qwen3").client_model_name == "Qwen/Qwen3"


class TestGpus:
    def test_each_is_named_once(self) -> None:
        assert refused(gpus=[1, 0, 1]) == (
            "Value error, gpus [1, 0, 1] names one GPU twice; name each once"
        )
        assert "greater than or equal to 0" in refused(gpus=[-1])

    @pytest.mark.parametrize(
        "more", [["--pipeline-parallel-size", "2"], ["-pp", "2"], ["--data-parallel-size=2"]]
        + [["-dp", "2"], ["--prefill-context-parallel-size", "2"]]
    )  # fmt: skip
    def test_none_idles(self, more: list[str]) -> None:
        said = refused(gpus=[0, 1, 2, 3], tensor_parallel_size=2)
        assert said == (
            "Value error, tensor_parallel_size 2 uses 2 of the 4 GPUs that gpus names, and the rest"
            " would idle; name 2, or leave tensor_parallel_size out, or have extra_args use them"
            " (--pipeline-parallel-size, --data-parallel-size)"
        )
        assert agent(gpus=[0, 1, 2, 3], tensor_parallel_size=2, extra_args=more)
        assert said == refused(gpus=[0, 1, 2, 3], tensor_parallel_size=2, extra_args=["--x", "2"])

    @pytest.mark.parametrize("gpus", [[0], [0, 1]])
    def test_as_many_as_it_takes(self, gpus: list[int]) -> None:
        size = len(gpus) + 1
        assert refused(gpus=gpus, tensor_parallel_size=size) == (
            f"Value error, tensor_parallel_size {size} needs as many GPUs, but gpus names"
            f" {len(gpus)}; make them the same"
        )
        assert agent(gpus=gpus, tensor_parallel_size=len(gpus))
        # vLLM's CPU build splits a model over processors.
        assert agent(gpus=[], tensor_parallel_size=2)
        assert agent(gpus=gpus)


def test_what_a_request_may_cost_as_vllm_is_told() -> None:
    limits = RequestLimits(
        choices=1, prompts=2, logprobs=3, images=4, videos=5, audio_clips=6, queued=7
    )
    assert limits.arguments == (
        *("--max-logprobs", "3"),
        *("--limit-mm-per-prompt", '{"audio": 6, "image": 4, "video": 5}'),
        *("--max-num-queued-reqs", "7"),
    )
    assert limits.environment == {
        "VLLM_MAX_COMPLETION_PROMPTS": "2",
        "VLLM_MAX_N_SEQUENCES": "1",
    }
