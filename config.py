"""pyinfra loads this first. Everything is validated before the first connection."""

from vllm_hosts.project import early

early.install()
