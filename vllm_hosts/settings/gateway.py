"""The settings of gateways, and of the way from them to the hosts behind."""

from __future__ import annotations

from pydantic import Field, field_validator

from vllm_hosts.settings.types import Cidr, Network, Port, Section


class Gateway(Section):
    """Hosts of the group `gateways`: one address for the models of all hosts. See docs/fleet.md."""

    port: Port = Field(
        8443, description="Port of a GPU host's edge that only gateways reach, over mutual TLS"
    )
    networks: tuple[Cidr, ...] = Field(
        (),
        description="Where this gateway's connections to hosts come from; empty: its SSH address,"
        " which has to be an IP address then",
        strict=False,
    )
    drain_timeout: int = Field(
        600,
        ge=0,
        le=86400,
        description="Seconds that running requests have to end before an agent of a host that"
        " changes is stopped nevertheless",
    )
    fair_share: float = Field(
        1.25,
        ge=1.01,
        le=10.0,
        description="No agent gets more than this times its fair share of requests, for the sake of"
        " its prefix cache",
    )
    session_header: str = Field(
        "X-Session-Id",
        pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$",
        description="Header by which clients name a conversation, whose requests go to the same"
        " agent; without it, client and the beginning of the prompt do",
    )

    @field_validator("networks")
    @classmethod
    def _not_everybody(cls, networks: tuple[Network, ...]) -> tuple[Network, ...]:
        for network in networks:
            if network.prefixlen == 0:
                raise ValueError(
                    f"{network} means everybody, and hosts accept gateways only; write where their"
                    " connections come from, such as '192.0.2.7/32'"
                )
        return networks
