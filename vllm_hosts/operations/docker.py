"""The Docker daemon and its images."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from shlex import quote
from typing import Any

from packaging.version import InvalidVersion, Version
from pyinfra.context import ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.docker import DAEMON_JSON, DockerDaemon, ImageVersion
from vllm_hosts.facts.docker_state import DockerState
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.compose import COMPOSE
from vllm_hosts.host.daemon_json import READ_AT_START, merged
from vllm_hosts.host.docker_there import COMPOSE_FLOOR
from vllm_hosts.host.files import File
from vllm_hosts.host.mirror import mirrored_name
from vllm_hosts.host.paths import RAN
from vllm_hosts.operations.base import NOTE, Commands, Shown, host_operation, watched
from vllm_hosts.operations.differences import differs
from vllm_hosts.operations.foreseen import may_have_changed
from vllm_hosts.operations.meanwhile import awaited_here, begun_here
from vllm_hosts.operations.one_by_one import Serving
from vllm_hosts.operations.outage import outage
from vllm_hosts.operations.tree import change
from vllm_hosts.settings.mirror import MirrorAt

#: Keeps other people's containers running; those without a restart policy would stay down.
NOTE_RUNNING = f"""
ran=$(docker ps -q --no-trunc 2>/dev/null) || ran=
[ -z "$ran" ] || {{ mkdir -p {RAN.rpartition("/")[0]} && echo "$ran" >>{RAN}; }}
"""
#: A daemon takes up live-restore without a restart, and then keeps containers running through one.
#: Some errors in a configuration show only at the start, and only in the journal. After a few
#: failures, systemd does not start a daemon again before reset-failed.
RESTART = rf"""
{NOTE_RUNNING}
if [ -n "$ran" ] && grep -qs '"live-restore": *true' {DAEMON_JSON}; then
    systemctl kill --signal=HUP --kill-who=main docker.service 2>/dev/null || :
    for try in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(docker info --format '{{{{.LiveRestoreEnabled}}}}' 2>/dev/null)" != true ] || break
        sleep 0.3
    done
fi
begun=$(date +%s); systemctl reset-failed docker.service 2>/dev/null || :
if systemctl restart docker.service; then
    for container in $(cat {RAN} 2>/dev/null); do
        [ "$(docker inspect -f '{{{{.State.Running}}}}' "$container" 2>/dev/null)" != false ] ||
            docker start "$container" >/dev/null || :
    done
    rm -f {RAN}
else
    journalctl --sync 2>/dev/null || :
    said=$(journalctl _SYSTEMD_UNIT=docker.service --since "@$begun" -o cat --no-pager 2>/dev/null |
        grep -v 'level=\(info\|debug\)' | awk '!said[$0]++' | tail -n 5 | cut -c 1-1000) || :
    echo 'dockerd says:'; echo "$said"
    case $said in
    *swarm*) echo 'so: set docker.live_restore = False, or leave the swarm: docker swarm leave' ;;
    *'both as a flag and in the configuration file'*)
        echo 'so: take these options out of the files that systemctl cat docker.service shows, or'
        echo 'of /etc/default/docker, then systemctl daemon-reload' ;;
    *) echo 'so: correct what it names, in /etc/docker/daemon.json or in what'
        echo 'systemctl cat docker.service shows, and run again' ;;
    esac
    false
