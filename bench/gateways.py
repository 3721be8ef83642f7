"""Many real hosts on a small machine: gateways, which run an edge and no vLLM.

One agent is behind them, a stand-in on this machine, since a gateway's deploy wants an agent that
answers. It has an address of this machine's end of the lab's bridge. All of this runs in a process
of its own, since pyinfra replaces what the relay needs.
"""

from __future__ import annotations

# isort: off
# First: gevent replaces what others import.
import pyinfra_cli  # noqa: F401

# isort: on
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.programs import GATEWAYS, ROOT, UnexpectedError, well
from lab import hosts, layout
from lab.settings import FLEET_AGENTS, fleet_settings, login
from tests.lab.fleet_upstream import serving
from vllm_hosts.keys import KeyStore, store_content
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.project.inventory import load, validate

_TEXT = '''"""Written by bench/gateways.py, and removed at its end."""

from bench.gateways import groups as _groups

gateways, gpu_hosts, lab = _groups()
'''
_ADDRESS = layout.BRIDGE_V4.network[100]


def groups() -> tuple[list[Any], list[Any], Any]:
    """The inventory: gateways, the stand-in, and settings of all."""
    front = [(name, login(name)) for name in hosts.gateway_names()]
    agents = [FLEET_AGENTS[0] | {"gpus": []}]
    behind = [("standin", {"ssh_hostname": str(_ADDRESS), "agents": agents})]
    return front, behind, ([name for name, _ in [*front, *behind]], fleet_settings())


@contextmanager
def deployed(folder: Path) -> Iterator[None]:
    """The lab's gateways, deployed to; those of another inventory are reset first.

    :param folder: an empty one, for the stand-in.
    """
    path = ROOT / GATEWAYS
    store = KeyStore(path)
    with ExitStack() as stack:
        stack.callback(path.unlink, missing_ok=True)
        path.write_text(_TEXT)
        store.update(lambda content: content, start=store_content.new_content(utc_now()))
        pool = validate(load(path))[hosts.gateway_names()[0]].pools[0]
        inner = [replica.inner_name for replica in pool.replicas]
        issued = store.local_ca().issue(inner, 30, utc_now())
        certificate, key = folder / "standin.pem", folder / "standin.key"
        certificate.write_bytes(issued.certificate_pem)
        key.touch(mode=0o600)
        key.write_bytes(issued.key_pem.get_secret_value())
        address = [f"{_ADDRESS}/32", "dev", layout.BRIDGE]
        subprocess.run(["ip", "address", "replace", *address], check=True)
        stack.callback(subprocess.run, ["ip", "address", "delete", *address], check=False)
        standin = (str(_ADDRESS), pool.replicas[0].port, str(certificate), str(key))
        stack.enter_context(serving(folder, [standin], store.folder / "ca.pem", 0.01))
        deploy = ["pyinfra", "-y", "--limit", "gateways", GATEWAYS, "deploy.py"]
        try:
            well(*deploy)
        except UnexpectedError:
            hosts.reset(hosts.gateway_names())
            well(*deploy)
        yield


if __name__ == "__main__":
    with deployed(Path(sys.argv[1])):
        print("deployed", flush=True)
        sys.stdin.read()
