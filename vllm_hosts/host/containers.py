"""What Docker says of containers, as values: one question, one type, one idea of "well".

Touches no host. Who wants to know of a container asks with ``INSPECT`` and reads with ``read``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from vllm_hosts.bounded import json_object
from vllm_hosts.host.paths import PROJECT
from vllm_hosts.text import clean

#: In the place of Docker's states for a container that is not there.
ABSENT = "absent"
#: The format of ``docker inspect``: one line of JSON for each container. Its environment, which
#: holds keys, is not in it. By the names that Docker's own program gives to fields: with one that
#: only the daemon's answer has (Id), all are read from that, and it leaves out the health of a
#: container that was never started.
INSPECT = (
    '{"name":{{json .Name}},"id":{{json .ID}},"state":{{json .State.Status}},'
    '"health":{{if .State.Health}}{{json .State.Health.Status}}{{else}}null{{end}},'
    '"started":{{json .State.StartedAt}},"finished":{{json .State.FinishedAt}},'
    '"exit_code":{{.State.ExitCode}},"oom_killed":{{.State.OOMKilled}},'
    '"error":{{json .State.Error}},"restarts":{{.RestartCount}},'
    '"image":{{json .Config.Image}},"image_id":{{json .Image}},"command":{{json .Config.Cmd}},'
    '"project":{{json (index .Config.Labels "com.docker.compose.project")}},'
    '"service":{{json (index .Config.Labels "com.docker.compose.service")}},'
    '"hash":{{json (index .Config.Labels "com.docker.compose.config-hash")}}}'
)
#: The same for a shell that compares words: state, health (``-`` where nobody asks) and start.
BRIEFLY = (
    "{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{else}}-{{end}}"
    " {{.State.StartedAt}}"
)
#: What the last health checks of a container printed.
CHECKS = (
    '{"name":{{json .Name}},"checks":[{{if .State.Health}}{{range .State.Health.Log}}'
    "{{json .Output}},{{end}}{{end}}null]}"
)
#: What Docker says of a check that it could not even start: no word of the container's.
_NOT_STARTED = "OCI runtime exec failed: "
#: So many in a row are no accident; Docker makes one every few seconds.
_IN_A_ROW = 3
_SAID = 300
#: Of what is in a container, beside what Docker makes of it.
_LONGEST = 4000


class Standing(Enum):
    """What Docker's words for a container's state and health say together."""

    ABSENT = "there is no container"
    CREATED = "it has never started"
    STARTING = "it runs, and does not answer yet"
    WELL = "it runs, and is healthy as far as anybody asks"
    UNHEALTHY = "it runs, and does not answer"
    RESTARTING = "it ended, and Docker starts it again"
    PAUSED = "it stands still"
    ENDED = "it does not run"

    @property
    def well(self) -> bool:
        """The one idea of a container that serves: for waiting, for clients, for a twin."""
        return self is Standing.WELL


#: By Docker's state; a running one depends on its health, by Docker's word for that.
_STANDINGS = {
    ABSENT: Standing.ABSENT,
    "created": Standing.CREATED,
    "restarting": Standing.RESTARTING,
    "paused": Standing.PAUSED,
}
_RUNNING = {None: Standing.WELL, "healthy": Standing.WELL, "starting": Standing.STARTING}


@dataclass(frozen=True)
class Container:
    """A container as Docker describes it, or one that is not there.

    ``state`` is Docker's word (``running``, ``exited``, ...) or ``absent``. ``health`` is Docker's
    too, and None where there is no health check. ``exit_code`` and ``oom_killed`` are of its last
    end, ``error`` is why Docker could not start it. ``model`` is the first word of its command.
    ``service`` and ``config_hash`` are Compose's; empty where it is not Compose's.
    """

    name: str
    state: str = ABSENT
    health: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    restarts: int = 0
    id: str = ""
    image: str | None = None
    image_id: str = ""
    model: str | None = None
    project: str = ""
    service: str = ""
    config_hash: str = ""

    @property
    def standing(self) -> Standing:
        """State and health in one."""
        if self.state == "running":
            return _RUNNING.get(self.health, Standing.UNHEALTHY)
        return _STANDINGS.get(self.state, Standing.ENDED)

    @property
    def well(self) -> bool:
        """Whether it serves."""
        return self.standing.well

    @property
    def exists(self) -> bool:
        return self.state != ABSENT

    @property
    def running(self) -> bool:
        """Whether Docker says that it runs, however well."""
        return self.state == "running"

    @property
    def up(self) -> bool:
        """Whether it runs, or will again without anybody's help."""
        return self.running or self.standing is Standing.RESTARTING

    @property
    def ours(self) -> bool:
        """Whether it is an agent's."""
        return self.project == PROJECT

    @property
    def since(self) -> datetime | None:
        """When it started, or ended if it does not run."""
        return self.started if self.state in ("running", "paused") else self.finished

    @property
    def ended_with(self) -> int | None:
        """Its exit code; None where it runs, or is not there."""
        return None if self.state in ("running", "paused", ABSENT) else self.exit_code


