"""What is said of a removal before it begins, to the letter: people confirm it by that."""

from __future__ import annotations

from dataclasses import replace

from tests.unit.samples import settings
from tests.unit.test_removal_plan import AGENT, INSTALLED, OURS, THEIRS, packages, removal
from vllm_hosts.host import paths
from vllm_hosts.host.remains import Inhabitant, Remains
from vllm_hosts.roles.removal.plan import Removal
from vllm_hosts.roles.removal.words import goes, stays

FILES = "our files, keys, certificates and logs on the host are removed, its firewall table last"
MODELS = (
    "models stay in /var/lib/vllm/huggingface, /srv/models/coder; --data remove_models=true removes"
    " them"
)
STORE = "the clients' keys and the CA stay in the store here"
GOING = "containerd.io, docker-ce, libnv, nftables, nginx, nvidia-container-toolkit-base"
IPTABLES = "iptables rules of Docker's own stay in the kernel until the next boot"


def test_a_host_without_anything_of_ours() -> None:
    nothing = Removal(settings(), Remains())
    assert list(goes(nothing)) == ["nothing of ours is on the host"]
    assert list(stays(nothing)) == []


def test_all_that_goes() -> None:
    coder = Inhabitant("c" * 64, "coder", ours=True, running=False)
    found = removal(AGENT, coder, models=True)
    assert list(goes(found)) == [
        "agents coder, qwen are stopped and removed; clients get no answer any more",
        "1 image(s) of agents are removed",
        f"packages removed: {GOING}, and 3 that came with them",
        FILES,
        "models removed: /var/lib/vllm/huggingface, /srv/models/coder",
    ]
    assert list(stays(found)) == [STORE, IPTABLES]


def test_what_is_not_there_is_not_said() -> None:
    bare = removal(
        docker={"installed": False, "images": frozenset()},
        packages={name: INSTALLED[name] for name in ("libc6", "init")},
    )
    assert list(goes(bare)) == [FILES]
    assert list(stays(bare)) == [MODELS, STORE]


def test_packages_that_came_alone() -> None:
    found = removal(packages=packages("libc6", "init: libc6", "nftables"))
    assert "packages removed: nftables" in list(goes(found))


def test_what_stays_with_its_reason() -> None:
    found = removal(AGENT, THEIRS, sites=("/etc/nginx/conf.d/wiki.conf",), own_rules=True)
    assert list(stays(found)) == [
        MODELS,
        STORE,
        "Docker stays: it has other containers: db",
        "nginx stays: it has files of others: /etc/nginx/conf.d/wiki.conf",
        "nftables stays: nftables.service loads rules of others",
    ]
    # What is not on the host does not stay there.
    without = {name: one for name, one in INSTALLED.items() if name not in ("nginx", "docker-ce")}
    gone = replace(found.remains, packages=without, own_rules=False)
    gone = replace(gone, docker=replace(gone.docker, installed=False))
    assert list(stays(Removal(settings(), gone))) == [MODELS, STORE]


def test_what_others_need() -> None:
    more = INSTALLED | packages("wiki: docker-ce, nginx, nftables, libnv")
    found = removal(packages=more)
    kept = [line for line in stays(found) if line.startswith("packages")]
    # Docker, nginx and the firewall have their own reasons where they stay for their own sake.
    assert kept == ["packages that others need stay: containerd.io, docker-ce, libnv, nginx"]
    found = removal(THEIRS, packages=more, sites=("/etc/nginx/x",))
    kept = [line for line in stays(found) if line.startswith("packages")]
    assert kept == ["packages that others need stay: libnv"]
    assert "libnv" in OURS


def test_a_host_from_an_earlier_version() -> None:
    found = removal(before=None)
    assert list(stays(found)) == [
        MODELS,
        STORE,
        "an earlier version deployed first and did not write down what was there before, so"
        " packages, holds, apt's sources, daemon.json and nginx.conf stay as they are",
    ]
    assert not any(line.startswith("packages") for line in goes(found))


def test_a_driver_stays_loaded_until_the_next_boot() -> None:
    found = removal()
    manifest = replace(found.remains.manifest, files=(paths.NOUVEAU,))
    driver = Removal(settings(), replace(found.remains, manifest=manifest))
    assert list(stays(driver)) == [
        MODELS,
        STORE,
        "the GPU driver's kernel module stays loaded until the next boot",
        IPTABLES,
    ]
