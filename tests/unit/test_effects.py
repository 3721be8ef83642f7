"""O2: what a dry run says that changes lead to, in the words of the operations themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.context import ctx_host, ctx_state

from vllm_hosts.facts.firewall import Loaded
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host.files import File, Found
from vllm_hosts.operations import driver, firewall, foreseen, ssh, tree
from vllm_hosts.operations.edge import RELOADED
from vllm_hosts.project.outlook import effects

ENTRY = File("/etc/x.conf", b"new\n")
RIGHT = Found("f", 0o644, ("root", "0"), ("root", "0"), ENTRY.sha256)
ANOTHER = Found("f", 0o644, ("root", "0"), ("root", "0"), "0" * 64)
NO_FILE = Found("-")

Told = Callable[..., list[str]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What stands below pyinfra's table, when an operation was asked for its first command."""
    outlook = foreseen.begin(dry=True)

    def ask(
        operation: Callable[..., Any], *given: Any, seen: dict[str, Any], **options: Any
    ) -> list[str]:
        for module in (driver, firewall, ssh, tree):
            monkeypatch.setattr(module, "look", lambda fact, **asked: seen[fact.__name__])
        host: Any = SimpleNamespace(name="gpu1", current_op_hash=None)
        state: Any = SimpleNamespace(is_executing=False)
        outlook.hosts.clear()
        with ctx_state.use(state), ctx_host.use(host):
            next(operation._inner(*given, **options), None)  # type: ignore[attr-defined]
        return list(effects({"gpu1": outlook.hosts.get("gpu1", foreseen.Foreseen())}))

    yield ask
    foreseen.end()


NOTHING = ["gpu1: nothing is restarted, recreated or reloaded"]


@pytest.mark.parametrize(
    ("found", "stamp", "said"),
    [
        (ANOTHER, "what was taken up", [f"gpu1: {RELOADED}"]),
        # All is there, and a run was cut off before nginx took it up.
        (RIGHT, "what was taken up", [f"gpu1: {RELOADED}"]),
        # A fresh host: nobody has an nginx to lose.
        (NO_FILE, "", NOTHING),
    ],
)
def test_nginx(told: Told, found: Found, stamp: str, said: list[str]) -> None:
    seen = {"TreeState": TreeFound({ENTRY.path: found}, stamp)}
    asked = {"activate": "true", "stamp": "edge", "effect": RELOADED}
    assert told(tree.tree_synced, [ENTRY], seen=seen, **asked) == said
    assert RELOADED == "nginx is reloaded; open requests are finished, and no connection is refused"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (ANOTHER, ["gpu1: sshd is reloaded; open connections stay"]),
        (NO_FILE, ["gpu1: sshd is reloaded; open connections stay"]),
        (RIGHT, NOTHING),
    ],
)
def test_sshd(told: Told, found: Found, said: list[str]) -> None:
    seen = {"TreeState": TreeFound({ENTRY.path: found}, "")}
    assert told(ssh.sshd_configured, [ENTRY], seen=seen) == said


@pytest.mark.parametrize(
    ("found", "in_force", "active", "changes"),
    [
        (ANOTHER, True, True, True),
        # Somebody has changed the table by hand.
        (RIGHT, False, True, True),
        (RIGHT, True, True, False),
        # A fresh host has no table that anybody goes through.
        (NO_FILE, False, False, False),
    ],
)
def test_the_firewall(
    told: Told, found: Found, in_force: bool, active: bool, changes: bool
) -> None:
    seen = {
        "TreeState": TreeFound({ENTRY.path: found}, ""),
        "FirewallLoaded": Loaded(in_force=in_force, enabled=True, active=active),
    }
    said = told(firewall.firewall_in_force, lambda: [ENTRY], ENTRY.path, "x.service", seen=seen)
    words = ["gpu1: the firewall's table is loaded anew; open connections stay"]
    assert said == (words if changes else NOTHING)


def test_the_driver_s_packages(told: Told) -> None:
    seen = {"GpuState": None}
    wanted = driver.Install(("nvidia-driver",))
    files = {"AptSourceFiles": {}, "OsRelease": SimpleNamespace(codename="trixie")}
    # That no archive has them is another test's; the words come before.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "read", lambda files, but: [])
        patch.setattr(driver, "offered", lambda sources, codename: True)
        patch.setattr(driver, "extended", lambda *words: [ENTRY])
        there = {"TreeState": TreeFound({ENTRY.path: ANOTHER}, "")}
        said = told(driver.driver_installed, lambda: wanted, seen=seen | files | there)
    assert said == ["gpu1: the GPU driver is installed, or replaced by another series"]
    assert told(driver.driver_installed, lambda: None, seen={}) == NOTHING


@pytest.mark.parametrize(
    ("allowed", "end"),
    [(True, "the host is rebooted"), (False, "the host fails (nvidia.allow_reboot)")],
)
def test_the_driver_s_module_and_a_reboot(told: Told, allowed: bool, end: str) -> None:
    def asked(trouble: str | None) -> list[str]:
        smi = SimpleNamespace(trouble=lambda wanted: trouble)
        return told(
            driver.driver_answers,
            lambda host: "the module is another",
            refused=None if allowed else (lambda why: why),
            timeout=9,
            seen={"GpuState": SimpleNamespace(smi=smi)},
        )

    assert asked("nvidia-smi says nothing") == [
        "gpu1: the kernel module of the GPU driver is loaded; where that does not work without a"
        f" reboot, {end}"
    ]
    assert asked(None) == NOTHING
