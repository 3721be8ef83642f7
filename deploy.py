"""From fresh hosts to closed vLLM endpoints: `pyinfra inventory/prod.py deploy.py`."""

from vllm_hosts.project import run
from vllm_hosts.roles.assertions import assertions
from vllm_hosts.roles.balancer import balancer
from vllm_hosts.roles.client_keys import client_keys, key_expiry
from vllm_hosts.roles.docker import docker
from vllm_hosts.roles.edge_logs import edge_logs
from vllm_hosts.roles.firewall import firewall
from vllm_hosts.roles.inner_tls import inner_tls
from vllm_hosts.roles.lock import lock
from vllm_hosts.roles.mirror import mirror
from vllm_hosts.roles.models import models
from vllm_hosts.roles.nginx import nginx, nginx_asked
from vllm_hosts.roles.nvidia_container_toolkit import gpus_in_containers, nvidia_container_toolkit
from vllm_hosts.roles.nvidia_driver import nvidia_driver
from vllm_hosts.roles.ownership import ownership
from vllm_hosts.roles.preflight import preflight
from vllm_hosts.roles.record import record
from vllm_hosts.roles.rehearsal import rehearsal
from vllm_hosts.roles.rotation import rotation
from vllm_hosts.roles.secrets import secrets, secrets_left
from vllm_hosts.roles.ssh_hardening import ssh_hardening
from vllm_hosts.roles.tls import tls
from vllm_hosts.roles.virtual_address import virtual_address
from vllm_hosts.roles.vllm import vllm
from vllm_hosts.roles.vllm_image import vllm_image, vllm_image_begun
from vllm_hosts.roles.watchdog import watchdog

agents = run.current().settings.runs_agents  # a gateway has none, and needs nothing of theirs

lock()  # one deploy at a time on a host
preflight()  # can this host take the deploy: system, ports, disk, GPUs
ownership()  # does the host belong to this inventory: its keys and its CA
if agents:
    nvidia_driver()  # the GPU driver answers; installed first, where the settings ask for it
    docker()  # Docker Engine and Compose v2, daemon.json merged
    vllm_image_begun()  # what takes longest goes on beside the next steps
nginx_asked()  # nginx would accept the edge's configuration: tested before what takes long
firewall()  # only SSH and the edge from outside; nothing to containers, nothing out of agents
if agents:
    mirror()  # one host fetches image and models for all, where the inventory names one
    nvidia_container_toolkit()  # the toolkit, pinned, where agents ask for GPUs
ssh_hardening()  # no passwords over SSH, where the settings ask for it
edge_logs()  # the edge's logs: for root and adm, bounded in size
if agents:
    secrets()  # .env with the agents' keys, for root only
    vllm_image()  # vLLM's image, without known vulnerabilities that bypass its key
    gpus_in_containers()  # containers get GPUs, where agents ask for them
    rehearsal()  # vLLM itself accepts the agents that change, before anything of them is touched
    models()  # weights on the host, whole, before an agent needs them
    vllm()  # the agents, each in a network of its own, healthy
    secrets_left()  # .env without the keys of agents that are gone
    watchdog()  # the host restarts an agent whose engine hangs behind an API that answers
tls()  # the edge's certificate
inner_tls()  # certificates between gateways and the hosts behind them, where there are gateways
balancer()  # HAProxy of a gateway: requests go to agents that work, each to its fair share
nginx()  # the edge: TLS, keys, exact paths, limits
client_keys()  # clients' keys at the edge, as the store has them
key_expiry()  # keys expire automatically
virtual_address()  # the address that gateways share, where the settings name one
rotation()  # gateways send requests to the agents, where there are gateways
record()  # what was deployed is recorded, so that drift can tell who changed it
assertions()  # the run fails if a promise does not hold
