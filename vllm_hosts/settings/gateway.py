"""The settings of gateways, and of the way from them to the hosts behind."""

from __future__ import annotations

from pydantic import Field, field_validator

from vllm_hosts.settings.types import Address, Cidr, IpAddress, Network, Port, Section


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

    virtual_ip: IpAddress | None = Field(
        None,
        description="One address for all gateways: keepalived gives it to one of them, and to"
        " another one when that one fails. A free address of a network that all of them are in;"
        " None: each gateway is called by its own",
    )
    virtual_source: IpAddress | None = Field(
        None,
        description="This gateway's own address in the network of `virtual_ip`; None: its SSH"
        " address, which has to be an IP address then",
    )

    @field_validator("virtual_ip", "virtual_source")
    @classmethod
    def _of_a_machine(cls, address: Address | None) -> Address | None:
        if address is None:
            return None
        for kind, is_one in (
            ("a loopback address", address.is_loopback),
            ("a multicast address", address.is_multicast),
            ("no address at all", address.is_unspecified),
            ("a link-local address", address.is_link_local),
            ("a reserved address", address.is_reserved),
        ):
            if is_one:
                raise ValueError(
                    f"{address} is {kind}; write one of the network that the gateways are in, such"
                    " as '192.0.2.9'"
                )
        return address

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
