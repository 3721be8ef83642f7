"""Secrets that containers read.

Promises: .env is 0600 root:root at all times, and is written completely or not at all. Needs:
preflight. Writes: .env in vllm.directory. Restarts: nothing; the vllm role recreates agents whose
secret changed.
"""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.secrets.plan import secret_entries


@deploy("Secrets")
def secrets() -> None:
    """Write .env with each agent's internal key and, if there is one, the Hugging Face token."""
    current = run.current()
    tree_synced(
        secret_entries(current.settings, current.keys), name=".env holds the secrets, for root only"
    )
