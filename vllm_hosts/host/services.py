"""An agent as its compose service, from its settings. Touches no host."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import SecretStr

from vllm_hosts.host.files import File
from vllm_hosts.host.paths import PROJECT, agents_folder, key_variable, models_folder
from vllm_hosts.host.render import render
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.settings.cells import Cell
from vllm_hosts.settings.types import in_bytes

#: vLLM's drain ends with the process's own shutdown: seconds, or most of a minute where another
#: agent has the processors (37 s seen). Docker waits no longer than it takes.
_STOP_MARGIN = 100
#: In a container: what the agent may write, and what it may only read.
_CACHE = "/cache"
_MODELS = "/models"
#: A name server that is nowhere: Docker asks the host's own ones from outside the container, past
#: every rule about forwarding, unless the container names one of its own.
_NO_NAMES = "127.0.0.1"
#: Compilers of kernels take every core by themselves, and their threads count as processes.
_JOBS = "8"
_GIB = 1 << 30
_HEALTH_PROBE = (
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=8)"
)


@dataclass(frozen=True)
class Volume:
    """A folder of the host in a container."""

    source: str
    target: str
    read_only: bool


@dataclass(frozen=True)
class Secret:
    """A variable of a container that gets its value from one in .env."""

    name: str
    source: str


@dataclass(frozen=True)
class Service:
    """One agent as its compose service."""

    name: str
    image: str
    command: tuple[str, ...]
    environment: dict[str, str]
    port: int
    listen: tuple[str, ...]
    volumes: tuple[Volume, ...]
    gpus: tuple[str, ...]
    shm_size: str
    user: str
    secrets: tuple[Secret, ...]
    cell: Cell
    dns: str | None
    #: Bytes.
    memory: int
    pids: int
    stop_seconds: int
    start_seconds: int
    health_probe: str = _HEALTH_PROBE


def compose_entry(settings: HostSettings, host_memory: int) -> File:
    """The compose file.

    :param host_memory: bytes that the host has.
    """
    return File(compose_path(settings), compose_file(settings, host_memory).encode())


def compose_path(settings: HostSettings) -> str:
    """Where the compose file lies on the host."""
    return f"{settings.vllm.directory}/compose.yaml"


def variable_names(settings: HostSettings) -> list[str]:
    """Variables of .env that compose.yaml asks for."""
    return sorted({one.source for agent in settings.agents for one in secrets_of(settings, agent)})


def env_file(directory: str, variables: Mapping[str, SecretStr]) -> File:
    """.env, from which Compose takes agents' secrets. Values need no quoting: the key store has
    checked them."""
    values = {name: value.get_secret_value() for name, value in variables.items()}
    content = render("secrets/env.j2", variables=values).encode()
    return File(f"{directory}/.env", content, mode=0o600, secret=True)


def compose_file(settings: HostSettings, host_memory: int) -> str:
    """The compose file as text."""
    services = [service(settings, agent, host_memory) for agent in settings.agents]
    return render(
        "vllm/compose.yaml.j2", {"compose": _compose_string}, project=PROJECT, agents=services
    )


def _compose_string(value: str) -> str:
    """A quoted YAML string in which Compose replaces nothing."""
    return json.dumps(value.replace("$", "$$"))


def service(settings: HostSettings, agent: Agent, host_memory: int) -> Service:
    """One agent as its compose service."""
    vllm = settings.vllm
    volumes = [
        Volume(f"{agents_folder(settings)}/{agent.name}", _CACHE, read_only=False),
        Volume(models_folder(settings), _MODELS, read_only=True),
    ]
    if agent.is_folder:
        volumes.append(Volume(agent.model, agent.model, read_only=True))
    return Service(
        name=agent.name,
        image=vllm.image,
        command=tuple(_command(settings, agent)),
        environment=_environment(settings, agent),
        port=agent.port,
        listen=agent.listen_addresses,
        volumes=tuple(volumes),
        gpus=tuple(str(gpu) for gpu in agent.gpus),
        shm_size=agent.shm_size,
        user=vllm.user,
        secrets=secrets_of(settings, agent),
        cell=settings.cell(agent.name),
        dns=None if agent.egress and agent.egress.names else _NO_NAMES,
        memory=in_bytes(agent.memory) if agent.memory else memory_limit(host_memory),
        pids=agent.pids,
        stop_seconds=vllm.drain_timeout + _STOP_MARGIN,
        start_seconds=vllm.health_timeout,
    )


def memory_limit(host_memory: int) -> int:
    """What one agent may take of a host's memory: nine tenths, in whole GiB.

    A coarse number, so that another kernel's few megabytes recreate no agent.
    """
    return max(host_memory * 9 // 10 // _GIB, 1) * _GIB


def secrets_of(settings: HostSettings, agent: Agent) -> tuple[Secret, ...]:
    """What an agent reads from .env. The hub's token only where it asks the hub itself."""
    own = Secret("VLLM_API_KEY", key_variable(agent.name))
    if settings.secrets.has_hf_token and not agent.offline:
        return (own, Secret("HF_TOKEN", "HF_TOKEN"))
    return (own,)


