"""Everything that `vllm-hosts top` shows of a host, in one command."""

from __future__ import annotations

import base64
import zlib
from shlex import quote

from vllm_hosts.facts.agents import inspection
from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import nvidia_smi
from vllm_hosts.host.containers import Container, named
from vllm_hosts.host.docker_stats import STATS, usages
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.host.vllm_metrics import Metrics, http_body, metrics
from vllm_hosts.text import clean
from vllm_hosts.top.sample import AgentSample, HostSample

#: Seconds for each program on the host. vLLM answers late where it has much to do.
_PATIENCE = 6
#: Seconds for all of them, so that nothing piles up on a host whose Docker hangs.
_WHOLE = 25
#: Bytes of an answer of /metrics: a busy agent has 300 kB.
_METRICS_SIZE = 16 << 20

#: bash speaks TCP by itself, and is on every Debian and Ubuntu; curl is not. /metrics asks for no
#: key. The answer travels packed: most of it is histograms.
_ASK = """
exec 3<>/dev/tcp/127.0.0.1/$0 || exit
printf 'GET /metrics HTTP/1.1\\r\\nHost: 127.0.0.1:%s\\r\\nConnection: close\\r\\n\\r\\n' $0 >&3
cat <&3
"""


class Doing(HostFact[HostSample]):
    """GPUs, containers and what vLLM says of itself. Programs run side by side; changes nothing."""

    what = "what it is doing"

    def command(self, ports: dict[str, int]) -> str:
        """:param ports: by agent, on the host's 127.0.0.1."""
        names = "|".join(ports)
        script = f"""
            ask() {{
                cut -d ' ' -f 1 /proc/uptime
                timeout {_PATIENCE} bash -c {quote(_ASK)} $1 2>/dev/null </dev/null |
                    gzip -1 | base64 -w 0
                echo
            }}
            exec {{stats}}< <(
                docker ps --format '{{{{.Names}}}}' | grep -xE '{names}' |
                    xargs -r {STATS} | grep '^{{'
            )
            exec {{gpus}}< <(
                {nvidia_smi.query(nvidia_smi.LOAD, _PATIENCE)}
            )
            waiting=()
            for agent in {" ".join(f"{agent}:{port}" for agent, port in ports.items())}; do
                exec {{said}}< <(ask "${{agent#*:}}")
                waiting+=("${{agent%%:*}} $said")
            done
            ( {inspection(list(ports))} ) || exit 1
            echo '== gpus'; cat <&$gpus
            for one in "${{waiting[@]}}"; do
                set -- $one; echo "== metrics $1"; cat <&$2
            done
            echo '== stats'; cat <&$stats
        """
        return ending(f"timeout {_WHOLE} bash -c {quote(script)} || exit 1")

    def parse(self, lines: list[str]) -> HostSample:
        parts = sections(lines)
        asked = [name.removeprefix("metrics ") for name in parts if name.startswith("metrics ")]
        known = named(parts["containers"], asked)
        used = usages(parts["stats"])
        agents = {}
        for agent in asked:
            uptime, *packed = parts[f"metrics {agent}"]
            said, problem = _metrics(known[agent], "".join(packed))
            agents[agent] = AgentSample(known[agent], float(uptime), said, problem, used.get(agent))
        cards, trouble = _gpus(parts["gpus"])
        return HostSample(cards, trouble, agents)


def _gpus(lines: list[str]) -> tuple[tuple[Gpu, ...], str | None]:
    found = nvidia_smi.read(lines, nvidia_smi.LOAD, _PATIENCE)
    if not found.installed:
        return (), None
    if found.failure:
        return (), clean(found.failure, 500)
    lost = [f"GPU {index}: {why}" for index, why in found.lost.items()]
    return found.gpus, clean(" ".join([*lost, *found.notes]), 500) or None


def _metrics(agent: Container, packed: str) -> tuple[Metrics | None, str | None]:
    if not agent.running:
        return None, f"the container is {agent.state}"
    try:
        # What is packed may be much larger than what travelled.
        unpacker = zlib.decompressobj(wbits=31)
        raw = unpacker.decompress(base64.b64decode(packed, validate=True), _METRICS_SIZE)
        if not unpacker.eof:
            raise ValueError("the answer is cut short, or too large")
        return metrics(http_body(raw)), None
    except (ValueError, OSError, zlib.error) as error:
        return None, clean(error, 500)
