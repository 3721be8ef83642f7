"""The command `vllm-hosts`: what people do with an inventory besides deploying it.

Exit codes: ``cli.command.Exit``.
"""

from __future__ import annotations

import click

from vllm_hosts import __version__
from vllm_hosts.cli.lazy import LazyGroup

_COMMANDS = {
    "agents": "Show, start, stop, restart and drain agents; read logs.",
    "ca": "Print the CA certificate that clients need, in PEM.",
    "check": "Validate all settings, without connecting to any host.",
    "docs": "Print a document that a message names, or list them all.",
    "doctor": "Diagnose hosts: what is wrong, and what to do.",
    "drift": "Show where hosts differ from what a deploy would leave.",
    "endpoints": "Print how to call each agent.",
    "history": "Show who changed hosts, from where, and what.",
    "hosts": "List, adopt and release hosts that hold an inventory's keys.",
    "images": "List the vLLM images on hosts, or remove old ones.",
    "init": "Make a site: a folder with your inventory and settings.",
    "keys": "Manage clients' API keys: add, list, show, rotate, revoke.",
    "lock": "Show which runs hold hosts at the moment, or end such a run.",
    "plan": "Say whether vLLM takes agents and they fit their GPUs.",
    "settings": "Print every setting: its type, default and meaning.",
    "tls": "Show when the edges' certificates expire, or renew them.",
    "top": "Watch GPUs, requests, tokens and KV caches.",
    "usage": "Add up the tokens that went through the edges.",
    "verify": "Verify every host independently, from inside and from outside.",
}


@click.group(
    cls=LazyGroup,
    summaries=_COMMANDS,
    alone=("docs", "init", "settings"),
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
def main() -> None:
    """Check, verify, diagnose and operate the hosts that deploy.py deploys to.

    Completion for bash: eval "$(_VLLM_HOSTS_COMPLETE=bash_source vllm-hosts)"
    """


if __name__ == "__main__":
    main()
