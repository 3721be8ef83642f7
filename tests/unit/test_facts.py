"""What facts make of what programs on a host print."""

from __future__ import annotations

import base64
import os
import pwd
import socket
import subprocess
from pathlib import Path

import pytest

from tests.unit.fakes import inspect_line
from tests.unit.here import Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.apt import (
    AllPackages,
    AptKeyFingerprints,
    AptPackages,
    AptSourceFiles,
    AptVersions,
)
from vllm_hosts.facts.base import END
from vllm_hosts.facts.compose import ComposeProject
from vllm_hosts.facts.docker import DockerDaemon
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.system import SystemState
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.compose import Network
from vllm_hosts.host.containers import Standing
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.operations.docker import PULL_SUMMARY


def test_tree_state_tells_kinds_apart() -> None:
    digest = "a" * 64
    found = TreeState().process(
        [
            "== stat",
            "regular file|600|root|0|root|0|/opt/vllm/.env",
            "regular empty file|644|root|0|root|0|/etc/empty",
            "symbolic link|777|root|0|root|0|/etc/link",
            "directory|750|UNKNOWN|64101|UNKNOWN|64101|/var/lib/vllm",
            "fifo|600|root|0|root|0|/run/pipe",
            "== sha256",
            f"{digest}  /opt/vllm/.env",
            f"{'e' * 64}  /etc/empty",
            f"{'b' * 64}  /etc/link",
            "== stamp",
            "cafe",
            "== deployed",
            "== asked",
            *["/opt/vllm/.env", "/etc/empty", "/etc/link", "/var/lib/vllm", "/run/pipe", "/none"],
            "",
            END,
        ]
    )
    assert found.stamp == "cafe"
    assert found.paths["/opt/vllm/.env"] == Found("f", 0o600, ("root", "0"), ("root", "0"), digest)
    assert {path: value.kind for path, value in found.paths.items()} == {
        "/opt/vllm/.env": "f",
        "/etc/empty": "f",
        "/etc/link": "l",
        "/var/lib/vllm": "d",
        "/run/pipe": "o",
        "/none": "-",
    }
    assert found.paths["/none"] == NOTHING
    assert found.paths["/etc/link"].sha256 == ""


def test_a_file_that_vanished_while_it_was_looked_at_is_not_a_default() -> None:
    with pytest.raises(HostError, match="the state of files"):
        TreeState().process(
            [
                "== stat",
                "regular file|600|root|0|root|0|/a",
                "== sha256",
                "== stamp",
                "== deployed",
                "== asked",
            ]
            + ["/a", END]
        )


def test_only_installed_packages_count() -> None:
    found = AptPackages().process(
        ["== installed", "ii |docker-ce|5:28", "rc |docker.io|26", "hi |tool|1.20", "== held"]
        + ["tool", END]
    )
    assert found.versions == {"docker-ce": "5:28", "tool": "1.20"}
    assert found.held == {"tool"}


@pytest.mark.parametrize(
    ("status", "asked", "held"),
    [
        (("ii ", "un "), False, set()),
        (("ii ", "rh "), False, set()),
        # A hold is a hold whether the package is there or not.
        (("ii ", "hi "), True, {"nginx"}),
        (("hn ", "ii "), True, {"nginx"}),
        ((), False, set()),
    ],
)
def test_apt_is_asked_what_is_held_where_dpkg_knows_a_hold(
    tmp_path: Path, status: tuple[str, ...], asked: bool, held: set[str]
) -> None:
    here = Here(tmp_path)
    rows = "".join(f"echo '{one}|hold-{at}|1-h'\n" for at, one in enumerate(status))
    here.program("dpkg-query", f"[ $# = 5 ] || exit 2\n{rows}")
    here.program("apt-mark", f'echo "$@" >>{tmp_path}/asked; echo nginx')
    found = AptPackages().process(
        here.check_output(AptPackages().command(["hold-0", "hold-1"])).splitlines()
    )
    assert found.held == held
    assert set(found.versions) == {
        f"hold-{at}" for at, one in enumerate(status) if one[1] == "i"
    }  # fmt: skip
    note = tmp_path / "asked"
    assert (note.read_text() if note.exists() else "") == "showhold hold-0 hold-1\n" * asked


def test_all_packages_are_known_with_those_that_are_held() -> None:
    found = AllPackages().process(
        ["== installed", "hi |nvidia-smi|550.163.01-2", "rc |nvidia-driver|535", "== held"]
        + ["nvidia-smi", END]
    )
    assert found.versions == {"nvidia-smi": "550.163.01-2"}
    assert found.held == {"nvidia-smi"}


