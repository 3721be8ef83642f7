"""The agents' containers."""

from __future__ import annotations

import json
from collections.abc import Callable
from shlex import quote
from typing import Any

from packaging.version import Version
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.powers import more_than_an_agent_needs, mounts_of, own_mounts
from vllm_hosts.suite.promise import BrokenError, promise
from vllm_hosts.suite.secret_search import kept, with_a_secret
from vllm_hosts.verify.advisories import holes

#: Asks vLLM inside its container, with or without the key that it has in its environment.
_ASK = """docker exec {agent} python3 -c '
import os, urllib.error, urllib.request
request = urllib.request.Request("http://127.0.0.1:8000{path}")
if {with_key}:
    request.add_header("Authorization", "Bearer " + os.environ.get("VLLM_API_KEY", "none"))
try:
    answer = urllib.request.urlopen(request, timeout=10)
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, "")
'"""


def asked(host: Host, agent: Agent, path: str, with_key: bool) -> tuple[int, str]:
    said = host.check_output(_ASK.format(agent=agent.name, path=path, with_key=with_key))
    status, _, body = said.partition(" ")
    return int(status), body


@promise("AGENT-01")
def test_the_agent_runs_and_is_healthy(inspected: dict[str, Any]) -> None:
    state = inspected["State"]
    assert (state["Status"], state.get("Health", {}).get("Status")) == ("running", "healthy")


@promise("AGENT-02")
def test_the_agent_runs_the_image_of_the_settings(
    inspected: dict[str, Any], settings: HostSettings
) -> None:
    assert inspected["Config"]["Image"] == settings.vllm.image


@promise("AGENT-03")
def test_the_agent_has_no_privileges(
    inspected: dict[str, Any], settings: HostSettings, agent: Agent
) -> None:
    assert more_than_an_agent_needs(inspected, settings, agent) == {}


@promise("AGENT-04")
def test_the_agent_comes_back_after_a_reboot(inspected: dict[str, Any]) -> None:
    assert inspected["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


@promise("AGENT-05")
def test_the_agent_itself_asks_for_the_internal_key(
    host: Host, inspected: dict[str, Any], agent: Agent
) -> None:
    if inspected["State"]["Status"] != "running":
        raise HostError(f"agent {agent.name} is not running, so it cannot be tested")
    assert asked(host, agent, "/v1/models", with_key=False)[0] == 401
    status, body = asked(host, agent, "/v1/models", with_key=True)
    assert status == 200
    assert [model["id"] for model in json.loads(body)["data"]] == [agent.client_model_name]


@promise("AGENT-06")
def test_the_agent_sees_only_its_own_folders(
    inspected: dict[str, Any], settings: HostSettings, agent: Agent
) -> None:
    found = mounts_of(inspected)
    own = own_mounts(settings, agent)
    if sorted(found ^ own):
        raise BrokenError("mounts that are unexpected, or missing")


@promise("SEC-06")
def test_the_key_is_not_on_the_agent_s_command_line(
    host: Host, inspected: dict[str, Any], settings: HostSettings, agent: Agent
) -> None:
    shown = "{{json .Config.Cmd}} {{json .Args}} {{json .Path}} {{json .Config.Labels}}"
    shown += " {{json .Config.Healthcheck}}"
    places = {agent.name: f"docker inspect --format {quote(shown)} {inspected['Id']}"}
    found = with_a_secret(host, kept(settings), places)
    if found:
        raise BrokenError("a secret of .env is on the command line, or in the labels")


@promise("SEC-07")
def test_the_agent_leaves_no_core_dump_with_the_key(inspected: dict[str, Any]) -> None:
    limits = {limit["Name"]: limit["Hard"] for limit in inspected["HostConfig"]["Ulimits"] or []}
    assert limits.get("core") == 0


@promise("VER-05")
def test_vllm_has_no_known_way_around_its_key(
    host: Host,
    inspected: dict[str, Any],
    agent: Agent,
    noted: Callable[[str, str], None],
) -> None:
    if inspected["State"]["Status"] != "running":
        raise HostError(f"agent {agent.name} is not running, so it cannot be tested")
    status, body = asked(host, agent, "/version", with_key=True)
    assert status == 200
    version = json.loads(body)["version"]
    noted(f"vLLM of {agent.name}", version)
    assert [hole.cve for hole in holes("vllm", Version(version))] == []


#: Only the words and variables that are about media leave the host: others could be keys.
_MEDIA = (
    "docker inspect --format '{{{{range .Args}}}}{{{{println .}}}}{{{{end}}}}' {agent} |"
    " awk '/^--/ {{ on = /^--allowed[-_]m/ }} on'; echo;"
    " docker inspect --format '{{{{range .Config.Env}}}}{{{{println .}}}}{{{{end}}}}' {agent} |"
    " grep '^VLLM_MEDIA_' || :"
)


@promise("AGENT-11")
def test_the_agent_fetches_no_media_from_addresses_that_were_not_named(
    host: Host, inspected: dict[str, Any], agent: Agent
) -> None:
    words, _, variables = host.check_output(_MEDIA.format(agent=agent.name)).partition("\n\n")
    environment = dict(line.split("=", 1) for line in variables.splitlines())
    # vLLM takes a beginning for the whole, the last of several, and an empty list for everybody.
    option, *domains = words.splitlines()
    assert option == "--allowed-media-domains"
    if agent.allowed_media_domains:
        assert sorted(domains) == sorted(agent.allowed_media_domains)
    else:
        if not domains:
            raise BrokenError("no domain is named, which allows every domain")
        assert [name for name in domains if not name.endswith(".invalid")] == []
    assert environment.get("VLLM_MEDIA_URL_ALLOW_REDIRECTS") == "0"
    if "VLLM_MEDIA_CONNECTOR" not in agent.accepted_risks:
        assert environment.get("VLLM_MEDIA_CONNECTOR", "http") == "http"
