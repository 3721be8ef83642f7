"""What the agents' plan decides beside the compose file: folders, keys, peers, memory."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.files import Absent, File, Folder
from vllm_hosts.host.services import (
    Secret,
    Volume,
    compose_entry,
    compose_file,
    env_file,
    memory_limit,
    service,
    variable_names,
)
from vllm_hosts.keys import HostKeys
from vllm_hosts.roles.vllm.plan import folders, peers, variables

KEYS = HostKeys(SecretStr("INTERNAL"), (), SecretStr("HF"))
TWIN = QWEN | {"name": "twin", "port": 8003, "gpus": [3], "served_model_name": "qwen"}
ONLINE = {"env": {"HF_HUB_OFFLINE": "0"}, "egress": {"networks": ["192.0.2.0/24"]}}
MEMORY = 125 << 30


def command(**changes: Any) -> tuple[str, ...]:
    host = settings(agents=[QWEN | changes])
    return service(host, host.agents[0], MEMORY).command


def test_the_whole_command() -> None:
    limits = (
        *("--max-logprobs", "20"),
        *("--limit-mm-per-prompt", '{"audio": 8, "image": 32, "video": 8}'),
        *("--max-num-queued-reqs", "4096"),
    )
    assert command(revision="v1", extra_args=["--seed", "1"]) == (
        *("Qwen/Qwen3-8B", "--served-model-name", "qwen", "--revision", "v1"),
        *("--host", "0.0.0.0", "--port", "8000"),
        *("--gpu-memory-utilization", "0.92", "--tensor-parallel-size", "1"),
        "--enable-prefix-caching",
        *("--allowed-media-domains", "none.invalid", *limits),
        *("--disable-fastapi-docs", "--shutdown-timeout", "20", "--seed", "1"),
    )
    assert "--revision" not in command()


@pytest.mark.parametrize(
    ("gpus", "size", "words"),
    [
        ([], None, ()),
        ([], 2, ("--tensor-parallel-size", "2")),
        ([0, 1], None, ("--gpu-memory-utilization", "0.92", "--tensor-parallel-size", "2")),
        ([0, 1], 2, ("--gpu-memory-utilization", "0.92", "--tensor-parallel-size", "2")),
    ],
)
def test_how_a_model_is_spread(gpus: list[int], size: int | None, words: tuple[str, ...]) -> None:
    found = command(gpus=gpus, tensor_parallel_size=size)
    at = found.index("8000") + 1
    assert found[at : found.index("--enable-prefix-caching")] == words


def test_one_card_of_several_where_arguments_use_the_others() -> None:
    more = ["--pipeline-parallel-size", "2"]
    found = command(gpus=[0, 1], tensor_parallel_size=1, extra_args=more)
    assert found[found.index("--tensor-parallel-size") + 1] == "1"


@pytest.mark.parametrize(
    ("gib", "limit"), [(0, 1), (1, 1), (2, 1), (10, 9), (11, 9), (12, 10), (1000, 900)]
)
def test_nine_tenths_of_the_memory_in_whole_gib(gib: int, limit: int) -> None:
    assert memory_limit(gib << 30) == limit << 30


def test_a_host_with_a_little_less_memory_is_the_same() -> None:
    assert memory_limit((12 << 30) - (8 << 20)) == memory_limit(12 << 30)


def test_names_are_resolved_where_an_egress_says_so() -> None:
    egress: dict[str, Any] = {"networks": ["192.0.2.0/24"]}
    for given, dns in (
        (None, "127.0.0.1"),
        (egress, "127.0.0.1"),
        ({**egress, "names": True}, None),
    ):
        host = settings(agents=[QWEN | {"egress": given}])
        assert service(host, host.agents[0], MEMORY).dns == dns


def test_what_stops_and_starts_how_long() -> None:
    host = settings(vllm={"drain_timeout": 90, "health_timeout": 700})
    found = service(host, host.agents[0], MEMORY)
    assert (found.stop_seconds, found.start_seconds) == (190, 700)
    assert (found.pids, found.shm_size, found.user) == (8192, "8g", "64101:64101")


def test_what_is_mounted() -> None:
    host = settings(agents=[QWEN, CODER])
    own = Volume("/var/lib/vllm/agents/{}", "/cache", read_only=False)
    models = Volume("/var/lib/vllm/huggingface", "/models", read_only=True)
    folder = Volume("/srv/models/coder", "/srv/models/coder", read_only=True)
    for agent, more in zip(host.agents, ((), (folder,)), strict=True):
        mine = replace(own, source=own.source.format(agent.name))
        assert service(host, agent, MEMORY).volumes == (mine, models, *more)


class TestSecrets:
    TOKEN = {"secrets": {"hf_token_env": "MY_TOKEN"}}  # noqa: RUF012

    def test_each_agent_has_its_own_key(self) -> None:
        host = settings(agents=[QWEN, CODER])
        found = variables(host, replace(KEYS, hf_token=None))
        assert found == {
            name: {f"VLLM_API_KEY_{name.upper()}": KEYS.internal_of(name)}
            for name in ("qwen", "coder")
        }

    def test_the_hub_s_token_where_an_agent_asks_the_hub_itself(self) -> None:
        host = settings(agents=[QWEN | ONLINE, CODER], **self.TOKEN)
        found = variables(host, KEYS)
        assert found["qwen"]["HF_TOKEN"] == KEYS.hf_token
        assert "HF_TOKEN" not in found["coder"]
        own = Secret("VLLM_API_KEY", "VLLM_API_KEY_QWEN")
        assert service(host, host.agents[0], MEMORY).secrets == (
            own,
            Secret("HF_TOKEN", "HF_TOKEN"),
        )
        # Nor is one asked for that nobody gives.
        bare = settings(agents=[QWEN | ONLINE])
        assert service(bare, bare.agents[0], MEMORY).secrets == (own,)
        assert list(variables(bare, KEYS)["qwen"]) == ["VLLM_API_KEY_QWEN"]


def test_compose_fills_in_nothing_but_secrets() -> None:
    """A variable that names a key would have it filled in from .env, for all to see."""
    words = "$VLLM_API_KEY_QWEN ${HF_TOKEN}"
    host = settings(agents=[QWEN | {"env": {"NOTE": words}, "extra_args": ["--x", words]}])
    found = yaml.safe_load(compose_file(host, MEMORY))["services"]["qwen"]
    assert found["environment"]["NOTE"] == found["command"][-1] == words.replace("$", "$$")
    assert found["environment"]["VLLM_API_KEY"] == "${VLLM_API_KEY_QWEN:?}"


def test_who_answers_for_whom() -> None:
    host = settings(agents=[QWEN, CODER, TWIN])
    assert peers(host) == {"qwen": ["twin"], "coder": [], "twin": ["qwen"]}


def test_folders_and_what_compose_would_read_besides() -> None:
    entries = folders(settings(vllm={"directory": "/srv/vllm", "user": "1:2", "fetch_user": "3:2"}))
    assert entries == [
        Folder("/srv/vllm"),
        Folder("/var/lib/vllm"),
        Folder("/var/lib/vllm/agents"),
        Folder("/var/lib/vllm/agents/qwen", 0o700, "1", "2"),
        *(
            Absent(f"/srv/vllm/{name}.{end}")
            for name in ("compose.override", "docker-compose.override")
            for end in ("yaml", "yml")
        ),
    ]


def test_the_compose_file_is_for_everybody_to_read() -> None:
    file = compose_entry(settings(vllm={"directory": "/srv/vllm"}), MEMORY)
    assert isinstance(file, File)
    assert (file.path, file.mode, file.secret) == ("/srv/vllm/compose.yaml", 0o644, False)


def test_what_describes_an_agent_is_a_value() -> None:
    host = settings()
    found = service(host, host.agents[0], MEMORY)
    for value, name in ((found, "pids"), (found.volumes[0], "source"), (found.secrets[0], "name")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)


def test_what_env_holds_is_for_root_alone() -> None:
    file = env_file("/srv/vllm", {"A": SecretStr("1"), "B": SecretStr("2")})
    assert (file.path, file.mode, file.secret) == ("/srv/vllm/.env", 0o600, True)
    assert file.content.decode().splitlines()[-2:] == ["A=1", "B=2"]


def test_which_variables_compose_asks_for() -> None:
    host = settings(agents=[QWEN | ONLINE, CODER], **TestSecrets.TOKEN)
    names = ["HF_TOKEN", "VLLM_API_KEY_CODER", "VLLM_API_KEY_QWEN"]
    assert variable_names(host) == names
    assert all(f"${{{name}:?}}" in compose_file(host, MEMORY) for name in names)
