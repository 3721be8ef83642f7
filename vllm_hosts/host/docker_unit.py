"""Compares the options that a host's systemd units give dockerd with our daemon.json. Pure.

dockerd refuses to start if an option is set in both ("specified both as a flag and in the
configuration file"), even with the same value, and `dockerd --validate` does not see the flags.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_hosts.settings import HostSettings
from vllm_hosts.text import clean

#: Option of dockerd -> the key in daemon.json that a deploy sets, and the setting to use instead.
#: Not --add-runtime: runtimes of both are merged (moby, daemon/config, skipDuplicates).
_OURS = {
    "--live-restore": ("live-restore", "set docker.live_restore"),
    "--log-opt": ("log-opts", "set docker.log_max_size and docker.log_max_file"),
    "--ip": ("ip", "which is 127.0.0.1 here"),
    "--default-network-opt": ("default-network-opts", "or add it to that key of daemon.json"),
}
#: A deploy sets log-opts for these drivers; others have their own (roles/docker).
_SIZED = ("", "json-file", "local")


@dataclass(frozen=True)
class DockerOptions:
    """Lines of docker.service by file, in systemd's order: ExecStart, and variables with options.

    ``environment``: lines of its environment files. ``log_driver`` is daemon.json's, empty if it
    names none. ``swarm``: whether the host is a node of a swarm.
    """

    files: Sequence[tuple[str, Sequence[str]]] = ()
    environment: Sequence[tuple[str, Sequence[str]]] = ()
    log_driver: str = ""
    swarm: bool = False

    def options(self) -> Iterator[tuple[str, str, str]]:
        """Each long option of dockerd: the file that sets it, its name, and its value if known."""
        started: list[tuple[str, str]] = []
        known: dict[str, tuple[str, str]] = {}
        for path, lines in self.files:
            for line in lines:
                key, _, value = (part.strip() for part in line.partition("="))
                if key == "ExecStart":
                    # An empty one resets those of earlier files.
                    started = [*started, (path, value)] if value else []
                elif key == "Environment":
                    known |= _variables(path, value)
        for path, lines in self.environment:
            for line in lines:
                known |= _variables(path, line)
        for path, command in started:
            yield from _options(path, command, known)


def _variables(path: str, text: str) -> dict[str, tuple[str, str]]:
    found = re.match(r"""["']?([A-Za-z_][A-Za-z0-9_]*)=(.*)""", text.strip())
    return {found[1]: (path, found[2].strip("\"'"))} if found else {}


def _options(
    path: str, command: str, known: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, str, str]]:
    words = [word.strip("\"'") for word in command.split()]
    for number, word in enumerate(words):
        if variable := re.fullmatch(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?", word):
            if variable[1] in known:
                yield from _options(*known[variable[1]], {})
        elif word.startswith("--"):
            name, equals, value = word.partition("=")
            after = words[number + 1] if number + 1 < len(words) else ""
            yield path, name, value if equals else "" if after.startswith("-") else after


def unit_problems(settings: HostSettings, unit: DockerOptions) -> Iterator[str]:
    """What would keep dockerd from starting with a deploy's daemon.json, one sentence each."""
    if unit.swarm and settings.docker.live_restore:
        yield (
            "this host is in a Docker swarm, and dockerd does not start in one with live-restore;"
            " set docker.live_restore = False, or leave the swarm on the host: docker swarm leave"
        )
    again = "then systemctl daemon-reload"
    said = set()
    for path, name, value in unit.options():
        where = clean(path, 200)
        if name in said:
            continue
        said.add(name)
        if name == "--log-driver" and value not in _SIZED and unit.log_driver in _SIZED:
            yield (
                f"{where} gives dockerd --log-driver {clean(value, 40)}, which does not go with the"
                " log-opts that a deploy sets; take it out there, and name it as log-driver in"
                f" /etc/docker/daemon.json, where it stays; {again}"
            )
        elif name == "--config-file" and value != "/etc/docker/daemon.json":
            yield (
                f"{where} has dockerd read {clean(value, 200)} and not /etc/docker/daemon.json;"
                f" take --config-file out there, {again}"
            )
        elif name in _OURS:
            key, instead = _OURS[name]
            if name == "--log-opt" and unit.log_driver not in _SIZED:
                continue
            yield (
                f"{where} gives dockerd {name}, and a deploy sets {key} in /etc/docker/daemon.json;"
                f" dockerd does not start with both: take it out there ({instead}), {again}"
            )