def read(lines: Iterable[str]) -> Iterator[Container]:
    """Containers from what ``docker inspect`` printed, asked with ``INSPECT``.

    :raises ValueError: a line is not what it prints.
    """
    return map(_container, lines)


def unchecked(lines: Iterable[str]) -> dict[str, str]:
    """By container, from what ``docker inspect`` printed, asked with ``CHECKS``: why Docker cannot
    check its health at all, in Docker's words; empty: it can.

    :raises ValueError: a line is not what it prints.
    """
    found = {}
    for one in map(json_object, lines):
        last = one["checks"][:-1][-_IN_A_ROW:]
        stuck = len(last) == _IN_A_ROW and all(said.startswith(_NOT_STARTED) for said in last)
        name = clean(_text(one, "name").removeprefix("/"), 200)
        found[name] = clean(last[-1], _SAID) if stuck else ""
    return found


def named(lines: Iterable[str], names: Iterable[str]) -> dict[str, Container]:
    """The same by name, with those that are asked for and not there.

    :raises ValueError: a line is not what Docker prints.
    """
    found = {name: Container(name) for name in names}
    return found | {container.name: container for container in read(lines)}


def _container(line: str) -> Container:
    one = json_object(line)
    command = one["command"] or [None]
    return Container(
        name=clean(_text(one, "name").removeprefix("/"), 200),
        state=clean(_text(one, "state"), 40),
        health=_or_none(one["health"]),
        started=_time(_text(one, "started")),
        finished=_time(_text(one, "finished")),
        exit_code=int(one["exit_code"]),
        oom_killed=one["oom_killed"] is True,
        error=clean(_text(one, "error"), _LONGEST),
        restarts=int(one["restarts"]),
        id=clean(_text(one, "id"), 100),
        image=_or_none(one["image"]),
        image_id=clean(_text(one, "image_id"), 100),
        model=_or_none(command[0]),
        project=clean(one["project"] or "", 200),
        service=clean(one["service"] or "", 200),
        config_hash=clean(one["hash"] or "", 200),
    )


def _text(one: dict[str, Any], key: str) -> str:
    value = one[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} of a container is {clean(repr(value), 200)}")
    return value


def _or_none(value: object) -> str | None:
    return None if value is None else clean(value)


def _time(text: str) -> datetime | None:
    """Docker's way to write a time, to the second; the year 1 is never."""
    found = datetime.fromisoformat(text[:19] + "+00:00")
    return found if found.year > 1 else None


def published(ports: str) -> frozenset[int]:
    """The host's ports in what ``docker ps`` prints as ``{{.Ports}}``.

    Such as ``0.0.0.0:8000-8002->8000-8002/tcp, [::]:53->53/udp, 9000/tcp``: the last one is open in
    the container alone. Docker writes neighbours in one.

    :raises ValueError: what is published is no port.
    """
    found: set[int] = set()
    for item in ports.split(","):
        outside, arrow, _ = item.partition("->")
        if arrow:
            match = _PORTS.search(outside)
            if match is None or int(match[2] or match[1]) > 65535:
                raise ValueError(f"docker ps prints the port {clean(item, 200)!r}")
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(found)


_PORTS = re.compile(r":([0-9]{1,5})(?:-([0-9]{1,5}))?\Z")
