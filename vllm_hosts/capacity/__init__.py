"""Whether agents fit their GPUs: a pure plan, from settings, cards and models' configurations.

``plan_host(settings, gpus, models)`` plans a host; ``AgentPlan.largest_max_model_len`` is the
longest sequence, in tokens, that would fit. See docs/capacity.md.
"""

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.memory_plan import plan_host
from vllm_hosts.capacity.model_shape import ModelFiles
from vllm_hosts.capacity.result import AgentPlan, HostPlan, Needs, PlannedGpu, Verdict

__all__ = [
    "AgentPlan",
    "HostPlan",
    "ModelFiles",
    "Needs",
    "PlannedGpu",
    "UnplannableError",
    "Verdict",
    "plan_host",
]
