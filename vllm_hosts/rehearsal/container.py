"""The container that rehearses an agent: its own, but for all that it shares.

Pure. What comes in is what the agent's container has, so that vLLM is asked as it will be started;
what is left out is its key, its network, its port and its folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("rehearse.py")
#: Seconds: 18 were measured with cold caches of a disk, 30 where others have both processors.
LIMIT = 180
#: The host's memory. vLLM takes 1.5 GiB to import; layers on the meta device take none.
MEMORY = "6g"
#: Bytes of an answer. The longest so far has 4 kB.
MOST = 256 << 10
#: Never given to it, and set for it: vLLM finds the model on the host or says so at once.
_WITHOUT = ("VLLM_API_KEY", "HF_TOKEN", "HF_ENDPOINT")
_OFFLINE = {"HF_HUB_OFFLINE": "1"}
#: Where the hub's models are in it, in the layout of huggingface_hub.
MODELS = "/models"
#: The interpreter that runs vLLM there, by the first line of its command. The script comes on its
#: standard input, the request and the agent's words behind.
_START = r"""
program=$(command -v vllm || :)
own=$([ -z "$program" ] || head -n 1 "$program" | sed -n 's/^#! *\(\/[^ ]*\).*/\1/p')
for python in $own python3 python; do
    ! command -v "$python" >/dev/null || exec "$python" - "$@"
done
echo "no Python" >&2; exit 127
"""
#: How names of its containers begin.
CONTAINERS = "vllm-hosts-rehearsal"
#: What an agent may write, here in memory and gone with the container.
_WRITABLE = ("/tmp", "/cache")  # noqa: S108


@dataclass(frozen=True)
class Rehearsed:
    """What an agent's container is made of.

    :ivar command: the words behind ``vllm serve``.
    :ivar environment: without secrets.
    :ivar folders: with the model's files: path in the container -> the host's.
    """

    agent: str
    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    user: str
    gpus: tuple[str, ...]
    folders: Mapping[str, str]


@dataclass(frozen=True)
class Request:
    """What is asked besides. Sizes in bytes.

    :ivar mark: stands around the answer; random, so that nothing printed by chance is taken for it.
    :ivar memory: what one GPU has at most; None: not known, and nothing is said of fitting.
    :ivar others: what else is taken there, each a question of its own: bytes, or an estimate as
        bytes for all, for each sequence and word of the vocabulary, and for each token of a step
        and width of the model. 0 is the certain one.
    """

    mark: str
    memory: int | None
    others: tuple[int | tuple[int, int, int], ...] = (0,)
    seconds: int = LIMIT

    @property
    def text(self) -> str:
        """As the script reads it."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Asked:
    """One agent, and what is asked about it.

    :ivar needs: keys of models whose small files have to be fetched first.
    """

    agent: Rehearsed
    request: Request
    needs: tuple[str, ...] = ()


def script() -> str:
    """The program, for the standard input of what ``words`` start."""
    return SCRIPT.read_text(encoding="utf-8")


def words(agent: Rehearsed, request: Request) -> list[str]:
    """``docker run`` for the rehearsal of one agent."""
    environment = {
        name: value for name, value in agent.environment.items() if name not in _WITHOUT
    } | _OFFLINE
    if MODELS in agent.folders:
        environment["HF_HUB_CACHE"] = f"{MODELS}/hub"
    found = ["docker", "run", "--rm", "--interactive", "--pull", "never"]
    found += ["--name", container(agent, request.mark), "--entrypoint", "sh"]
    # Nobody is reached, nothing stays, and what runs there goes before it.
    found += ["--network", "none", "--read-only", "--log-driver", "none"]
    for folder in _WRITABLE:
        found += ["--tmpfs", f"{folder}:exec,mode=1777,size=512m"]
    found += ["--user", agent.user, "--cap-drop", "ALL"]
    found += ["--security-opt", "no-new-privileges:true", "--init"]
    found += ["--memory", MEMORY, "--memory-swap", MEMORY, "--pids-limit", "2048"]
    found += ["--ulimit", "core=0", "--cpu-shares", "64", "--oom-score-adj", "900"]
    if agent.gpus:
        # vLLM decides by the card what it takes; nothing is allocated there. Docker reads CSV.
        found += ["--gpus", f'"device={",".join(agent.gpus)}"']
    else:
        # Where NVIDIA's runtime is the default it would give every GPU otherwise.
        environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    for target, source in sorted(agent.folders.items()):
        found += ["--mount", f"type=bind,source={source},target={target},readonly"]
    for name, value in sorted(environment.items()):
        found += ["--env", f"{name}={value}"]
    return [*found, agent.image, "-c", _START.strip(), "rehearsal", request.text, *agent.command]


def container(agent: Rehearsed, mark: str) -> str:
    """The name of its container, which no other rehearsal has."""
    return f"{CONTAINERS}-{agent.agent}-{mark[:8]}"


def key(asked: Asked, digest: str, models: Mapping[str, str], cards: tuple[str, ...]) -> str:
    """One word under which an answer is remembered: it changes with whatever vLLM decides by.

    :param digest: the image's, since a tag may come to mean another one.
    :param models: commit or fingerprint of each model's files, by name.
    :param cards: the GPUs as ``nvidia-smi`` names them, with memory and driver.
    """
    agent, request = asked.agent, asked.request
    what = {
        "script": hashlib.sha256(script().encode()).hexdigest(),
        "digest": digest,
        "models": dict(models),
        "command": agent.command,
        "environment": dict(agent.environment),
        "user": agent.user,
        "cards": cards,
        "memory": request.memory,
        "others": request.others,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
