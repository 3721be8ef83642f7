"""Diagnoses that one sentence of a program is enough for: an agent did not start, and said why.

Each is the words that vLLM, PyTorch, transformers, the hub's client or Docker use for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import Pattern

from vllm_hosts.doctor.diagnoses import Certainty, Doctor, Finding, finds
from vllm_hosts.doctor.messages import line_of, saying
from vllm_hosts.doctor.seen import Seen
from vllm_hosts.settings import HostSettings

#: By identifier. What a pattern calls ``what`` or ``other`` is the text's ``{what}``.
SAYINGS: dict[str, Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        # vLLM 0.32, platforms/cuda.py.
        "dtype-unsupported": r"Bfloat16 is only supported on GPUs with compute capability"
        r"|bfloat16 is not supported on",
        # Triton; vLLM 0.32, config/model.py.
        "quantization-unsupported": r"type fp8\w+ not supported in this architecture"
        r"|quantization method \S+ is not supported for the current GPU"
        r"|Minimum capability: \d+\. Current capability",
        # safetensors, src/tensor.rs; torch.load.
        "weights-damaged": r"Error while deserializing header|SafetensorError"
        r"|PytorchStreamReader failed|invalid load key",
        # vLLM 0.32, v1/worker/gpu_worker.py.
        "memory-profiling-disturbed": r"Error in memory profiling",
        "gpu-not-supported": r"no kernel image is available for execution"
        r"|with CUDA capability sm_\d+ is not compatible",
        # transformers 5, dynamic_module_utils.py.
        "remote-code-needed": r"contains custom code which must be executed"
        r"|pass the argument `?trust_remote_code=True|requires you to execute the configuration",
        # vLLM 0.32, config/model.py and others.
        "tensor-parallel-does-not-fit": r"must be divisible by tensor parallel size"
        r"|is not divisible by tensor parallel size|not divisible by weight quantization block"
        r"|is not divisible by \d+",
        "model-unreadable": r"Permission denied: '(?P<what>/(?!cache)[^']+)'",
        "agent-folder-not-writable": r"Permission denied: '(?P<what>/cache[^']*)'"
        r"|Read-only file system: '(?P<other>/[^']+)'",
        "model-incomplete": r"does not appear to have (?:a file|files) named"
        r"|Should have a `model_type` key|Cannot find any model weights"
        r"|No such file or directory: '/\S+\.(?:safetensors|json|bin)'"
        r"|Can't load tokenizer for|Unable to load vocabulary|is not a valid JSON file",
        "toolkit-state": r"nvidia-container-cli: (?:detection|initialization) error:"
        r" nvml error: (?:unknown|insufficient)",
        "toolkit-cgroups": r"failed to add device rules|bpf_prog_query",
        "docker-rules-gone": r"No chain/target/match by that name|Unable to enable \w+ rule"
        r"|programming external connectivity .*(?:iptables|nftables) failed"
        r"|Failed to (?:Setup|program) .*(?:iptables|NAT)",
        "docker-network-missing": r"network \S+ not found|failed to set up container networking:"
        r" network \S+ not found",
        "gpu-peer-access": r"peer access is not supported|peer mapping resources exhausted",
        "nccl-failed": r"NCCL error|ncclSystemError|ncclUnhandledCudaError|ncclInternalError"
        r"|Watchdog caught collective operation timeout",
        # tokenizers, in Rust.
        "tokenizer-not-read": r"untagged enum ModelWrapper"
        r"|Couldn't instantiate the backend tokenizer|Tokenizer class \S+ does not exist",
        # vLLM 0.32, model_executor/models/utils.py.
        "weights-do-not-match": r"There is no module or parameter named"
        r"|Following weights were not initialized from checkpoint"
        r"|size mismatch for |Attempted to load weight .* into parameter",
        "cpu-not-supported": r"Illegal instruction",
        "image-for-another-cpu": r"exec format error|exec user process caused: exec format",
        "hub-busy": r"429 (?:Client Error|Too Many Requests)|Too Many Requests for url",
        "hub-certificate": r"CERTIFICATE_VERIFY_FAILED|certificate verify failed",
        "cuda-unknown-error": r"CUDA unknown error|[Ee]rror 999: unknown error",
        "too-few-gpus-seen": r"invalid device ordinal"
        r"|exceeds the number of (?:available|visible) (?:GPUs|devices)",
        "gpu-memory-error": r"uncorrectable ECC error|cudaErrorECCUncorrectable",
        "illegal-memory-access": r"illegal memory access was encountered"
        r"|device-side assert triggered|unspecified launch failure",
        # vLLM 0.32, entrypoints/chat_utils.py.
        "chat-template-missing": r"chat template string .* appears path-like, but doesn't exist",
        "too-many-processes": r"can't start new thread|Resource temporarily unavailable"
        r"|pthread_create failed",
    }.items()
}
#: What may be something else: the words are used for more than one thing.
_LIKELY = ("nccl-failed", "illegal-memory-access", "toolkit-state", "cuda-unknown-error")


def _doctor(name: str, pattern: Pattern[str]) -> Doctor:
    def found(settings: HostSettings, seen: Seen) -> Iterator[Finding]:
        for agent, match in saying(seen, pattern):
            groups = match.groupdict()
            one = next(one for one in settings.agents if one.name == agent.name)
            what = groups.get("what") or groups.get("other") or ""
            values = {"agent": agent.name, "model": one.model, "what": what}
            sure = Certainty.LIKELY if name in _LIKELY else Certainty.CERTAIN
            yield Finding(line_of(match), sure, values)

    return found


for _name, _pattern in SAYINGS.items():
    finds(_name)(_doctor(_name, _pattern))
