"""All settings of one host, with the checks across sections."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

from pydantic import Field, ValidationInfo, model_validator

from vllm_hosts.settings.agent import Agent
from vllm_hosts.settings.cells import Cell, cell
from vllm_hosts.settings.edge import Edge
from vllm_hosts.settings.fleet import GatewayHost, Pool, VirtualAddress
from vllm_hosts.settings.gateway import Gateway
from vllm_hosts.settings.mirror import Mirror, MirrorAt
from vllm_hosts.settings.rolling import Rolling
from vllm_hosts.settings.sections import (
    Capacity,
    Docker,
    Firewall,
    Hub,
    Nvidia,
    Secrets,
    SshHardening,
    Tls,
)
from vllm_hosts.settings.types import AcrossError, Section
from vllm_hosts.settings.vllm import Vllm

#: The context in which a gateway's settings are validated: without agents, which come later.
OF_A_GATEWAY = {"gateway": True}


class HostSettings(Section):
    """Validated settings of one host.

    ``name`` and ``address`` come from the inventory: the host's name there, and what the
    controller connects to (``ssh_hostname``, or the name).

    A gateway has no containers: ``agents`` are those of the hosts behind it, each name once, and
    ``pools`` are who answers for them. A host behind gateways has these in ``gateways``.

    A machine that is both is a host behind gateways here, itself among them; what it is as a
    gateway is in ``front``.
    """

    name: str
    address: str
    agents: tuple[Agent, ...] = Field(
        description="The vLLM containers of this host; all answer at /v1, by the request's `model`",
        strict=False,
    )
    docker: Docker = Field(default_factory=lambda: Docker())
    nvidia: Nvidia = Field(default_factory=lambda: Nvidia())
    firewall: Firewall = Field(default_factory=lambda: Firewall())
    ssh_hardening: SshHardening = Field(default_factory=lambda: SshHardening())
    secrets: Secrets = Field(default_factory=lambda: Secrets())
    hub: Hub = Field(default_factory=lambda: Hub())
    vllm: Vllm = Field(default_factory=lambda: Vllm())
    capacity: Capacity = Field(default_factory=lambda: Capacity())
    tls: Tls = Field(default_factory=lambda: Tls())
    edge: Edge = Field(default_factory=lambda: Edge())
    gateway: Gateway = Field(default_factory=lambda: Gateway())
    mirror: Mirror = Field(default_factory=lambda: Mirror())
    rolling: Rolling = Field(default_factory=lambda: Rolling())
    #: From the whole inventory, after each host's own settings are validated.
    pools: tuple[Pool, ...] = Field((), exclude=True)
    gateways: tuple[GatewayHost, ...] = Field((), exclude=True)
    front: HostSettings | None = Field(None, exclude=True)
    #: Of a gateway, where they share one.
    virtual: VirtualAddress | None = Field(None, exclude=True)
    #: Of a host with agents, where the inventory has a mirror; of the mirror, who asks it.
    mirror_at: MirrorAt | None = Field(None, exclude=True)
    mirror_for: tuple[HostSettings, ...] = Field((), exclude=True)

    @model_validator(mode="after")
    def _agents_fit_together(self, info: ValidationInfo) -> Self:
        if not self.agents and info.context == OF_A_GATEWAY:
            return self
        if not self.agents:
            raise AcrossError("agents is empty; add at least one agent", section="agents")
        _refuse_twice(self.agents)
        taken = {self.edge.https_port: "edge.https_port", self.edge.http_port: "edge.http_port"}
        for agent in self.agents:
            if agent.port in taken:
                raise AcrossError(
                    f"agent {agent.name!r} has port {agent.port}, which is {taken[agent.port]};"
                    " give it another",
                    section="agents",
                )
            if agent.name == "v1":
                raise AcrossError(
                    "agent 'v1' would have the API's own path; give it another name",
                    section="agents",
                )
        on_gpu: dict[int, list[Agent]] = defaultdict(list)
        for agent in self.agents:
            for gpu in agent.gpus:
                on_gpu[gpu].append(agent)
        for gpu, sharing in sorted(on_gpu.items()):
            total = sum(agent.gpu_memory_utilization for agent in sharing)
            if total > 1.0 + 1e-9:
                names = " and ".join(
                    f"{agent.name!r} ({agent.gpu_memory_utilization:g})" for agent in sharing
                )
                raise AcrossError(
                    f"agents {names} ask for {total:.2f} of GPU {gpu}'s memory;"
                    " lower gpu_memory_utilization so that they add up to 1 or less",
                    section="agents",
                )
        return self

    @model_validator(mode="after")
    def _models_fit_together(self) -> Self:
        if self.secrets.has_hf_token and (self.hub.endpoint or "").startswith("http:"):
            raise AcrossError(
                f"hub.endpoint {self.hub.endpoint} would get the Hugging Face token in the clear;"
                " use https, or remove the token from secrets",
                section="hub",
            )
        sources: dict[str, str | None] = {}
        for agent in self.agents:
            if agent.is_folder and sources.setdefault(agent.model, agent.copy_from) != (
                agent.copy_from
            ):
                raise AcrossError(
                    f"agents with the model {agent.model} name different copy_from; give them the"
                    " same, or folders of their own",
                    section="agents",
                )
        return self

    @model_validator(mode="after")
    def _cells_fit_together(self) -> Self:
        taken: dict[object, Agent] = {}
        for agent in self.agents:
            other = taken.setdefault(self.cell(agent.name).subnet, agent)
            if other is not agent:
                raise AcrossError(
                    f"agents {other.name!r} and {agent.name!r} with ports {other.port} and"
                    f" {agent.port} would share a network in vllm.network {self.vllm.network};"
                    " give one another port, or vllm.network a shorter prefix",
                    section="agents",
                )
        return self

    @model_validator(mode="after")
    def _further_ports_are_others(self) -> Self:
        for agent in self.agents:
            if agent.port in self.firewall.extra_tcp_ports:
                raise AcrossError(
                    f"firewall.extra_tcp_ports has {agent.port}, the port of agent {agent.name!r},"
                    " which only the edge is to reach; remove it, or open it to named networks with"
                    " the agent's expose",
                    section="firewall",
                )
        for setting in ("https_port", "http_port"):
            port = getattr(self.edge, setting)
            if self.edge.allow_from and port in self.firewall.extra_tcp_ports:
                raise AcrossError(
                    f"firewall.extra_tcp_ports opens {port} (edge.{setting}) to everybody, which"
                    " edge.allow_from closes; remove one of them",
                    section="firewall",
                )
        return self

    @model_validator(mode="after")
    def _names_choose_one_model(self) -> Self:
        if not self.chooses_by_model:
            return self
        for name, agents in self.model_names.items():
            first, *others = agents
            for other in others:
                if (other.model, other.revision) != (first.model, first.revision):
                    raise ValueError(
                        f"agents {first.name!r} and {other.name!r} have different models and are"
                        f" both called {name!r} by clients, who choose by that name at /v1; give"
                        " one another served_model_name, or set edge.by_model to False"
                    )
        return self

    @property
    def is_gateway(self) -> bool:
        """Whether clients reach the agents of all hosts here."""
        return self.as_gateway is not None

    @property
    def as_gateway(self) -> HostSettings | None:
        """What this host is as a gateway, with the agents and pools of the fleet; None: none."""
        return self if self.pools else self.front

    @property
    def edge_side(self) -> HostSettings:
        """What clients meet at this host's edge: where it is a gateway, the agents of the fleet."""
        return self.as_gateway or self

    @property
    def in_fleet(self) -> bool:
        """Whether this host is a gateway, or behind some."""
        return self.is_gateway or self.behind_gateways

    @property
    def runs_agents(self) -> bool:
        """Whether this host has containers with vLLM."""
        return not self.pools

    @property
    def own_agents(self) -> tuple[Agent, ...]:
        """The agents that run on this host itself: on a gateway that is nothing else, none."""
        return self.agents if self.runs_agents else ()

    @property
    def behind_gateways(self) -> bool:
        """Whether clients reach this host's agents through gateways only, itself among them where
        it is one."""
        return bool(self.gateways)

    @property
    def is_mirror(self) -> bool:
        """Whether this host fetches image and models for all others."""
        return bool(self.mirror_for)

    def pool(self, agent: str) -> Pool:
        """Of a gateway: who answers for an agent."""
        [model] = [one.client_model_name for one in self.agents if one.name == agent]
        [found] = [pool for pool in self.pools if pool.model == model]
        return found

    @property
    def chooses_by_model(self) -> bool:
        """Whether the edge reads from a request's body which agent it is for."""
        return self.edge.by_model and len(self.agents) > 1

    @property
    def serves_all_at_v1(self) -> bool:
        """Whether clients reach every agent at ``/v1``, as on a host with only one."""
        return self.chooses_by_model or len(self.agents) == 1

    @property
    def edge_runs_lua(self) -> bool:
        """Whether nginx needs its module for Lua."""
        return (
            self.chooses_by_model
            or self.edge.changes_requests
            or self.is_gateway
            or self.behind_gateways
        )

    @property
    def model_names(self) -> dict[str, tuple[Agent, ...]]:
        """What clients may write as ``model``, with the agents that answer to it."""
        found: dict[str, tuple[Agent, ...]] = {}
        for agent in self.agents:
            for name in dict.fromkeys((agent.client_model_name, *agent.adapter_names)):
                found[name] = (*found.get(name, ()), agent)
        return found

    def cell(self, name: str) -> Cell:
        """The network of one of this host's agents."""
        [agent] = [agent for agent in self.agents if agent.name == name]
        return cell(self.vllm.network, agent.name, agent.port)

    @property
    def needs_gpu(self) -> bool:
        """Whether any agent of this host uses a GPU."""
        return any(agent.gpus for agent in self.agents)

    @property
    def gpus(self) -> tuple[int, ...]:
        """The cards that agents use, each once."""
        return tuple(sorted({gpu for agent in self.agents for gpu in agent.gpus}))

    def twins(self, name: str) -> tuple[str, ...]:
        """Other agents of this host with the same model under the same name."""
        [agent] = [agent for agent in self.agents if agent.name == name]
        return tuple(
            other.name
            for other in self.agents
            if other is not agent
            and (other.model, other.revision) == (agent.model, agent.revision)
            and other.client_model_name == agent.client_model_name
        )

    @property
    def edge_names(self) -> tuple[str, ...]:
        """Names and addresses that the certificate covers; the first is used in URLs."""
        if self.virtual is None:
            return self.edge.names or (self.address,)
        shared = str(self.virtual.address)
        if not self.edge.names:
            return (shared, self.address)
        # A public CA signs names, and an address that is the user's own hardly ever.
        if self.tls.mode == "files" or shared in self.edge.names:
            return self.edge.names
        return (*self.edge.names, shared)


def _refuse_twice(agents: tuple[Agent, ...]) -> None:
    names = [agent.name for agent in agents]
    for number, agent in enumerate(agents):
        if agent.name in names[:number]:
            raise AcrossError(
                f"two agents have the name {agent.name!r}, agents[{names.index(agent.name)}] and"
                f" agents[{number}]; each needs its own",
                section="agents",
            )
        for other in agents[:number]:
            if other.port == agent.port:
                raise AcrossError(
                    f"agents {other.name!r} and {agent.name!r} both have port {agent.port}; each"
                    " needs its own",
                    section="agents",
                )
