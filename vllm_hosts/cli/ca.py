"""`vllm-hosts ca`: the CA certificate that clients trust, to hand it out."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_hosts.cli.command import Command
from vllm_hosts.cli.common import identity_option, inventory_argument, opened
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.ca import shown
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import pyinfra_line


@click.command(cls=Command, problems="There is no CA certificate to print:")
@inventory_argument
@identity_option
def ca(inventory: Path, identity: Path | None) -> None:
    """Print the CA certificate that clients need, in PEM. It is not secret.

    While the CA is being replaced (`vllm-hosts keys new-ca`), prints both.

    Example: vllm-hosts ca inventory/prod.py > ca.pem
    """
    project = opened(inventory, identity)
    hosts = [project.settings[name] for name in project.edges]
    if any(host.tls.mode == "local-ca" for host in hosts):
        authority = project.store.authority
        certificate = authority.trusted()
        if certificate is None:
            raise SettingsError([f"the first deploy creates it: {pyinfra_line(inventory)}"])
        click.echo(certificate.decode(), nl=False)
        following = authority.following()
        if following is not None and utc_now() < following.takes_over:
            until = shown(following.takes_over)
            click.echo(f"Two CAs: clients need this file by {until}, and both CAs in it.", err=True)
        return
    files = sorted({host.tls.ca_file for host in hosts if host.tls.ca_file})
    if not files:
        raise SettingsError(["the hosts' certificates come from a CA that every system trusts"])
    for file in files:
        click.echo(Path(file).read_text().strip())
