"""nginx on a host: its main configuration, and the edge's maps."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import SecretStr

from vllm_hosts.host.paths import EDGE_FOLDER

#: The distribution's own file.
MAIN_CONF = "/etc/nginx/nginx.conf"
#: Included by Debian's and Ubuntu's nginx.conf outside of any block.
LIMITS_CONF = "/etc/nginx/modules-enabled/00-vllm-hosts-limits.conf"


@dataclass(frozen=True)
class MainConf:
    """nginx.conf, byte for byte. ``kind`` is a letter, as of ``Found``; ``content`` is only of a
    regular file."""

    kind: str
    content: bytes
    mode: int
    owner: str
    group: str


#: Maps that the edge includes: upstream -> key, and agent -> upstream if it is another agent's.
INTERNAL_MAP = f"{EDGE_FOLDER}/internal.map"


TARGETS_MAP = f"{EDGE_FOLDER}/targets.map"


#: What a gateway's upstreams have before the agent's name where the machine runs agents itself,
#: whose upstreams are called as on every host. No agent's name has an underscore.
FRONT = "front_"


def upstream(agent: str) -> str:
    """The name of an agent's upstream in nginx."""
    return f"vllm_hosts_{agent}"


def internal_line(agent: str, key: SecretStr) -> str:
    """An agent's line in the map of internal keys."""
    return f'{upstream(agent)} "{key.get_secret_value()}";'


#: The folder with all of nginx's configuration.
NGINX_FOLDER = "/etc/nginx"


#: Stand in for the folders of the certificate and of the logs, which may not exist yet.
TRIAL_FOLDER = f"{NGINX_FOLDER}/vllm-hosts-trial"


_RAISED = re.compile(rb"\b(worker_connections|worker_rlimit_nofile)(\s+)\d+")


def only_raised(now: bytes, before: bytes) -> bool:
    """Whether two versions of nginx.conf differ in nothing but the numbers that deploys raise."""
    return _RAISED.sub(rb"\1\2", now) == _RAISED.sub(rb"\1\2", before)
