"""Finding what programs say in their logs. Each pattern is one program's own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import Match, Pattern

from vllm_hosts.doctor.seen import AgentSeen, Seen

#: vLLM 0.32, v1/core/kv_cache_utils.py; before 0.9 without the estimate, and GB for GiB.
KV_TOO_SMALL = re.compile(
    r"max seq len \((?P<asked>\d+)\), \((?P<needed>[\d.]+) Gi?B KV cache is needed, which is larger"
    r" than the available KV cache memory \((?P<available>[\d.]+) Gi?B\)"
    r"(?:.*estimated maximum model length is (?P<fits>\d+))?"
)
NO_KV = re.compile(r"No available memory for the cache blocks")
#: vLLM 0.32, v1/worker/utils.py.
CARD_TAKEN = re.compile(
    r"Free memory on device (?P<device>\S* ?)\((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on startup"
    r" is less than"
)
#: vLLM 0.32, v1/worker/cpu_worker.py.
HOST_TAKEN = re.compile(
    r"Available memory on node \d+ \((?P<free>[\d.]+)/(?P<total>[\d.]+) GiB\) on .* is less than"
)
#: vLLM 0.32, distributed/device_communicators/shm_broadcast.py; NCCL, misc/shmutils.cc.
SHARED_MEMORY = re.compile(
    r"Insufficient space in /dev/shm|[Ee]rror while creating shared memory segment"
)
CUDA_OOM = re.compile(r"CUDA out of memory\. Tried to allocate (?P<asked>[\d.]+ \w+)")
#: Those that name no setting that would do.
UNSIZED = (NO_KV, CUDA_OOM)
#: vLLM 0.32, config/model.py.
TOO_LONG = re.compile(
    r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len"
    r" \([a-z_]+=(?P<limit>\d+)"
)
ARGUMENT = re.compile(r"vllm(?: serve)?: error: (?P<what>.+)")
#: vLLM 0.32, model_executor/models/registry.py.
ARCHITECTURE = re.compile(
    r"Model architectures? (?P<what>\[.*?\]|\S+) (?:(?:is|are) not supported|was supported in vLLM)"
)

#: huggingface_hub 1.x, utils/_http.py, and what the hub itself answers.
TOKEN_REFUSED = re.compile(
    r"Invalid credentials in Authorization header|token seems invalid|User Access Token .*expired"
)
GATED = re.compile(
    r"Access to model \S+ is restricted|access a gated repo|Cannot access gated repo"
)
NOT_AUTHORIZED = re.compile(r"not in the authorized list")
NOT_FOUND = re.compile(
    r"Repository Not Found for url|is not a valid model identifier"
    r"|Invalid repository ID or local directory specified"
)
NO_REVISION = re.compile(r"Revision Not Found for url|is not a valid git identifier")
#: transformers 5, utils/hub.py; requests and httpx.
UNREACHABLE = re.compile(
    r"couldn't connect to '|annot find the requested files in the (?:disk|local) cache"
    r"|outgoing traffic has been disabled"
)

#: CUDA's numbers for what keeps it from starting.
CUDA_NOT_READY = re.compile(r"[Ee]rror 802: system not yet initialized|cudaErrorSystemNotReady")
CUDA_OLD_DRIVER = re.compile(
    r"CUDA driver version is insufficient|NVIDIA driver on your system is too old"
    r"|[Ee]rror 804: forward compatibility"
)
CUDA_MISMATCH = re.compile(r"[Ee]rror 803: system has unsupported display driver")
NO_DEVICE = re.compile(
    r"Failed to infer device type|no CUDA-capable device is detected|No CUDA GPUs are available"
)

#: NVML's and nvidia-container-cli's.
MISMATCH = re.compile(r"[Dd]river/library version mismatch")
NOT_LOADED = re.compile(
    r"couldn't communicate with the NVIDIA driver|nvml error: driver not loaded"
    r"|NVIDIA driver is not loaded|couldn't find libnvidia-ml.so"
)
LOST = re.compile(r"GPU is lost|Unable to determine the device handle|fallen off the bus")
NVML_UNKNOWN = re.compile(r"Failed to initialize NVML: (?:Unknown Error|Insufficient Permissions)")

#: Docker's.
NOT_RUNNING = re.compile(r"is not running|is restarting|stopped state|No such container")
NO_TOOLKIT = re.compile(r"could not select device driver|failed to discover GPU vendor from CDI")
PORT_TAKEN = re.compile(
    r"address already in use|port is already allocated|failed to bind host port"
)
#: But for what says so of the container's shared memory.
DISK_FULL = re.compile(r"^(?!.*/dev/shm).*[Nn]o space left on device")
NO_SOURCE = re.compile(r"bind source path does not exist: (?P<folder>\S+)")

#: The kernel's.
XID = re.compile(r"NVRM: Xid \(PCI:(?P<card>[0-9a-fA-F:.]+)\): (?P<number>\d+),?\s*(?P<text>.*)")
HELD = re.compile(r"already bound to (?P<driver>nouveau|NovaCore)|obtained ownership of the NVIDIA")
KEY_REJECTED = re.compile(
    r"[Kk]ey was rejected by service|[Ll]oading of (?:unsigned module|module with unavailable key)"
)

_ERROR = re.compile(r"\b(?:[A-Z]\w*(?:Error|Exception)\b|error:|ERROR:|FATAL|CRITICAL).*")
_PREFIX = re.compile(
    r"^\s*(?:\([\w ]+ pid=\d+\) ?)?(?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^\]]+\]\s*)?(?:Value error, )?"
)
_EMPTY_WORDS = re.compile(r"Engine core initialization failed|WorkerProc initialization failed")


def said_by(agent: AgentSeen, pattern: Pattern[str]) -> Match[str] | None:
    """Where an agent that is not well said so: Docker's reason, or the last time in its log."""
    if agent.well:
        return None
    lines = [*agent.log, agent.error]
    found = [match for line in lines if (match := pattern.search(line))]
    return found[-1] if found else None


def saying(seen: Seen, pattern: Pattern[str]) -> Iterator[tuple[AgentSeen, Match[str]]]:
    """Agents that are not well and said so."""
    for agent in seen.agents:
        if match := said_by(agent, pattern):
            yield agent, match


def in_kernel(seen: Seen, pattern: Pattern[str]) -> list[Match[str]]:
    """Where the kernel said so."""
    return [match for line in seen.kernel or () if (match := pattern.search(line))]


def line_of(match: Match[str]) -> str:
    """The line around it, without the process and time that vLLM writes first."""
    return shortened(_PREFIX.sub("", match.string))


def last_error(log: tuple[str, ...]) -> str:
    """The last line that tells an error, or the last line."""
    telling = [
        match[0] for line in log if (match := _ERROR.search(line)) and not _EMPTY_WORDS.search(line)
    ]
    lines = telling or [line for line in log if line.strip()]
    return shortened(lines[-1]) if lines else ""


def shortened(text: str, length: int = 300) -> str:
    """Text in one line of no more than ``length`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
