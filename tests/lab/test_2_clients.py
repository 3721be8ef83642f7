"""Clients at the edge: the OpenAI client, streams, refusals."""

from __future__ import annotations

import ssl
import time
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from tests.lab.conftest import HOSTS, Deployed
from vllm_hosts.host import probe


def client(
    deployed: Deployed, host: str, agent: str | None = None, key: SecretStr | None = None
) -> Any:
    path = f"/{agent}/v1" if agent else "/v1"
    return openai.OpenAI(
        base_url=f"https://{deployed.settings[host].address}{path}",
        api_key=(key or deployed.client_key).get_secret_value(),
        http_client=openai.DefaultHttpxClient(
            verify=ssl.create_default_context(cafile=deployed.ca_file)
        ),
        max_retries=0,
        timeout=60,
    )


HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("host", HOSTS)
def test_every_agent_completes_a_chat(deployed: Deployed, host: str) -> None:
    for agent in deployed.settings[host].agents:
        answer = client(deployed, host, agent.name).chat.completions.create(
            model=agent.client_model_name, messages=HELLO, max_tokens=8
        )
        assert answer.usage.completion_tokens > 0
        assert answer.model == agent.client_model_name


@pytest.mark.parametrize("host", HOSTS)
def test_every_agent_answers_at_v1_by_its_model_s_name(deployed: Deployed, host: str) -> None:
    names = [agent.client_model_name for agent in deployed.settings[host].agents]
    at_v1 = client(deployed, host)
    assert [model.id for model in at_v1.models.list().data] == names
    for name in names:
        answer = at_v1.chat.completions.create(model=name, messages=HELLO, max_tokens=8)
        assert (answer.model, answer.usage.completion_tokens > 0) == (name, True)
    with pytest.raises(openai.NotFoundError):
        at_v1.chat.completions.create(model="another", messages=HELLO, max_tokens=1)


def arrivals(deployed: Deployed) -> list[float]:
    """When each chunk of a long stream came, in seconds after the request."""
    agent = deployed.settings["gpu1"].agents[0]
    started = time.monotonic()
    stream = client(deployed, "gpu1").chat.completions.create(
        model=agent.client_model_name,
        messages=HELLO,
        max_tokens=600,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    return [time.monotonic() - started for _ in stream]


def test_a_stream_arrives_spread_over_time(deployed: Deployed) -> None:
    """One of eight is enough: a busy machine can hold some up, a buffer holds all of them up."""
    early: list[float] = []
    while len(early) < 8 and max(early, default=0) <= 0.3:
        times = arrivals(deployed)
        assert len(times) > 100
        early.append(sum(1 for moment in times if moment < times[-1] * 0.8) / len(times))
    assert max(early) > 0.3, f"parts of chunks that came before the end: {early}"


def completed(deployed: Deployed, **asked: Any) -> Any:
    agent = deployed.settings["gpu1"].agents[0]
    return client(deployed, "gpu1", agent.name).completions.create(
        model=agent.client_model_name, prompt="hello", max_tokens=4, **asked
    )


@pytest.mark.parametrize(
    ("asked", "answers"),
    [
        ({"extra_body": {"prompt_logprobs": 2}}, 1),
        ({"logprobs": 5, "extra_body": {"prompt_logprobs": 0}}, 1),
        ({"n": 3, "extra_body": {"use_beam_search": True}}, 3),
        ({"n": 3, "temperature": 0.8}, 3),
    ],
)
def test_an_option_that_openai_s_api_has_kills_no_agent(
    deployed: Deployed, asked: dict[str, Any], answers: int
) -> None:
    answer = completed(deployed, **asked)
    assert len(answer.choices) == answers
    if "prompt_logprobs" in asked.get("extra_body", {}):
        assert answer.choices[0].prompt_logprobs
    # An engine that dies takes a moment to do so.
    time.sleep(1)
    assert len(completed(deployed).choices) == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"n": 129}, "128"),
        ({"prompt": ["hello"] * 257}, "256"),
        ({"logprobs": 21}, "20"),
    ],
)
def test_what_one_request_may_cost_is_bounded(
    deployed: Deployed, asked: dict[str, Any], words: str
) -> None:
    agent = deployed.settings["gpu1"].agents[0]
    usual = {"prompt": "hello", "max_tokens": 1, "temperature": 1.0}
    with pytest.raises(openai.BadRequestError, match=words):
        client(deployed, "gpu1", agent.name).completions.create(
            model=agent.client_model_name, **usual | asked
        )


@pytest.mark.parametrize("key", ["wrong", "x" * 43])
def test_a_wrong_key_is_refused(deployed: Deployed, key: str) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client(deployed, "gpu1", key=SecretStr(key)).models.list()
    assert refused.value.status_code == 401
    assert isinstance(refused.value.body, dict) and refused.value.body["message"]


def ask(
    deployed: Deployed, host: str, path: str, key: SecretStr | None = None, method: str = "GET"
) -> int:
    settings = deployed.settings[host]
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return probe.get(
        settings.address,
        settings.edge.https_port,
        path,
        name=settings.edge_names[0],
        ca_file=str(deployed.ca_file),
        headers=headers,
        method=method,
    ).status


def test_a_key_may_come_as_anthropic_s_clients_send_it(deployed: Deployed) -> None:
    settings = deployed.settings["gpu1"]
    key = deployed.client_key.get_secret_value()
    for headers, status in (
        ({"X-Api-Key": key}, 200),
        ({"Authorization": f"bearer {key}"}, 200),
        ({"X-Api-Key": key, "Authorization": "Bearer another"}, 401),
    ):
        answer = probe.get(
            settings.address,
            settings.edge.https_port,
            "/v1/models",
            name=settings.edge_names[0],
            ca_file=str(deployed.ca_file),
            headers=headers,
        )
        assert answer.status == status, list(headers)


@pytest.mark.parametrize("host", HOSTS)
def test_no_key_is_401_and_the_right_one_200(deployed: Deployed, host: str) -> None:
    assert ask(deployed, host, "/v1/models") == 401
    assert ask(deployed, host, "/v1/models", deployed.client_key) == 200


@pytest.mark.parametrize("prefix", ["", "/tiny"])
@pytest.mark.parametrize("path", ["/invocations", "/metrics", "/docs", "/tokenize", "/version"])
def test_routes_that_vllm_leaves_open_are_404_even_with_a_key(
    deployed: Deployed, prefix: str, path: str
) -> None:
    assert ask(deployed, "gpu1", prefix + path, deployed.client_key) == 404
    assert ask(deployed, "gpu1", prefix + path, deployed.client_key, method="POST") == 404


def test_the_internal_key_is_no_client_s_key(deployed: Deployed) -> None:
    for host in HOSTS:
        internal = deployed.canaries[f"internal key of {host}"]
        assert ask(deployed, "gpu1", "/v1/models", internal) == 401
