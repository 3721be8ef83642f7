"""How clients reach the agents of an inventory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vllm_hosts.keys import DEFAULT_CLIENT
from vllm_hosts.pki import CA_FILE
from vllm_hosts.probe import host_header
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Endpoint:
    """One agent as a client sees it. ``ca_file`` is None where the system's CAs do."""

    host: str
    agent: str
    base_url: str
    ca_file: str | None
    served_model_name: str
    client: str
    key_command: str

    def as_json(self) -> dict[str, str | None]:
        """The names of this class are the names in the JSON, and stay."""
        return asdict(self)

    def curl(self) -> str:
        """A line for bash that asks for the models. The key is in nobody's arguments."""
        ca = f" --cacert {self.ca_file}" if self.ca_file else ""
        header = f"""<(printf 'Authorization: Bearer %s' "$({self.key_command})")"""
        return f"curl -sS{ca} -H @{header} {self.base_url}/models"


def endpoints(
    settings: dict[str, HostSettings], folder: Path, inventory: Path
) -> Iterator[Endpoint]:
    """All agents of all hosts.

    :param folder: the inventory's private folder on the controller.
    """
    for host in settings.values():
        name = host_header(host.edge_names[0], host.edge.https_port)
        for agent in host.agents:
            yield Endpoint(
                host=host.name,
                agent=agent.name,
                base_url=f"https://{name}/{agent.name}/v1",
                ca_file=str(folder / CA_FILE) if host.tls.mode == "local-ca" else None,
                served_model_name=agent.client_model_name,
                client=DEFAULT_CLIENT,
                key_command=f"vllm-hosts key {inventory}",
            )
