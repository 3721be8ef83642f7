"""Diagnoses of keys, of the edge and of the firewall in front of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from vllm_hosts.doctor.diagnoses import Certainty, Finding, finds
from vllm_hosts.doctor.messages import shortened
from vllm_hosts.doctor.seen import EMPTY, Requests, Seen
from vllm_hosts.host.nginx import INTERNAL_MAP
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_KEY, key_variable
from vllm_hosts.settings import HostSettings

#: A client that fails so often within a quarter of an hour, and never succeeds, has a wrong key.
_REFUSALS = 3
_NO_KEY = ("", EMPTY)


@finds("key-missing")
def key_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """.env is not there, or has no key."""
    path = f"{settings.vllm.directory}/.env"
    without = [agent for agent in seen.agents if agent.env_key in _NO_KEY]
    if not seen.deployed or not without:
        return
    if any(agent.env_key for agent in seen.agents):
        names = " and ".join(key_variable(agent.name) for agent in without)
        yield Finding(f"{path} has an empty {names}, or none", values={"path": path})
    else:
        yield Finding(f"no {path}", values={"path": path})


@finds("key-not-loaded")
def key_not_loaded(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The container was made without a key."""
    for agent in seen.agents:
        if agent.container.exists and agent.key in _NO_KEY:
            yield Finding(
                f"VLLM_API_KEY in the environment of container {agent.name} is empty or not set",
                values={"agent": agent.name},
            )


@finds("key-differs-container")
def key_differs_container(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The container was made with another key than .env has now."""
    for agent in seen.agents:
        if agent.key not in _NO_KEY and agent.env_key not in (*_NO_KEY, agent.key):
            directory = settings.vllm.directory
            yield Finding(
                f"VLLM_API_KEY of container {agent.name} is not the one in {directory}/.env",
                values={"agent": agent.name, "directory": directory},
            )


@finds("key-differs-edge")
def key_differs_edge(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """nginx has another key for the agent, or none."""
    for agent in seen.agents:
        if seen.nginx is None or not seen.deployed or agent.key in (*_NO_KEY, agent.edge_key):
            continue
        values = {"agent": agent.name, "path": INTERNAL_MAP}
        if agent.edge_key in _NO_KEY:
            yield Finding(f"{INTERNAL_MAP} has no key for {agent.name}", values=values)
        else:
            said = f"the key for {agent.name} in {INTERNAL_MAP} is not its container's"
            yield Finding(said, values=values)


def _certificate(seen: Seen) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificates(seen.certificate or b"")[0]
    except ValueError:
        return None


@finds("certificate-missing")
def certificate_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """There is none, or no key for it."""
    if not seen.deployed or seen.nginx is None:
        return
    if _certificate(seen) is None:
        yield Finding(f"{TLS_CERTIFICATE} does not exist, or is not a certificate")
    elif seen.public_key is None:
        yield Finding(f"{TLS_KEY} does not exist, or is not a key")


@finds("certificate-expired")
def certificate_expired(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """By the controller's clock."""
    found = _certificate(seen)
    if found and found.not_valid_after_utc < _now(seen):
        yield _dated(found.not_valid_after_utc, "not after")


@finds("certificate-not-yet-valid")
def certificate_not_yet_valid(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """By the controller's clock."""
    found = _certificate(seen)
    if found and found.not_valid_before_utc > _now(seen):
        yield _dated(found.not_valid_before_utc, "not before")


def _now(seen: Seen) -> datetime:
    return seen.now or datetime.now(UTC)


def _dated(date: datetime, bound: str) -> Finding:
    text = date.strftime("%Y-%m-%d %H:%M UTC")
    return Finding(f"{TLS_CERTIFICATE}: {bound} {text}", values={"date": text})


@finds("certificate-key-mismatch")
def certificate_key_mismatch(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The public halves differ."""
    found = _certificate(seen)
    if found is None or seen.public_key is None:
        return
    public = found.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if public.split() != seen.public_key.split():
        yield Finding(f"{TLS_CERTIFICATE} has another public key than {TLS_KEY}")


@finds("nginx-config-invalid")
def nginx_config_invalid(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """nginx's own message."""
    if seen.nginx and seen.nginx.rejected:
        yield Finding(shortened(seen.nginx.rejected))


@finds("nginx-down")
def nginx_down(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """systemd's own word."""
    if not seen.deployed:
        return
    if seen.nginx is None:
        yield Finding("the program nginx is not installed", values={"active": "not installed"})
    elif not seen.nginx.active.runs:
        active = seen.nginx.active or "unknown"
        yield Finding(f"systemctl is-active nginx: {active}", values={"active": active})


@finds("edge-unreachable")
def edge_unreachable(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """nginx listens, and nobody opens."""
    port = settings.edge.https_port
    listens = any(one.port == port and one.shared_by("nginx") for one in seen.listeners)
    if seen.reachable is False and listens:
        yield Finding(
            f"nginx listens on port {port}, and a connection from this machine is not taken",
            Certainty.LIKELY,
            {"port": port, "address": settings.address},
        )


@finds("firewall-missing")
def firewall_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """nft does not list the table."""
    if seen.deployed and seen.firewall is False:
        yield Finding("nft list table inet vllm_hosts: no such table")


@finds("refused-by-vllm")
def refused_by_vllm(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The last word of vLLM to the edge was 401, and no key explains it."""
    for agent in seen.agents:
        answers = [
            entry
            for entry in seen.requests
            if entry.agent == agent.name
            and entry.answered_by == "vllm"
            and (agent.container.started is None or entry.last > agent.container.started)
        ]
        last = max(answers, key=lambda entry: entry.last, default=None)
        if last and last.status == 401 and agent.key == agent.edge_key:
            values = {"agent": agent.name, "directory": settings.vllm.directory}
            said = f"vLLM itself answered 401, last at {last.last:%H:%M:%S}"
            yield Finding(said, Certainty.LIKELY, values)


@finds("refused-by-edge")
def refused_by_edge(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """An address that gets nothing but 401. A deploy itself asks without a key, with GET: from the
    controller, or from the host where that is the controller."""
    by_address: dict[str, list[Requests]] = defaultdict(list)
    for entry in seen.requests:
        deploys = {seen.controller, *seen.own}
        if entry.method != "GET" or (seen.controller and entry.address not in deploys):
            by_address[entry.address].append(entry)
    for address, entries in sorted(by_address.items()):
        refused = [entry for entry in entries if (entry.status, entry.answered_by) == (401, "edge")]
        count = sum(entry.count for entry in refused)
        if len(refused) == len(entries) and count >= _REFUSALS:
            last = max(entry.last for entry in refused)
            said = f"{count} requests, all answered with 401, the last at {last:%H:%M:%S}"
            yield Finding(said, Certainty.POSSIBLE, {"address": address})
