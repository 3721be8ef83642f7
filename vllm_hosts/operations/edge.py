"""Switching the running edge between agents, so that an agent can restart behind it."""

from __future__ import annotations

from pydantic import SecretStr
from pyinfra.api.command import StringCommand

from vllm_hosts.host.nginx import internal_line, upstream
from vllm_hosts.host.paths import EDGE_FOLDER
from vllm_hosts.host.systemctl import MAIN_PID

#: Reload nginx if it runs, and wait until no worker with the old configuration accepts connections;
#: the reload itself returns earlier.
RELOAD = f"""
if systemctl -q is-active nginx.service; then
    master=$({MAIN_PID} nginx.service)
    workers=$(cat /proc/$master/task/$master/children)
    systemctl reload nginx.service
    until=$(($(date +%s) + 60))
    while [ "$(date +%s)" -lt "$until" ]; do
        old=
        for worker in $workers; do
            # A worker that finishes what it has says so in its name.
            name=$(tr -d '\\0' 2>/dev/null </proc/$worker/cmdline) || name=
            case "$name" in
                *'shutting down'*) ;;
                *'worker process'*) old=yes ;;
            esac
        done
        [ -n "$old" ] || break
        sleep 0.05
    done
    [ -z "$old" ] || {{ echo 'nginx does not take up its new configuration'; exit 1; }}
fi
""".strip()

#: What clients notice of a reload.
RELOADED = "nginx is reloaded; open requests are finished, and no connection is refused"

_SWITCH = """
set -eu; umask 077; cd {folder}
trap 'rm -f internal.map.new targets.map.new' EXIT
{{ {new_line}; grep -v '^{upstream} ' internal.map || :; }} | LC_ALL=C sort >internal.map.new
{{ {target}; grep -sv '^{agent} ' targets.map || :; }} >targets.map.new
mv -f internal.map.new internal.map; mv -f targets.map.new targets.map
nginx -t -q
{reload}
"""


def divert(agent: str, peer: str) -> StringCommand:
    """Let another agent with the same model answer for this one."""
    return StringCommand(
        _SWITCH.format(
            folder=EDGE_FOLDER,
            agent=agent,
            upstream="none",
            new_line=":",
            target=f"echo '{agent} {upstream(peer)};'",
            reload=RELOAD,
        ).strip()
    )


def give_back(agent: str, key: SecretStr) -> StringCommand:
    """Let the agent answer for itself again, with its present key."""
    return StringCommand(
        _SWITCH.format(
            folder=EDGE_FOLDER,
            agent=agent,
            upstream=upstream(agent),
            new_line="cat",
            target=":",
            reload=RELOAD,
        ).strip(),
        _stdin=[internal_line(agent, key)],
    )


#: The key comes from the container's own environment, through pipes only. Reloads only if something
#: differs.
_TAKE_UP = """
set -eu; umask 077; cd {folder}
trap 'rm -f internal.map.new targets.map.new' EXIT
{{
    docker container inspect {agent} \\
        --format '{{{{range .Config.Env}}}}{{{{println .}}}}{{{{end}}}}' |
        sed -n 's/^VLLM_API_KEY=\\(.*\\)$/{upstream} "\\1";/p'
    grep -v '^{upstream} ' internal.map || :
}} | LC_ALL=C sort >internal.map.new
grep -qE '^{upstream} "[A-Za-z0-9._~+/=-]+";$' internal.map.new || {{
    echo 'agent {agent} has no VLLM_API_KEY that the edge can send' >&2; exit 1
}}
grep -sv '^{agent} ' targets.map >targets.map.new || :
touch targets.map
! cmp -s internal.map internal.map.new || ! cmp -s targets.map targets.map.new || exit 0
mv -f internal.map.new internal.map; mv -f targets.map.new targets.map
nginx -t -q
{reload}
"""


def taken_up(agent: str, *, folder: str = EDGE_FOLDER) -> StringCommand:
    """Let the agent answer for itself, with its container's key."""
    return StringCommand(
        _TAKE_UP.format(folder=folder, agent=agent, upstream=upstream(agent), reload=RELOAD).strip()
    )
