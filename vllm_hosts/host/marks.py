"""How others on a host can tell that a deploy is running there."""

from __future__ import annotations

from datetime import datetime

#: Every command of a deploy has it in its environment, and so do its child processes. It ends with
#: them: nothing is written that could be left behind, and nothing is locked.
DEPLOY_SINCE = "VLLM_HOSTS_DEPLOY"


def deploy_mark(now: datetime) -> str:
    """The mark of a deploy that begins now."""
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
