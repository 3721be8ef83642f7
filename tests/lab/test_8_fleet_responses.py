"""Stored responses over three hosts: each is where it was made, whichever gateway is asked."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from pydantic import SecretStr

from tests.lab.fleet import CHAT, GATEWAYS, GPU_HOSTS, NOTICED, Fleet, frozen, key_of, keys
from vllm_hosts.settings.fleet import made_by

pytestmark = pytest.mark.nightly
#: What an identifier begins with -> the host that made it.
TAGS = {f"resp_{made_by(host, 'chat')}": host for host in GPU_HOSTS}


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    fleet.wait_whole()


def called(
    fleet: Fleet, gateway: str, path: str = "", key: SecretStr | None = None, **body: Any
) -> requests.Response:
    """One request about responses; with a body, one for a new one."""
    return requests.request(
        "POST" if body else "GET",
        f"{fleet.url(gateway)}/v1/responses{path}",
        headers={"Authorization": f"Bearer {(key or fleet.client_key).get_secret_value()}"},
        json={"model": CHAT, "max_output_tokens": 8, **body} if body else None,
        verify=str(fleet.ca_file),
        timeout=120,
    )


def made(fleet: Fleet, gateway: str, **body: Any) -> dict[str, Any]:
    answer = called(fleet, gateway, **body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def home(response: dict[str, Any]) -> str:
    """Who made it, as its identifier says."""
    name = str(response["id"])
    assert name[:21] in TAGS and len(name) == 53, f"{name} is no identifier of a host's"
    return TAGS[name[:21]]


def test_it_is_read_and_gone_on_from_where_it_was_made(fleet: Fleet) -> None:
    homes = set()
    for number in range(8):
        here, there = GATEWAYS[number % 2], GATEWAYS[(number + 1) % 2]
        first = made(fleet, here, input=f"question {number} of a conversation")
        homes.add(home(first))
        for gateway in GATEWAYS:
            read = called(fleet, gateway, f"/{first['id']}")
            assert read.status_code == 200, read.text
            assert (read.json()["id"], read.json()["output"]) == (first["id"], first["output"])
        second = made(fleet, there, input="and then?", previous_response_id=first["id"])
        assert home(second) == home(first)
        # vLLM reads the turns before, of which this request has said nothing.
        assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert len(homes) > 1, f"all of them at {homes}"


def test_a_client_s_own_name_for_it_is_not_taken(fleet: Fleet) -> None:
    assert home(made(fleet, "gw1", input="x", request_id="resp_mine")) in GPU_HOSTS
    assert called(fleet, "gw1", "/resp_mine").status_code == 404


def test_nobody_has_it(fleet: Fleet) -> None:
    first = made(fleet, "gw1", input="x")
    other = f"{first['id'][:21]}{'0' * 32}"
    for name in ("resp_1", f"resp_{'0' * 48}"):
        for answer in (
            called(fleet, "gw1", f"/{name}"),
            called(fleet, "gw1", input="x", previous_response_id=name),
        ):
            assert answer.status_code == 404, answer.text
            assert answer.json()["error"]["code"] == "response_not_found"
    # Its agent is there, and says so itself.
    assert called(fleet, "gw1", f"/{other}").status_code == 404


def test_whoever_may_not_use_the_model_cannot_read_it(fleet: Fleet) -> None:
    first = made(fleet, "gw1", input="x")
    keys("add", "narrow", "--agents", "draft")
    try:
        assert called(fleet, "gw1", f"/{first['id']}", key_of("narrow")).status_code == 403
    finally:
        keys("revoke", "narrow")


def test_while_its_agent_is_gone_that_is_said(fleet: Fleet) -> None:
    """And nobody else is asked."""
    first = made(fleet, "gw1", input="x")
    gone = home(first)
    with frozen(gone):
        fleet.wait_for(gone, False, timeout=NOTICED + 10)
        for gateway in GATEWAYS:
            for answer in (
                called(fleet, gateway, f"/{first['id']}"),
                called(fleet, gateway, input="y" * 200_000, previous_response_id=first["id"]),
            ):
                assert answer.status_code == 404, answer.text
                assert answer.json()["error"]["code"] == "response_not_found"
    fleet.wait_for(gone, True, timeout=60)
    assert called(fleet, "gw2", f"/{first['id']}").status_code == 200
