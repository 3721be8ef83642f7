"""What agents need from a host's cards, and what a silent driver means. Touches no host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_hosts.host.nvidia_smi import Failure, Smi, failure
from vllm_hosts.host.pci import PciDevice
from vllm_hosts.settings import Agent


def silent(failed: Failure, mode: str) -> str:
    """The sentence for a driver that does not answer.

    :param mode: ``nvidia.driver``, which says who installs a driver.
    """
    if failed.reboot_helps:
        advice = "reboot the host"
    elif mode == "present":
        advice = "install a driver, or set nvidia.driver = 'install'"
    else:
        advice = "see docs/driver.md"
    return f"the GPU driver does not answer: {failed.explained}; {advice}"


def unusable(agents: Iterable[Agent], smi: Smi) -> Iterator[str]:
    """Cards that agents ask for but cannot use, one sentence each."""
    there = {gpu.index: gpu for gpu in smi.gpus}
    for agent in agents:
        for index in sorted(agent.gpus):
            if index in smi.lost:
                why = failure(smi.lost[index])
                yield (
                    f"agent {agent.name!r} asks for GPU {index}, and nvidia-smi reports:"
                    f" {why} ({why.meaning or 'it does not answer'}); reboot"
                    " the host, or give the agent another GPU"
                )
            elif index not in there:
                yield not_there(agent, index, there)
            elif there[index].mig:
                yield (
                    f"agent {agent.name!r} asks for GPU {index}, which is split (MIG), and agents"
                    f" use whole cards; switch it off: nvidia-smi -i {index} -mig 0"
                )


def not_there(agent: Agent, index: int, there: Iterable[int]) -> str:
    """The sentence for a card that a host does not have, the same in preflight and in the plan."""
    return (
        f"agent {agent.name!r} asks for GPU {index}, and this host has"
        f" {', '.join(map(str, sorted(there))) or 'none'}; correct the agent's gpus, or see on the"
        " host which cards it has: nvidia-smi -L"
    )


def turns(agents: Sequence[str], cards: Mapping[str, Collection[int]]) -> list[list[str]]:
    """Groups agents into turns: no two agents of a turn share a card, and none waits needlessly.

    vLLM measures a card's free memory while it starts, and mistakes what another agent allocates
    meanwhile for its own ("Error in memory profiling").

    :param cards: by agent; an agent that is missing has none.
    """
    found: list[list[str]] = []
    for agent in agents:
        wanted = set(cards.get(agent, ()))
        last = max(
            (
                number
                for number, turn in enumerate(found)
                if any(wanted & set(cards.get(other, ())) for other in turn)
            ),
            default=-1,
        )
        if last + 1 == len(found):
            found.append([])
        found[last + 1].append(agent)
    return found


@dataclass(frozen=True)
class GpuHost:
    """Everything that decisions about a driver depend on.

    ``kernel`` as ``uname -r`` prints it; ``module``: version of NVIDIA's loaded module;
    ``secure_boot`` is None if the host has no UEFI firmware; ``key_enrolled``: whether that
    firmware trusts the key that signs modules built on the host; ``nvswitch``: whether the driver
    or the bus shows switches between GPUs; ``has_persistenced``: whether the persistence daemon is
    installed.
    """

    kernel: str
    has_headers: bool
    devices: tuple[PciDevice, ...]
    module: str | None
    secure_boot: bool | None
    key_enrolled: bool
    nvswitch: bool
    has_persistenced: bool
    smi: Smi

    @property
    def cards(self) -> tuple[PciDevice, ...]:
        """The GPUs on the bus."""
        return tuple(device for device in self.devices if device.is_gpu)

    @property
    def loaded(self) -> bool:
        """Whether NVIDIA's driver is loaded, even if only the kernel knows."""
        return bool(self.module or self.smi.driver) or any(
            card.driver == "nvidia" for card in self.cards
        )

    @property
    def nouveau(self) -> bool:
        """Whether the free driver holds a card, which it releases only at a reboot."""
        return any(card.driver == "nouveau" for card in self.cards)