def test_offered_versions_stay_in_the_archives_order() -> None:
    found = AptVersions().process(
        ["== offered", " nvidia-fabricmanager-580 | 580.95.05-1 | https://a.example/ Packages"]
        + [" nvidia-fabricmanager-580 | 580.65.06-1 | https://a.example/ Packages", END]
    )
    assert found == {"nvidia-fabricmanager-580": ("580.95.05-1", "580.65.06-1")}


def test_source_files_are_read_as_they_are() -> None:
    text = "Types: deb\n# x\n\nTypes: deb\n"
    found = AptSourceFiles().process(
        ["== /etc/apt/sources.list", "== /etc/apt/sources.list.d/debian.sources"]
        + [base64.b64encode(text.encode()).decode(), END]
    )
    assert found == {
        "/etc/apt/sources.list": "",
        "/etc/apt/sources.list.d/debian.sources": text,
    }


def test_only_primary_keys_have_fingerprints_that_count() -> None:
    lines = ["== keys", "pub:-:4096:1:X:1::::::", "fpr:::::::::AAAA:", "uid:-::::x:"]
    lines += [
        "sub:-:4096:1:Y:1::::::",
        "fpr:::::::::BBBB:",
        "pub:-:1:1:Z:1:::",
        "fpr:::::::::CCCC:",
    ]
    assert AptKeyFingerprints().process([*lines, END]) == ("AAAA", "CCCC")
    assert AptKeyFingerprints().process(["== keys", END]) == ()


def test_a_host_without_docker_is_a_value_not_an_error() -> None:
    found = DockerDaemon().process(
        ["== active", "inactive", "== enabled", "== config", "== stale", END]
    )
    assert (found.running, found.config) == (False, None)


def test_daemon_json_is_read_byte_by_byte() -> None:
    text = b'{"debug": true}  \n\n'
    lines = ["== active", "active", "== enabled"]
    lines += ["enabled", "== config", "present", base64.b64encode(text).decode(), "== stale"]
    found = DockerDaemon().process([*lines, "/etc/docker/daemon.json", END])
    assert found.config == text
    assert found.stale == ("/etc/docker/daemon.json",)


def test_compose_says_what_should_run_and_what_does() -> None:
    found = ComposeProject().process(
        ["== hashes", "qwen abc", "coder def", "exit 0", "== containers"]
        + [inspect_line("qwen"), inspect_line("old", "exited", None, hash="123"), "== networks"]
        + ["qwen vllm_qwen 198.18.250.8/29 vllm-8001 qwen", "default vllm_default 172.18.0.0/16 -"]
        + [END]
    )
    assert found.wanted == {"qwen": "abc", "coder": "def"}
    assert [(one.service, one.config_hash, one.standing) for one in found.containers] == [
        ("qwen", "abc", Standing.WELL),
        ("old", "123", Standing.ENDED),
    ]
    assert found.networks == (
        Network("qwen", "vllm_qwen", "198.18.250.8/29", "vllm-8001", ("qwen",)),
        Network("default", "vllm_default", "172.18.0.0/16", "-", ()),
    )
    assert found.error is None


def test_a_compose_file_that_compose_rejects_is_told() -> None:
    found = ComposeProject().process(
        ["== hashes", "services.qwen.ports must be a list", "exit 15", "== containers"]
        + ["== networks", END]
    )
    assert found.error == "services.qwen.ports must be a list"


def test_os_release_of_ubuntu() -> None:
    found = OsRelease().process(
        ["== release", 'PRETTY_NAME="Ubuntu 24.04.3 LTS"', 'VERSION_ID="24.04"', "ID=ubuntu"]
        + ["VERSION_CODENAME=noble", "== architecture", "arm64", END]
    )
    assert (found.os_id, found.version, found.codename) == ("ubuntu", "24.04", "noble")
    assert (found.name, found.architecture) == ("Ubuntu 24.04.3 LTS", "arm64")


SYSTEM = [
    *["== user", "0", "== init", "systemd", "== image", "present"],
    *["== free /var/lib/docker", "present", "53687091200", "== free /var/lib/vllm", "1073741824"],
    "== listeners",
    'tcp LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=12,fd=4))',
    'tcp LISTEN 0 4096 127.0.0.1:8001 0.0.0.0:* users:(("docker-proxy",pid=5,fd=7))',
    "== containers",
    'qwen|Up 3 days (healthy)|127.0.0.1:8001->8000/tcp, 9000/tcp|"/opt/vllm"',
    "== routes",
    "default via 192.0.2.1 dev eth0 proto dhcp",
    "192.0.2.0/24 dev eth0 proto kernel scope link src 192.0.2.11",
    "blackhole 203.0.113.0/24",
    "== gpus",
]