def _command(settings: HostSettings, agent: Agent) -> list[str]:
    words = [agent.model, "--served-model-name", agent.client_model_name]
    if agent.revision:
        # vLLM takes the tokenizer at the same revision, unless told otherwise.
        words += ["--revision", agent.revision]
    words += ["--host", "0.0.0.0", "--port", "8000"]
    if agent.gpus:
        words += ["--gpu-memory-utilization", f"{agent.gpu_memory_utilization:g}"]
        words += ["--tensor-parallel-size", str(agent.tensor_parallel_size or len(agent.gpus))]
    elif agent.tensor_parallel_size:
        words += ["--tensor-parallel-size", str(agent.tensor_parallel_size)]
    if agent.max_model_len is not None:
        words += ["--max-model-len", str(agent.max_model_len)]
    words.append(
        "--enable-prefix-caching" if agent.prefix_caching else "--no-enable-prefix-caching"
    )
    if agent.quantization:
        words += ["--quantization", agent.quantization]
    if agent.tool_call_parser:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", agent.tool_call_parser]
    words += ["--allowed-media-domains", *agent.media_domains, *agent.request_limits.arguments]
    words += ["--disable-fastapi-docs", "--shutdown-timeout", str(settings.vllm.drain_timeout)]
    return [*words, *agent.extra_args]


def _environment(settings: HostSettings, agent: Agent) -> dict[str, str]:
    environment = {
        "DO_NOT_TRACK": "1",
        # At once, and not after a minute of asking a network that is not there.
        "FLASHINFER_NO_DOWNLOAD": "1",
        # The user in the container has no entry in its /etc/passwd: PyTorch asks for a name,
        # and everything that caches asks for a home.
        "HOME": f"{_CACHE}/home",
        "HF_HOME": f"{_CACHE}/huggingface",
        "MAX_JOBS": _JOBS,
        "OPENBLAS_NUM_THREADS": _JOBS,
        # What an agent leaves in its home is not code that its next start runs.
        "PYTHONNOUSERSITE": "1",
        "TORCHINDUCTOR_CACHE_DIR": f"{_CACHE}/inductor",
        "TRITON_CACHE_DIR": f"{_CACHE}/triton",
        "USER": "vllm",
        "VLLM_CACHE_ROOT": f"{_CACHE}/vllm",
        # Who may be asked for media is named; a redirect would lead elsewhere.
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_NO_USAGE_STATS": "1",
        **agent.request_limits.environment,
    }
    if agent.offline:
        # All of it is there: an agent comes up again, after a reboot too, without the hub.
        environment["HF_HUB_OFFLINE"] = "1"
        environment["HF_HUB_CACHE"] = f"{_MODELS}/hub"
    elif settings.hub.endpoint:
        environment["HF_ENDPOINT"] = settings.hub.endpoint
    return environment | agent.env
