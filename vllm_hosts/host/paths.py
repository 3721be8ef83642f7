"""Paths on a host that one role writes and another one refers to."""

from __future__ import annotations

from vllm_hosts.settings import Agent, HostSettings

#: The Compose project that all agents of a host are in.
PROJECT = "vllm"
EDGE_CONF = "/etc/nginx/conf.d/vllm-hosts.conf"
EDGE_FOLDER = "/etc/nginx/vllm-hosts"
#: What nginx's workers read for themselves, which are not root.
EDGE_LUA = "/etc/nginx/vllm-hosts-lua"
#: The distribution's default site: it takes port 80 for every name, and serves a welcome page.
NGINX_WELCOME = "/etc/nginx/sites-enabled/default"
EDGE_LOGS = "/var/log/vllm-hosts"
#: Whose keys the host has.
STORE_MARK = "/etc/vllm-hosts/store"
#: The firewall's own table, as it is loaded at boot.
FIREWALL_RULES = "/etc/vllm-hosts/firewall.nft"
FIREWALL_UNIT = "vllm-hosts-firewall.service"
#: First in its folder: sshd keeps the first value that it reads.
SSHD_CONF = "/etc/ssh/sshd_config.d/00-vllm-hosts.conf"
PERSISTENCE_UNIT = "/etc/systemd/system/nvidia-persistenced.service"
NOUVEAU = "/etc/modprobe.d/vllm-hosts-nouveau.conf"
TLS_FOLDER = "/etc/vllm-hosts/tls"
TLS_CERTIFICATE = f"{TLS_FOLDER}/certificate.pem"
TLS_KEY = f"{TLS_FOLDER}/key.pem"
#: What gateways and the hosts behind them know each other by.
GATEWAY_FOLDER = "/etc/vllm-hosts/gateway"
#: The CAs whose certificates they accept from each other.
GATEWAY_CA = f"{GATEWAY_FOLDER}/ca.pem"
#: Of a gateway: its certificate followed by its key, as HAProxy reads them.
GATEWAY_CLIENT = f"{GATEWAY_FOLDER}/client.pem"
#: Of a host behind gateways: for the names of its agents among each other.
INNER_CERTIFICATE = f"{GATEWAY_FOLDER}/inner.pem"
INNER_KEY = f"{GATEWAY_FOLDER}/inner.key"
#: What nginx of a host behind gateways reads of these, and HAProxy of a gateway.
INNER_FILES = (GATEWAY_CA, INNER_CERTIFICATE, INNER_KEY)
GATEWAY_FILES = (GATEWAY_CA, GATEWAY_CLIENT)
#: HAProxy of a gateway: its configuration, its unit, and the folder with its sockets.
BALANCER_FOLDER = "/etc/vllm-hosts/balancer"
BALANCER_CONF = f"{BALANCER_FOLDER}/haproxy.cfg"
BALANCER_UNIT = "vllm-hosts-balancer.service"
BALANCER_RUN = "/run/vllm-hosts-balancer"

#: keepalived of a gateway that shares an address with others. Its user enters the folder for the
#: script, and keepalived runs no script that others than root could change.
KEEPALIVED_FOLDER = "/etc/vllm-hosts/keepalived"
KEEPALIVED_CONF = f"{KEEPALIVED_FOLDER}/keepalived.conf"
KEEPALIVED_UNIT = "vllm-hosts-keepalived.service"
KEEPALIVED_RUN = "/run/vllm-hosts-keepalived"
#: Whether this gateway itself answers.
GATEWAY_ANSWERS = f"{KEEPALIVED_FOLDER}/gateway-answers"

#: What a mirror serves with: an nginx of its own, its certificate, and the CAs of who may ask.
MIRROR_FOLDER = "/etc/vllm-hosts/mirror"
MIRROR_CONF = f"{MIRROR_FOLDER}/nginx.conf"
MIRROR_CERTIFICATE = f"{MIRROR_FOLDER}/certificate.pem"
MIRROR_KEY = f"{MIRROR_FOLDER}/key.pem"
MIRROR_CA = f"{MIRROR_FOLDER}/ca.pem"
MIRROR_UNIT = "vllm-hosts-mirror.service"
MIRROR_RUN = "/run/vllm-hosts-mirror"
#: Images as registries have them: a folder for each.
MIRROR_STATE = "/var/lib/vllm-hosts-mirror"
MIRROR_IMAGES = f"{MIRROR_STATE}/images"
#: Where Docker looks for certificates, by the place of a registry, at each pull.
DOCKER_CERTS = "/etc/docker/certs.d"


