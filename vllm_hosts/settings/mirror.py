"""The settings of the mirror, and how hosts know it."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field, field_validator

from vllm_hosts.settings.fleet import INNER_DOMAIN, host_label
from vllm_hosts.settings.types import Cidr, Network, Port, Section


class Mirror(Section):
    """The host of the group `mirror`: it fetches image and models for all. See docs/mirror.md."""

    port: Port = Field(
        8444,
        description="Port of the mirror that only hosts of the inventory reach, over mutual TLS",
    )
    networks: tuple[Cidr, ...] = Field(
        (),
        description="Where this host's connections to the mirror come from; empty: its SSH address,"
        " which has to be an IP address then",
        strict=False,
    )

    @field_validator("networks")
    @classmethod
    def _not_everybody(cls, networks: tuple[Network, ...]) -> tuple[Network, ...]:
        for network in networks:
            if network.prefixlen == 0:
                raise ValueError(
                    f"{network} means everybody, and the mirror is for hosts of the inventory only;"
                    " write where this host's connections come from, such as '192.0.2.7/32'"
                )
        return networks


@dataclass(frozen=True)
class MirrorAt:
    """The mirror, as a host that asks it knows it.

    :param itself: whether that host is the mirror.
    """

    host: str
    address: str
    port: int
    itself: bool = False

    @property
    def place(self) -> str:
        """What Docker calls it, and its folder with certificates."""
        return f"{self.address}:{self.port}"


def asking_name(host: str) -> str:
    """A host in the certificate by which the mirror knows it: good for nothing else."""
    return f"asks.mirror.{host_label(host)}.{INNER_DOMAIN}"
