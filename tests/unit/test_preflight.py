"""What preflight says about hosts that cannot take a deploy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.fakes import listening
from tests.unit.samples import CODER, QWEN, settings
from vllm_hosts.host.nvidia_smi import NOT_INSTALLED, Gpu, failure
from vllm_hosts.host.release import Release
from vllm_hosts.host.system import System
from vllm_hosts.roles.preflight.plan import folders, notes, problems

GOOD_RELEASE = Release("debian", "13", "trixie", "Debian GNU/Linux 13 (trixie)", "amd64")
SETTINGS = settings(agents=[QWEN, CODER])
GOOD = System(
    user="0",
    init="systemd",
    free=dict.fromkeys(folders(SETTINGS), 500 * 1024**3),
    present=frozenset({"/srv/models/coder"}),
    has_image=False,
    listeners=(listening("0.0.0.0:22", 'users:(("sshd",pid=1,fd=3))'),),
    container_ports={},
    gpus=tuple(
        Gpu(index, "NVIDIA L40S", f"GPU-{index}", 46068, "550.163.01", (8, 9), None, True)
        for index in range(3)
    ),
    gpu_failure=None,
)
NGINX = 'users:(("nginx",pid=9,fd=6))'
APACHE = 'users:(("apache2",pid=9,fd=6))'
PROXY = 'users:(("docker-proxy",pid=7,fd=4))'


def test_a_good_host_has_no_problems() -> None:
    assert problems(SETTINGS, GOOD_RELEASE, GOOD) == []


@pytest.mark.parametrize(
    ("programs", "user", "words"),
    [
        (
            'users:(("python3",pid=4711,fd=3))',
            "alice",
            "port 8001 of agent 'qwen' is taken by python3 (pid 4711, user alice); stop it: see"
            " ps -fp 4711, then kill 4711, or give the agent another port",
        ),
        (
            'users:(("a",pid=1,fd=3),("a",pid=1,fd=4),("b",pid=2,fd=3),("c",pid=3,fd=3))',
            "",
            "taken by a (pid 1) and b (pid 2) and 1 more; stop it: see ps -fp 1,2,3",
        ),
        ('users:(("x\x1b[2J y",pid=9,fd=3))', "bob", "taken by x y (pid 9, user bob)"),
        ('users:(("ngi"nx",pid=9,fd=3))', "bob", 'taken by ngi"nx (pid 9, user bob)'),
        ("", "", "another program; stop it: ss -ltnp sport = :8001 shows it, or give the agent"),
    ],
)
def test_who_squats_on_an_agent_s_port_is_named(programs: str, user: str, words: str) -> None:
    system = replace(GOOD, listeners=(listening("127.0.0.1:8001", programs, user=user),))
    [problem] = problems(SETTINGS, GOOD_RELEASE, system)
    assert words in problem
    assert problem.isprintable()


def test_a_container_s_name_is_one_word_in_what_is_to_be_typed() -> None:
    listener = listening("127.0.0.1:8001", PROXY)
    system = replace(GOOD, listeners=(listener,), container_ports={8001: "a;reboot"})
    [problem] = problems(SETTINGS, GOOD_RELEASE, system)
    assert "stop it: docker stop 'a;reboot', or" in problem


def test_our_own_agents_and_edge_are_not_in_the_way() -> None:
    listeners = (
        listening("127.0.0.1:8001", PROXY),
        listening("0.0.0.0:443", NGINX),
        listening("[::]:80", NGINX),
    )
    system = replace(GOOD, listeners=listeners, container_ports={8001: "qwen"})
    assert problems(SETTINGS, GOOD_RELEASE, system) == []


@pytest.mark.parametrize(
    ("programs", "containers", "refused"),
    [
        (PROXY, {"qwen"}, False),
        (PROXY, {"coder", "other"}, True),
        (APACHE, {"qwen"}, True),
    ],
)
def test_an_agent_between_two_starts_is_not_in_its_own_way(
    programs: str, containers: set[str], refused: bool
) -> None:
    """docker ps shows no ports of a container that is restarting; docker-proxy may outlive it."""
    system = replace(
        GOOD,
        listeners=(listening("127.0.0.1:8001", programs),),
        containers=frozenset(containers),
    )
    assert bool(problems(SETTINGS, GOOD_RELEASE, system)) is refused


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ({"os_id": "fedora", "version": "44", "name": "Fedora 44"}, "Fedora 44 is not supported"),
        (
            {"version": "11", "name": "Debian 11"},
            "Debian 11 is not supported; use one of Debian 12",
        ),
        ({"architecture": "riscv64"}, "riscv64 is not supported; use one of amd64, arm64"),
    ],
)
def test_unsupported_systems_are_refused_by_name(release: dict[str, str], words: str) -> None:
    [problem] = problems(SETTINGS, replace(GOOD_RELEASE, **release), GOOD)
    assert words in problem


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ({"user": "1000"}, "_sudo = True"),
        ({"init": "tini"}, "tini, not systemd"),
        ({"listeners": (listening("*:8001", APACHE),)}, "port 8001 of agent 'qwen' is taken"),
        (
            {"listeners": (listening("*:8002", PROXY),), "container_ports": {8002: "other"}},
            "port 8002 of agent 'coder' is taken by container other; stop it: docker stop other,",
        ),
        ({"listeners": (listening("*:443", APACHE),)}, "set edge.https_port"),
        ({"present": frozenset()}, "model /srv/models/coder of agent 'coder' is not a folder"),
        ({"gpus": GOOD.gpus[:2]}, "agent 'coder' asks for GPU 2, and this host has 0, 1"),
        (
            {"gpus": (), "gpu_failure": failure("Driver/library version mismatch")},
            "the GPU driver does not answer: Driver/library version mismatch",
        ),
        (
            {"gpus": GOOD.gpus[:2], "gpus_lost": {2: "GPU is lost"}},
            "agent 'coder' asks for GPU 2, and nvidia-smi reports: GPU is lost",
        ),
        (
            {"gpus": (replace(GOOD.gpus[0], mig=True), *GOOD.gpus[1:])},
            "agent 'qwen' asks for GPU 0, which is split (MIG)",
        ),
        (
            {"free": GOOD.free | {"/var/lib/docker": 1024**3}},
            "1.0 GiB free, and the image needs 40",
        ),
        ({"free": GOOD.free | {"/var/lib/vllm": 0}}, "1 model(s) to download need 20 each"),
    ],
)
def test_each_obstacle_gets_one_sentence(system: dict[str, object], words: str) -> None:
    [problem] = problems(SETTINGS, GOOD_RELEASE, replace(GOOD, **system))  # type: ignore[arg-type]
    assert words in problem


def test_a_warning_of_the_driver_is_said_and_stops_nobody() -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:00:1E.0"
    system = replace(GOOD, gpu_notes=(warning,))
    assert problems(SETTINGS, GOOD_RELEASE, system) == []
    assert notes(SETTINGS, system) == [f"nvidia-smi says: {warning}"]
    assert notes(settings(agents=[QWEN | {"gpus": []}]), system) == []


def test_a_host_without_ipv6_is_taken_and_told() -> None:
    system = replace(GOOD, ipv6=False)
    assert problems(SETTINGS, GOOD_RELEASE, system) == []
    assert notes(SETTINGS, system) == [
        "this host has no IPv6 (ipv6.disable=1); the edge listens on IPv4 alone"
    ]
    named = settings(agents=[QWEN, CODER], edge={"names": ["llm.example.com", "2001:db8::11"]})
    [problem] = problems(named, GOOD_RELEASE, system)
    assert "2001:db8::11, and this host has no IPv6" in problem
    exposed = QWEN | {"expose": {"networks": ["2001:db8::/32"], "unguarded_routes": "accepted"}}
    [problem] = problems(settings(agents=[exposed, CODER]), GOOD_RELEASE, system)
    assert "agent 'qwen' is exposed to an IPv6 network, and this host has no IPv6" in problem


def test_disk_is_not_asked_for_twice() -> None:
    hub = "/var/lib/vllm/huggingface/hub/models--Qwen--Qwen3-8B"
    assert hub in folders(SETTINGS)
    system = replace(
        GOOD,
        has_image=True,
        present=GOOD.present | {hub},
        free=dict.fromkeys(GOOD.free, 0) | {"/run": 1 << 20, "/tmp": 1 << 20},
    )
    assert problems(SETTINGS, GOOD_RELEASE, system) == []


def test_a_host_whose_agents_need_no_gpu_needs_no_driver() -> None:
    cpu = settings(agents=[QWEN | {"gpus": []}])
    system = replace(GOOD, gpus=(), gpu_failure=NOT_INSTALLED)
    assert problems(cpu, GOOD_RELEASE, system) == []


def test_a_missing_driver_is_no_obstacle_where_it_will_be_installed() -> None:
    system = replace(GOOD, gpus=(), gpu_failure=NOT_INSTALLED)
    [problem] = problems(SETTINGS, GOOD_RELEASE, system)
    assert "set nvidia.driver = 'install'" in problem
    install = settings(agents=[QWEN, CODER], nvidia={"driver": "install"})
    assert problems(install, GOOD_RELEASE, system) == []


@pytest.mark.parametrize(("seconds", "words"), [(365 * 86400.0, "ahead of"), (-7200.0, "behind")])
def test_a_clock_that_is_wrong_is_named(seconds: float, words: str) -> None:
    [problem] = problems(SETTINGS, GOOD_RELEASE, replace(GOOD, clock=seconds))
    assert f" {words} the one here" in problem
    assert problem.endswith("set it: timedatectl set-ntp true, or date -s")
    assert problems(SETTINGS, GOOD_RELEASE, replace(GOOD, clock=seconds / 1e6)) == []
