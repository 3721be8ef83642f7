"""Where the controller keeps what belongs to one inventory: keys and its CA."""

from __future__ import annotations

from pathlib import Path

from vllm_hosts.settings import HostSettings

#: The local CA's certificate, which clients get, in an inventory's folder.
CA_FILE = "ca.pem"


def state_folder(inventory_file: Path) -> Path:
    """The folder beside an inventory for its secrets, such as ``inventory/.vllm-hosts/prod``.

    It depends on the inventory alone, not on where a command is run: another folder would mean
    new keys. It is made, with mode 0700, when something is first kept there.
    """
    path = inventory_file.resolve()
    return path.parent / ".vllm-hosts" / path.stem


def client_ca_file(settings: HostSettings, folder: Path) -> str | None:
    """The CA file that clients of a host need; None: the CAs that every system knows will do.

    :param folder: the inventory's, from ``state_folder``.
    """
    if settings.tls.mode == "local-ca":
        return str(folder / CA_FILE)
    return settings.tls.ca_file
