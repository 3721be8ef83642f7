"""What deploy.py does, role by role, on a host that was just installed, and on one in line.

With the body of any role's function emptied, or an operation of it left out, a test here fails.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.golden import check_golden
from tests.unit.projects import ROOT
from tests.unit.recording import Recorder, Run, deploy_py

#: By the name of a role's function, its operations in order.
OPERATIONS = {
    "lock": ["No other deploy is at work on the host"],
    "preflight": ["The host can take this deploy"],
    "ownership": [
        "The host belongs to no other inventory",
        "The host belongs to this inventory's store",
    ],
    "nvidia_driver": [
        "A driver can be installed, or is there",
        "The open-source driver nouveau is disabled",
        "The driver is kept out of unattended upgrades",
        "The driver is installed",
        "The driver answers",
        "The driver's packages are held",
        "The persistence daemon runs, where there is one",
        "The Fabric Manager runs, where it has to",
        "The GPUs are those that agents ask for",
    ],
    "docker": [
        "Docker's apt archive is known",
        "Docker Engine is installed",
        "daemon.json is merged, Docker runs with it",
        "Compose v2 is there",
    ],
    # Not where there is a mirror: tests/unit/test_mirror_roles.py.
    "vllm_image_begun": ["The vLLM image is fetched beside other work"],
    "nginx_asked": ["nginx is installed", "nginx accepts the edge's configuration"],
    "firewall": [
        "nftables is installed",
        "The firewall is in force, now and at boot",
        "Other firewalls are known",
    ],
    # With one there is more: tests/unit/test_mirror_roles.py.
    "mirror": ["Nothing of another mirror is left"],
    "nvidia_container_toolkit": [
        "NVIDIA's apt archive is known",
        "The toolkit is installed and held at 1.20.1-1",
    ],
    "ssh_hardening": [
        "sshd accepts keys only, if the settings ask for it",
        "sshd refuses passwords",
    ],
    "edge_logs": [
        "logrotate is installed",
        "The edge's logs are rotated by size",
        "Only root and adm read the edge's logs",
        "The timer for it runs",
    ],
    "secrets": [".env holds the secrets, for root only"],
    "vllm_image": [
        "The vLLM image is on the host",
        "The image's vLLM has no known vulnerability that bypasses its key",
        "Images that agents use are recorded",
    ],
    "gpus_in_containers": ["Docker knows the NVIDIA runtime", "A container gets the GPUs"],
    "rehearsal": ["vLLM accepts the agents that change"],
    "models": [
        "No agent can write into the models' cache",
        "The models' cache is there",
        "Models from the hub are complete",
        "Models from the controller are complete",
    ],
    "vllm": [
        "The agents' folders are there",
        "Hosts with the same model take turns",
        "The agents run as in compose.yaml",
        "The agents are healthy",
        "What is healthy is kept for a way back",
    ],
    "secrets_left": [".env holds nothing of agents that are gone"],
    "watchdog": ["The host restarts agents whose engine hangs", "The timer for it runs"],
    "tls": ["The edge has a valid certificate"],
    # Without gateways nothing: tests/unit/test_gateway_roles.py.
    "inner_tls": [],
    # Nothing on a host that is no gateway: tests/unit/test_role_balancer.py.
    "balancer": [],
    # Without gateways that share an address nothing: tests/unit/test_virtual_address.py.
    "virtual_address": [],
    # Without gateways nothing: tests/unit/test_rotation_roles.py.
    "rotation": [],
    "nginx": [
        "The edge is configured and nginx has loaded it",
        "nginx runs, now and at boot",
    ],
    "client_keys": ["The edge accepts exactly the keys of the store"],
    "key_expiry": ["Keys expire automatically", "The timer for it runs"],
    "record": ["The host has a record of what was deployed", "Old images are known"],
    "assertions": [
        "Only the expected sockets listen",
        ".env is readable by root only",
        "The controller cannot reach an agent's port",
        "The edge answers only to keys, on its own paths",
    ],
}


def roles() -> Iterator[Callable[[], Any]]:
    """Every function that deploys something, as it is decorated."""
    for path in sorted(Path(ROOT, "roles").glob("*/__init__.py")):
        module = importlib.import_module(f"roles.{path.parent.name}")
        for one in vars(module).values():
            if hasattr(getattr(one, "_inner", None), "deploy_name"):
                yield one


ROLES = {role.__name__: role for role in roles()}


def test_every_role_is_here() -> None:
    # Those are rollback.py's and remove.py's: test_role_rollback, test_role_removal.
    assert set(ROLES) == {*OPERATIONS, "rollback", "removal"}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_role_s_operations(name: str, deployed: tuple[Recorder, Run], tmp_path: Path) -> None:
    """By itself, on a host that has all of it: it changes nothing there."""
    role = ROLES[name]
    title = role._inner.deploy_name  # type: ignore[attr-defined]
    done = deployed[0].copied(tmp_path).run(role)
    assert done.names == [f"{title} | {operation}" for operation in OPERATIONS[name]]
    assert (done.failed, done.changed) == (False, [])


def test_deploy_py_runs_all_of_them_in_this_order(deployed: tuple[Recorder, Run]) -> None:
    assert [name.partition(" | ")[2] for name in deployed[1].names] == [
        operation for operations in OPERATIONS.values() for operation in operations
    ]


def test_golden_what_a_fresh_host_gets(deployed: tuple[Recorder, Run]) -> None:
    """The whole deploy on one page: what is installed, written, checked and taken up."""
    _, done = deployed
    assert not done.failed
    lines = [line for operation in done.operations for line in operation.shown()]
    check_golden("roles/fresh-host.txt", "".join(f"{line}\n" for line in lines))


def test_a_second_run_changes_nothing_and_foresees_nothing(
    deployed: tuple[Recorder, Run], tmp_path: Path
) -> None:
    recorder = deployed[0].copied(tmp_path)
    done = recorder.run(deploy_py)
    assert (done.failed, done.refused, done.changed) == (False, [], [])
    assert (done.effects, done.said) == ([], [])
