"""What is not exact: activations, CUDA graphs, and what the driver and libraries take.

All of it depends on kernels, and changes from one vLLM to the next. Constants were fitted to
published measurements, whose sources stand beside them; docs/capacity.md shows the errors.
"""

from __future__ import annotations

from vllm_hosts.capacity.model_shape import Model

GIB = 1024**3

#: Of nvidia-smi's memory.total, what the driver keeps and PyTorch does not see: 81559 MiB are 79.18
#: GiB on an H100, 24576 are 23.58 to 23.69 on an RTX 3090, 143771 are 139.81 on an H200.
DRIVER = int(0.45 * GIB)
#: CUDA's context and libraries. 0.13 to 0.35 seen on one GPU, 0.55 with NCCL on two:
#: llm-d-benchmark, config_explorer/empirical-vllm-memory-results.md; vllm issue 10517.
CONTEXT, CONTEXT_WITH_PEERS = int(0.25 * GIB), int(0.6 * GIB)
#: CUDA graphs, which count since vLLM 0.21. 0.39 to 1.03 GiB seen, the latter for 120B parameters.
GRAPHS = int(0.5 * GIB)
#: Bytes for each sequence and each token of the vocabulary while vLLM draws tokens for as many
#: sequences as it may have: logits in 16 and in 32 bits, probabilities, noise. vLLM 0.19 left room
#: for 21 on an A100 (see published_logs.yaml).
SAMPLER = 22
#: The same until vLLM 0.18, which sorted: 38.4 fits Llama, Qwen and gpt-oss on an H100 within 1 %
#: (llm-d-benchmark, as above).
SAMPLER_SORTING = 38.4
#: From this memory on, other cards than A100 compute more at once (vllm/engine/arg_utils.py,
#: get_batch_defaults): tokens in one step, and sequences.
LARGE_CARD = 70 * GIB
LARGE_BATCH, USUAL_BATCH = (8192, 1024), (2048, 256)


def batch_defaults(name: str, memory: int) -> tuple[int, int]:
    """Tokens in one step and sequences at once that vLLM takes on a card, if nobody says.

    :param memory: of the card, in bytes.
    """
    large = memory >= LARGE_CARD and "a100" not in name.lower()
    return LARGE_BATCH if large else USUAL_BATCH


def activations(
    model: Model, tp: int, batched: int, sequences: int, sampler: float = SAMPLER
) -> int:
    """Bytes at the peak of one step on each GPU.

    Either in an MLP (three vectors of its width beside the hidden one, for each token; for experts
    of all that a token goes through), or where tokens are drawn (``sampler`` bytes for each
    sequence and word beside the hidden vectors).
    """
    at_once, width = model.active
    inside = at_once * (3 * width // tp + (model.hidden if at_once > 1 else 0))
    forward = batched * 2 * (inside + model.hidden)
    drawing = int(sequences * model.vocabulary * sampler) + batched * 2 * model.hidden
    return max(forward, drawing)


def context(tp: int) -> int:
    """Bytes that CUDA and NCCL take on each GPU."""
    return CONTEXT if tp == 1 else CONTEXT_WITH_PEERS


def graphs(eager: bool) -> int:
    """Bytes of captured CUDA graphs on each GPU."""
    return 0 if eager else GRAPHS
