"""The files by which gateways and the hosts behind them know each other. Touches no host."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import Entry, File, Folder, Kept
from vllm_hosts.host.paths import (
    GATEWAY_CA,
    GATEWAY_CLIENT,
    GATEWAY_FOLDER,
    INNER_CERTIFICATE,
    INNER_KEY,
)
from vllm_hosts.keys.pki import LocalCa, Role
from vllm_hosts.keys.renewal import reason_to_renew
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import inner_name


@dataclass(frozen=True)
class Inner:
    """A certificate between gateways and hosts: for whom, which end it is for, and where it is.

    HAProxy reads a certificate and its key from one file, nginx from two.
    """

    names: tuple[str, ...]
    role: Role
    certificate: str
    key: str


def inner(settings: HostSettings) -> tuple[Inner, ...]:
    """Those that a host has to have; none: it is in no fleet.

    A gateway is a client of hosts and nothing else; a host answers for its own agents only. A
    machine that is both has one for each: none is good for both.
    """
    found = []
    if settings.is_gateway:
        found.append(Inner((settings.name,), "client", GATEWAY_CLIENT, GATEWAY_CLIENT))
    if settings.behind_gateways:
        names = tuple(inner_name(settings.name, agent.name) for agent in settings.agents)
        found.append(Inner(names, "server", INNER_CERTIFICATE, INNER_KEY))
    return tuple(found)


def reason(
    settings: HostSettings,
    wanted: Inner,
    ca: LocalCa,
    found: Certificate,
    now: datetime,
    renew_since: datetime | None = None,
) -> str | None:
    """Why the host needs a new one; None: it has a good one.

    :param renew_since: when `vllm-hosts tls renew` requested one.
    """
    return reason_to_renew(
        found.certificate_pem,
        found.public_key_pem,
        ca,
        wanted.names,
        settings.tls.renew_before_days,
        now,
        renew_since,
        wanted.role,
    )


def inner_entries(
    settings: HostSettings,
    wanted: Inner,
    ca: LocalCa,
    trusted: bytes,
    found: Certificate,
    now: datetime,
    renew_since: datetime | None = None,
) -> list[Entry]:
    """A new certificate and key if the host needs them, else those that it has, and the CAs.

    :param trusted: the CAs whose certificates it accepts, in PEM.
    """
    folder: list[Entry] = [
        Folder("/etc/vllm-hosts"),
        Folder(GATEWAY_FOLDER, 0o700),
        File(GATEWAY_CA, trusted),
    ]
    one_file = wanted.certificate == wanted.key
    if reason(settings, wanted, ca, found, now, renew_since) is None:
        kept: list[Entry] = [] if one_file else [Kept(wanted.certificate)]
        return [*folder, *kept, Kept(wanted.key, 0o600)]
    issued = ca.issue(wanted.names, settings.tls.valid_days, now, wanted.role)
    key = issued.key_pem.get_secret_value()
    if one_file:
        both = issued.certificate_pem + key
        return [*folder, File(wanted.key, both, 0o600, secret=True)]
    return [
        *folder,
        File(wanted.certificate, issued.certificate_pem),
        File(wanted.key, key, 0o600, secret=True),
    ]
