"""What a host can go back to, and whether it may. Touches no host.

A deploy that has seen all agents healthy leaves their definition on the host. Keys are no part of
it: .env is always made from the store as it is now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Annotated, Final, Literal, Self

from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from vllm_hosts.bounded import json_object
from vllm_hosts.host.files import File
from vllm_hosts.host.paths import FIREWALL_UNIT, key_variable, model_folder
from vllm_hosts.host.services import env_file, secrets_of
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.agent import AgentName
from vllm_hosts.settings.cells import Cell, cell
from vllm_hosts.settings.types import AbsolutePath, ImageReference, Port
from vllm_hosts.settings.vllm import VLLM_FLOOR
from vllm_hosts.text import clean

#: Of what is written; what another version of the toolkit wrote in another form is nothing.
FORMAT: Final = 1
TOKEN = "HF_TOKEN"  # noqa: S105
# A host's own words stand in sentences about other hosts: no line of their own in there.
_Word = Annotated[str, Field(max_length=5000, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class KeptAgent(_Record):
    """An agent, as far as it matters for starting it again. ``folder`` holds its model; ``token``:
    it asks the hub itself, with the token."""

    name: AgentName
    model: _Word
    revision: _Word | None
    serves: _Word
    folder: AbsolutePath
    gpus: tuple[int, ...]
    port: Port
    token: bool

    def cell(self, network: IPv4Network) -> Cell:
        """Its network on the host."""
        return cell(network, self.name, self.port)


class KeptDefinition(_Record):
    """What compose.yaml beside it does not say by itself. ``token``: .env had the hub's token."""

    format: Literal[1] = FORMAT
    directory: AbsolutePath
    image: ImageReference
    image_id: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
    version: _Word | None
    network: IPv4Network
    token: bool
    agents: tuple[KeptAgent, ...]

    @classmethod
    def of(cls, settings: HostSettings, image_id: str) -> Self:
        """What a deploy with these settings has made.

        :param image_id: Docker's identifier of the image.
        """
        version = settings.vllm.vllm_version
        return cls(
            directory=settings.vllm.directory,
            image=settings.vllm.image,
            image_id=image_id,
            version=str(version) if version else None,
            network=settings.vllm.network,
            token=settings.secrets.has_hf_token,
            agents=tuple(
                KeptAgent(
                    name=agent.name,
                    model=agent.model,
                    revision=agent.revision,
                    serves=agent.client_model_name,
                    folder=model_folder(settings, agent),
                    gpus=tuple(agent.gpus),
                    port=agent.port,
                    token=any(one.source == TOKEN for one in secrets_of(settings, agent)),
                )
                for agent in settings.agents
            ),
        )

    @classmethod
    def read(cls, text: str) -> Self | None:
        """From its file. None: another version of the toolkit wrote it.

        :raises ValueError: it is not what ``text`` writes.
        """
        if json_object(text).get("format") != FORMAT:
            return None
        return cls.model_validate_json(text)

    @property
    def text(self) -> str:
        """For its file: one line."""
        return f"{self.model_dump_json()}\n"

    @property
    def names(self) -> list[str]:
        return [agent.name for agent in self.agents]

    @property
    def serves(self) -> dict[str, str]:
        """By agent, the name that clients use."""
        return {agent.name: agent.serves for agent in self.agents}

    @property
    def cells(self) -> dict[str, Cell]:
        return {agent.name: agent.cell(self.network) for agent in self.agents}

    @property
    def cards(self) -> dict[str, tuple[int, ...]]:
        return {agent.name: agent.gpus for agent in self.agents}

    @property
    def peers(self) -> dict[str, list[str]]:
        """By agent: the others that answer to the same name, from the same model."""

        def same(agent: KeptAgent) -> tuple[str, str | None, str]:
            return agent.model, agent.revision, agent.serves

        return {
            agent.name: [
                other.name
                for other in self.agents
                if other is not agent and same(other) == same(agent)
            ]
            for agent in self.agents
        }

    def env(self, keys: Mapping[str, SecretStr], token: SecretStr | None) -> File:
        """.env for these agents, with keys and token as they are now.

        :param keys: by agent.
        """
        variables = {key_variable(name): keys[name] for name in self.names}
        if self.token and token is not None:
            variables[TOKEN] = token
        return env_file(self.directory, variables)


@dataclass(frozen=True)
class Stored:
    """A definition on a host. ``compose``: the digest of its compose.yaml; ``at``: since when."""

    definition: KeptDefinition
    compose: str
    at: str


