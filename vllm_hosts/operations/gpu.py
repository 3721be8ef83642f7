"""Verifies that containers really get GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts import look
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.paths import STAMPS
from vllm_hosts.operations.base import Commands, host_operation, watched
from vllm_hosts.operations.foreseen import DRIVER, may_have_changed

_STAMP = f"{STAMPS}/gpu"
#: What a GPU in a container depends on. Unless any of it changes, an earlier result still holds.
_DEPENDS_ON = (
    # Leaves out warnings, which come and go.
    "nvidia-smi --query-gpu=uuid,driver_version --format=csv,noheader | grep '^GPU-' || :;"
    " dpkg-query -W -f '${Version}\\n' nvidia-container-toolkit"
)


@dataclass(frozen=True)
class GpuCheck:
    """The state in which a container last had its GPUs, and the present state."""

    seen: tuple[str, ...]
    now: tuple[str, ...]


class LastGpuCheck(HostFact[GpuCheck]):
    """Driver, cards and toolkit, now and at the last check."""

    what = "the GPUs"
    steady = True

    def command(self, indexes: str) -> str:
        return ending(
            f"""
            echo '== seen'; cat {_STAMP} 2>/dev/null
            echo '== now'; ( {_DEPENDS_ON}; echo {indexes} ) 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> GpuCheck:
        parts = sections(lines)
        return GpuCheck(tuple(parts["seen"]), tuple(parts["now"]))


@host_operation
def container_gets_gpus(image: str, gpus: Sequence[int]) -> Commands:
    """Run ``nvidia-smi`` in a container with these GPUs, and count what it sees.

    Skipped while driver, cards and toolkit are the same as when this last succeeded.
    """
    indexes = ",".join(str(gpu) for gpu in gpus)
    check = look(LastGpuCheck, indexes=indexes)
    same = check.seen and check.seen == check.now
    if same and not may_have_changed([DRIVER, "nvidia-container-toolkit"]):
        return
    yield watched(
        f"running nvidia-smi in a container with GPU {indexes}",
        f"""
        set -e
        # A warning ends nvidia-smi with an exit code too; cards are counted all the same.
        seen=$(docker run --rm --network none --gpus '"device={indexes}"' \
            --entrypoint nvidia-smi {quote(image)} -L) || :
        echo "$seen"
        [ "$(echo "$seen" | grep -c '^GPU ')" = {len(gpus)} ] || {{
            echo 'the container does not see {len(gpus)} GPU(s) with index {indexes}'; exit 1; }}
        mkdir -p {STAMPS}
        ( {_DEPENDS_ON}; echo {indexes} ) 2>/dev/null >{_STAMP}
        """,
    )
