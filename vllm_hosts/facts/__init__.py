"""Facts of a host. Each reads what a role needs in one round trip, and raises if it cannot."""

from vllm_hosts.facts.base import HostFact, look

__all__ = ["HostFact", "look"]
