"""Small fleets that several unit tests start from."""

from __future__ import annotations

from typing import Any

from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.host import OF_A_GATEWAY
from vllm_hosts.settings.joined import joined
from vllm_hosts.settings.mirrored import with_mirror


def gateway(name: str = "gw1", **values: Any) -> HostSettings:
    """A gateway by itself, which knows no agents yet."""
    given = {"name": name, "address": "192.0.2.1", "agents": []} | values
    return HostSettings.model_validate(given, context=OF_A_GATEWAY)


def fleet(of_gateways: dict[str, Any] | None = None, **of_hosts: Any) -> dict[str, HostSettings]:
    """Two gateways in front of two hosts with the same model, one of which has another as well.

    :param of_gateways: settings of both gateways, and ``of_hosts`` those of both hosts.
    """
    front = [
        gateway("gw1", **of_gateways or {}),
        gateway("gw2", address="192.0.2.2", **of_gateways or {}),
    ]
    behind = [
        settings(**{"name": "gpu1", "agents": [QWEN, CODER]} | of_hosts),
        settings(**{"name": "gpu2", "address": "192.0.2.12"} | of_hosts),
    ]
    hosts = {host.name: host for host in (*front, *behind)}
    return joined(hosts, [host.name for host in front])


def with_a_mirror(**values: Any) -> dict[str, HostSettings]:
    """Three hosts, the first of which fetches for all; each needs another model."""
    hosts = [
        settings(name="gpu1", **values),
        settings(name="gpu2", address="192.0.2.12", agents=[QWEN | {"model": "org/two"}]),
        settings(
            name="gpu3",
            address="gpu3.example.com",
            agents=[QWEN | {"model": "org/three", "revision": "v3"}],
            mirror={"networks": ["10.0.0.0/24", "2001:db8::7/128"]},
        ),
    ]
    return with_mirror({host.name: host for host in hosts}, ["gpu1"])


def both(**values: Any) -> dict[str, HostSettings]:
    """Two machines that are a gateway and a GPU host each, the first one with a further model."""
    hosts = [
        settings(**{"name": "one", "agents": [QWEN, CODER]} | values),
        settings(**{"name": "two", "address": "192.0.2.12"} | values),
    ]
    return joined({host.name: host for host in hosts}, ["one", "two"])
