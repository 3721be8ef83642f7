"""The lab's hosts behind its gateways: deployed to once, and what tests look at and break there."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from lab import hosts as lab_hosts
from lab import network
from lab.nspawn import boot, stop
from lab.settings import BOTH as BOTH_HOSTS
from tests.lab.deploys import ROOT, Run, command
from vllm_hosts.keys import KeyStore
from vllm_hosts.project.inventory import load, validate
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.fleet import Pool

FLEET = "inventory/lab_fleet.py"
#: Of hosts that are gateways too.
BOTH = "inventory/lab_both.py"
GATEWAYS = ("gw1", "gw2")
GPU_HOSTS = ("gpu1", "gpu2", "gpu3")
#: Served by every GPU host, and by gpu1 alone.
CHAT, DRAFT = "lab/chat", "lab/draft"
#: Seconds until an agent that was started serves again, with all that this machine has to do.
BACK = 420
#: Seconds until a gateway notices that an agent is dead, or hangs.
NOTICED = 10

_SOCKET = "/run/vllm-hosts-balancer/admin.sock"
_STAT = f"echo 'show stat' | timeout 10 socat -t 10 - UNIX-CONNECT:{_SOCKET}"


@dataclass(frozen=True)
class Fleet:
    """Gateways and GPU hosts after the first deploy to fresh systems.

    ``gateways``: their names, which may be those of GPU hosts.
    """

    first_run: Run
    settings: Mapping[str, HostSettings]
    ca_file: Path
    client_key: SecretStr
    gateways: tuple[str, ...] = GATEWAYS

    def url(self, gateway: str) -> str:
        return f"https://{self.settings[gateway].address}"

    @property
    def urls(self) -> list[str]:
        return [self.url(gateway) for gateway in self.gateways]

    @property
    def pools(self) -> tuple[Pool, ...]:
        return self.settings[self.gateways[0]].edge_side.pools

    def pool(self, model: str) -> Pool:
        [found] = [pool for pool in self.pools if pool.model == model]
        return found

    def server(self, host: str, model: str = CHAT) -> str:
        """What gateways call a host's agent."""
        [found] = [one.server for one in self.pool(model).replicas if one.host == host]
        return found

    def states(self, gateway: str) -> dict[str, str]:
        """HAProxy's word for each agent, by what it calls it: UP, DOWN or DRAIN; ``UP, slow`` while
        one that came back gets only a part of its share."""
        return states(gateway, self.settings[gateway].edge_side.pools)

    def up(self, gateway: str, host: str, model: str = CHAT) -> bool:
        """Whether a gateway sends a host's agent requests, also on its way up or down."""
        return self.states(gateway)[self.server(host, model)].startswith("UP")

    def wait_whole(self, timeout: float = BACK) -> None:
        """Until every agent gets its share of requests from every gateway."""
        names = {one.server for pool in self.pools for one in pool.replicas}
        deadline = time.monotonic() + timeout
        while True:
            seen = {gateway: self._looked(gateway) for gateway in self.gateways}
            wrong = {
                f"{server} at {gateway}: {states.get(server, 'not there')}"
                for gateway, states in seen.items()
                for server in names
                if states.get(server) != "UP"
            }
            if not wrong:
                return
            assert time.monotonic() < deadline, f"after {timeout:.0f} s: {sorted(wrong)}"
            time.sleep(1)

    def _looked(self, gateway: str) -> dict[str, str]:
        try:
            return self.states(gateway)
        except (RuntimeError, KeyError):
            return {}

    def wait_for(
        self,
        host: str,
        up: bool,
        *,
        timeout: float,
        model: str = CHAT,
        at: Sequence[str] = (),
    ) -> dict[str, float]:
        """Until all gateways say that an agent gets requests, or none; seconds, by gateway.

        :param at: these only.
        """
        begun, took = time.monotonic(), dict[str, float]()
        gateways = at or self.gateways
        while len(took) < len(gateways):
            for gateway in gateways:
                if gateway not in took and self.up(gateway, host, model) == up:
                    took[gateway] = time.monotonic() - begun
            seconds = time.monotonic() - begun
            states = {one: self.states(one) for one in gateways if one not in took}
            assert not states or seconds < timeout, (
                f"{self.server(host, model)} of {host} is not {'in' if up else 'out of'} rotation"
                f" after {seconds:.0f} s: {states}"
            )
            time.sleep(0.2)
        return took


def states(gateway: str, pools: Sequence[Pool]) -> dict[str, str]:
    """As ``Fleet.states``."""
    said = lab_hosts.run(gateway, _STAT).stdout
    names = {pool.name for pool in pools}
    return {
        row["svname"]: row["status"] + (", slow" if _slow(row) else "")
        for row in csv.DictReader(io.StringIO(said.removeprefix("# ")))
        if row["pxname"] in names and row["svname"] not in ("FRONTEND", "BACKEND")
    }


def _slow(row: Mapping[str, str]) -> bool:
    return row["status"] == "UP" and row["weight"] != row["uweight"]


