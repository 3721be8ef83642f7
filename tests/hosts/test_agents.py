"""The agents' containers."""

from __future__ import annotations

import json
from typing import Any

from packaging.version import Version
from testinfra.host import Host

from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.settings.sections import VLLM_FLOOR

#: Asks vLLM inside its container, with or without the key that it has in its environment.
_ASK = """docker exec {agent} python3 -c '
import os, urllib.error, urllib.request
request = urllib.request.Request("http://127.0.0.1:8000{path}")
if {with_key}:
    request.add_header("Authorization", "Bearer " + os.environ["VLLM_API_KEY"])
try:
    answer = urllib.request.urlopen(request, timeout=10)
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, "")
'"""


def inspected(host: Host, agent: Agent) -> dict[str, Any]:
    [found] = json.loads(host.check_output("docker inspect %s", agent.name))
    assert isinstance(found, dict)
    return found


def asked(host: Host, agent: Agent, path: str, with_key: bool) -> tuple[int, str]:
    said = host.check_output(_ASK.format(agent=agent.name, path=path, with_key=with_key))
    status, _, body = said.partition(" ")
    return int(status), body


def test_the_agent_runs_and_is_healthy(host: Host, agent: Agent) -> None:
    state = inspected(host, agent)["State"]
    assert (state["Status"], state["Health"]["Status"]) == ("running", "healthy")


def test_the_agent_runs_the_image_of_the_settings(
    host: Host, settings: HostSettings, agent: Agent
) -> None:
    assert inspected(host, agent)["Config"]["Image"] == settings.vllm.image


def test_the_agent_has_no_privileges(host: Host, settings: HostSettings, agent: Agent) -> None:
    found = inspected(host, agent)
    config = found["HostConfig"]
    assert found["Config"]["User"] == settings.vllm.user
    assert config["Privileged"] is False
    assert config["CapDrop"] == ["ALL"]
    assert not config["CapAdd"]
    assert "no-new-privileges:true" in config["SecurityOpt"]
    assert config["NetworkMode"] != "host"


def test_the_agent_leaves_no_core_dump_with_the_key(host: Host, agent: Agent) -> None:
    limits = {
        limit["Name"]: limit["Hard"] for limit in inspected(host, agent)["HostConfig"]["Ulimits"]
    }
    assert limits["core"] == 0


def test_the_agent_comes_back_after_a_reboot(host: Host, agent: Agent) -> None:
    assert inspected(host, agent)["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


def test_the_agent_itself_asks_for_the_internal_key(host: Host, agent: Agent) -> None:
    assert asked(host, agent, "/v1/models", with_key=False)[0] == 401
    status, body = asked(host, agent, "/v1/models", with_key=True)
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == [agent.client_model_name]


def test_the_agent_is_no_older_than_the_floor(host: Host, agent: Agent) -> None:
    status, body = asked(host, agent, "/version", with_key=True)
    assert status == 200
    assert Version(json.loads(body)["version"]) >= VLLM_FLOOR
