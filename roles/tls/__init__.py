"""The edge's certificate.

Promises: a valid certificate for the names that clients use, and a key that only root can read.
Needs: preflight. Writes: /etc/vllm-hosts/tls. Restarts: nothing; the nginx role reloads the edge
when these files changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.tls import HostCertificate
from vllm_hosts.host.files import Entry
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_KEY
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.tls.plan import from_files, from_local_ca, reason


@deploy("TLS")
def tls() -> None:
    """Give the edge a certificate, from the local CA or from the user's files."""
    current = run.current()
    describe = _from_ca if current.settings.tls.mode == "local-ca" else _from_files
    tree_synced(partial(describe, current), name="The edge has a valid certificate")


def _from_ca(current: Current) -> Sequence[Entry]:
    ca = current.store.local_ca()
    found = look(HostCertificate, certificate=TLS_CERTIFICATE, key=TLS_KEY)
    since, now = current.keys.renew_since, utc_now()
    if why := reason(current.settings, ca, found, now, since):
        say([f"it gets a new certificate: {why}"])
    return from_local_ca(current.settings, ca, found, now, since)


def _from_files(current: Current) -> Sequence[Entry]:
    return from_files(current.settings)
