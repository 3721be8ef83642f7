"""The one way in which containers are started, changed and waited for."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from vllm_hosts.facts import look
from vllm_hosts.facts.compose import ComposeProject
from vllm_hosts.operations.base import Commands, Shown, host_operation, watched

_FORMAT = (
    "{{.State.Status}} {{.RestartCount}}"
    " {{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}"
)
_WAIT = r"""
umask 077; started=$(date +%s); code=0
for agent in {agents}; do
    said=0
    while :; do
        set -- $(docker inspect --format {format} "$agent") || exit 1
        waited=$(($(date +%s) - started))
        [ "$3" != healthy ] || {{ echo "    $agent is healthy after $waited s"; break; }}
        why=
        case "$1" in exited|dead|removing) why="stopped";; esac
        [ "$2" -lt 2 ] || why="crashed $2 times"
        [ "$waited" -lt {timeout} ] || why="not healthy after $waited s (vllm.health_timeout)"
        if [ -n "$why" ]; then
            echo "agent $agent: $why; its last lines:" >&2
            docker logs --tail 30 "$agent" 2>&1 | awk -F= '
                FNR == NR {{ if ($0 !~ /^#/ && length($2) > 7) secrets[$2]; next }}
                {{ for (secret in secrets) gsub(secret, "*MASKED*"); print "  | " $0 }}
            ' {directory}/.env - >&2
            code=1; break
        fi
        [ "$waited" -lt $((said + 10)) ] || {{ said=$waited; echo "    $agent: $3, $waited s"; }}
        sleep 1
    done
done
exit $code
"""


@host_operation
def agents_running(directory: str, project: str, agents: Sequence[str], timeout: int) -> Commands:
    """Start agents, recreate those whose definition changed, and wait until all are healthy.

    An agent whose definition is what it was keeps running. Services that are no longer in the
    compose file are removed.

    :param directory: holds compose.yaml and .env.
    :param timeout: seconds in which a started agent must become healthy; one that is not fails
        the host with its last log lines.
    """
    found = look(ComposeProject, directory=directory, project=project)
    by_service = {container.service: container for container in found.containers}
    changed = [
        agent
        for agent in agents
        if (container := by_service.get(agent)) is None
        or container.config_hash != found.wanted.get(agent)
        or container.status != "running"
    ]
    compose = f"docker compose --project-directory {directory} --progress plain"
    removed = sorted(set(by_service) - set(agents))
    if changed or removed:
        yield watched(
            f"starting {' '.join(changed) or 'nothing new'}",
            f"{compose} up --detach --no-deps --remove-orphans {' '.join(changed or agents)}",
        )
    unsure = [
        agent
        for agent in agents
        if agent in changed or by_service[agent].health not in ("healthy", "none")
    ]
    if unsure:
        yield Shown(
            _WAIT.format(
                agents=" ".join(unsure),
                timeout=timeout,
                directory=directory,
                format=quote(_FORMAT),
            ).strip()
        )
