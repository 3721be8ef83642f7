"""One agent: a vLLM container with a model, a port and its GPUs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vllm_hosts.settings.types import Cidr, EnvName, Network, Port, Section, Size, _matches

#: What vLLM must never be told by hand, and what to do instead.
_FORBIDDEN_ARGUMENTS = {
    "--api-key": "the key comes from .env, where `ps` cannot show it",
    "--root-path": "it turns authentication off",
    "--host": "only 127.0.0.1 of the host reaches the container",
    "--port": "set the agent's port",
    "--uds": "the edge reaches agents by port",
    "--config": "a file could hold any of the refused arguments; write them out",
    "--ssl-keyfile": "the edge terminates TLS",
    "--ssl-certfile": "the edge terminates TLS",
    "--model": "set model",
    "--revision": "set revision",
    "--hf-token": "set secrets.hf_token_env; an argument shows in `ps`",
    "--served-model-name": "set served_model_name",
    "--gpu-memory-utilization": "set gpu_memory_utilization",
    "--max-model-len": "set max_model_len",
    "--enable-prefix-caching": "set prefix_caching",
    "--no-enable-prefix-caching": "set prefix_caching",
    "--enable-auto-tool-choice": "set tool_call_parser",
    "--tool-call-parser": "set tool_call_parser",
    "--quantization": "set quantization",
    "--tensor-parallel-size": "set tensor_parallel_size",
    "--shutdown-timeout": "set vllm.drain_timeout",
    "--disable-fastapi-docs": "it is always set",
}
_SHORT_ARGUMENTS = {"-q": "--quantization", "-tp": "--tensor-parallel-size"}
_FORBIDDEN_ENV = {
    "VLLM_SERVER_DEV_MODE": "it opens control routes without a key",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it lets clients load weights",
    "VLLM_API_KEY": "the toolkit sets the key through .env",
    "HF_TOKEN": "set secrets.hf_token_env; the token then stays out of compose.yaml",
    "HUGGING_FACE_HUB_TOKEN": "set secrets.hf_token_env; the token stays out of compose.yaml",
    "HF_ENDPOINT": "set hub.endpoint; models are fetched through it",
    "HF_HOME": "set vllm.cache_directory; models are fetched into it",
    "HF_HUB_CACHE": "set vllm.cache_directory; models are fetched into it",
    "VLLM_HOST_IP": "only 127.0.0.1 of the host reaches the container",
    "VLLM_PORT": "set the agent's port",
}

AgentName = Annotated[
    str,
    _matches(
        r"[a-z][a-z0-9-]{0,30}[a-z0-9]",
        "a name of 2 to 32 lower-case letters, digits and dashes that starts with a letter",
    ),
]
Model = Annotated[
    str,
    _matches(
        r"(/[A-Za-z0-9._@+-]+)+|[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*",
        "a hub id such as 'Qwen/Qwen3-8B' or an absolute folder on the host",
    ),
]
HubId = Annotated[
    str,
    _matches(
        r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*", "a hub id such as 'Qwen/Qwen3-8B'"
    ),
]
Revision = Annotated[
    str,
    _matches(
        r"[A-Za-z0-9][A-Za-z0-9_-]*([./][A-Za-z0-9_-]+)*",
        "a commit, a tag or a branch",
    ),
]
FilePattern = Annotated[
    str, _matches(r"[A-Za-z0-9._@+*?/-]+", "a file's name or a pattern such as 'consolidated*'")
]
ServedName = Annotated[
    str, _matches(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*", "a model name without spaces")
]
Word = Annotated[str, _matches(r"[A-Za-z0-9._-]+", "one word of letters, digits and . _ -")]


class Expose(Section):
    """An agent's own port, open to named networks without the edge in between."""

    networks: tuple[Cidr, ...] = Field(
        description="Networks that reach the agent's port itself", strict=False, min_length=1
    )
    unguarded_routes: Literal["accepted"] = Field(
        description="`accepted`: these networks may use vLLM's routes that ask for no key, such as"
        " `/metrics`, `/tokenize` and `/invocations`, and read what is sent in the clear"
    )

    @field_validator("networks")
    @classmethod
    def _not_everybody(cls, networks: tuple[Network, ...]) -> tuple[Network, ...]:
        for network in networks:
            if network.prefixlen == 0:
                raise ValueError(
                    f"{network} is everybody; an agent's own port is for named networks only"
                )
        return networks


class Egress(Section):
    """What an agent may reach by itself. Without it: nothing."""

    networks: tuple[Cidr, ...] = Field(
        description="Networks to which the agent may open connections", strict=False, min_length=1
    )
    tcp_ports: tuple[Port, ...] = Field(
        (443,), description="TCP ports there", strict=False, min_length=1
    )
    names: bool = Field(
        False,
        description="Resolve names as the host does. A program in the agent can then send out what"
        " it likes, hidden in the names that it asks for",
    )


