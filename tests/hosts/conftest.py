"""What `vllm-hosts verify` runs: one test for each promise, for each host or agent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import pytest
from pydantic import SecretStr
from testinfra.host import Host

from vllm_hosts.connect.testinfra import Hosts
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.host import probe
from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.keys.sources import taken
from vllm_hosts.project.loaded import Project
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite import side_by_side
from vllm_hosts.suite.looks import Outside, asked_of
from vllm_hosts.verify.promises import promises
from vllm_hosts.verify.report.collect import Collector

#: Hosts that are checked at the same time, each by a process: they mostly wait for their host.
_AT_ONCE = 8


@dataclass
class Verified:
    """What the suite checks."""

    project: Project
    hosts: Hosts
    #: Started with the first test, awaited by those that need it.
    outside: subprocess.Popen[str] | None = None
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, HostSettings]:
        return self.project.settings

    @property
    def agents(self) -> list[tuple[str, str]]:
        """Those that run on each host."""
        return _pairs((host.name, host.own_agents) for host in self.settings.values())

    @property
    def at_edges(self) -> list[tuple[str, str]]:
        """Those that clients reach at each host."""
        return _pairs((host.name, host.edge_side.agents) for host in self.settings.values())

    @property
    def with_gpu(self) -> list[tuple[str, str]]:
        return [
            (host.name, agent.name)
            for host in self.settings.values()
            for agent in host.own_agents
            if agent.gpus
        ]


def _pairs(found: Iterable[tuple[str, Iterable[Agent]]]) -> list[tuple[str, str]]:
    return [(host, agent.name) for host, agents in found for agent in agents]


_VERIFIED: pytest.StashKey[Verified] = pytest.StashKey()
_COLLECTOR: pytest.StashKey[Collector] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inventory", default="inventory/prod.py", help="pyinfra inventory file")
    parser.addoption("--only-host", action="append", default=[], help="check this host only")
    parser.addoption("--only-promise", action="append", default=[], help="check this promise only")
    parser.addoption("--ports", default="1-65535", help="TCP ports to scan from outside")
    parser.addoption(
        "--at-once", type=int, default=_AT_ONCE, metavar="N", help="check so many hosts at once"
    )
    parser.addoption(
        "--report", default=None, help="folder for report.html, report.json, junit.xml"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = Path(config.getoption("--inventory"))
    project = Project.load(file)
    settings = project.settings
    if unknown := set(config.getoption("--only-host")) - set(settings):
        raise pytest.UsageError(f"{file} has no host {', '.join(sorted(unknown))}")
    if any(host.tls.mode == "local-ca" for host in settings.values()):
        # What needs the store says for itself why it cannot be opened.
        with suppress(SettingsError):
            project.store.authority.refresh_file()
    config.stash[_VERIFIED] = Verified(project, Hosts(project.inventory))
    shown = os.path.relpath(file) if file.is_relative_to(Path.cwd()) else str(file)
    collector = Collector(settings, file.stem, config.getoption("--report"), shown)
    config.stash[_COLLECTOR] = collector
    config.pluginmanager.register(collector, "vllm-hosts-collector")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    verified = metafunc.config.stash[_VERIFIED]
    chosen = metafunc.config.getoption("--only-host") or list(verified.settings)
    names = metafunc.fixturenames
    marker = metafunc.definition.get_closest_marker("promise")
    assert marker is not None, f"{metafunc.definition.name} checks no promise"
    promise = promises()[marker.args[0]]
    # A host that a promise is not about is said to be one, not left out.
    exempt = {name: promise.exempt(verified.settings[name]) for name in chosen}
    if "gpu_agent" in names or "agent" in names:
        pairs = verified.at_edges if "edge" in names else verified.agents
        pairs = verified.with_gpu if "gpu_agent" in names else pairs
        pairs = [pair for pair in pairs if pair[0] in chosen and exempt[pair[0]] is None]
        without = dict.fromkeys(chosen, "no agent of this host has a GPU")
        without |= {name: why for name, why in exempt.items() if why is not None}
        with_some = {host for host, _ in pairs}
        params = [pytest.param(*pair) for pair in pairs]
        # At an empty list pytest itself would break.
        params += [
            pytest.param(name, None, marks=pytest.mark.skip(reason=without[name]))
            for name in chosen
            if name not in with_some
        ]
        metafunc.parametrize(("host_name", "agent_name"), params, scope="session")
    elif "settings" in names:
        hosts = [
            pytest.param(name, marks=[pytest.mark.skip(reason=why)] if why is not None else [])
            for name, why in exempt.items()
        ]
        metafunc.parametrize("host_name", hosts, scope="session")


def promise_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("promise")
    assert marker is not None, f"{item.name} checks no promise"
    return str(marker.args[0])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only the promises that were asked for; those that wait for the scan from outside last."""
    chosen = set(config.getoption("--only-promise"))
    if chosen:
        left = [item for item in items if promise_of(item) not in chosen]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: "outside" in getattr(item, "fixturenames", ()))


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Start the scan from outside before the first test, which takes a while; and let several hosts
    be checked at the same time."""
    config, verified = session.config, session.config.stash[_VERIFIED]
    if config.option.collectonly or session.testsfailed:
        return None
    wanted = [item for item in session.items if _waits(item)]
    inside: list[pytest.Item] = []
    rest: list[pytest.Item] = []
    for item in session.items:
        (inside if side_by_side.host_of(item) and not _waits(item) else rest).append(item)
    at_once = config.option.at_once
    if at_once < 2 or not side_by_side.possible(config, inside):
        _scan(config, wanted)
        return None

    def renewed() -> None:
        verified.hosts = Hosts(verified.project.inventory)

    with side_by_side.begun(session, inside, at_once, config.stash[_COLLECTOR], renewed) as finish:
        _scan(config, wanted)
        finish()
    side_by_side.run_here(session, rest)
    return True


def _waits(item: pytest.Item) -> bool:
    return "outside" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("skip")


def _scan(config: pytest.Config, wanted: list[pytest.Item]) -> None:
    """Start what looks at hosts from outside, for the tests that need it."""
    if not wanted:
        return
    verified = config.stash[_VERIFIED]
    names = {item.callspec.params["host_name"] for item in wanted}  # type: ignore[attr-defined]
    asked = {}
    for name in sorted(names):
        try:
            asked[name] = asked_of(
                verified.hosts.get(name), verified.settings[name], verified.project.store.folder
            )
        except (HostError, OSError, ValueError) as error:
            verified.seen[name] = {"error": str(error)}
    if not asked:
        return
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "vllm_hosts.verify.outside.all_scans"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Neighbours may need a password for sudo that this process took out of its own.
        env={**os.environ, **(taken() if verified.project.neighbours else {})},
    )
    assert process.stdin is not None
    process.stdin.write(
        json.dumps(
            {
                "inventory": str(verified.project.file),
                "neighbours": verified.project.neighbours,
                "hosts": asked,
                "promises": sorted({promise_of(item) for item in wanted}),
                "ports": [int(port) for port in config.option.ports.split("-")],
            }
        )
    )
    process.stdin.close()
    process.stdin = None
    verified.outside = process


@pytest.fixture(scope="session")
def verified(pytestconfig: pytest.Config) -> Verified:
    return pytestconfig.stash[_VERIFIED]


@pytest.fixture(scope="session")
def settings(verified: Verified, host_name: str) -> HostSettings:
    return verified.settings[host_name]


@pytest.fixture(scope="session")
def host(verified: Verified, settings: HostSettings) -> Host:
    """testinfra's view of the host, as root. A host that cannot be reached is an error."""
    return verified.hosts.get(settings.name)


