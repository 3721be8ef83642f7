"""Diagnoses of GPUs, their driver and what passes them on to containers."""

from __future__ import annotations

from collections.abc import Iterator
from re import Pattern

from vllm_hosts.doctor import messages
from vllm_hosts.doctor.diagnoses import Certainty, Finding, finds
from vllm_hosts.doctor.messages import in_kernel, line_of, saying
from vllm_hosts.doctor.seen import GpusSeen, Seen
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.settings import HostSettings

#: NVIDIA's numbers (docs.nvidia.com/deploy/xid-errors): what each means; whether it is the card.
_XIDS = {
    13: ("a kernel of the program failed", False),
    31: ("the program accessed memory that it does not own", False),
    48: ("an uncorrectable memory error", True),
    62: ("its own controller stopped", True),
    63: ("a bad row of memory was remapped", True),
    64: ("a bad row of memory could not be remapped", True),
    74: ("an NVLink failed", True),
    79: ("it has fallen off the bus", True),
    92: ("many corrected memory errors", True),
    94: ("a memory error that killed one program", True),
    95: ("a memory error that reached several programs", True),
    119: ("its system processor did not answer", True),
    120: ("its system processor failed", True),
    140: ("an uncorrectable memory error", True),
}
#: Left behind whenever a program is killed in the middle of its work.
_HARMLESS_XIDS = (43, 45)
_CARD = (
    "Reboot the host. If it recurs, check power, cooling and the card's seating; then have it"
    " replaced."
)
_PROGRAM = (
    "Mostly a bug in the program: note the versions of vLLM and driver, and try the newest of both."
)
_REASONS = (
    "the hardware is too hot",
    "the driver considers it too hot",
    "the power supply demands it",
)
_STATES = {True: "Active", False: "Not Active", None: "[N/A]"}


def _broken(seen: Seen) -> GpusSeen | None:
    """What was seen where nvidia-smi fails."""
    return seen.gpus if seen.gpus and not seen.gpus.smi.answers else None


def _driver_says(seen: Seen, pattern: Pattern[str]) -> Iterator[Finding]:
    """By nvidia-smi, or by the toolkit when it starts a container."""
    gpus = _broken(seen)
    if gpus and pattern.search(gpus.smi.said):
        yield Finding(f"nvidia-smi: {gpus.smi.said}")
        return
    for agent, match in saying(seen, pattern):
        yield Finding(f"{agent.name}: {line_of(match)}")
        return


