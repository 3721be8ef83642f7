"""pyinfra loads this first. Everything is validated before the first connection."""

from vllm_hosts import run

run.install()