def pool_socket(pool: str) -> str:
    """Where a gateway's HAProxy takes requests for one pool from nginx.

    Agents may be called ``admin`` or ``master``, as HAProxy's own sockets are.
    """
    return f"{BALANCER_RUN}/in.{pool}.sock"


#: Compose reads these beside compose.yaml, unasked; we never write them.
_OVERRIDES = (
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yaml",
    "docker-compose.override.yml",
)


def compose_overrides(settings: HostSettings) -> list[str]:
    """Files with which Compose would override what compose.yaml says of the agents."""
    return [f"{settings.vllm.directory}/{name}" for name in _OVERRIDES]


def key_variable(agent: str) -> str:
    """The variable in .env that holds an agent's internal key."""
    return f"VLLM_API_KEY_{agent.upper().replace('-', '_')}"


def agents_folder(settings: HostSettings) -> str:
    """Has a folder for each agent, the only one that the agent can write."""
    return f"{settings.vllm.cache_directory}/agents"


def models_folder(settings: HostSettings) -> str:
    """Models from the hub, in huggingface_hub's layout."""
    return f"{settings.vllm.cache_directory}/huggingface"


def model_folder(settings: HostSettings, agent: Agent) -> str:
    """The agent's model, or where it will be once it is downloaded from the hub."""
    if agent.model.startswith("/"):
        return agent.model
    cached = agent.model.replace("/", "--")
    return f"{models_folder(settings)}/hub/models--{cached}"


#: What deploys note on a host, for those that come after them.
STATE = "/var/lib/vllm-hosts"
#: One small file per service: the digest of the files that it last loaded.
STAMPS = f"{STATE}/stamps"
#: One small file for each model: what was there when it was complete.
MODEL_NOTES = f"{STATE}/models"
#: One small file for each agent: the seconds that it took to start.
STARTS = f"{STATE}/starts"
#: One small file for each agent: how often the watchdog restarted it, and when. For root only.
WATCHDOG = f"{STATE}/watchdog"
#: The same for what it has seen of an agent since the boot.
WATCHDOG_SEEN = "/run/vllm-hosts-watchdog"
#: What HAProxy of a gateway knows of its servers, such as those that are drained. For root only.
BALANCER_STATE = f"{STATE}/balancer"
#: Of a gateway: a file for each of HAProxy's servers that somebody drained by hand, and that no
#: deploy puts back therefore.
DRAINED = f"{STATE}/drained"
#: Images that agents used, the last one at the end.
IMAGES_RECORD = f"{STATE}/images"
#: Ids of containers that ran before Docker was replaced or restarted, and are to run afterwards.
RAN = f"{STATE}/containers-that-ran"
#: Earlier versions of files that are not secret.
PREVIOUS = f"{STATE}/previous"


#: What was deployed to this host: SHA-256 and path, `-` for a path where nothing should be. While a
#: change is under way a path has two lines, so that a run that is cut off leaves nothing false.
DEPLOYED = f"{STATE}/deployed"


#: Copies of deployed files that are not secret, valid only if their digest is in that record.
COPIES = f"{STATE}/deployed-files"


#: What the host had before its first deploy, for root only.
BEFORE = f"{STATE}/before"
#: What deploys brought besides files, a line each, for root only.
MANIFEST = f"{STATE}/manifest"


#: Held by the deploy or command that changes this host, for root only. What is there after a boot
#: was written since.
LOCK = "/run/vllm-hosts.lock"
#: What a run that holds the host has there for a moment, as a pattern of mktemp's; and what a look
#: has, which holds nothing and is named by its process. What was left of them, killed on the spot,
#: goes with the next run (data/hold.sh), and these go with remove.py.
WORK, LOOK = "/run/vllm-hosts.XXXXXX", "/run/vllm-hosts-look.$$.XXXXXX"
PASSING = " ".join(
    f"/run/vllm-hosts{kind}" for kind in (".??????", "-look.*", "-verify.*", "-rehearsal.*")
)
#: Folders of changes that the host rolls back unless they are confirmed.
UNDO = "/run/vllm-hosts-undo"
#: The same of a change that waits for its confirmation, for a boot before that. For root only.
UNCONFIRMED = f"{STATE}/unconfirmed"
#: Undoes it at boot. It is there only as long as a change waits.
UNCONFIRMED_UNIT = "/etc/systemd/system/vllm-hosts-unconfirmed.service"
#: A line for each run that changed something here, for root only.
HISTORY = f"{STATE}/history"
#: What deploys have seen healthy, for a way back: `now`, the last one, and `before`, the one before
#: that. For root only, and without secrets.
WAY_BACK = f"{STATE}/way-back"
