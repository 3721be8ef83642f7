"""Files of SSH on this machine, checked before pyinfra reads them and overlooks what is wrong."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from shlex import quote

from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key
from paramiko import HostKeys
from paramiko.hostkeys import InvalidHostKey
from pyinfra.api.host import Host

from vllm_hosts.errors import HostError


def known_hosts(host: Host) -> Path:
    """The known_hosts file; ``UserKnownHostsFile`` in an SSH configuration is not read."""
    return Path(host.data.get("ssh_known_hosts_file") or "~/.ssh/known_hosts").expanduser()


def check_known_hosts(file: Path) -> None:
    """Check known_hosts: pyinfra treats an unreadable file as empty, and so accepts any host key.

    :raises HostError: the file exists, but cannot be read or parsed.
    """
    if problem := _unreadable(file, _version(file)):
        raise HostError(problem)


def _version(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_mode, found.st_uid)


@cache
def _unreadable(file: Path, version: tuple[int, ...]) -> str:
    try:
        HostKeys().load(str(file))
    except FileNotFoundError:
        if file.parent.is_dir():
            return ""
        return (
            f"the folder of {file} does not exist, so its key cannot be recorded; create the folder"
        )
    except OSError as error:
        return (
            f"{file}, with the keys of known hosts, cannot be read ({error.strerror}); make it"
            " readable, or name another file as ssh_known_hosts_file"
        )
    except InvalidHostKey as error:
        return f"{_odd(file)} ({error.exc}: {error.line}); correct or remove that line"
    except Exception as error:
        return f"{_odd(file)} ({error}); correct or remove that line"
    return ""


def _odd(file: Path) -> str:
    return f"{file}, with the keys of known hosts, has a line that cannot be understood"


def check_key(host: Host) -> None:
    """:raises HostError: pyinfra would ask for a passphrase where nobody can type one."""
    key = host.data.get("ssh_key")
    if not key or host.data.get("ssh_key_password") or sys.stdin.isatty():
        return
    file = Path(str(key)).expanduser()
    try:
        data = file.read_bytes()
        read = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in data else load_pem_private_key
        read(data, None)
    except TypeError as error:
        raise HostError(passphrase(str(key))) from error
    except (OSError, ValueError):
        # Missing, or of a kind that is not read here: pyinfra reports it.
        return


def passphrase(key: str) -> str:
    """Why a key cannot be used, and the ways out."""
    return (
        f"the SSH key {key} has a passphrase, and there is no terminal to type it on; add the key"
        " to an agent"
        f" (ssh-add {quote(key)}) and leave ssh_key out, or set ssh_key_password"
    )