def asked(
    fleet: Fleet,
    gateway: str,
    *,
    key: SecretStr | None = None,
    headers: Mapping[str, str] | None = None,
    **body: Any,
) -> requests.Response:
    """One chat, on a connection of its own."""
    words = {"model": CHAT, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    bearer = (key or fleet.client_key).get_secret_value()
    return requests.post(
        f"{fleet.url(gateway)}/v1/chat/completions",
        headers={**(headers or {}), "Authorization": f"Bearer {bearer}"},
        json=words | body,
        verify=str(fleet.ca_file),
        timeout=60,
    )


def models(fleet: Fleet, gateway: str, key: SecretStr | None = None) -> requests.Response:
    """What a gateway lists for a key."""
    bearer = (key or fleet.client_key).get_secret_value()
    return requests.get(
        f"{fleet.url(gateway)}/v1/models",
        headers={"Authorization": f"Bearer {bearer}"},
        verify=str(fleet.ca_file),
        timeout=20,
    )


def keys(*words: str) -> None:
    """A command about clients' keys, and what it leads to on gateways and hosts."""
    verb, *rest = words
    well(command("vllm-hosts", "keys", verb, FLEET, *rest))
    well(command("pyinfra", "-y", FLEET, "keys.py"))


def key_of(client: str) -> SecretStr:
    return KeyStore(ROOT / FLEET).client_key(client)


def deploy(*options: str, settings: dict[str, Any] | None = None, inventory: str = FLEET) -> Run:
    """The main job on the gateways and the hosts behind them, without questions."""
    return command("pyinfra", "-y", *options, inventory, "deploy.py", settings=settings)


def well(run: Run) -> Run:
    """A command that has to succeed."""
    assert run.code == 0, run.output[-6000:]
    return run


def deployed_fleet() -> Fleet:
    """Boot gateways and hosts, fresh unless LAB_REUSE=1, and deploy to them."""
    os.chdir(ROOT)
    lab_hosts.up(len(GPU_HOSTS), gateways=len(GATEWAYS))
    if not os.environ.get("LAB_REUSE"):
        lab_hosts.reset([*GPU_HOSTS, *GATEWAYS])
    return _deployed(FLEET, GATEWAYS)


def deployed_both() -> Fleet:
    """Two hosts that are gateways as well, fresh unless LAB_REUSE=1, and deployed to."""
    os.chdir(ROOT)
    # What the lab has besides would have agents and gateways of another inventory.
    for name in (*lab_hosts.gpu_host_names(), *lab_hosts.gateway_names()):
        if name not in BOTH_HOSTS:
            stop(name)
    if not os.environ.get("LAB_REUSE"):
        lab_hosts.reset(BOTH_HOSTS)
    return _deployed(BOTH, BOTH_HOSTS)


def _deployed(inventory: str, gateways: tuple[str, ...]) -> Fleet:
    run = deploy(inventory=inventory)
    if run.code != 0:
        # Every test would say the same.
        pytest.exit(f"the fleet cannot be deployed:\n{run.output[-12000:]}", returncode=1)
    store = KeyStore(ROOT / inventory)
    return Fleet(
        first_run=run,
        settings=validate(load(ROOT / inventory)),
        ca_file=store.folder / "ca.pem",
        client_key=store.client_key("default"),
        gateways=gateways,
    )


def started(host: str, agent: str = "chat") -> str:
    """Which container an agent is, and when it was started."""
    return lab_hosts.run(
        host, f"docker inspect {agent} --format '{{{{.Id}}}} {{{{.State.StartedAt}}}}'"
    ).stdout.strip()


def killed(host: str, agent: str = "chat") -> None:
    """SIGKILL to the container's first process: Docker starts it again by itself."""
    lab_hosts.run(host, f"kill -KILL $(docker inspect {agent} --format '{{{{.State.Pid}}}}')")


def engine(host: str, signal: str, agent: str = "chat") -> None:
    """A signal to the engine's own process, and not to the API's."""
    lab_hosts.run(
        host,
        f"id=$(docker inspect {agent} --format '{{{{.Id}}}}'); found=; for p in /proc/[0-9]*; do"
        " ! { grep -qs $id $p/cgroup && grep -qsa ^VLLM::EngineCore $p/cmdline; } ||"
        f' {{ kill -{signal} ${{p#/proc/}} && found=yes; }}; done; [ -n "$found" ]',
    )


@contextmanager
def frozen(host: str, agent: str = "chat") -> Iterator[None]:
    """The engine stands still, and its API answers."""
    engine(host, "STOP", agent)
    try:
        yield
    finally:
        engine(host, "CONT", agent)


@contextmanager
def without_link(host: str) -> Iterator[None]:
    """The host's cable is out: nobody says that its connections ended."""
    _link(host, "down")
    try:
        yield
    finally:
        _link(host, "up")


def _link(host: str, state: str) -> None:
    # The lab's own, of which this machine has the other end.
    done = command_here("ip", "link", "set", network.link(host), state)
    assert done.returncode == 0, done.stderr


def command_here(*words: str) -> subprocess.CompletedProcess[str]:
    """A program of this machine."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)


@contextmanager
def without_power(host: str) -> Iterator[None]:
    """The host is off; afterwards it boots."""
    stop(host)
    try:
        yield
    finally:
        boot(lab_hosts.host(host), lab_hosts.root(host))


def statuses(fleet: Fleet) -> str:
    """For messages."""
    return "; ".join(f"{gateway}: {fleet.states(gateway)}" for gateway in GATEWAYS)