@pytest.fixture(scope="session")
def agent(settings: HostSettings, agent_name: str) -> Agent:
    known = (*settings.own_agents, *settings.edge_side.agents)
    return next(agent for agent in known if agent.name == agent_name)


@pytest.fixture(scope="session")
def gpu_agent(agent: Agent) -> Agent:
    return agent


#: What the suite reads of a container: all but its environment and labels, which may hold keys.
_CONTAINER = (
    '{"Id":{{json .Id}},"Name":{{json .Name}},"State":{{json .State}},"HostConfig":'
    '{{json .HostConfig}},"Mounts":{{json .Mounts}},"NetworkSettings":{{json .NetworkSettings}},'
    '"ResolvConfPath":{{json .ResolvConfPath}},"Config":{"Image":{{json .Config.Image}},"User":'
    '{{json .Config.User}},"Env":[{{range .Config.Env}}{{if eq . "PYTHONNOUSERSITE=1"}}{{json .}}'
    "{{end}}{{end}}]}}"
)


@pytest.fixture(scope="session")
def containers(host: Host, settings: HostSettings) -> list[dict[str, Any]]:
    """What Docker knows of every container on the host, checked once."""
    if not settings.runs_agents:
        return []
    ids = host.check_output("docker ps --all --quiet --no-trunc").split()
    if not ids:
        return []
    found = host.check_output(f"docker inspect --format {quote(_CONTAINER)} {' '.join(ids)}")
    return [json.loads(line) for line in found.splitlines()]