@finds("secure-boot-key")
def secure_boot_key(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The kernel said so; or Secure Boot is on and the module is not there."""
    gpus = _broken(seen)
    if gpus is None or "nvidia" in gpus.modules:
        return
    if rejected := in_kernel(seen, messages.KEY_REJECTED):
        yield Finding(line_of(rejected[-1]))
    elif gpus.smi.installed and gpus.secure_boot:
        evidence = "mokutil: SecureBoot enabled; NVIDIA's module is not loaded"
        yield Finding(evidence, Certainty.POSSIBLE)


@finds("nouveau-holds-card")
def nouveau_holds_card(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Another driver is loaded, and NVIDIA's is not."""
    gpus = _broken(seen)
    if gpus is None or "nvidia" in gpus.modules:
        return
    for driver in ("nouveau", "nova_core"):
        if driver in gpus.modules:
            held = in_kernel(seen, messages.HELD)
            evidence = line_of(held[-1]) if held else f"the kernel has loaded {driver}, not nvidia"
            yield Finding(evidence, values={"driver": driver})


@finds("driver-mismatch")
def driver_mismatch(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """NVML's own message, or CUDA's in a container."""
    found = list(_driver_says(seen, messages.MISMATCH))
    yield from found
    for agent, match in saying(seen, messages.CUDA_MISMATCH) if not found else ():
        yield Finding(f"{agent.name}: {line_of(match)}")


@finds("gpu-lost")
def gpu_lost(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """nvidia-smi's own message, which it also says of one card among others that answer."""
    for index, why in sorted(seen.gpus.smi.lost.items()) if seen.gpus else ():
        yield Finding(f"nvidia-smi reports for GPU {index}: {why}")
        return
    if seen.gpus and seen.gpus.smi.answers and messages.LOST.search(seen.gpus.smi.said):
        yield Finding(f"nvidia-smi: {seen.gpus.smi.said}")
        return
    yield from _driver_says(seen, messages.LOST)


@finds("driver-missing")
def driver_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """No nvidia-smi."""
    gpus = _broken(seen)
    if gpus and not gpus.smi.installed:
        yield Finding("the program nvidia-smi is not installed")


@finds("driver-not-loaded")
def driver_not_loaded(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """nvidia-smi fails for this reason, or for one that nobody here knows."""
    gpus = _broken(seen)
    known = (messages.MISMATCH, messages.LOST)
    if gpus is None:
        for agent, match in saying(seen, messages.NOT_LOADED):
            yield Finding(f"{agent.name}: {line_of(match)}")
    if gpus is None or not gpus.smi.installed or any(look.search(gpus.smi.said) for look in known):
        return
    sure = messages.NOT_LOADED.search(gpus.smi.said)
    yield Finding(
        f"nvidia-smi: {gpus.smi.said or 'no answer'} (exit code {gpus.smi.code})",
        Certainty.CERTAIN if sure else Certainty.LIKELY,
    )


@finds("gpu-missing")
def gpu_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """An agent asks for a card that the driver does not show."""
    if seen.gpus is None or not seen.gpus.smi.answers:
        return
    there = seen.gpus.indexes
    for agent in settings.agents:
        for gpu in sorted(set(agent.gpus) - there - set(seen.gpus.smi.lost)):
            shown = ", ".join(str(index) for index in sorted(there)) or "none"
            values = {"agent": agent.name, "gpu": gpu, "there": shown}
            yield Finding(f"nvidia-smi lists {len(there)} GPU(s)", values=values)
    for found, match in saying(seen, messages.NO_GPU):
        shown = ", ".join(str(index) for index in sorted(there)) or "none"
        values = {"agent": found.name, "gpu": match["gpu"], "there": shown}
        yield Finding(line_of(match), values=values)


@finds("toolkit-missing")
def toolkit_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Docker's own message, or there is no hook that it could call."""
    said = [f"{agent.name}: {line_of(match)}" for agent, match in saying(seen, messages.NO_TOOLKIT)]
    if said:
        yield Finding(said[0])
    elif seen.gpus and seen.deployed and not seen.gpus.toolkit:
        yield Finding("the program nvidia-container-runtime-hook is not installed")


@finds("fabric-manager-missing")
def fabric_manager_missing(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """CUDA's error 802, or switches without their manager."""
    gpus = seen.gpus
    if gpus is None:
        return
    idle = not gpus.fabric_manager.runs
    state = {"state": f"is {gpus.fabric_manager or 'not installed'}" if idle else "is not ready"}
    said = [
        f"{agent.name}: {line_of(match)}" for agent, match in saying(seen, messages.CUDA_NOT_READY)
    ]
    if gpus.switches and idle:
        evidence = said[0] if said else "/proc/driver/nvidia-nvswitch/devices is not empty"
        yield Finding(evidence, values=state)
    elif said:
        yield Finding(said[0], Certainty.LIKELY, values=state)


@finds("driver-too-old")
def driver_too_old(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """CUDA's own message."""
    for agent, match in saying(seen, messages.CUDA_OLD_DRIVER):
        yield Finding(line_of(match), values={"agent": agent.name})


@finds("container-without-gpu")
def container_without_gpu(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The host's nvidia-smi lists cards, the container's does not."""
    if seen.gpus is None or not seen.gpus.smi.answers:
        return
    for agent in seen.agents:
        values = {"agent": agent.name}
        said = " ".join(agent.gpus or ())
        if messages.NOT_RUNNING.search(said):
            continue  # it ended while it was checked
        if said and not any(line.startswith("GPU ") for line in agent.gpus or ()):
            sure = messages.NVML_UNKNOWN.search(said)
            yield Finding(
                f"nvidia-smi in {agent.name}: {messages.shortened(said)}",
                Certainty.CERTAIN if sure else Certainty.LIKELY,
                values=values,
            )
        elif agent.gpus is None and (match := messages.said_by(agent, messages.NO_DEVICE)):
            yield Finding(line_of(match), Certainty.LIKELY, values=values)


def _health(seen: Seen) -> tuple[Gpu, ...]:
    """Temperature, uncorrected ECC errors, and reasons to be slow."""
    return seen.gpus.health.gpus if seen.gpus and seen.gpus.health else ()


@finds("gpu-ecc")
def gpu_ecc(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """Errors are counted since the driver was loaded."""
    for gpu in _health(seen):
        if gpu.ecc_errors:
            yield Finding(
                f"ecc.errors.uncorrected.volatile.total of GPU {gpu.index} is {gpu.ecc_errors}",
                Certainty.LIKELY,
                values={"gpu": gpu.index, "count": gpu.ecc_errors},
            )


@finds("gpu-xid")
def gpu_xid(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """The last error of each kind and card that the kernel's log has."""
    last = {(match["card"], int(match["number"])): match for match in in_kernel(seen, messages.XID)}
    for (card, number), match in last.items():
        if number in _HARMLESS_XIDS:
            continue
        meaning, hardware = _XIDS.get(number, ("see NVIDIA's list of Xid errors", True))
        yield Finding(
            line_of(match),
            Certainty.LIKELY if hardware else Certainty.POSSIBLE,
            values={
                "number": number,
                "card": card,
                "meaning": meaning,
                "advice": _CARD if hardware else _PROGRAM,
            },
        )


@finds("gpu-throttled")
def gpu_throttled(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
    """A slowdown that is active now."""
    for gpu in _health(seen):
        slow = (gpu.hw_thermal_slowdown, gpu.sw_thermal_slowdown, gpu.hw_power_brake_slowdown)
        reasons = [why for why, active in zip(_REASONS, slow, strict=True) if active]
        if reasons:
            states = ", ".join(_STATES[active] for active in slow)
            yield Finding(
                f"nvidia-smi, GPU {gpu.index}: {states}",
                Certainty.LIKELY,
                values={
                    "gpu": gpu.index,
                    "reasons": " and ".join(reasons),
                    "temperature": "n/a" if gpu.temperature is None else f"{gpu.temperature:.0f}",
                    "advice": "Check the cooling: fans, filters, the temperature of the room."
                    if not gpu.hw_power_brake_slowdown
                    else "Check the host's power supply and its cables to the card.",
                },
            )
