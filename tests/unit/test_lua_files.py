"""Which files of Lua a host has: exactly those that its nginx asks for, and what they name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.fleets import both, fleet
from tests.unit.samples import CODER, QWEN, behind, gateway, settings
from tests.unit.test_edge_conf import DEBIAN_13, KEYS
from vllm_hosts.host import paths
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.roles.nginx import lua_files
from vllm_hosts.roles.nginx.lua_files import counting, lua_entries, lua_paths, model_body, side_of
from vllm_hosts.roles.nginx.plan import edge_entries
from vllm_hosts.settings import HostSettings

TWO = {"agents": [QWEN, CODER]}
OFF = {"count_tokens": False, "cache_isolation": "off"}
HOSTS = {
    "one agent": settings(),
    "two agents": settings(**TWO),
    "two agents by path": settings(**TWO, edge={"by_model": False}),
    "tokens alone": settings(edge={"cache_isolation": "off"}),
    "caches alone": settings(edge={"count_tokens": False}),
    "models alone": settings(**TWO, edge=OFF),
    "a gateway": gateway(),
    "a gateway that counts nothing": gateway(edge=OFF),
    "behind gateways": behind(),
    "behind gateways, and counts nothing": behind(edge=OFF),
    "both": both()["one"],
}
NONE = settings(edge=OFF)


def name_of(entry: Entry) -> str:
    return Path(entry.path).name


def texts(host: HostSettings) -> dict[str, str]:
    return {
        name_of(one): one.content.decode() for one in lua_entries(host) if isinstance(one, File)
    }


def asked_for(host: HostSettings) -> set[str]:
    """Files that the configuration names, and that those files name in turn."""
    entries = [one for one in edge_entries(host, KEYS, DEBIAN_13) if isinstance(one, File)]
    confs = [one.content.decode() for one in entries if one.path.endswith(".conf")]
    found = set(re.findall(r"_by_lua_file \S+/(\w+\.lua);", "\n".join(confs)))
    there = texts(host)
    while (
        more := {
            name
            for file in found
            for name in re.findall(r'dofile\("?[^)]*/(\w+\.lua)"\)', there[file])
        }
        - found
    ):
        found |= more
    return found


@pytest.mark.parametrize("kind", HOSTS)
def test_what_nginx_asks_for_is_there(kind: str) -> None:
    host = HOSTS[kind]
    asked, there = asked_for(host), set(texts(host))
    assert asked
    assert asked <= there
    # Nothing else, but what an answer alone needs where requests are counted.
    assert not {name for name in there - asked if name not in _ALONG}


#: One nginx runs for what its clients asked; which of these it asks for depends on settings.
_ALONG = {"tokens.lua", "counting.lua", "counter.lua", "usage_scanner.lua"}


@pytest.mark.parametrize("kind", HOSTS)
def test_everything_else_is_taken_away(kind: str) -> None:
    entries = [*lua_entries(HOSTS[kind])]
    folder, *rest = entries
    assert folder == Folder(paths.EDGE_LUA, mode=0o755)
    assert [one.path for one in rest] == lua_paths()
    gone = {name_of(one) for one in rest if isinstance(one, Absent)}
    assert gone == {Path(path).name for path in lua_paths()} - set(texts(HOSTS[kind]))
    # nginx's workers read them.
    assert all(one.mode == 0o644 and not one.secret for one in rest if isinstance(one, File))


def test_where_nothing_is_asked_there_is_nothing() -> None:
    entries = [*lua_entries(NONE)]
    assert entries == [Absent(path) for path in lua_paths()]
    assert all(path.startswith(f"{paths.EDGE_LUA}/") for path in lua_paths())


def test_who_is_there() -> None:
    counted = {"tokens.lua", "counting.lua", "counter.lua", "request_body.lua"}
    counted |= {"model_scanner.lua", "usage_scanner.lua"}
    chosen = {"by_model.lua", "chooser.lua", "request_body.lua", "model_scanner.lua"}
    chosen |= {"form_scanner.lua"}
    assert set(texts(HOSTS["one agent"])) == counted
    assert set(texts(HOSTS["models alone"])) == chosen
    assert set(texts(HOSTS["two agents"])) == counted | chosen
    pulses = {"pulse.lua", "engine_pulse.lua", "heads.lua", "names.lua", "naming.lua"}
    assert pulses <= set(texts(HOSTS["behind gateways"]))
    assert not pulses & set(texts(HOSTS["a gateway"]))
    balanced = {"balance.lua", "balancing.lua", "affinity_scanner.lua", "waiting.lua"}
    assert balanced | {"link_scanner.lua"} <= set(texts(HOSTS["a gateway that counts nothing"]))
    assert not balanced & set(texts(HOSTS["behind gateways"]))


def test_what_is_the_same_everywhere_is_as_it_was_written() -> None:
    folder = Path(lua_files.__file__).with_name("lua")
    there = texts(HOSTS["both"])
    assert {path.name for path in folder.glob("*.lua")} <= set(there)
    for path in folder.glob("*.lua"):
        assert there[path.name] == path.read_text()


def lines_of(text: str, start: str) -> list[str]:
    """The lines of one table."""
    inside = text.partition(start)[2].partition("\n    }")[0]
    return [line.strip() for line in inside.splitlines() if line.strip()]


def test_where_tokens_are_asked_for_and_caches_kept_apart() -> None:
    alone, apart = HOSTS["tokens alone"], HOSTS["caches alone"]
    assert '"/v1/chat/completions",' in lines_of(counting(alone), "asked = {")
    assert lines_of(counting(alone), "salted = {") == []
    assert lines_of(counting(apart), "asked = {") == []
    assert '"/v1/chat/completions",' in lines_of(counting(apart), "salted = {")


def test_clients_with_a_cache_in_common_in_any_order() -> None:
    texts_ = {
        counting(settings(edge={"cache_groups": [group, ["carol"]]}))
        for group in (["bob", "alice"], ["alice", "bob"])
    }
    [text] = {"\n".join(sorted(text.splitlines())) for text in texts_}
    assert '["alice"] = "alice bob",' in text
    assert '["bob"] = "alice bob",' in text
    assert '["carol"] = "carol",' in text


def test_a_session_is_a_gateway_s_and_named_as_nginx_names_headers() -> None:
    text = counting(gateway(gateway={"session_header": "X-My-Session"}))
    assert 'counter, "http_x_my_session", {' in text
    # Others neither balance nor know of sockets.
    for kind in ("two agents", "behind gateways"):
        assert "balancing.lua" not in counting(HOSTS[kind])
        assert "sock" not in counting(HOSTS[kind])


def test_a_machine_that_is_both_keeps_its_own_agents_apart() -> None:
    one = both()["one"]
    assert side_of(one) == "front_"
    assert [side_of(HOSTS[kind]) for kind in ("a gateway", "behind gateways", "one agent")] == [
        "",
        "",
        "",
    ]
    text = texts(one)["counting.lua"]
    assert '["vllm_hosts_front_qwen"] = { path = "/run/vllm-hosts-balancer/in.qwen.sock"' in text
    assert '["vllm_hosts_qwen"]' not in text
    assert '["vllm_hosts_qwen"] = {' in texts(gateway())["counting.lua"]


def test_second_tries_only_where_another_host_has_the_agent() -> None:
    text = counting(fleet()["gw1"])
    found = dict(re.findall(r'in\.(\w+)\.sock", again = (\w+)', text))
    assert found == {"qwen": "true", "coder": "false"}


def test_who_made_a_response_by_the_agents_that_clients_name() -> None:
    front = fleet()["gw1"]
    text = counting(front)
    tags = dict(re.findall(r'\["([0-9a-f]{16})"\] = \{ "(\w+)" \}', text))
    replicas = {
        replica.made_by: agent.name
        for agent in front.agents
        for replica in front.pool(agent.name).replicas
    }
    assert tags == replicas and len(tags) == 3
    # Two agents of one name for clients: a request of either may go to whoever made it.
    first = front.agents[0]
    twin = first.model_copy(update={"name": "twin", "served_model_name": first.client_model_name})
    shared = front.model_copy(update={"agents": (first, twin)})
    assert '{ "qwen", "twin" }' in counting(shared)


@pytest.mark.parametrize(
    ("host", "adds"),
    [
        (HOSTS["two agents"], True),
        (HOSTS["models alone"], False),
        (HOSTS["a gateway that counts nothing"], True),
    ],
)
def test_whoever_chooses_by_model_knows_whether_requests_are_changed(
    host: HostSettings, adds: bool
) -> None:
    assert ("counting.lua" in texts(host)["by_model.lua"]) is adds


def test_a_model_as_openai_describes_one() -> None:
    assert json.loads(model_body('a "model"')) == {
        "id": 'a "model"',
        "object": "model",
        "created": 0,
        "owned_by": "vllm",
    }
