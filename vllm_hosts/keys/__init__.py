"""Keys of clients and of hosts: the store, where it is, and where other secrets come from."""

from vllm_hosts.keys.host_keys import ClientKey, HostKeys
from vllm_hosts.keys.model import DEFAULT_CLIENT
from vllm_hosts.keys.opened import OpenedStore
from vllm_hosts.keys.store import KeyStore

__all__ = ["DEFAULT_CLIENT", "ClientKey", "HostKeys", "KeyStore", "OpenedStore"]
