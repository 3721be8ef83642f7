"""One agent: a vLLM container with a model, a port and its GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from vllm_hosts.bounded import parse_json
from vllm_hosts.settings import vllm_words
from vllm_hosts.settings.types import (
    Cidr,
    DnsName,
    EnvName,
    Network,
    Port,
    Section,
    Size,
    Tokens,
    _matches,
)

#: A regular expression, for what hosts say too.
AGENT_NAME = r"[a-z][a-z0-9-]{0,30}[a-z0-9]"
AgentName = Annotated[
    str,
    _matches(
        AGENT_NAME,
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
_SERVED_NAME = r"[A-Za-z0-9][A-Za-z0-9._:/@-]*"
ServedName = Annotated[str, _matches(_SERVED_NAME, "a model name without spaces")]
Word = Annotated[str, _matches(r"[A-Za-z0-9._-]+", "one word of letters, digits and . _ -")]


class Expose(Section):
    """An agent's own port, open to named networks without the edge in between."""

    networks: tuple[Cidr, ...] = Field(
        description="Networks that reach the agent's port itself", strict=False, min_length=1
    )
    unguarded_routes: Literal["accepted"] = Field(
        description="`accepted`: these networks may use vLLM's routes that require no key, such as"
        " `/metrics`, `/tokenize` and `/invocations`, and traffic is unencrypted"
    )

    @field_validator("networks")
    @classmethod
    def _not_everybody(cls, networks: tuple[Network, ...]) -> tuple[Network, ...]:
        for network in networks:
            if network.prefixlen == 0:
                raise ValueError(
                    f"{network} means everybody, and an agent's own port is for named networks"
                    " only;"
                    " write the networks themselves, such as '10.0.0.0/8'"
                )
        return networks


class Egress(Section):
    """What an agent itself may connect to. Without it: nothing."""

    networks: tuple[Cidr, ...] = Field(
        description="Networks to which the agent may open connections", strict=False, min_length=1
    )
    tcp_ports: tuple[Port, ...] = Field(
        (443,), description="TCP ports in those networks", strict=False, min_length=1
    )
    names: bool = Field(
        False,
        description="Resolve names as the host does. A program in the agent can then leak data,"
        " hidden in the names that it looks up",
    )


#: An argument, and what follows it in the same word. Values may contain spaces, as JSON does.
_WITH_ITS_VALUE = re.compile(r"(?=.*\s)\s*(--?[A-Za-z][\w.-]*)\s*(?:(?<=\s)(\S.*))?")
#: Other ways to use several GPUs.
_PARALLEL = re.compile(r"--?(?:p[-_]?p|d[-_]?p|pipeline|data|decode|prefill)[\w-]*")

#: In nginx's maps, whose keys are agents' names, a line that begins so is none of an agent.
_WORDS = ("default", "include")
#: A name that cannot exist (RFC 6761): to vLLM, an empty list means every domain.
_NO_DOMAIN = "none.invalid"


class RequestLimits(Section):
    """What one request may cost an agent. vLLM refuses requests for more, with the reason."""

    choices: int = Field(
        128, ge=1, le=16384, description="Answers to one prompt (`n`), all at the same time"
    )
    prompts: int = Field(
        256, ge=1, le=16384, description="Prompts in one request to `/v1/completions`"
    )
    logprobs: int = Field(
        20, ge=0, le=1000, description="Log probabilities for each token (`top_logprobs`)"
    )
    images: int = Field(32, ge=0, le=999, description="Images in one request")
    videos: int = Field(8, ge=0, le=999, description="Videos in one request")
    audio_clips: int = Field(8, ge=0, le=999, description="Audio clips in one request")
    queued: int = Field(
        4096,
        ge=1,
        description="Prompts that an agent has at the same time, over all clients; more get 503",
    )

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments for ``vllm serve``, which every supported version knows."""
        media = {"audio": self.audio_clips, "image": self.images, "video": self.videos}
        return (
            *("--max-logprobs", str(self.logprobs)),
            *("--limit-mm-per-prompt", json.dumps(media)),
            *("--max-num-queued-reqs", str(self.queued)),
        )

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for vLLM."""
        return {
            "VLLM_MAX_COMPLETION_PROMPTS": str(self.prompts),
            "VLLM_MAX_N_SEQUENCES": str(self.choices),
        }


