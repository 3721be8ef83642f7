"""The GPU driver, on hosts where an agent asks for a GPU.

Promises: the driver answers and has the GPUs that agents ask for, before anything else is changed.
With nvidia.driver = "install": a kernel module that fits the cards, nouveau kept away, all packages
of the driver held and kept out of unattended upgrades, the persistence daemon, and on hosts with
NVSwitches the Fabric Manager at the driver's version.
Needs: preflight. Writes: apt sources, /etc/modprobe.d, /etc/apt/apt.conf.d, a systemd unit.
Reboots: the host, only if needed and only with nvidia.allow_reboot, one host at a time.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.gpu import GpuState
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.host.driver import INITRAMFS, Install
from vllm_hosts.host.gpus import silent, unusable
from vllm_hosts.operations.checks import no_problems, promise_kept
from vllm_hosts.operations.driver import (
    driver_answers,
    driver_held,
    driver_installed,
    fabric_manager_runs,
    persistence_runs,
)
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.roles.nvidia_driver.packages import fabric_manager, holds, install
from vllm_hosts.roles.nvidia_driver.plan import (
    driver_files,
    needs_install,
    persistence_unit,
    reboot_needed,
    reboot_reason,
    refusals,
)
from vllm_hosts.settings import HostSettings, Nvidia


@deploy("GPU driver")
def nvidia_driver() -> None:
    """Make sure that the driver works; install it first if the settings say so."""
    settings = run.current().settings
    nvidia = settings.nvidia
    if not settings.needs_gpu or nvidia.driver == "present":
        return
    no_problems(
        lambda: refusals(settings, look(OsRelease), look(GpuState)),
        name="A driver can be installed, or is there",
    )
    nouveau, upgrades = driver_files()
    tree_synced(
        [nouveau],
        activate=INITRAMFS,
        stamp="nouveau",
        name="The open-source driver nouveau is disabled",
    )
    tree_synced([upgrades], name="The driver is kept out of unattended upgrades")
    driver_installed(lambda: _install(nvidia), name="The driver is installed")
    driver_answers(
        partial(reboot_reason, wanted=settings.gpus),
        wanted=settings.gpus,
        refused=None if nvidia.allow_reboot else reboot_needed,
        timeout=nvidia.reboot_timeout,
        serving=run.current().serving,
        name="The driver answers",
    )
    driver_held(holds, name="The driver's packages are held")
    persistence_runs(persistence_unit(), name="The persistence daemon runs, where there is one")
    fabric_manager_runs(
        lambda: fabric_manager(look(GpuState)),
        name="The Fabric Manager runs, where it has to",
    )
    promise_kept(lambda: _problems(settings), name="The GPUs are those that agents ask for")


def _install(nvidia: Nvidia) -> Install | None:
    host = look(GpuState)
    return install(nvidia, look(OsRelease), host) if needs_install(nvidia, host) else None


def _problems(settings: HostSettings) -> list[str]:
    smi = look(GpuState).smi
    if smi.failure is not None:
        return [silent(smi.failure, settings.nvidia.driver)]
    return list(unusable(settings.agents, smi))