@pytest.fixture(scope="session")
def inspected(containers: list[dict[str, Any]], agent: Agent) -> dict[str, Any]:
    """What Docker knows of one agent's container."""
    named = [container for container in containers if container["Name"] == f"/{agent.name}"]
    if not named:
        raise HostError(f"there is no container {agent.name}; run deploy.py")
    return named[0]


@pytest.fixture(scope="session")
def outside(verified: Verified, settings: HostSettings) -> Outside:
    """What was seen of the host from outside."""
    if verified.outside is not None:
        out, err = verified.outside.communicate()
        if verified.outside.returncode == 0:
            verified.seen |= json.loads(out)
        else:
            problem = {"error": f"the scan from outside failed: {err.strip()[-600:]}"}
            verified.seen = dict.fromkeys(verified.settings, problem) | verified.seen
        verified.outside = None
    return Outside(verified.seen[settings.name])


@pytest.fixture(scope="session")
def noted(pytestconfig: pytest.Config, host_name: str) -> Callable[[str, str], None]:
    """Writes something about the host into the report."""
    collector = pytestconfig.stash[_COLLECTOR]
    return lambda what, value: collector.note(host_name, what, value)


@pytest.fixture(scope="session")
def warned(pytestconfig: pytest.Config, host_name: str) -> Callable[[str], None]:
    """Says at the end of the run what breaks no promise yet."""
    collector = pytestconfig.stash[_COLLECTOR]
    return lambda sentence: collector.warn(host_name, sentence)


@dataclass(frozen=True)
class Edge:
    """The host's edge, as a client on the controller meets it: its agents are those of the fleet,
    where the host is a gateway."""

    settings: HostSettings
    store: KeyStore

    @property
    def ca_file(self) -> str | None:
        """
        :raises HostError: it is not there; ssl would not say which file.
        """
        file = client_ca_file(self.settings, self.store.folder)
        if file is not None and not Path(file).is_file():
            raise HostError(
                f"{file} does not exist, with which clients trust this edge; the first deploy"
                " creates it, and vllm-hosts ca prints it"
            )
        return file

    @cached_property
    def key(self) -> SecretStr:
        """Of a client who may use every agent."""
        usable = [key for key in self.store.host_keys(self.settings).clients if key.agents is None]
        if not usable:
            raise HostError("no client may use every agent of this host; add one that may")
        return usable[-1].value

    def ask(
        self,
        path: str,
        *,
        key: SecretStr | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> probe.Response:
        """What the edge answers, when it is not busy with the refusals of other tests."""
        return probe.patiently(lambda: self.ask_once(path, key=key, method=method, headers=headers))

    def ask_once(
        self,
        path: str,
        *,
        key: SecretStr | None = None,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
    ) -> probe.Response:
        """What the edge answers now.

        :param key: sent as ``Authorization``; others go into ``headers``.
        """
        headers = dict(headers or {})
        if key:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        return probe.get(
            self.settings.address,
            self.settings.edge.https_port,
            path,
            name=self.settings.edge_names[0],
            ca_file=self.ca_file,
            method=method,
            headers=headers,
        )

    def ask_for(self, model: str, *, key: SecretStr) -> probe.Response:
        """What comes of a request for a model by its name that costs no token."""
        # The model stands last, as clients write it; no vLLM completes with less than one token.
        body = {"prompt": "x", "max_tokens": -1, "model": model}
        return self.post("/v1/completions", body, key=key)

    def post(self, path: str, body: Mapping[str, object], *, key: SecretStr) -> probe.Response:
        """What comes of a request with JSON in it."""
        headers = {
            "Authorization": f"Bearer {key.get_secret_value()}",
            "Content-Type": "application/json",
        }
        return probe.patiently(
            lambda: probe.get(
                self.settings.address,
                self.settings.edge.https_port,
                path,
                name=self.settings.edge_names[0],
                ca_file=self.ca_file,
                method="POST",
                headers=headers,
                body=json.dumps(body).encode(),
            )
        )


@pytest.fixture(scope="session")
def edge(verified: Verified, settings: HostSettings) -> Edge:
    return Edge(settings.edge_side, verified.project.store)
