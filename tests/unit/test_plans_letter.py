"""Small plans, to the letter: packages, files and owners that a host gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from tests.unit.driver_hosts import DEBIAN_12, DEBIAN_13, UBUNTU_22, UBUNTU_24
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.daemon_json import HOOK
from vllm_hosts.host.files import File, Folder, Kept
from vllm_hosts.host.nvidia_apps import Holder
from vllm_hosts.host.nvidia_smi import Gpu
from vllm_hosts.host.release import Release
from vllm_hosts.keys import HostKeys
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.roles.docker import plan as docker
from vllm_hosts.roles.edge_logs import plan as edge_logs
from vllm_hosts.roles.models.plan import cache_folders
from vllm_hosts.roles.nvidia_container_toolkit import plan as toolkit
from vllm_hosts.roles.preflight.memory import memory, occupied
from vllm_hosts.roles.secrets.plan import secret_entries
from vllm_hosts.roles.tls import plan as tls
from vllm_hosts.settings import Docker

SOURCES = "/etc/apt/sources.list.d"


def test_packages_of_docker() -> None:
    plugins = ("docker-buildx-plugin", "docker-compose-plugin")
    assert list(docker.CE_PACKAGES) == ["docker-ce", "docker-ce-cli", "containerd.io", *plugins]
    others = ("docker-cli", "docker-compose", "docker-compose-v2", "docker-doc", "podman-docker")
    assert list(docker.CE_CONFLICTS) == ["docker.io", *others, "containerd", "runc"]


def test_what_older_instructions_left() -> None:
    assert list(docker.CE_STALE) == [
        f"{SOURCES}/docker.list",
        f"{SOURCES}/docker-ce.list",
        "/etc/apt/keyrings/docker.gpg",
    ]
    names = ("libnvidia-container", "nvidia-docker", "nvidia-container-runtime")
    assert list(toolkit.STALE) == [
        f"{SOURCES}/{name}.list" for name in (*names, "nvidia-container-toolkit")
    ]


@pytest.mark.parametrize(
    ("release", "packages"),
    [
        (DEBIAN_12, None),
        (DEBIAN_13, ("docker.io", "docker-cli", "docker-compose")),
        (UBUNTU_22, ("docker.io", "docker-compose-v2")),
        (UBUNTU_24, ("docker.io", "docker-compose-v2")),
    ],
)
def test_the_distribution_s_docker(release: Release, packages: tuple[str, ...] | None) -> None:
    assert docker.distro_packages(release) == packages


@pytest.mark.parametrize(
    ("driver", "limited"),
    [({}, True), ({"log-driver": "json-file"}, True), ({"log-driver": "local"}, True),
     ({"log-driver": "journald"}, False), ({"log-driver": ""}, False)],
)  # fmt: skip
def test_the_daemon_s_settings(driver: dict[str, Any], limited: bool) -> None:
    given = Docker(live_restore=True, log_max_size="7m", log_max_file=3)
    bound = {"com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
    wanted: dict[str, Any] = {
        "live-restore": True,
        "ip": "127.0.0.1",
        "default-network-opts": {"bridge": bound},
    }
    if limited:
        wanted["log-opts"] = {"max-size": "7m", "max-file": "3"}
    assert docker.daemon_settings(given, driver) == wanted


def test_what_docker_needs_for_gpus() -> None:
    assert toolkit.PACKAGES == (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
        "libnvidia-container1",
    )
    runtime = {"args": [], "path": "nvidia-container-runtime"}
    assert dict(toolkit.RUNTIME) == {"runtimes": {"nvidia": runtime}}
    assert HOOK == "/usr/bin/nvidia-container-runtime-hook"


def test_who_may_write_models() -> None:
    host = settings(vllm={"fetch_user": "7:8", "user": "9:8", "cache_directory": "/srv/cache"})
    assert cache_folders(host) == [
        Folder("/srv/cache"),
        Folder("/srv/cache/huggingface", mode=0o750, owner="7", group="8"),
    ]


@pytest.mark.parametrize("token", [None, SecretStr("hf_x")])
def test_secrets_are_in_one_private_file(token: SecretStr | None) -> None:
    host = settings(agents=[QWEN, CODER], vllm={"directory": "/srv/vllm"})
    keys = HostKeys(SecretStr("x" * 40), (), token)
    folder, file = secret_entries(host, keys)
    assert folder == Folder("/srv/vllm")
    assert isinstance(file, File)
    assert (file.path, file.mode, file.secret) == ("/srv/vllm/.env", 0o600, True)
    lines = [line for line in file.content.decode().splitlines() if line and line[0] != "#"]
    assert lines == [
        *(
            f"VLLM_API_KEY_{name.upper()}={keys.internal_of(name).get_secret_value()}"
            for name in ("qwen", "coder")
        ),
        *([f"HF_TOKEN={token.get_secret_value()}"] if token else []),
    ]


def test_agents_that_leave_have_their_keys_behind_those_that_stay() -> None:
    host = settings(agents=[QWEN | {"name": "a-b"}])
    keys = HostKeys(SecretStr("x" * 40), (), SecretStr("hf_x"))

    def lines(*leaving: str) -> list[str]:
        _, file = secret_entries(host, keys, leaving)
        assert isinstance(file, File)
        return [line for line in file.content.decode().splitlines() if line and line[0] != "#"]

    def line(variable: str, name: str) -> str:
        return f"VLLM_API_KEY_{variable}={keys.internal_of(name).get_secret_value()}"

    alone = [line("A_B", "a-b"), "HF_TOKEN=hf_x"]
    assert lines() == lines("a-b") == alone
    left = [alone[0], line("CC", "cc"), line("DD", "dd"), alone[1]]
    assert lines("dd", "a-b", "cc") == lines("cc", "dd") == left
    # What somebody has added to the host's compose.yaml is no agent, and its name no variable.
    assert lines("my.db", "a", "a_b", "1a") == alone


def test_a_user_s_own_certificate(tmp_path: Path) -> None:
    names = {"certificate": tmp_path / "c.pem", "key": tmp_path / "k.pem"}
    for name, path in names.items():
        path.write_bytes(name.encode())
    host = settings(tls={"mode": "files", **{name: str(path) for name, path in names.items()}})
    assert tls.from_files(host) == [
        Folder("/etc/vllm-hosts/tls"),
        File("/etc/vllm-hosts/tls/certificate.pem", b"certificate"),
        File("/etc/vllm-hosts/tls/key.pem", b"key", 0o600, secret=True),
    ]


def test_a_certificate_that_is_good_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "reason", lambda *given: None)
    ca: Any = None
    assert tls.from_local_ca(settings(), ca, ca, utc_now()) == [
        Folder("/etc/vllm-hosts/tls"),
        Kept("/etc/vllm-hosts/tls/certificate.pem"),
        Kept("/etc/vllm-hosts/tls/key.pem", 0o600),
    ]


def test_where_logs_and_their_timer_are() -> None:
    logs = tuple(f"/var/log/vllm-hosts/{name}.log" for name in ("access", "error"))
    assert logs == edge_logs.LOGS
    units = "/etc/systemd/system/vllm-hosts-edge-logs"
    edge = settings(edge={"log_max_size": "3g"}).edge
    entries = edge_logs.log_entries(edge)
    assert [entry.path for entry in entries] == [
        "/var/log/vllm-hosts",
        "/etc/vllm-hosts/edge-logs.conf",
        "/usr/local/lib/vllm-hosts",
        "/usr/local/lib/vllm-hosts/rotate-edge-logs",
        f"{units}.service",
        f"{units}.timer",
    ]
    assert "size 3G" in edge_logs.logrotate_conf(edge)


def test_the_memory_plan_only_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of agents whose cards are not there, which are refused."""
    agents = [
        SimpleNamespace(gpus=[0], warnings=["one", "two"]),
        SimpleNamespace(gpus=[0, 1], warnings=["three"]),
        SimpleNamespace(gpus=[1, 7], warnings=["four"]),
    ]
    given: list[object] = []

    def plan_host(*all_: object) -> Any:
        given.append(all_)
        return SimpleNamespace(agents=agents)

    monkeypatch.setitem(memory.__globals__, "plan_host", plan_host)
    host, gpus = settings(), {0: None, 1: None}
    said = memory(host, gpus, {})  # type: ignore[arg-type]
    assert said == [f"memory plan: {number}" for number in ("one", "two", "three")]
    assert given == [(host, gpus, {})]


def test_what_others_hold_of_cards_is_said_of_each_agent_that_needs_them() -> None:
    host = settings(agents=[QWEN, QWEN | {"name": "beta", "port": 8002, "gpus": [1]}])
    card = Gpu(0, "L4", "u0", 23034)
    seen: Any = SimpleNamespace(gpus=(card,), programs=(Holder(7, 22000, "u0", "blender"),))
    [sentence] = occupied(host, seen)
    assert "'qwen'" in sentence and "blender" in sentence
    seen.programs = ()
    assert occupied(host, seen) == []