fi
"""


@host_operation
def daemon_configured(
    wanted: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    read_at_start: Sequence[str] = (),
    provided_by: Sequence[str] = (),
    serving: Serving | None = None,
) -> Commands:
    """Merge settings into daemon.json; restart the daemon only if it has not read them.

    If ``dockerd --validate`` rejects the new configuration, or the daemon does not start with it,
    the old one is put back.

    :param wanted: gets what daemon.json holds now, and returns the keys that it should hold.
    :param read_at_start: further files that the daemon reads only when it starts.
    :param provided_by: packages that they come from.
    :param serving: the host's agents: hosts with the same models restart Docker one after the
        other if containers do not outlive that.
    """
    asked = list(dict.fromkeys([*READ_AT_START, *read_at_start]))
    daemon = look(DockerDaemon, read_at_start=asked)
    # What another role's files have become is that role's business.
    ours = (DAEMON_JSON, *read_at_start, RAN)
    stale = [path for path in daemon.stale if path in ours]
    text = merged(daemon.config, wanted)
    if text is not None:
        differs(
            DAEMON_JSON,
            "lacks settings, or has different ones",
            File(DAEMON_JSON, text, partly=True),
            lambda: look(TreeState, paths=[DAEMON_JSON]).paths[DAEMON_JSON],
        )
    elif stale or not daemon.running:
        differs("docker.service", "does not run, or runs with older settings")
    if not daemon.enabled:
        differs("docker.service", "does not start at boot")
    what = "Docker is restarted" if daemon.running else "Docker is started"
    restart = watched("restarting Docker", RESTART)
    if text is not None:
        written = change(
            [File(DAEMON_JSON, text)],
            validate=f"dockerd --validate --config-file {DAEMON_JSON}",
            activate=RESTART,
        )
        yield from outage([written], serving, what, outlived=True)
    elif stale or not daemon.running or may_have_changed(provided_by):
        yield from outage([restart], serving, what, outlived=True)
    if not daemon.enabled:
        yield watched("enabling Docker", "systemctl enable docker.service")


@host_operation
def compose_available() -> Commands:
    """Fail a host that has no Compose v2.

    Changes nothing.
    """
    found = look(DockerState).compose
    try:
        version = Version((found or "").split("-")[0].split("+")[0])
    except InvalidVersion:
        version = None
    if found is None and not ctx_state.get().is_executing:
        return  # It comes with the packages that are installed before.
    if version is None or version < COMPOSE_FLOOR:
        raise HostError(
            f"`docker compose` is {found or 'missing'}; {COMPOSE_FLOOR} or newer"
            " is needed; set docker.source = 'docker-ce'"
        )
    yield from ()


#: Turns Compose's lines about single layers into one about all of them.
PULL_SUMMARY = r"""
    function bytes(text) {
        return (text + 0) * (text ~ /GB/ ? 1e9 : text ~ /MB/ ? 1e6 : text ~ /kB/ ? 1e3 : 1)
    }
    $NF ~ /^[0-9.]+[kMG]?B\/[0-9.]+[kMG]?B$/ {
        split($NF, part, "/"); all[$1] = bytes(part[2])
        if ($2 == "Downloading") got[$1] = bytes(part[1])
        if ($2 == "Extracting") { got[$1] = all[$1]; unpacked[$1] = bytes(part[1]) }
    }
    $2 == "Download" || $2 == "Pull" { if ($3 == "complete") got[$1] = all[$1] }
    $2 == "Pull" && $3 == "complete" { unpacked[$1] = all[$1] }
    END {
        for (layer in all) { g += got[layer]; a += all[layer]; u += unpacked[layer] }
        printf "%.2f of %.2f GB downloaded, %.2f GB unpacked\n", g / 1e9, a / 1e9, u / 1e9
    }
"""


@host_operation
def image_begun(image: str) -> Commands:
    """Begin to pull an image unless the host has it; ``image_present`` waits for that.

    The run goes on meanwhile. Docker must not be restarted before that.
    """
    if not look(ImageVersion, image=image).id:
        yield from begun_here(_pull(image, None))


@host_operation
def image_present(image: str, mirror: MirrorAt | None = None) -> Commands:
    """Pull an image unless the host has it, or wait until it is pulled; reporting progress.

    :param mirror: who has its layers. The registry itself then still says of what the image
        consists: whatever else the mirror gave is dropped, and what it has not, comes from there.
    """
    if waiting := awaited_here(f"pulling {image}"):
        yield waiting
        return
    if look(ImageVersion, image=image).id:
        return
    differs(f"image {image}", "is not on the host")
    yield _pull(image, mirror)


def _pull(image: str, mirror: MirrorAt | None) -> Shown:
    # Compose reports the bytes of each layer; `docker pull` does so only on a terminal.
    compose = f"{COMPOSE} -p vllm-hosts-pull -f - --progress plain pull"
    project = f"services: {{image: {{image: {json.dumps(image)}}}}}"
    pull = f"printf %s {quote(project)} | {compose}"
    if mirror is not None:
        pull = f"""
            mirrored="{mirrored_name(mirror, image)}"
            trap 'docker image rm "$mirrored" >/dev/null 2>&1' EXIT
            printf 'services: {{image: {{image: "%s"}}}}' "$mirrored" | {compose} ||
                echo "{NOTE}the mirror {mirror.host} does not give the image;" \\
                    "it comes from its registry"
            {pull}
        """
    summary = f"awk {quote(PULL_SUMMARY)}"
    return watched(f"pulling {image}", pull, summary=summary, notes=mirror is not None)