def test_a_system_with_gpus() -> None:
    card = "0, NVIDIA H200, GPU-1, 143771, 590.48.01, 9.0, Disabled, Enabled"
    found = SystemState().process([*SYSTEM, card, "exit 0", END])
    assert found.free == {"/var/lib/docker": 50 * 1024**3, "/var/lib/vllm": 1024**3}
    assert found.present == {"/var/lib/docker"}
    assert found.has_image
    assert [(item.address, item.port) for item in found.listeners] == [
        ("::", 22),
        ("127.0.0.1", 8001),
    ]
    assert found.container_ports == {8001: "qwen"}
    assert found.containers == {"qwen"}
    assert found.project_ports == {"/opt/vllm": {8001}}
    assert [(gpu.name, gpu.memory_mib) for gpu in found.gpus] == [("NVIDIA H200", 143771)]
    assert found.gpu_failure is None
    assert [(str(route.network), route.interface) for route in found.routes] == [
        ("192.0.2.0/24", "eth0"),
        ("203.0.113.0/24", "blackhole"),
    ]


def test_whose_a_socket_is() -> None:
    """ss says it where it is not root's; a program's own name has no say in it."""
    at = SYSTEM.index("== listeners")
    lines = [
        'tcp LISTEN 0 5 127.0.0.1:8001 *:* users:(("python3",pid=7,fd=3)) uid:1000 ino:9 sk:1',
        'tcp LISTEN 0 5 127.0.0.1:8002 *:* users:(("x uid:0 y",pid=8,fd=3)) uid:4711 ino:9 sk:1',
        'tcp LISTEN 0 5 127.0.0.1:8003 *:* users:(("sshd",pid=9,fd=3)) ino:9 sk:1 cgroup:/a <->',
        "tcp LISTEN 0 5 127.0.0.1:8004 *:* ino:9 sk:1",
    ]
    rest = SYSTEM[at + 3 :]
    output = [*SYSTEM[: at + 1], *lines, "== users", "alice:1000", *rest, "exit -", END]
    found = SystemState().process(output)
    assert [(one.port, one.user) for one in found.listeners] == [
        (8001, "alice"),
        (8002, "4711"),
        (8003, "root"),
        (8004, "root"),
    ]
    assert found.listeners[0].programs == {"python3"}
    assert found.listeners[3].programs == frozenset()


def test_who_listens_here_is_told_by_this_machine_s_own_programs() -> None:
    script = SystemState().command(["/"], "no/image", f"{os.getuid()}:{os.getgid()}")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    found = SystemState().process(done.stdout.splitlines())
    [mine] = [one for one in found.listeners if one.port == port]
    assert mine.user == pwd.getpwuid(os.getuid()).pw_name
    assert str(os.getpid()) in mine.pids


def test_the_driver_s_own_message_is_kept() -> None:
    message = "Failed to initialize NVML: Driver/library version mismatch"
    found = SystemState().process([*SYSTEM, message, "exit 18", END])
    assert found.gpus == ()
    assert str(found.gpu_failure) == message


def test_a_model_on_the_host() -> None:
    config = base64.b64encode(b'{"architectures": []}').decode()
    lines = [
        *SYSTEM,
        "0, NVIDIA H200, GPU-0, 143771, 590.48.01, 9.0, Disabled, Enabled",
        "exit 0",
        "== model /srv/a",
        f"config {config}",
    ]
    lines += ["file 1208 200", "file 108 100", "== model /srv/b", f"config {config}", "total 77"]
    found = SystemState().process([*lines, "== model /srv/c", f"config {config}", END])
    assert [gpu.memory_mib for gpu in found.gpus] == [143771]
    assert {folder: model.weight_bytes for folder, model in found.models.items()} == {
        "/srv/a": 1000,
        "/srv/b": 77,
        "/srv/c": None,
    }
    assert found.models["/srv/a"].config == b'{"architectures": []}'


def test_a_pull_s_progress_is_summed_over_layers() -> None:
    lines = """\
 image Pulling
 aaa Pulling fs layer
 aaa Downloading [>      ]  540.7kB/906.8MB
 aaa Downloading [===>   ]    120MB/906.8MB
 bbb Downloading [=======>]  1.5GB/1.5GB
 bbb Download complete
 ccc Downloading [=>]  10MB/100MB
 ccc Download complete
 ccc Extracting [==>]  50MB/100MB
 ddd Already exists
"""
    done = subprocess.run(
        ["awk", PULL_SUMMARY], input=lines, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1.72 of 2.51 GB downloaded, 0.05 GB unpacked\n"