class Agent(Section):
    """One vLLM container on a host."""

    name: AgentName = Field(description="Name of the container, and first part of its URL path")
    model: Model = Field(description="Hub id, or absolute folder on the host (mounted read-only)")
    revision: Revision | None = Field(
        None,
        description="Commit (best), tag or branch of the hub id; None: `main` as it is when"
        " a host first fetches it",
    )
    allow_pickle: bool = Field(
        False,
        description="Accept weights in pickle files if there are no safetensors; loading them can"
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
        0.92, gt=0, le=1, description="Fraction of each GPU's memory for this agent", strict=False
    )
    max_model_len: Tokens | None = Field(
        None,
        description="Context length in tokens, such as 16384, '16k' (16000) or '16K' (16384);"
        " `auto`: what fits; None: the model's own",
    )
    tensor_parallel_size: int | None = Field(
        None, ge=1, description="GPUs that share each layer; None: all of this agent's"
    )
    quantization: Word | None = Field(
        None, description="Such as `awq` or `fp8`; None: as in the model's files"
    )
    prefix_caching: bool = Field(True, description="Reuse the KV cache of common prompt prefixes")
    tool_call_parser: Word | None = Field(
        None, description="Such as `hermes`; setting it turns on automatic tool choice"
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
    weight: int = Field(
        1,
        ge=1,
        le=256,
        description="Behind gateways: its share of requests beside other hosts' agents with the"
        " same model, such as 2 where it has twice the GPUs",
    )
    egress: Egress | None = Field(
        None,
        description="Networks that the agent itself may connect to: a dictionary with `networks`,"
        " `tcp_ports` and `names`; None: none, since models are fetched before it starts",
    )
    expose: Expose | None = Field(
        None,
        description="Opens the agent's own port to named networks: a dictionary with `networks` and"
        " `unguarded_routes`; None: only the edge reaches it",
    )
    allowed_media_domains: tuple[DnsName, ...] = Field(
        (),
        description="DNS names from which the agent fetches images, videos and audio that a request"
        " names by URL; empty: from none. Redirects are not followed",
        strict=False,
    )
    request_limits: RequestLimits = Field(
        default_factory=lambda: RequestLimits(),
        description="What one request may cost: a dictionary",
    )
    extra_args: tuple[str, ...] = Field(
        (), description="Further `vllm serve` arguments, one word each", strict=False
    )
    env: dict[EnvName, str] = Field(
        default_factory=dict, description="Further environment variables; no secrets"
    )
    accepted_risks: tuple[str, ...] = Field(
        (),
        description="Names in `extra_args` and `env` that widen what others can do, such as"
        " `--trust-remote-code`, and that you accept; shown by every run",
        strict=False,
    )

    @field_validator("name")
    @classmethod
    def _is_no_word_of_nginx(cls, name: str) -> str:
        if name in _WORDS:
            raise ValueError(
                f"{name!r} is a word of nginx's own where its configuration names agents; call it"
                f" otherwise, such as '{name}-1'"
            )
        return name

    @field_validator("extra_args")
    @classmethod
    def _arguments_allowed(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        for argument in arguments:
            if not argument or not argument.isprintable():
                raise ValueError(
                    "an argument must be a non-empty single line without control characters"
                )
            if problem := vllm_words.refused_argument(argument):
                raise ValueError(problem)
            if match := _WITH_ITS_VALUE.fullmatch(argument):
                # What follows may be anything, so it is not shown.
                raise ValueError(
                    f"{match[1]} and its value are in one word; write two, such as"
                    f" {match[1]!r}, 'VALUE', or {match[1] + '=VALUE'!r}"
                    if match[2]
                    else f"{argument!r} has a space beside the argument; write {match[1]!r}"
                )
        return arguments

    @field_validator("env")
    @classmethod
    def _environment_allowed(cls, env: dict[str, str]) -> dict[str, str]:
        for name, value in env.items():
            if problem := vllm_words.refused_variable(name, value):
                raise ValueError(problem)
            if not value.isprintable():
                raise ValueError(
                    f"the value of {name} must be a single line without control characters"
                )
        return env

    @model_validator(mode="after")
    def _risks_are_accepted(self) -> Self:
        found = vllm_words.unaccepted(self.name, self.extra_args, self.env, self.accepted_risks)
        if problems := "; ".join(found):
            raise ValueError(problems)
        return self

    @model_validator(mode="after")
    def _model_comes_from_one_place(self) -> Self:
        if self.is_folder and (self.revision or self.ignore_files):
            name = "revision" if self.revision else "ignore_files"
            raise ValueError(
                f"{name} is for hub ids, and model {self.model} is a folder on the host; leave"
                f" {name} out"
            )
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
                "env HF_HUB_OFFLINE lets the agent query the hub, which it cannot reach; remove it,"
                " or name the hub's networks in egress"
            )
        if self.allowed_media_domains and not (self.egress and self.egress.names):
            raise ValueError(
                "allowed_media_domains names servers that the agent cannot reach; add an egress"
                " with their networks and 'names': True, or remove it"
            )
        return self

    @model_validator(mode="after")
    def _tensor_parallel_fits(self) -> Self:
        if len(set(self.gpus)) != len(self.gpus):
            raise ValueError(f"gpus {list(self.gpus)} names one GPU twice; name each once")
        size = self.tensor_parallel_size
        if size and size < len(self.gpus) and not any(map(_PARALLEL.match, self.extra_args)):
            raise ValueError(
                f"tensor_parallel_size {size} uses {size} of the {len(self.gpus)} GPUs that gpus"
                f" names, and the rest would idle; name {size}, or leave tensor_parallel_size out,"
                " or have extra_args use them (--pipeline-parallel-size, --data-parallel-size)"
            )
        if self.gpus and (self.tensor_parallel_size or 0) > len(self.gpus):
            raise ValueError(
                f"tensor_parallel_size {self.tensor_parallel_size} needs as many GPUs,"
                f" but gpus names {len(self.gpus)}; make them the same"
            )
        return self

    @property
    def is_folder(self) -> bool:
        """Whether the model is a folder on the host, rather than a hub id."""
        return self.model.startswith("/")

    @property
    def offline(self) -> bool:
        """Whether vLLM never queries the hub, since everything is present before it starts.

        ``env`` may switch that off, with any value that huggingface_hub takes for no.
        """
        return self.env.get("HF_HUB_OFFLINE", "1").upper() in ("1", "ON", "YES", "TRUE")

    @property
    def media_domains(self) -> tuple[str, ...]:
        """The value of ``--allowed-media-domains``, never empty."""
        return self.allowed_media_domains or (_NO_DOMAIN,)

    @property
    def risks(self) -> dict[str, str]:
        """Risks that were accepted: name -> what it lets others do."""
        return vllm_words.risks(self.extra_args, self.env)

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """The host's addresses on which the agent's port is published."""
        if self.expose is None:
            return ("127.0.0.1",)
        kinds = {network.version for network in self.expose.networks}
        return ("0.0.0.0", "::") if 6 in kinds else ("0.0.0.0",)

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Further names that clients may write as ``model``: LoRA adapters in ``extra_args``."""
        return tuple(_adapters(self.extra_args))

    @property
    def client_model_name(self) -> str:
        """What clients write as ``model`` in a request."""
        return self.served_model_name or self.name


def _adapters(arguments: tuple[str, ...]) -> Iterator[str]:
    """Names behind ``--lora-modules``: each NAME=PATH, or JSON with a name."""
    listed = False
    for argument in arguments:
        word = argument
        if argument.startswith("-"):
            option, _, word = argument.partition("=")
            listed = option.lstrip("-").replace("_", "-") == "lora-modules"
        if not listed or not word:
            continue
        if word.startswith("{"):
            with suppress(ValueError):
                found = parse_json(word)
                word = str(found.get("name", "")) if isinstance(found, dict) else ""
        name = word.partition("=")[0]
        if re.fullmatch(_SERVED_NAME, name):
            yield name
