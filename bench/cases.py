"""What is measured: for each case the programs that do it, and what nobody can do without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

from bench import floors
from bench.far import Far
from bench.programs import (
    BIN,
    CHANGED,
    PLAY_CHANGED,
    PLAY_UNCHANGED,
    ROOT,
    STOCK_CHANGED,
    STOCK_UNCHANGED,
    UNCHANGED,
    Way,
    well,
)
from lab import hosts, layout
from lab.settings import AGENTS
from vllm_hosts.keys.places import state_folder

ANSIBLE, STOCK = ROOT / "bench/ansible", ROOT / "bench/stock"
OURS, KEYS, REVOKED = "deploy.py", "keys.py", "keys revoke && keys.py"
EXEC, SSH, THEIRS, PLAIN = "pyinfra exec -- true", "ssh true", "ansible-playbook", "stock pyinfra"
RESTART, UNASKED, APART = (
    "docker restart, until healthy",
    "deploy.py, capacity.preflight off",
    "apt, docker pull, vLLM's start",
)
_OFF = {"VLLM_HOSTS_LOOKAHEAD": "0"}
#: What the last runs have asked. Its own module would bring pyinfra, which replaces what the relay
#: needs.
_ASKED = "asked.json"
_CLIENT = "to-be-revoked"


def without(program: str) -> str:
    """With the speed-up that has a switch turned off."""
    return f"{program}, VLLM_HOSTS_LOOKAHEAD=0"


@dataclass
class Site:
    """Some of the lab's hosts, as far away as the relay makes them.

    :ivar ansible: where Ansible is installed; None: it is not compared with.
    :ivar gateways: they are gateways, not GPU hosts.
    """

    far: Far
    inventory: str
    ansible: Path | None
    gateways: bool = False
    #: Context lengths for the agent that changes: each run gets one that its host does not have.
    lengths: Iterator[int] = field(
        default_factory=lambda: chain.from_iterable(repeat(range(1023, 512, -1)))
    )

    @property
    def count(self) -> int:
        return len(self.far.hosts)

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.far.hosts]

    def pyinfra(self, *words: str) -> list[str]:
        """pyinfra's command for these hosts, through the relay."""
        options = self.far.pyinfra(*self.far.hosts)
        return [str(BIN / "pyinfra"), "-y", *options, self.inventory, *words]

    def deployed(self, environment: Mapping[str, str] | None = None) -> None:
        """Deploy, unmeasured; then Ansible and stock pyinfra know what to keep."""
        well(*self.pyinfra("deploy.py"), environment=environment)
        if not self.gateways:
            self.far.for_ansible()

    def play(self, book: str, expected: str) -> Iterator[Way]:
        """Ansible's run, where it is installed."""
        if self.ansible is not None:
            words = [str(self.ansible / "bin/ansible-playbook"), "-i", str(self.far.inventory)]
            config = {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg")}
            yield Way(THEIRS, [[*words, book]], config, expected, self.count, folder=ANSIBLE)

    def stock(self, expected: str) -> Way:
        """The run of pyinfra's own operations, without this project's config.py."""
        words = [str(BIN / "pyinfra"), "-y", "inventory.py", "deploy.py"]
        environment = {"BENCH_INVENTORY": str(self.far.inventory)}
        return Way(PLAIN, [words], environment, expected, folder=STOCK)


@dataclass(frozen=True)
class Case:
    """One thing that runs are measured at.

    :ivar ours: whose times others are compared with; ``floor``: and what it is compared with.
    :ivar counts: for how many hosts it makes sense here.
    :ivar far: at each round trip; else at the smallest only, as what it waits for is on the host.
    """

    name: str
    title: str
    ours: str
    floor: str
    counts: Sequence[int]
    far: bool
    begun: Callable[[Site], None]
    ways: Callable[[Site], Iterator[Way]]


def _nothing(site: Site) -> Iterator[Way]:
    deploy = [site.pyinfra("deploy.py")]
    yield Way(SSH, [site.far.ssh(host, "true") for host in site.far.hosts])
    yield Way(EXEC, [site.pyinfra("exec", "--", "true")])
    yield Way(OURS, deploy, {}, UNCHANGED, site.count)
    yield Way(without(OURS), deploy, _OFF, UNCHANGED, site.count)
    if not site.gateways:
        yield site.stock(STOCK_UNCHANGED)
        yield from site.play("site.yml", PLAY_UNCHANGED)


def _key(site: Site) -> Iterator[Way]:
    keys = site.pyinfra("keys.py")
    revoke = [str(BIN / "vllm-hosts"), "keys", "revoke", site.inventory, _CLIENT]

    def known() -> Mapping[str, str]:
        """A client whose key all of these hosts accept."""
        if _CLIENT not in well("vllm-hosts", "keys", "list", site.inventory):
            well("vllm-hosts", "keys", "add", site.inventory, _CLIENT)
        well(*keys)
        return {}

    def revoked() -> Mapping[str, str]:
        """A client whose key is no longer in the store."""
        known()
        well(*revoke)
        return {}

    yield Way(EXEC, [site.pyinfra("exec", "--", "true")])
    yield Way(KEYS, [keys], {}, CHANGED, site.count, revoked)
    yield Way(without(KEYS), [keys], _OFF, CHANGED, site.count, revoked)
    one = len(revoke)
    both = ["bash", "-c", f'"${{@:1:{one}}}" && "${{@:{one + 1}}}"', "bash", *revoke, *keys]
    yield Way(REVOKED, [both], {}, CHANGED, site.count, known)


def with_length(length: int, **groups: object) -> dict[str, str]:
    """The environment in which the first agent of the first host has this context length."""
    agents = [AGENTS[0] | {"max_model_len": length}, *AGENTS[1:]]
    return {"LAB_SETTINGS": json.dumps({"hosts": {"gpu1": {"agents": agents}}, **groups})}


def rewritten(compose: str, length: int) -> str:
    """compose.yaml whose first agent has this context length."""
    found, times = re.subn(r'("--max-model-len"\n\s+- ")\d+"', rf'\g<1>{length}"', compose, count=1)
    if not times:
        raise ValueError("compose.yaml has no --max-model-len")
    return found


def _setting(site: Site) -> Iterator[Way]:
    host = next(iter(site.far.hosts))
    deploy, agent = [site.pyinfra("deploy.py")], AGENTS[0]
    script = floors.restart(agent["name"], agent["port"])

    def changed(**groups: object) -> Mapping[str, str]:
        return with_length(next(site.lengths), **groups)

    def kept_changed() -> Mapping[str, str]:
        path = site.far.files(host) / "opt/vllm/compose.yaml"
        path.write_text(rewritten(path.read_text(), next(site.lengths)))
        return {}

    off = partial(changed, capacity={"preflight": "off"})
    yield Way(RESTART, [floors.sent(site.far, host, script)])
    yield Way(OURS, deploy, {}, CHANGED, prepared=changed)
    yield Way(without(OURS), deploy, _OFF, CHANGED, prepared=changed)
    # What it costs that vLLM itself is asked before anything of the agent is touched.
    yield Way(UNASKED, deploy, {}, CHANGED, prepared=off)
    theirs = [site.stock(STOCK_CHANGED), *site.play("site.yml", PLAY_CHANGED)]
    yield from (replace(way, prepared=kept_changed) for way in theirs)


#: Models that are there already, on each host: the floors fetch none.
_SMALL = {"LAB_SETTINGS": json.dumps({"agents": AGENTS[:1]})}


def _fresh(site: Site) -> Iterator[Way]:
    def reset() -> Mapping[str, str]:
        """Hosts without anything, and a controller that has not seen them."""
        hosts.reset(site.names)
        (state_folder(ROOT / site.inventory) / _ASKED).unlink(missing_ok=True)
        return {}

    kept = json.loads(site.far.inventory.read_text())["all"]["hosts"]
    apart = [
        floors.sent(
            site.far,
            host,
            floors.fresh(site.far.files(host), kept[host.name]["packages"]),
            "etc/apt",
            "etc/docker",
            "opt/vllm",
        )
        for host in site.far.hosts
    ]
    yield Way(APART, apart, prepared=reset)
    yield Way(OURS, [site.pyinfra("deploy.py")], _SMALL, CHANGED, site.count, reset)
    yield from (replace(way, prepared=reset) for way in site.play("fresh.yml", PLAY_CHANGED))


#: Lab hosts that run vLLM at the same time: what its machine has room for.
WITH_VLLM = 2


def machines(count: int) -> list[layout.Host]:
    """The lab's hosts that are measured. More than have room for vLLM are gateways."""
    return layout.gpu_hosts(count) if count <= WITH_VLLM else layout.gateways(count)


CASES = {
    case.name: case
    for case in (
        Case(
            "nothing",
            "Nothing to change",
            OURS,
            EXEC,
            (1, 2, 4, 8),
            True,
            Site.deployed,
            _nothing,
        ),
        Case("key", "One key revoked", KEYS, EXEC, (1, 2, 4, 8), True, Site.deployed, _key),
        Case(
            "setting",
            "One agent's max_model_len changed",
            OURS,
            RESTART,
            (1,),
            True,
            Site.deployed,
            _setting,
        ),
        Case(
            "fresh",
            "Fresh host, warm caches",
            OURS,
            APART,
            (1, 2),
            False,
            lambda site: site.deployed(_SMALL),
            _fresh,
        ),
    )
}
