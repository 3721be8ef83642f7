"""The GPU driver: its packages, a kernel module that runs, and reboots if needed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_state

from vllm_hosts.errors import HostError
from vllm_hosts.facts import look
from vllm_hosts.facts.apt import AllPackages, AptSourceFiles, AptVersions
from vllm_hosts.facts.gpu import GpuState
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.facts.units import Units
from vllm_hosts.host.apt_sources import extended, offered, read
from vllm_hosts.host.driver import Install
from vllm_hosts.host.files import File, differing
from vllm_hosts.host.gpus import GpuHost, silent
from vllm_hosts.host.nvidia_smi import Failure
from vllm_hosts.operations import apt_lists
from vllm_hosts.operations.apt import archive_added, held_now, lists_read, packages_installed
from vllm_hosts.operations.base import Commands, host_operation, note, watched
from vllm_hosts.operations.differences import differs, entries_differ, remember
from vllm_hosts.operations.foreseen import (
    DRIVER,
    conditional,
    leads_to,
    may_have_changed,
    will_change,
)
from vllm_hosts.operations.one_by_one import Serving
from vllm_hosts.operations.outage import outage
from vllm_hosts.operations.reboot import rebooted
from vllm_hosts.operations.tree import change

_SOURCES = "vllm-hosts-driver"
_FABRIC_UNIT = "nvidia-fabricmanager.service"
#: Written by instructions and by NVIDIA's keyring package; apt refuses two keys for one archive.
_STALE = (
    "/etc/apt/sources.list.d/cuda.list",
    *(
        f"/etc/apt/sources.list.d/cuda-{release}-{machine}.list"
        for release in ("debian12", "debian13", "ubuntu2204", "ubuntu2404")
        for machine in ("x86_64", "sbsa")
    ),
)
#: If a module cannot be loaded, its reason becomes part of the sentence that fails the host.
_LOAD = """
if command -v modprobe >/dev/null; then
    modprobe nvidia && modprobe nvidia_uvm
else
    echo 'there is no modprobe'
