"""Secrets that containers read.

Promises: .env is 0600 root:root at all times, is written completely or not at all, and has what
compose.yaml asks for, whatever comes of a deploy. Needs: preflight, Docker. Writes: .env in
vllm.directory. Restarts: nothing; the vllm role recreates agents whose secret changed.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.compose import ComposeHashes
from vllm_hosts.host.files import Entry
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.secrets.plan import secret_entries


@deploy("Secrets")
def secrets() -> None:
    """Write .env with each agent's internal key and, if there is one, the Hugging Face token. Until
    compose.yaml is written, agents that leave have theirs: Compose starts none without it."""
    tree_synced(partial(_entries, run.current()), name=".env holds the secrets, for root only")


@deploy("Secrets")
def secrets_left() -> None:
    """Once the agents run as the settings say, .env has nothing of others."""
    current = run.current()
    tree_synced(
        secret_entries(current.settings, current.keys),
        name=".env holds nothing of agents that are gone",
    )


def _entries(current: Current) -> list[Entry]:
    there = look(ComposeHashes, directory=current.settings.vllm.directory)
    return secret_entries(current.settings, current.keys, leaving=there.wanted)
