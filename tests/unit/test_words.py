"""Words of vLLM that let others do more: refused, or accepted in words beside them."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.unit.samples import settings
from vllm_hosts.host.services import compose_file
from vllm_hosts.settings import HostSettings, vllm_words
from vllm_hosts.settings.exposure import exposed
from vllm_hosts.settings.vllm_words import (
    Words,
    arguments,
    meant,
    refused_variable,
    risks,
    variables,
)


def agent(**changes: Any) -> HostSettings:
    return settings(agents=[{"name": "one", "model": "a/b", "port": 8001, **changes}])


def refused(**changes: Any) -> str:
    with pytest.raises(ValidationError) as error:
        agent(**changes)
    [found] = error.value.errors()
    return str(found["msg"])


def test_every_name_is_in_one_list_only() -> None:
    for words in (arguments(), variables()):
        lists = [words.neutral, frozenset(words.refused), frozenset(words.accepted)]
        assert sum(map(len, lists)) == len(words.known)
    assert set(arguments().short.values()) <= arguments().known


@pytest.mark.parametrize("name", sorted(arguments().accepted))
def test_a_risky_argument_needs_a_word(name: str) -> None:
    said = refused(extra_args=[name, "x"])
    assert f"{name} {arguments().accepted[name]}; if you want that, add {name!r}" in said
    host = agent(extra_args=[name, "x"], accepted_risks=[name])
    [sentence] = exposed(host)
    assert sentence.startswith(f"agent 'one' has an accepted risk: {name} ")


@pytest.mark.parametrize("name", sorted(variables().accepted))
def test_a_risky_variable_needs_a_word(name: str) -> None:
    assert f"add {name!r} to accepted_risks of agent 'one'" in refused(env={name: "1"})
    assert len(exposed(agent(env={name: "1"}, accepted_risks=[name]))) == 1
    assert exposed(agent(env={name: "0"})) == []


@pytest.mark.parametrize("name", sorted(arguments().refused))
def test_a_refused_argument_is_refused_however_it_is_written(name: str) -> None:
    for word in (name, f"{name}=x", f"{name}.key", name.replace("-", "_").replace("__", "--", 1)):
        said = refused(extra_args=[word], accepted_risks=[])
        assert f"is refused: {arguments().refused[name]}" in said


@pytest.mark.parametrize("name", sorted(variables().refused))
def test_a_refused_variable_is_refused(name: str) -> None:
    assert f"{name} is refused: {variables().refused[name]}" in refused(env={name: "x"})


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("--trust-remote-code", ["--trust-remote-code"]),
        ("--trust_remote_code", ["--trust-remote-code"]),
        ("--trust-rem", ["--trust-remote-code"]),
        ("--no-trust-remote-code", ["--no-trust-remote-code"]),
        ("--kv-transfer-config.kv_connector=x", ["--kv-transfer-config"]),
        ("--kv_transfer_config.kv_connector", ["--kv-transfer-config"]),
        ("--kv-transfer.kv_connector", ["--kv-transfer-config"]),
        ("--reasoning-parser", ["--reasoning-parser"]),
        ("--reasoning-parser-p", ["--reasoning-parser-plugin"]),
        ("--no-disable-f", ["--no-disable-fastapi-docs"]),
        ("--mid=x", ["--middleware"]),
        ("-tp", ["--tensor-parallel-size"]),
        ("-tp=2", ["--tensor-parallel-size"]),
        ("-q", ["--quantization"]),
        ("-qawq", ["--quantization"]),
        ("-n2", ["--nnodes"]),
        ("-O3", ["--optimization-level"]),
        ("-1", []),
        ("-", []),
        ("", []),
        ("value", []),
        ('{"a": "--trust-remote-code"}', []),
        ("--an-argument-of-tomorrow", ["--an-argument-of-tomorrow"]),
    ],
)
def test_what_vllm_takes_a_word_for(word: str, names: list[str]) -> None:
    assert meant(word) == names


def test_what_switches_one_off_is_no_beginning_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    known = frozenset({"--verbose", "--verbose-log", "--no-verbose-log", "--no-verbose-more"})
    monkeypatch.setattr(vllm_words, "arguments", lambda: Words({}, {}, known, {}))
    assert meant("--no-verbose") == ["--no-verbose"]
    assert meant("--verbose") == ["--verbose"]
    assert meant("--no-verbose-log") == ["--no-verbose-log"]
    assert meant("--no-verbose-") == ["--no-verbose-log", "--no-verbose-more"]


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "OFF"])
def test_a_risky_variable_that_is_off_is_no_risk(value: str) -> None:
    name = min(variables().accepted)
    assert risks([], {name: value}) == {}
    assert risks([], {name: "on"}) == {name: variables().accepted[name]}


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "1", "true", "yes", "on", "Yes"])
def test_a_switch_is_no_secret(value: str) -> None:
    assert refused_variable("USE_MY_TOKEN", value) is None
    assert refused_variable("USE_MY_TOKEN", f"{value}x") is not None


def test_a_beginning_that_could_be_several_counts_as_all_of_them() -> None:
    said = refused(extra_args=["--trust-re"])
    assert "--trust-remote-code" in said and "--trust-request-chat-template" in said


def test_what_is_accepted_must_be_used() -> None:
    said = refused(accepted_risks=["--trust-remote-code"])
    assert said.endswith(
        "accepted_risks of agent 'one' names '--trust-remote-code', and the agent does not use it;"
        " remove it"
    )
    said = refused(extra_args=["--enforce-eager"], accepted_risks=["--enforce-eager"])
    assert "nothing of that name needs to be accepted" in said
    both = {"extra_args": ["--trust-remote-code", "--middleware=a.b"]}
    assert "'--middleware'" in refused(**both, accepted_risks=["--trust-remote-code"])


@pytest.mark.parametrize(
    "env",
    [
        {"WANDB_API_KEY": "abc"},
        {"MY_TOKEN": "abc"},
        {"S3_SECRET_ACCESS_KEY": "abc"},
        {"S3_ACCESS_KEY_ID": "abc"},
        {"DB_PASSWORD": "abc"},
        {"my_secret": "abc"},
        {"PLAIN": "hf_0123456789abcdef"},
        {"PLAIN": "x=sk-0123456789abcdef"},
    ],
)
def test_a_secret_in_env_is_refused_and_not_shown(env: dict[str, str]) -> None:
    said = refused(env=env)
    [name] = env
    assert f"{name} looks like a secret" in said and "secrets.hf_token_env" in said
    assert env[name] not in said


def test_a_secret_in_an_argument_is_refused_and_not_shown() -> None:
    said = refused(extra_args=["--seed", "hf_0123456789abcdef"])
    assert "looks like a secret" in said and "0123456789" not in said


def test_names_that_only_sound_like_secrets() -> None:
    env = {
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS": "1024",
        "VLLM_USE_FASTOKENS": "x",
        "NOTE": "task-0123456789abcdef",
    }
    assert agent(env=env).agents[0].env == env


def test_media_come_from_nowhere_unless_named() -> None:
    def service(**changes: Any) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(compose_file(agent(**changes), 8 << 30))["services"][
            "one"
        ]
        return found

    usual = service()
    at = usual["command"].index("--allowed-media-domains")
    assert usual["command"][at + 1] == "none.invalid"
    assert usual["command"][at + 2].startswith("--"), "it takes every word up to the next name"
    assert usual["environment"]["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    named = service(
        allowed_media_domains=["a.example.com", "b.example.com"],
        egress={"networks": ["192.0.2.0/24"], "names": True},
    )["command"]
    assert named[at + 1 : at + 3] == ["a.example.com", "b.example.com"]
    assert "none.invalid" not in named


@pytest.mark.parametrize(
    "name", ["*", "*.example.com", "localhost", "127.0.0.1", "[::1]", "A.example.com", "a_b.c", ""]
)
def test_media_domains_are_names(name: str) -> None:
    assert "is not a DNS name in lower case" in refused(allowed_media_domains=[name])


def test_what_a_request_may_cost() -> None:
    host = agent(
        request_limits={"choices": 4, "images": 2, "videos": 0, "logprobs": 5, "queued": 100}
    )
    service = yaml.safe_load(compose_file(host, 8 << 30))["services"]["one"]
    assert service["environment"]["VLLM_MAX_N_SEQUENCES"] == "4"
    assert service["environment"]["VLLM_MAX_COMPLETION_PROMPTS"] == "256"
    command = " ".join(service["command"])
    assert "--max-logprobs 5 " in command and "--max-num-queued-reqs 100 " in command
    assert '--limit-mm-per-prompt {"audio": 8, "image": 2, "video": 0} ' in command


URLS = ["hub.endpoint", "docker.archive_url", "nvidia.archive_url", "nvidia.key_url"]


@pytest.mark.parametrize("setting", URLS)
@pytest.mark.parametrize("part", [*"$`();&|<>'\"\\ *?#!{}^\n\t\x1b", "$(id)", "\u202e", "é"])
def test_urls_are_one_word_everywhere(setting: str, part: str) -> None:
    section, _, name = setting.partition(".")
    with pytest.raises(ValidationError, match="is not a URL such as"):
        settings(**{section: {name: f"https://example.org/a{part}b"}})


@pytest.mark.parametrize(
    "url",
    [
        "https://download.docker.com/linux",
        "http://10.0.0.1:8080/a_b~c/d%20e+f",
        "https://user@mirror.example.com/x,y=z",
        "https://[fd00::1]:443/x",
    ],
)
def test_urls_of_mirrors(url: str) -> None:
    assert settings(docker={"archive_url": url}).docker.archive_url == url


@pytest.mark.parametrize(
    "image",
    [
        "vllm/vllm-openai:v0.33.0",
        "registry.example:5000/team/vllm-openai:v0.33.0",
        "registry.example/vllm:v0.33.0@sha256:" + "a" * 64,
        "vllm:v0.33.0",
    ],
)
def test_images(image: str) -> None:
    assert settings(vllm={"image": image}).vllm.image == image


@pytest.mark.parametrize(
    "image", ["a b:v0.33.0", "$(id):v0.33.0", "-v:v0.33.0", "a/B:v0.33.0", "a:"]
)
def test_no_images(image: str) -> None:
    with pytest.raises(ValidationError, match="is not an image reference"):
        settings(vllm={"image": image, "version": "0.33.0"})


@pytest.mark.parametrize("value", ["http://user:secret@proxy:3128", "https://u:p@p.example/x"])
def test_a_password_in_a_proxy_s_url_is_refused_and_not_shown(value: str) -> None:
    said = refused(env={"HTTPS_PROXY": value})
    assert "HTTPS_PROXY has a password in its URL" in said
    assert "secret" not in said


def test_a_short_name_with_a_key_of_json_is_that_name() -> None:
    assert meant("-cc.backend") == meant("-cc") == meant("-cc.backend=x")
