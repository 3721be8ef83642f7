"""The command ``vllm-hosts``: a file for each of its commands."""

from vllm_hosts.cli.main import main

__all__ = ["main"]