fi 2>&1 || :
"""


@host_operation
def driver_installed(describe: Callable[[], Install | None]) -> Commands:
    """Install a driver's packages from where they come from.

    :param describe: returns what to install; it may query the host. None: nothing.
    """
    wanted = describe()
    if wanted is None:
        return
    will_change([DRIVER])
    leads_to("the GPU driver is installed, or replaced by another series")
    if wanted.archive is not None:
        remember([wanted.archive.source])
        yield from archive_added(wanted.archive, stale=_STALE)
    else:
        sources, release = read(look(AptSourceFiles), but=_SOURCES), look(OsRelease)
        if not offered(sources, release.codename):
            raise HostError(
                f"no apt source on this host has main of {release.codename}, whose"
                f" {' and '.join(wanted.components)} the driver comes from; add the distribution's"
                " archive to /etc/apt, or set nvidia.driver_source = 'nvidia'"
            )
        entries = extended(sources, release.codename, wanted.components, _SOURCES)
        remember(entries)
        found = look(TreeState, paths=[entry.path for entry in entries])
        if different := differing(entries, found.paths):
            entries_differ(different, found.paths)
            yield change(different, validate="apt-get indextargets >/dev/null")
            apt_lists.changed()
    if wanted.first:
        yield from packages_installed(dict.fromkeys(wanted.first))
    # The running driver is of another series, but its packages may have the same names.
    anew = look(GpuState).loaded
    yield from packages_installed(
        dict.fromkeys(wanted.packages), anew=anew, first=_headers_offered(wanted.headers)
    )


def _headers_offered(name: str | None) -> str:
    if name is None:
        return ":"
    return (
        f'[ -n "$(apt-cache madison {name})" ] || {{ echo \'the archive has no {name}: this kernel'
        " is older than its newest, or not the distribution; reboot into a newer one, or install"
        " its headers'; exit 1; }"
    )


@host_operation
def driver_answers(
    reason: Callable[[GpuHost], Failure | None],
    *,
    refused: Callable[[Failure], str] | None,
    timeout: int,
    wanted: Collection[int] = (),
    serving: Serving | None = None,
) -> Commands:
    """Load the kernel module; if only a reboot helps and it is allowed, reboot.

    Hosts reboot one at a time, and their runs continue after it.

    :param reason: why a reboot would help, from a query of the host; None: it would not.
    :param refused: the sentence for a reboot that is needed; None: it is allowed.
    :param timeout: seconds in which a rebooted host must be back.
    :param wanted: the cards that must answer; others need not.
    :param serving: the host's agents: hosts with the same models reboot while the others serve.
    """
    if look(GpuState).smi.trouble(wanted) is not None:
        differs("the GPU driver", "does not answer")
    elif not may_have_changed([DRIVER]):
        return
    conditional()
    leads_to(
        "the kernel module of the GPU driver is loaded; where that does not work without a reboot, "
        + ("the host is rebooted" if refused is None else "the host fails (nvidia.allow_reboot)")
    )
    yield watched("loading the GPU driver", _LOAD)
    if not ctx_state.get().is_executing:
        return
    host = look(GpuState)
    trouble = host.smi.trouble(wanted)
    if trouble is None:
        return
    why = reason(host)
    if why is None:
        raise HostError(silent(trouble, "install"))
    if refused is not None:
        raise HostError(refused(why))
    yield from outage([rebooted(why.words, timeout)], serving, "the host is rebooted")
    trouble = look(GpuState).smi.trouble(wanted)
    if trouble is not None:
        raise HostError(f"after a reboot ({why}): {silent(trouble, 'install')}")


@host_operation
def driver_held(part_of_it: Callable[[str], bool]) -> Commands:
    """Hold every installed package of the driver at its version, whoever installed it."""
    found = look(AllPackages)
    loose = sorted(name for name in found.versions if part_of_it(name) and name not in found.held)
    for name in loose:
        differs(f"package {name}", "is not held")
    if loose or may_have_changed([DRIVER]):
        yield held_now(loose)


@host_operation
def persistence_runs(unit: File) -> Commands:
    """Run the persistence daemon with this unit, now and at boot.

    Skipped on hosts without the daemon: a driver that somebody else installed may have none.
    """
    if not look(GpuState).has_persistenced:
        if may_have_changed([DRIVER]):
            yield note("the driver that will be installed may have one")
        return
    name = unit.path.rpartition("/")[2]
    remember([unit])
    found = look(TreeState, paths=[unit.path])
    state = look(Units, names=[name])[name]
    start = f"systemctl enable {name} && systemctl restart {name}"
    if different := differing([unit], found.paths):
        entries_differ(different, found.paths)
        yield change(different, activate=f"systemctl daemon-reload && {start}")
    elif not (state.active and state.enabled):
        differs(name, "does not run, or not at boot")
        yield StringCommand(start)


@host_operation
def fabric_manager_runs(names: Callable[[], tuple[str, ...]]) -> Commands:
    """Run the Fabric Manager at exactly the driver's version; any other would exit.

    :param names: possible names of its package; empty: this host needs none.
    """
    wanted = names()
    if not wanted:
        return
    unit = look(Units, names=[_FABRIC_UNIT])[_FABRIC_UNIT]
    if unit.active and unit.enabled:
        return
    differs(_FABRIC_UNIT, "does not run, or not at boot")
    yield from lists_read()
    if not ctx_state.get().is_executing:
        return
    driver = look(GpuState).smi.driver
    package = matching(look(AptVersions, names=list(wanted)), wanted, driver or "")
    if package is None:
        raise HostError(
            "no archive of this host has a Fabric Manager at exactly the driver's version"
            f" {driver}, which"
            " its NVSwitches need; see docs/driver.md"
        )
    yield from packages_installed(dict([package]), held=True)
    yield StringCommand(f"systemctl enable {_FABRIC_UNIT} && systemctl restart {_FABRIC_UNIT}")


def matching(
    offered: dict[str, tuple[str, ...]], names: tuple[str, ...], driver: str
) -> tuple[str, str] | None:
    """The first of these packages that is available at the driver's version, and that version."""
    for name in names:
        for version in offered.get(name, ()):
            if upstream(version) == driver:
                return name, version
    return None


def upstream(version: str) -> str:
    """``580.95.05`` of ``580.95.05-0ubuntu0.24.04.1``."""
    found = re.match(r"(?:\d+:)?([0-9.]+)", version)
    return found[1] if found else version
