"""Finding what programs say in their logs. Each pattern is one program's own message."""

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
#: Before 0.9 without sizes.
KV_TOO_SHORT = re.compile(
    r"max seq len \((?P<asked>\d+)\) is larger than the maximum number of tokens that can be stored"
    r" in KV cache \((?P<fits>\d+)\)"
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
    r"|insufficient shared memory \(shm\)|[Bb]us error.*(?:core dumped|worker)"
    r"|No space left on device.*/dev/shm"
)
CUDA_OOM = re.compile(
    r"CUDA out of memory\. Tried to allocate (?P<asked>[\d.]+ \w+)|CUDA error: out of memory"
    r"|CUDA out of memory occurred when|cudaErrorMemoryAllocation"
)
#: Those that name no setting that would do.
UNSIZED = (NO_KV, CUDA_OOM)
#: vLLM 0.32, config/model.py.
TOO_LONG = re.compile(
    r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len"
    r" \([A-Za-z_]+=(?P<limit>\d+)"
)
ARGUMENT = re.compile(
    r"(?:vllm(?: serve)?|api_server\.py): error: .+|invalid (?:tool call|reasoning) parser: .+"
)
#: vLLM 0.32, model_executor/models/registry.py.
ARCHITECTURE = re.compile(
    r"Model architectures? (?P<what>\[.*?\]|\S+) "
    r"(?:(?:is|are) not supported|was supported in vLLM|failed to be inspected)"
)
#: transformers 5, models/auto/configuration_auto.py.
MODEL_TYPE = re.compile(
    r"has model type `(?P<what>[^`]+)` but Transformers does not recognize"
    r"|No model type (?P<other>\S+) (?:is )?registered"
)

#: huggingface_hub 1.x, utils/_http.py, and what the hub itself answers.
TOKEN_REFUSED = re.compile(
    r"Invalid credentials in Authorization header|token seems invalid|User Access Token .*expired"
    r"|Invalid user token"
)
GATED = re.compile(
    r"Access to model \S+ is restricted|access a gated repo|Cannot access gated repo"
)
#: Said to a token that is wrong, and to whoever has none.
ANONYMOUS = re.compile(r"Invalid username or password")
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
    r"|Failed to resolve '|[Tt]emporary failure in name resolution|Name or service not known"
    r"|Failed to establish a new connection|Max retries exceeded with url: /(?!.*SSLError)"
    r"|ConnectTimeout|ProxyError|Network is unreachable"
)

#: CUDA's numbers for what keeps it from starting.
CUDA_NOT_READY = re.compile(r"[Ee]rror 802: system not yet initialized|cudaErrorSystemNotReady")
CUDA_OLD_DRIVER = re.compile(
    r"CUDA driver version is insufficient|NVIDIA driver on your system is too old"
    r"|[Ee]rror 804: forward compatibility"
    r"|unsatisfied condition: cuda|update your driver to a newer version"
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
    r"|libnvidia-ml\.so\S*: cannot open shared object"
    r"|libcuda\.so\S*: cannot open shared object|Found no NVIDIA driver on your system"
)
LOST = re.compile(r"GPU is lost|Unable to determine the device handle|fallen off the bus")
NVML_UNKNOWN = re.compile(r"Failed to initialize NVML: (?:Unknown Error|Insufficient Permissions)")

#: Docker's.
NOT_RUNNING = re.compile(r"is not running|is restarting|stopped state|No such container")
NO_TOOLKIT = re.compile(
    r"could not select device driver|failed to discover GPU vendor from CDI"
    r"|nvidia-container-runtime\S*: executable file not found"
    r"|\"nvidia-container-(?:runtime|cli)\S*\": executable file not found"
    r"|unknown or invalid runtime name: nvidia"
)
NO_GPU = re.compile(r"device error: (?P<gpu>\S+): unknown device")
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

_ERROR = re.compile(
    r"(?:\b[A-Z]\w*)?(?:Error|Exception)\b.*|\b(?:error:|ERROR:|FATAL|CRITICAL).*"
    r"|(?:Illegal instruction|Segmentation fault|Bus error|Killed)\b.*"
)
#: pydantic's: the reason stands behind the error, with the input, which may be anything, after it.
_REASON = re.compile(
    r"(?:Value error, |Assertion failed, )(?P<why>.+)|^\W*(?:\([\w ]+ pid=\d+\))?\s+"
    r"(?P<field>(?:Input should be|Field required|Extra inputs are not).*)"
)
_INPUT = re.compile(r"\s*\[type=\w+(?:, input_value=.*)?$")
_PREFIX = re.compile(
    r"^\s*(?:\([\w ]+ pid=\d+\) ?)?(?:[A-Z]+ \d\d-\d\d [\d:]+ \[[^\]]+\]\s*)?\s*(?:Value error, )?"
)
_EMPTY_WORDS = re.compile(r"Engine core initialization failed|WorkerProc initialization failed")


def said_by(agent: AgentSeen, pattern: Pattern[str]) -> Match[str] | None:
    """Where an agent that is not well said so: Docker's reason, or the last time in its log."""
    if agent.well:
        return None
    lines = [*agent.log, agent.container.error]
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
    return shortened(_INPUT.sub("", _PREFIX.sub("", match.string)))


def last_error(log: tuple[str, ...]) -> str:
    """The reason of the last error that a log tells, whole; or its last line."""
    telling = [found for line in log if (found := _told(line)) and not _EMPTY_WORDS.search(line)]
    lines = telling or [line for line in log if line.strip()]
    return shortened(lines[-1]) if lines else ""


def _told(line: str) -> str:
    if reason := _REASON.search(line):
        return _INPUT.sub("", reason["why"] or reason["field"])
    # What is true of a whole class of errors stands before what it was this time.
    error = _ERROR.search(line)
    return error[0] if error and "validation error" not in line else ""


def shortened(text: str, length: int = 1000) -> str:
    """Text in one line of no more than ``length`` characters. Programs say where they are first,
    and what is wrong last: what is left out is in the middle."""
    text = " ".join(text.split())
    if len(text) <= length:
        return text
    begin = length // 4
    return f"{text[:begin]} ... {text[begin + 5 - length :]}"
