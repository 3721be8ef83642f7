"""`vllm-hosts ca`: the certificate that clients trust, for whoever has to hand it out."""

from __future__ import annotations

from pathlib import Path

import click

from vllm_hosts.cli_common import inventory_argument, opened, says_problems
from vllm_hosts.errors import SettingsError
from vllm_hosts.inventory import validate
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys_cli import identity_option


@click.command()
@inventory_argument
@identity_option
@says_problems("There is no CA certificate to print:")
def ca(inventory: Path, identity: Path | None) -> None:
    """Print the certificate of the CA that clients need, in PEM. It is no secret.

    Example: vllm-hosts ca inventory/prod.py > ca.pem
    """
    hosts = validate(opened(inventory, identity)).values()
    if any(host.tls.mode == "local-ca" for host in hosts):
        certificate = KeyStore(inventory, identity).ca_certificate()
        if certificate is None:
            raise SettingsError([f"the first deploy makes it: pyinfra {inventory} deploy.py"])
        click.echo(certificate.decode(), nl=False)
        return
    files = sorted({host.tls.ca_file for host in hosts if host.tls.ca_file})
    if not files:
        raise SettingsError(["the hosts' certificates are of a CA that every system knows"])
    for file in files:
        click.echo(Path(file).read_text().strip())
