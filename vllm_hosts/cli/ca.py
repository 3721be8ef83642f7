"""`vllm-hosts ca`: the certificate that clients trust, for whoever has to hand it out."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import click

from vllm_hosts.cli.common import identity_option, inventory_argument, opened, says_problems
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.ca import shown
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.project.inventory import validate


@click.command()
@inventory_argument
@identity_option
@says_problems("There is no CA certificate to print:")
def ca(inventory: Path, identity: Path | None) -> None:
    """Print the certificate of the CA that clients need, in PEM. It is no secret.

    While another CA takes its place (`vllm-hosts keys new-ca`), both of them.

    Example: vllm-hosts ca inventory/prod.py > ca.pem
    """
    hosts = validate(opened(inventory, identity)).values()
    if any(host.tls.mode == "local-ca" for host in hosts):
        authority = KeyStore(inventory, identity).authority
        certificate = authority.trusted()
        if certificate is None:
            deploy = f"pyinfra {quote(str(inventory))} deploy.py"
            raise SettingsError([f"the first deploy makes it: {deploy}"])
        click.echo(certificate.decode(), nl=False)
        following = authority.following()
        if following is not None and utc_now() < following.takes_over:
            until = shown(following.takes_over)
            click.echo(f"Two CAs: clients need this file by {until}, and keep both.", err=True)
        return
    files = sorted({host.tls.ca_file for host in hosts if host.tls.ca_file})
    if not files:
        raise SettingsError(["the hosts' certificates are of a CA that every system knows"])
    for file in files:
        click.echo(Path(file).read_text().strip())
