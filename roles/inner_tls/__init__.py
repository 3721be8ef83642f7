"""Certificates between gateways and the hosts behind them.

Promises: a host takes requests of its inventory's gateways only, and a gateway hands them only to
the agent that it means; nobody else has a certificate for either. Needs: ownership. Writes:
/etc/vllm-hosts/gateway, for root only. Restarts nothing; the roles nginx and balancer load what
changed. Without gateways it does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.tls import GatewayCertificate
from vllm_hosts.host.files import Entry
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.inner_tls.plan import Inner, inner, inner_entries, reason


@deploy("Inner TLS")
def inner_tls() -> None:
    """Give a gateway its client's certificate, and a host behind it one for its agents."""
    current = run.current()
    if wanted := inner(current.settings):
        tree_synced(
            partial(_entries, current, wanted),
            name="Gateways and hosts know each other by certificates",
        )


def _entries(current: Current, wanted: Sequence[Inner]) -> Sequence[Entry]:
    # The folder and the CAs are the same for both sides.
    found = {entry.path: entry for one in wanted for entry in _of(current, one)}
    return list(found.values())


def _of(current: Current, wanted: Inner) -> Sequence[Entry]:
    ca, trusted = current.store.local_ca(), current.store.trusted()
    found = look(GatewayCertificate, certificate=wanted.certificate, key=wanted.key)
    since, now = current.keys.renew_since, utc_now()
    if why := reason(current.settings, wanted, ca, found, now, since):
        say([f"it gets a new certificate between gateways and hosts: {why}"])
    return inner_entries(current.settings, wanted, ca, trusted, found, now, since)
