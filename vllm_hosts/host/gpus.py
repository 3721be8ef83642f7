"""What agents need of a host's cards, and what a driver that does not answer means. No host."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from vllm_hosts.host.nvidia_smi import Failure, Smi, failure
from vllm_hosts.host.pci import PciDevice
from vllm_hosts.settings import Agent


def silent(failed: Failure, mode: str) -> str:
    """The sentence for a driver that does not answer.

    :param mode: ``nvidia.driver``: who would install one.
    """
    if failed.reboot_helps:
        advice = "reboot the host"
    elif mode == "present":
        advice = "install a driver, or set nvidia.driver = 'install'"
    else:
        advice = "see docs/driver.md"
    return f"the GPU driver does not answer: {failed.explained}; {advice}"


def unusable(agents: Iterable[Agent], smi: Smi) -> Iterator[str]:
    """Cards that agents ask for and cannot have, one sentence each."""
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
    """The sentence for a card that a host does not have. Preflight and the plan say the same."""
    return (
        f"agent {agent.name!r} asks for GPU {index}, and this host has"
        f" {', '.join(map(str, sorted(there))) or 'none'}; correct the agent's gpus, or see on the"
        " host which cards it has: nvidia-smi -L"
    )


def turns(agents: Sequence[str], cards: Mapping[str, Collection[int]]) -> list[list[str]]:
    """Agents in turns, so that no two of one turn have a card in common; none waits for nothing.

    vLLM measures what is free on a card while it starts, and takes another one's start for its own
    memory ("Error in memory profiling").

    :param cards: by agent; one that is not named has none.
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
    """Everything that decides about a driver.

    ``kernel`` as ``uname -r`` prints it; ``module`` is the version of NVIDIA's module that is
    loaded; ``secure_boot`` is None where the host has no UEFI firmware; ``key_enrolled``: whether
    that firmware trusts the key of modules that are built on the host; ``nvswitch``: whether the
    driver or the bus shows switches between GPUs; ``has_persistenced``: whether the persistence
    daemon is installed.
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
        """Whether NVIDIA's driver runs, be it that nothing but the kernel knows."""
        return bool(self.module or self.smi.driver) or any(
            card.driver == "nvidia" for card in self.cards
        )

    @property
    def nouveau(self) -> bool:
        """Whether the free driver holds a card, which it gives back only at a reboot."""
        return any(card.driver == "nouveau" for card in self.cards)
