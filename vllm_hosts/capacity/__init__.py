"""Whether agents fit their GPUs: a pure plan, from settings, cards and models' configurations.

``plan_host(settings, gpus, models)`` plans a host; ``AgentPlan.largest_max_model_len`` is the
longest sequence, in tokens, that would fit. See docs/capacity.md.
"""

from vllm_hosts.capacity.fields import UnplannableError
from vllm_hosts.capacity.model import ModelFiles
from vllm_hosts.capacity.plan import plan_host
from vllm_hosts.capacity.result import AgentPlan, Gpu, HostPlan, Needs, Verdict

__all__ = [
    "AgentPlan",
    "Gpu",
    "HostPlan",
    "ModelFiles",
    "Needs",
    "UnplannableError",
    "Verdict",
    "plan_host",
]
