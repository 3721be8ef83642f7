"""How clients reach the agents of an inventory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote

from vllm_hosts.errors import SettingsError
from vllm_hosts.host.probe import host_header
from vllm_hosts.keys import DEFAULT_CLIENT, KeyStore
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.places import client_ca_file
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Endpoint:
    """One agent as a client sees it.

    ``ca_file`` is an absolute path; None where the system's CAs do.
    """

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
        """A line for any shell that completes a chat. The key is in no process's arguments."""
        ca = f" --cacert {quote(self.ca_file)}" if self.ca_file else ""
        body = {
            "model": self.served_model_name,
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 16,
        }
        return (
            f"""printf 'header = "Authorization: Bearer %s"' "$({self.key_command})" |"""
            f" curl -sS -K -{ca} -H 'Content-Type: application/json'"
            f" -d {quote(json.dumps(body))}"
            f" {self.base_url}/chat/completions"
        )


def endpoints(
    settings: Mapping[str, HostSettings], folder: Path, key_command: str, client: str
) -> Iterator[Endpoint]:
    """All agents of all hosts; with gateways, all models of each gateway, and no host behind one;
    where gateways share an address, those of the first stand for all.

    :param folder: the inventory's private folder on the controller.
    :param key_command: what prints the key of ``client`` in a shell here.
    """
    gateways = [one for host in settings.values() if (one := host.as_gateway)]
    # Those who share an address are one to clients.
    gateways = gateways[:1] if gateways and gateways[0].virtual else gateways
    for host in gateways or settings.values():
        name = host_header(host.edge_names[0], host.edge.https_port)
        ca_file = client_ca_file(host, folder)
        # A pool is named after one of its agents.
        pools = {pool.name for pool in host.pools}
        for agent in host.agents:
            if pools and agent.name not in pools:
                continue
            own_path = "" if host.is_gateway and host.serves_all_at_v1 else f"/{agent.name}"
            yield Endpoint(
                host=host.name,
                agent=agent.name,
                base_url=f"https://{name}{own_path}/v1",
                ca_file=str(Path(ca_file).absolute()) if ca_file else None,
                served_model_name=agent.client_model_name,
                client=client,
                key_command=key_command,
            )


def client_to_name(store: KeyStore, asked: str | None) -> str:
    """A client of the store that has a key: the one that was asked for, the default one, or the
    first that may use every agent.

    A store that nothing here opens is not asked; the first deploy makes one with the default
    client.

    :raises SettingsError: there is no such client, or nobody has a key.
    """
    try:
        content = store.peek()
    except SettingsError:
        if not store.encrypted:
            raise
        content = None
    if content is None:
        if asked and asked != DEFAULT_CLIENT and not store.encrypted:
            add = f"vllm-hosts keys add INVENTORY {quote(asked)}"
            raise SettingsError([f"there is no client {asked!r} yet; create it: {add}"])
        return asked or DEFAULT_CLIENT
    now = utc_now()
    if asked:
        content.client(asked)
        return asked
    usable = [name for name, record in content.clients.items() if record.valid_keys(now)]
    usable.sort(key=lambda name: (name != DEFAULT_CLIENT, bool(content.clients[name].agents), name))
    if not usable:
        raise SettingsError(
            ["no client has a valid key; create one: vllm-hosts keys add INVENTORY NAME"]
        )
    return usable[0]
