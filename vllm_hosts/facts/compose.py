"""Which services of a compose project run, and whether as their file says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.compose import CLEAN_ENV, COMPOSE, ComposeFound, Hashes, Network
from vllm_hosts.host.containers import CHECKS, INSPECT, Container, read, unchecked
from vllm_hosts.host.masks import MASKED, keys
from vllm_hosts.host.paths import STARTS

#: A service's name and its hash. No warning has just two words, the second of this form.
_HASH = re.compile(r"([a-z0-9][a-z0-9_.-]*) ([0-9a-z]{3,128})")
_NETWORK = (
    '{{index .Labels "com.docker.compose.network"}} {{.Name}}'
    " {{range .IPAM.Config}}{{.Subnet}}{{end}}"
    ' {{with index .Options "com.docker.network.bridge.name"}}{{.}}{{else}}-{{end}}'
    "{{range .Containers}} {{.Name}}{{end}}"
)


class ComposeHashes(HostFact[Hashes]):
    """Compose's own hashes of what should run, by the files that are there: the part that takes
    Compose long to say, and that follows from those alone."""

    what = "Compose's hashes of the agents"
    steady = True

    def command(self, directory: str) -> str:
        return ending(_evaluated(directory))

    def parse(self, lines: list[str]) -> Hashes:
        return _hashes_of(sections(lines)["hashes"])


class ComposeProject(HostFact[ComposeFound]):
    """Compose's own hashes of what should run beside those of what does."""

    what = "the agents' containers"
    _evaluated = True

    def command(
        self,
        directory: str,
        project: str,
        file: str | None = None,
        names: Sequence[str] = (),
        salt: str | None = None,
        path: str | None = None,
        hashes: bool = True,
    ) -> str:
        """
        :param file: the compose file that there will be; None: the one that is there.
        :param path: where such a file lies on the host.
        :param names: variables of .env that it may ask for before they are there.
        :param hashes: whether Compose is asked at all.
        :param salt: for digests of .env's lines; None: they are not asked for.
        """
        self._evaluated = hashes
        evaluated = _evaluated(directory, file, names, path) if hashes else ""
        return ending(
            f"""
            {evaluated}
            echo '== containers'
            if command -v docker >/dev/null; then
                docker ps -aq --filter label=com.docker.compose.project={project} |
                    xargs -r docker inspect --format {quote(INSPECT)}
            fi
            {_digests(directory, salt)}
            echo '== starts'
            find {STARTS} -maxdepth 1 -type f -exec grep -H '' {{}} + 2>/dev/null
            echo '== networks'
            if command -v docker >/dev/null; then
                docker network ls -q --filter label=com.docker.compose.project={project} |
                    xargs -r docker network inspect --format {quote(_NETWORK)}
            fi
            """
        )

    def parse(self, lines: list[str]) -> ComposeFound:
        parts = sections(lines)
        found = _hashes_of(parts["hashes"]) if self._evaluated else Hashes({}, None)
        return ComposeFound(
            wanted=found.wanted,
            containers=tuple(read(parts["containers"])),
            error=found.error,
            networks=tuple(_network(line) for line in parts["networks"]),
            env=dict(line.split(" ") for line in parts.get("env", ())),
            starts=dict(start_seconds(line) for line in parts.get("starts", ())),
        )


def _evaluated(
    directory: str, file: str | None = None, names: Sequence[str] = (), path: str | None = None
) -> str:
    """Shell: what Compose makes of a file, if there is one, and how that ended."""
    there = "true" if file is not None or path is not None else f"[ -e {directory}/compose.yaml ]"
    return f"""
            echo '== hashes'
            if {there} && command -v docker >/dev/null; then
                {_hashes(directory, file, names, path)} 2>&1
                echo "exit $?"
            else
                echo 'exit -'
            fi"""


def _hashes_of(lines: list[str]) -> Hashes:
    *hashes, code = lines
    if code != "exit 0":
        return Hashes({}, " ".join(hashes))
    # Warnings stand between the hashes. No hash at all among lines is no empty project, which
    # would have every agent recreated.
    wanted = {found[1]: found[2] for line in hashes if (found := _HASH.fullmatch(line)) is not None}
    if hashes and not wanted:
        raise ValueError(f"Compose says no hash: {' '.join(hashes)[:300]!r}")
    return Hashes(wanted, None)


def _hashes(directory: str, file: str | None, names: Sequence[str], path: str | None) -> str:
    """Shell: Compose's hash of each service. Variables that are not there yet get a value, since
    Compose would say nothing about the others either."""
    if file is None and path is None:
        return f"{COMPOSE} --project-directory {directory} config --hash '*'"
    given = f"cat {quote(path)}" if path is not None else f"printf %s {quote(file or '')}"
    return f"""{{
        set --
        for name in {" ".join(names)}; do
            grep -qs "^$name=" {directory}/.env || set -- "$@" "$name=none"
        done
        {given} | {CLEAN_ENV} "$@" docker compose \
            --file - --project-directory {directory} config --hash '*'; }}"""


def _digests(directory: str, salt: str | None) -> str:
    """Shell: what .env holds, without saying it. printf is the shell's own: no argument of a
    process has a secret."""
    if salt is None:
        return ""
    return f"""
            echo '== env'
            if [ -f {directory}/.env ]; then
                while IFS= read -r line; do
                    case $line in [A-Z]*=*) ;; *) continue ;; esac
                    sum=$(printf '%s%s' {salt} "$line" | sha256sum)
                    echo "${{line%%=*}} ${{sum%% *}}"
                done <{directory}/.env
            fi"""


def start_seconds(line: str) -> tuple[str, int]:
    """An agent's name and the seconds in the note about its last start."""
    path, _, seconds = line.rpartition(":")
    return path.rpartition("/")[2], int(seconds)


def _network(line: str) -> Network:
    key, name, subnet, bridge, *containers = line.split()
    return Network(key, name, subnet, bridge, tuple(containers))


class AgentStates(HostFact[dict[str, Container]]):
    """The state of each of these containers, by name. A container that is not there is an error."""

    what = "the agents' health"

    def command(self, agents: list[str]) -> str:
        names = " ".join(agents)
        return ending(
            f"echo '== states'; docker inspect --format {quote(INSPECT)} {names} || exit 1"
        )

    def parse(self, lines: list[str]) -> dict[str, Container]:
        return {one.name: one for one in read(sections(lines)["states"])}


class HealthChecks(HostFact[dict[str, str]]):
    """By agent, why Docker cannot check its health at all, in Docker's words; empty: it can.

    Such an agent never becomes healthy, whatever it does.
    """

    what = "the agents' health checks"

    def command(self, agents: list[str]) -> str:
        return ending(
            "echo '== checks';"
            f" docker inspect --format {quote(CHECKS)} {' '.join(agents)} || exit 1"
        )

    def parse(self, lines: list[str]) -> dict[str, str]:
        return unchecked(sections(lines)["checks"])


class AgentLog(HostFact[tuple[str, ...]]):
    """The last lines that an agent printed, with every key masked."""

    what = "an agent's log"

    def command(self, agent: str, directory: str, lines: int) -> str:
        return ending(
            f"""
            {keys(directory)}
            echo '== log'
            docker logs --tail {lines} {agent} 2>&1 | {MASKED}
            """
        )

    def parse(self, lines: list[str]) -> tuple[str, ...]:
        # What an agent prints may look like a heading of ours.
        return tuple(line for line in lines[lines.index("== log") + 1 :] if line)
