"""The command `vllm-hosts`: what people do with an inventory besides deploying it.

Exit codes: ``cli.common.Exit``.
"""

from __future__ import annotations

# isort: off
import pyinfra_cli  # noqa: F401  replaces the socket module by gevent's: before anybody uses ssl

# isort: on
import click

from vllm_hosts import __version__
from vllm_hosts.cli.agents import agents
from vllm_hosts.cli.ca import ca
from vllm_hosts.cli.check import check
from vllm_hosts.cli.common import Group
from vllm_hosts.cli.doctor import doctor
from vllm_hosts.cli.drift import drift
from vllm_hosts.cli.endpoints import endpoints
from vllm_hosts.cli.history import history
from vllm_hosts.cli.hosts import hosts
from vllm_hosts.cli.images import images
from vllm_hosts.cli.init import init, settings
from vllm_hosts.cli.keys import keys
from vllm_hosts.cli.lock import lock
from vllm_hosts.cli.plan import plan
from vllm_hosts.cli.tls import tls
from vllm_hosts.cli.top import top
from vllm_hosts.cli.verify import verify
from vllm_hosts.connect import pyinfra_output

_COMMANDS = (
    *(agents, ca, check, doctor, drift, endpoints, history, hosts),
    *(images, init, keys, lock, plan, settings, tls, top, verify),
)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Check, verify, diagnose and operate the hosts that deploy.py deploys to.

    Completion for bash: eval "$(_VLLM_HOSTS_COMPLETE=bash_source vllm-hosts)"
    """
    pyinfra_output.install()


for _command in _COMMANDS:
    main.add_command(_command)


if __name__ == "__main__":
    main()
