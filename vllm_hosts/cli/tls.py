"""`vllm-hosts tls`: when the hosts' certificates expire, and early renewals."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote

import click
from cryptography import x509

from vllm_hosts.cli.choice import WithHosts, host_option
from vllm_hosts.cli.command import Exit
from vllm_hosts.cli.common import identity_option, inventory_argument, only, opened
from vllm_hosts.errors import SettingsError
from vllm_hosts.host.probe import certificate
from vllm_hosts.keys import store_content
from vllm_hosts.keys.authority import Authority, ca_warnings
from vllm_hosts.keys.expiry import TimeLeft, left, to_do
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import pyinfra_line
from vllm_hosts.settings import HostSettings
from vllm_hosts.text import clean


@click.group(cls=WithHosts, problems="The certificates cannot be shown or renewed:")
@inventory_argument
@host_option
@click.pass_context
def tls(context: click.Context, inventory: Path, hosts: tuple[str, ...]) -> None:
    """Show when the edges' certificates expire, or renew them.

    Example: vllm-hosts tls inventory/prod.py status
    """
    context.obj = inventory


@dataclass(frozen=True)
class _Seen:
    """A host's certificate: what it has left and who signed it, or why it could not be seen."""

    found: TimeLeft | None = None
    issuer: str = ""
    warnings: tuple[str, ...] = ()
    problem: str = ""


@tls.command()
@host_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of objects.")
@identity_option
@click.pass_obj
def status(inventory: Path, hosts: tuple[str, ...], as_json: bool, identity: Path | None) -> None:
    """Show when each host's certificate expires, as a client sees it. Needs no SSH.

    Exit codes: 0 none is due, 3 one is due for renewal, 1 one could not be checked.
    """
    project = opened(inventory, identity)
    chosen = only(project, hosts)
    authority = project.store.authority
    now = utc_now()
    with ThreadPoolExecutor(max_workers=16) as pool:
        looks = pool.map(lambda one: _look(one, authority, now), chosen.values())
        seen = dict(zip(chosen, looks, strict=True))
    if as_json:
        click.echo(json.dumps([_as_json(name, one) for name, one in seen.items()], indent=2))
    else:
        _show(seen, chosen, inventory)
    if any(one.problem for one in seen.values()):
        sys.exit(Exit.WRONG)
    sys.exit(Exit.DIFFERS if any(_due(one) for one in seen.values()) else Exit.OK)


def _look(settings: HostSettings, authority: Authority, now: datetime) -> _Seen:
    try:
        shown = certificate(settings.address, settings.edge.https_port, settings.edge_names[0])
        parsed = x509.load_der_x509_certificate(shown)
    except (OSError, ValueError) as error:
        at = f"{settings.address} port {settings.edge.https_port}"
        why = getattr(error, "strerror", None) or error
        return _Seen(problem=clean(f"its certificate could not be fetched from {at}: {why}"))
    warnings: list[str] = []
    if settings.tls.mode == "local-ca":
        try:
            warnings += ca_warnings(authority, parsed, settings.name, now)
        except SettingsError as error:
            warnings += error.problems
    found = left(parsed, settings, now)
    return _Seen(found, clean(parsed.issuer.rfc4514_string(), 100), tuple(warnings))


def _due(seen: _Seen) -> bool:
    return bool(seen.warnings) or (seen.found is not None and seen.found.is_due)


def _show(seen: Mapping[str, _Seen], chosen: Mapping[str, HostSettings], inventory: Path) -> None:
    file = quote(str(inventory))
    for name, one in seen.items():
        click.secho(name, bold=True, nl=False)
        if one.found is None:
            click.secho(f": {one.problem}", fg="red")
            click.echo(f"  to find out why: vllm-hosts doctor {file} --host {quote(name)}")
            continue
        click.echo(f": {one.found.words}; signed by {one.issuer}")
        if one.found.is_due:
            click.secho(f"  {to_do(chosen[name], file)}", fg="yellow")
        for warning in one.warnings:
            click.secho(f"  {warning.replace('INVENTORY', file)}", fg="yellow")


def _as_json(name: str, seen: _Seen) -> dict[str, object]:
    """The names here are the names in the JSON, and stay."""
    return {
        "host": name,
        "until": seen.found.ends.isoformat() if seen.found else None,
        "days_left": seen.found.left.days if seen.found else None,
        "issuer": seen.issuer or None,
        "due": _due(seen),
        "warnings": list(seen.warnings),
        "error": seen.problem or None,
    }


@tls.command()
@host_option
@identity_option
@click.pass_obj
def renew(inventory: Path, hosts: tuple[str, ...], identity: Path | None) -> None:
    """Have the next deploy renew certificates, whatever their age.

    Example: vllm-hosts tls inventory/prod.py renew --host gpu1.example.com
    """
    project = opened(inventory, identity)
    chosen = only(project, hosts)
    own = {name: one for name, one in chosen.items() if one.tls.mode == "files"}
    # Between gateways and hosts certificates are the inventory's, whoever signs those for clients.
    inner = {name: own.pop(name) for name, one in [*own.items()] if one.in_fleet}
    if own and (hosts or len(own) == len(chosen)):
        raise SettingsError(
            [f"{name}: {to_do(one, quote(str(inventory)))}" for name, one in own.items()]
        )
    names = [name for name in chosen if name not in own]
    project.store.update(
        lambda content: store_content.renew_certificates(content, names, utc_now())
    )
    limits = " ".join(f"--limit {quote(name)}" for name in names) if hosts or own else ""
    click.echo(f"{', '.join(names)}: a new certificate with the next deploy:")
    click.echo(f"  {pyinfra_line(inventory, options=limits)}")
    for name, one in own.items():
        click.echo(f"{name} is left out: {to_do(one, quote(str(inventory)))}")
    for name, one in inner.items():
        click.echo(
            f"{name}: the one between gateways and hosts; as for the one that clients see,"
            f" {to_do(one, quote(str(inventory)))}"
        )
