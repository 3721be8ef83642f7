"""The compose file of a host, from its settings. Touches no host."""

from __future__ import annotations

import json
from dataclasses import dataclass

from vllm_hosts.render import render
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.tree import Entry, File, Folder

PROJECT = "vllm"
#: vLLM's drain ends with the process's own shutdown: seconds, or most of a minute where another
#: agent has the processors (37 s seen). Docker waits no longer than it takes.
_STOP_MARGIN = 100
_CACHE = "/cache"
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
    secrets: tuple[str, ...]
    stop_seconds: int
    start_seconds: int
    health_probe: str = _HEALTH_PROBE


def peers(settings: HostSettings) -> dict[str, list[str]]:
    """By agent: the others on the host that answer to the same model name, from the same model."""
    return {agent.name: list(settings.twins(agent.name)) for agent in settings.agents}


def compose_entries(settings: HostSettings) -> list[Entry]:
    """The compose file, and the folder for models and compiled kernels."""
    vllm = settings.vllm
    owner, _, group = vllm.user.partition(":")
    return [
        Folder(vllm.directory),
        Folder(vllm.cache_directory, mode=0o750, owner=owner, group=group),
        File(compose_path(settings), compose_file(settings).encode()),
    ]


def compose_path(settings: HostSettings) -> str:
    """Where the compose file lies on the host."""
    return f"{settings.vllm.directory}/compose.yaml"


def compose_file(settings: HostSettings) -> str:
    """The compose file as text."""
    services = [service(settings, agent) for agent in settings.agents]
    return render(
        "vllm/compose.yaml.j2", {"compose": _compose_string}, project=PROJECT, agents=services
    )


def _compose_string(value: str) -> str:
    """A quoted YAML string in which Compose replaces nothing."""
    return json.dumps(value.replace("$", "$$"))


def service(settings: HostSettings, agent: Agent) -> Service:
    """One agent as its compose service."""
    vllm = settings.vllm
    volumes = [Volume(vllm.cache_directory, _CACHE, read_only=False)]
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
        secrets=_secrets(settings, agent),
        stop_seconds=vllm.drain_timeout + _STOP_MARGIN,
        start_seconds=vllm.health_timeout,
    )


def _secrets(settings: HostSettings, agent: Agent) -> tuple[str, ...]:
    """Names in .env that an agent reads. The hub's token only where it asks the hub itself."""
    if settings.secrets.has_hf_token and not agent.offline:
        return ("VLLM_API_KEY", "HF_TOKEN")
    return ("VLLM_API_KEY",)


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
        # The user in the container has no entry in its /etc/passwd: PyTorch asks for a name,
        # and everything that caches asks for a home.
        "HOME": f"{_CACHE}/home",
        "HF_HOME": f"{_CACHE}/huggingface",
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
    elif settings.hub.endpoint:
        environment["HF_ENDPOINT"] = settings.hub.endpoint
    return environment | agent.env
