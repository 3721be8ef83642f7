"""Lab hosts for the tests: booted once, fresh at the start, deployed to once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from lab import hosts as lab_hosts
from lab import image_kept, layout
from tests.lab.deploys import ROOT, Run, deploy
from tests.lab.fleet import Fleet, deployed_both, deployed_fleet
from tests.lab.in_lanes import WITH_IMAGE
from tests.lab.watch import ArgumentWatch
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings

INVENTORY = ROOT / "inventory" / "lab.py"
HOSTS = ("gpu1", "gpu2")


@dataclass(frozen=True)
class Deployed:
    """Two hosts after the first deploy to fresh systems."""

    first_run: Run
    settings: dict[str, HostSettings]
    ca_file: Path
    client_key: SecretStr
    #: Every secret that must show up nowhere, by what it is.
    canaries: dict[str, SecretStr]
    seen_in_arguments: tuple[str, ...]

    def leaks(self, text: str) -> list[str]:
        """Which secrets are in a text."""
        return [name for name, key in self.canaries.items() if key.get_secret_value() in text]


@pytest.fixture(scope="session")
def lab() -> Iterator[None]:
    """The lab is up, with fresh hosts. For work on a single test: LAB_KEEP=1 leaves it up
    afterwards, LAB_REUSE=1 takes the hosts as they are."""
    with_image = WITH_IMAGE in os.environ
    new = lab_hosts.up(len(HOSTS), with_image=with_image)
    if not os.environ.get("LAB_REUSE") and (old := [name for name in HOSTS if name not in new]):
        lab_hosts.reset(old, with_image=with_image)
    yield
    if not os.environ.get("LAB_KEEP"):
        lab_hosts.down()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of gateways come last: they take the hosts over, with keys of another inventory. After
    them those of hosts that are gateways as well."""

    def order(item: pytest.Item) -> int:
        names = getattr(item, "fixturenames", ())
        return 2 if "both" in names else int("fleet" in names)

    items.sort(key=order)


@pytest.fixture(scope="session")
def fleet(lab: None) -> Fleet:
    """Gateways and the hosts behind them, deployed to once; from then on they are no others'."""
    return deployed_fleet()


@pytest.fixture(scope="session")
def both(lab: None) -> Fleet:
    """Two hosts that are gateways as well, deployed to once."""
    return deployed_both()


@pytest.fixture(scope="session")
def deployed(lab: None) -> Deployed:
    """The first deploy, at the highest verbosity, with every process's arguments watched; plainly
    where another lane has the tests that look at it."""
    os.chdir(ROOT)
    # Two runs beside each other are given the same.
    os.environ.setdefault("HF_TOKEN_OF_THE_LAB", "hf_" + secrets.token_urlsafe(24))
    layout.HUB_TOKENS.touch(mode=0o600)
    layout.HUB_TOKENS.write_text(os.environ["HF_TOKEN_OF_THE_LAB"])
    settings = validate(load(INVENTORY))
    store = KeyStore(INVENTORY)
    # The first deploy would make them, and they are looked for in what it prints.
    now = utc_now()
    store.update(
        lambda content: store_content.with_internal(content, HOSTS, now),
        start=store_content.new_content(now),
    )
    client = store.client_key("default")
    canaries = {
        f"internal key of {agent.name} on {host}": store.host_keys(settings[host]).internal_of(
            agent.name
        )
        for host in HOSTS
        for agent in settings[host].agents
    }
    canaries |= {
        f"internal key of {host}": store.host_keys(settings[host]).internal for host in HOSTS
    }
    canaries |= {"client's key": client, "token": SecretStr(os.environ["HF_TOKEN_OF_THE_LAB"])}
    seen: tuple[str, ...] = ()
    if WITH_IMAGE in os.environ:
        run = deploy()
    else:
        with ArgumentWatch(key.get_secret_value() for key in canaries.values()) as watch:
            run = deploy("-vvv", "--debug", "--diff")
        seen = tuple(watch.seen)
    if run.code == 0:
        image_kept.keep(lab_hosts.root(HOSTS[1]))
    return Deployed(
        first_run=run,
        settings=settings,
        ca_file=store.folder / "ca.pem",
        client_key=client,
        canaries=canaries,
        seen_in_arguments=seen,
    )
