"""Keys of clients and of hosts: the store, where it is, and where other secrets come from."""

from vllm_hosts.keys.host_keys import ClientKey, HostKeys
from vllm_hosts.keys.opened import OpenedStore
from vllm_hosts.keys.store import KeyStore
from vllm_hosts.keys.store_content import DEFAULT_CLIENT

__all__ = ["DEFAULT_CLIENT", "ClientKey", "HostKeys", "KeyStore", "OpenedStore"]