@dataclass(frozen=True)
class Undone:
    """What was taken back last, if nothing was deployed since: its compose.yaml, and when."""

    compose: str
    at: str


@dataclass(frozen=True)
class Guarded:
    """What the firewall of the host keeps local users from: agents' network, and their ports."""

    network: str = ""
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True)
class WayBack:
    """``present``: the digest of compose.yaml now; empty where there is none."""

    present: str
    now: Stored | None = None
    before: Stored | None = None
    undone: Undone | None = None
    guarded: Guarded = Guarded()

    @property
    def good(self) -> bool:
        """Whether compose.yaml is the last one with which all agents were healthy."""
        return self.now is not None and self.present == self.now.compose


@dataclass(frozen=True)
class Target:
    """Where a host goes back to: ``name`` is the folder's."""

    name: Literal["now", "before"]
    stored: Stored


def target(found: WayBack, *, unfinished: bool) -> Target | str:
    """What a host had before the last deploy, or why there is no such thing.

    :param unfinished: agents do not run as compose.yaml says.
    """
    now, before, undone = found.now, found.before, found.undone
    if now is None:
        return (
            "there is nothing to go back to: no deploy has left healthy agents here yet; deploy, or"
            " set back what you changed and deploy"
        )
    if not found.good:
        if before and undone and (undone.compose, found.present) == (now.compose, before.compose):
            # It was cut off before these agents were healthy.
            return Target("before", before)
        return Target("now", now)
    if before is not None and undone is not None and undone.compose == before.compose:
        # A way back was tried, and its agents did not become healthy: these came back.
        return Target("before", before)
    if undone is not None:
        if unfinished:
            return Target("now", now)
        return (
            f"the last deploy was taken back already ({undone.at}); to go further back, set back"
            " what you changed, and deploy"
        )
    if before is None:
        return (
            "there is nothing to go back to: no other agents than these were healthy here; set back"
            " what you changed, and deploy"
        )
    return Target("before", before)


def obstacles(
    wanted: KeptDefinition,
    guarded: Guarded,
    *,
    directory: str,
    image_id: str,
    folders: Collection[str],
    token: bool,
) -> Iterator[str]:
    """Why a definition cannot be put back, or must not.

    :param directory: of compose.yaml, as it is now.
    :param image_id: what the definition's image is on the host now; empty: it is not there.
    :param folders: those of models that are there.
    :param token: whether the settings give the hub's token.
    """
    image = clean(wanted.image, 300)
    if wanted.directory != directory:
        yield (f"vllm.directory was {wanted.directory} for them; set it back, and deploy")
    if not image_id:
        yield (
            f"their image {image} is no longer on the host; set vllm.image to it and deploy, which"
            " fetches it"
        )
    elif image_id != wanted.image_id:
        yield (
            f"{image} is another image on the host than the one that they ran from; set vllm.image"
            " to the one that you want, best by digest, and deploy"
        )
    if _below_floor(wanted.version):
        yield (
            f"their vLLM {wanted.version} has known vulnerabilities that bypass its key; set"
            f" vllm.image to {VLLM_FLOOR} or newer, and deploy"
        )
    for agent in wanted.agents:
        if agent.folder not in folders:
            yield (
                f"the model of agent {agent.name} is no longer in {agent.folder}; set the model"
                " back and deploy, which fetches it"
            )
    if not token and any(agent.token for agent in wanted.agents):
        yield (
            "they ask the hub with a token, and the settings no longer give one; set"
            " secrets.hf_token_env, and run this again"
        )
    # Local users would reach agents' routes that ask for no key.
    open_ports = sorted({agent.port for agent in wanted.agents} - guarded.ports)
    if guarded == Guarded():
        yield (
            "the firewall, which keeps local users from them, is not in force; load it (systemctl"
            f" restart {FIREWALL_UNIT}) or deploy, and run this again"
        )
    elif str(wanted.network) != guarded.network or open_ports:
        where = f"ports {', '.join(map(str, open_ports))}" if open_ports else str(wanted.network)
        yield (
            f"they were at {where}, which the firewall does not guard any more; set agents' ports"
            " and vllm.network back, and deploy"
        )


def _below_floor(version: str | None) -> bool:
    try:
        return version is None or Version(version) < VLLM_FLOOR
    except InvalidVersion:
        return True


def strangers_to_the_edge(wanted: KeptDefinition, present: KeptDefinition) -> list[str]:
    """Agents that the edge does not know as they were: by name and port."""
    known = {(agent.name, agent.port) for agent in present.agents}
    return [agent.name for agent in wanted.agents if (agent.name, agent.port) not in known]
