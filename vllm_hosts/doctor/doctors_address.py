"""Diagnoses of the address that gateways share: who has it, and who could take it."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hosts.doctor.diagnoses import Finding, finds
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.settings import HostSettings


@finds("keepalived-down")
def keepalived_down(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """This gateway neither has the address nor would take it."""
    if settings.virtual is not None and seen.virtual is not None and not seen.virtual.runs:
        values = {"address": settings.virtual.address}
        yield Finding("vllm-hosts-keepalived.service is not active", values=values)


@finds("virtual-address-nowhere")
def virtual_address_nowhere(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """All gateways were checked, and none has it."""
    if settings.virtual is not None and seen.virtual is not None and seen.virtual.holders == ():
        values = {"address": settings.virtual.address}
        yield Finding("ip address shows it on no gateway", values=values)


@finds("virtual-address-twice")
def virtual_address_twice(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Several have it, and this is one of them."""
    if settings.virtual is None or seen.virtual is None or not seen.virtual.held:
        return
    if len(holders := seen.virtual.holders or ()) > 1:
        who = " and ".join(holders)
        values = {"address": settings.virtual.address, "who": who}
        yield Finding(f"ip address shows it on {who}", values=values)
