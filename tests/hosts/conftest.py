"""What `vllm-hosts verify` runs: every test for each host, or agent, of an inventory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr
from testinfra.host import Host

from vllm_hosts import probe
from vllm_hosts.controller import client_ca_file
from vllm_hosts.inventory import load, validate
from vllm_hosts.keys import KeyStore
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.testing import Hosts


@dataclass(frozen=True)
class Verified:
    """What the suite looks at."""

    file: Path
    settings: dict[str, HostSettings]
    hosts: Hosts

    @property
    def agents(self) -> list[tuple[str, str]]:
        return [(host.name, agent.name) for host in self.settings.values() for agent in host.agents]

    @property
    def with_gpu(self) -> list[tuple[str, str]]:
        return [
            (host.name, agent.name)
            for host in self.settings.values()
            for agent in host.agents
            if agent.gpus
        ]


_VERIFIED: pytest.StashKey[Verified] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--inventory", default="inventory/prod.py", help="pyinfra inventory file")


def pytest_configure(config: pytest.Config) -> None:
    file = Path(config.getoption("--inventory"))
    inventory = load(file)
    config.stash[_VERIFIED] = Verified(file, validate(inventory), Hosts(inventory))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    verified = metafunc.config.stash[_VERIFIED]
    names = metafunc.fixturenames
    if "gpu_agent" in names:
        metafunc.parametrize(("host_name", "agent_name"), verified.with_gpu, scope="session")
    elif "agent" in names:
        metafunc.parametrize(("host_name", "agent_name"), verified.agents, scope="session")
    elif "settings" in names:
        metafunc.parametrize("host_name", list(verified.settings), scope="session")


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
    return next(agent for agent in settings.agents if agent.name == agent_name)


@pytest.fixture(scope="session")
def gpu_agent(agent: Agent) -> Agent:
    return agent


@dataclass(frozen=True)
class Edge:
    """The host's edge, as a client on the controller meets it."""

    settings: HostSettings
    ca_file: str | None
    key: SecretStr

    def ask(self, path: str, *, key: SecretStr | None = None, method: str = "GET") -> probe.Answer:
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        return probe.ask(
            self.settings.address,
            self.settings.edge.https_port,
            path,
            name=self.settings.edge_names[0],
            ca_file=self.ca_file,
            method=method,
            headers=headers,
        )


@pytest.fixture(scope="session")
def edge(verified: Verified, settings: HostSettings) -> Edge:
    store = KeyStore(verified.file)
    usable = [key for key in store.host_keys(settings).clients if key.agents is None]
    if not usable:
        pytest.fail("no client may use every agent of this host; the edge cannot be verified")
    return Edge(settings, client_ca_file(settings, store.folder), usable[-1].value)