class Agent(Section):
    """One vLLM container on a host."""

    name: AgentName = Field(description="Name of the container, and first part of its URL path")
    model: Model = Field(description="Hub id, or absolute folder on the host (mounted read-only)")
    revision: Revision | None = Field(
        None,
        description="Commit, tag or branch of the hub id, best a commit; None: `main` as it is when"
        " a host first fetches it",
    )
    allow_pickle: bool = Field(
        False,
        description="Take weights in pickle files where there are no safetensors; loading them can"
        " run code",
    )
    ignore_files: tuple[FilePattern, ...] = Field(
        (),
        description="Files of the hub id that are not fetched, such as `consolidated*`",
        strict=False,
    )
    extra_models: tuple[HubId, ...] = Field(
        (),
        description="Further hub ids that `extra_args` name, such as a draft model; fetched too",
        strict=False,
    )
    copy_from: str | None = Field(
        None,
        min_length=1,
        description="Folder on the controller that is copied to the folder `model`, for hosts that"
        " reach no hub",
    )
    port: int = Field(
        ge=1024,
        le=65535,
        description="Port on the host's 127.0.0.1; not reachable from outside without `expose`",
    )
    served_model_name: ServedName | None = Field(
        None, description="What clients write as `model`; None: the agent's name"
    )
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), description="GPUs by index; empty: none, for vLLM's CPU build", strict=False
    )
    gpu_memory_utilization: float = Field(
        0.92, gt=0, le=1, description="Part of each GPU's memory for this agent", strict=False
    )
    max_model_len: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None, description="Context length in tokens; `auto`: what fits; None: the model's own"
    )
    tensor_parallel_size: int | None = Field(
        None, ge=1, description="GPUs that share each layer; None: all of this agent's"
    )
    quantization: Word | None = Field(
        None, description="Such as `awq` or `fp8`; None: as the model's files say"
    )
    prefix_caching: bool = Field(True, description="Keep the KV cache of common beginnings")
    tool_call_parser: Word | None = Field(
        None, description="Such as `hermes`; set: automatic tool choice is on"
    )
    shm_size: Size = Field("8g", description="Shared memory of the container")
    memory: Size | None = Field(
        None,
        description="Main memory that the agent may use, without swap; None: the host's but for a"
        " tenth",
    )
    pids: int = Field(
        8192, ge=256, description="Processes and threads that the agent may have at the same time"
    )
    egress: Egress | None = Field(
        None,
        description="Networks that the agent may reach by itself: a dictionary with `networks`,"
        " `tcp_ports` and `names`; None: none, since models are fetched before it starts",
    )
    expose: Expose | None = Field(
        None,
        description="Opens the agent's own port to named networks: a dictionary with `networks` and"
        " `unguarded_routes`; None: only the edge reaches it",
    )
    extra_args: tuple[str, ...] = Field(
        (), description="Further `vllm serve` arguments, one word each", strict=False
    )
    env: dict[EnvName, str] = Field(
        default_factory=dict, description="Further environment variables; no secrets"
    )

    @field_validator("extra_args")
    @classmethod
    def _arguments_allowed(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            name = argument.partition("=")[0].replace("_", "-")
            name = _SHORT_ARGUMENTS.get(name, name)
            if not argument or any(character in argument for character in "\0\n\r"):
                raise ValueError("an argument must be a non-empty single line")
            # vLLM's parser takes any unambiguous beginning of an argument for the whole.
            for forbidden, instead in _FORBIDDEN_ARGUMENTS.items():
                if name == forbidden or (
                    len(name) > 2 and forbidden.startswith(name) and name.startswith("--")
                ):
                    raise ValueError(f"{argument.partition('=')[0]} is refused: {instead}")
        return arguments

    @field_validator("env")
    @classmethod
    def _environment_allowed(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if name in _FORBIDDEN_ENV:
                raise ValueError(f"{name} is refused: {_FORBIDDEN_ENV[name]}")
            if "\n" in value or "\0" in value:
                raise ValueError(f"the value of {name} must be a single line")
        return env

    @model_validator(mode="after")
    def _model_comes_from_one_place(self) -> Self:
        if self.is_folder and (self.revision or self.ignore_files):
            name = "revision" if self.revision else "ignore_files"
            raise ValueError(f"{name} is for hub ids; model {self.model} is a folder on the host")
        if self.copy_from and not self.is_folder:
            raise ValueError(
                f"copy_from needs a folder as model, such as '/srv/models/mine'; {self.model!r} is"
                " a hub id"
            )
        return self

    @model_validator(mode="after")
    def _reaches_what_it_asks(self) -> Self:
        if not self.offline and self.egress is None:
            raise ValueError(
                "env HF_HUB_OFFLINE lets the agent ask the hub, which it cannot reach; remove it,"
                " or name the hub's networks in egress"
            )
        return self

    @model_validator(mode="after")
    def _tensor_parallel_fits(self) -> Self:
        if len(set(self.gpus)) != len(self.gpus):
            raise ValueError(f"gpus {list(self.gpus)} names one GPU twice")
        if self.gpus and (self.tensor_parallel_size or 0) > len(self.gpus):
            raise ValueError(
                f"tensor_parallel_size {self.tensor_parallel_size} needs as many GPUs,"
                f" but gpus names {len(self.gpus)}"
            )
        return self

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder on the host, and no hub id."""
        return self.model.startswith("/")

    @property
    def offline(self) -> bool:
        """Whether vLLM never asks the hub: everything is there before it starts.

        ``env`` may switch that off, with the values that huggingface_hub takes for no.
        """
        return self.env.get("HF_HUB_OFFLINE", "1").upper() in ("1", "ON", "YES", "TRUE")

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Addresses of the host on which the agent's port is published."""
        if self.expose is None:
            return ("127.0.0.1",)
        kinds = {network.version for network in self.expose.networks}
        return ("0.0.0.0", "::") if 6 in kinds else ("0.0.0.0",)

    @property
    def client_model_name(self) -> str:
        """What clients write as ``model`` in a request."""
        return self.served_model_name or self.name
