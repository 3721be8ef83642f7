"""Stores of keys and CAs that are there already, as a first deploy leaves them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from vllm_hosts.keys import KeyStore
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.keys.private_files import private_folder
from vllm_hosts.keys.store_content import Content, new_content


def made(store: KeyStore) -> Content:
    """What a store holds; made where there is none."""
    return store.update(lambda content: content, start=new_content(utc_now()))


def kept_ca(folder: Path, name: str, now: datetime) -> LocalCa:
    """The CA of a folder; made where there is none."""
    return LocalCa.load(folder) or LocalCa.create(name, now).keep(private_folder(folder))
