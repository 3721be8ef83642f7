"""What goes wrong at run time: that host fails with its reason, the other one finishes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, changes, deploy
from vllm_hosts.host.nginx import TRIAL_FOLDER

LAST = "The edge answers only to keys, on its own paths"


def deploy_with(**settings: Any) -> Run:
    """A deploy to both hosts, where gpu2 has other settings."""
    return deploy(settings={"hosts": {"gpu2": settings}})


def assert_only_gpu2_failed(run: Run, *reason: str) -> None:
    """gpu1 went through all roles; gpu2 failed, and what was printed says why."""
    assert run.code != 0, run.output[-4000:]
    for words in reason:
        assert words in run.output, run.output[-6000:]
    assert "Traceback" not in run.output, run.output[-6000:]
    heading = f"| {LAST}"
    assert heading in run.output, "the other host did not get to the end"
    end = run.output[run.output.index(heading) :].partition("Results")[0]
    assert re.search(r"\[gpu1\] +No changes", end), end
    assert "[gpu2]" not in end, end


@contextmanager
def broken(do: str, undo: str) -> Iterator[None]:
    """gpu2 with something broken, and repaired again."""
    lab_hosts.run("gpu2", do)
    try:
        yield
    finally:
        lab_hosts.run("gpu2", undo)


def assert_converges() -> None:
    run = deploy()
    assert run.code == 0, run.output[-6000:]
    assert set(changes(run)) == set(HOSTS)


def test_an_unsupported_system_is_refused_by_name(deployed: Deployed) -> None:
    with broken(
        "mv /etc/os-release /root/os-release;"
        " sed -e 's/^VERSION_ID=.*/VERSION_ID=\"11\"/'"
        " -e 's/^PRETTY_NAME=.*/PRETTY_NAME=\"Debian GNU\\/Linux 11 (bullseye)\"/'"
        " /usr/lib/os-release >/etc/os-release",
        "mv -T /root/os-release /etc/os-release",
    ):
        run = deploy()
    assert_only_gpu2_failed(run, "Debian GNU/Linux 11 (bullseye) is not supported")
    assert_converges()


def test_a_missing_driver_is_told_in_its_own_words(deployed: Deployed) -> None:
    with broken("mv /etc/lab-gpu.csv /root/", "mv /root/lab-gpu.csv /etc/"):
        run = deploy()
    assert_only_gpu2_failed(run, "couldn't communicate with the NVIDIA driver")
    assert_converges()


def test_a_port_that_somebody_else_has(deployed: Deployed) -> None:
    taken = dict(AGENTS[1], name="other", port=8009)
    with broken(
        "systemd-run --unit lab-stranger systemd-socket-activate -l 127.0.0.1:8009 /bin/cat",
        "systemctl stop lab-stranger",
    ):
        run = deploy_with(agents=[AGENTS[0], taken])
    assert_only_gpu2_failed(run, "8009", "systemd-socket")
    assert_converges()


def test_an_unreachable_host(deployed: Deployed) -> None:
    with broken("systemctl stop ssh.service ssh.socket", "systemctl start ssh.service"):
        run = deploy()
    assert_only_gpu2_failed(run, "[gpu2]")
    assert changes(run) == {"gpu1": 0}
    assert_converges()


def test_a_wrong_sudo_password(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_OF_GPU2", "not-the-password")
    run = deploy_with(ssh_user=layout.PASSWORD_USER, secrets={"sudo_password_env": "SUDO_OF_GPU2"})
    assert_only_gpu2_failed(run, "sudo refuses the password of alice")
    assert "not-the-password" not in run.output
    tries = lab_hosts.run("gpu2", "journalctl -t sudo --since -10min | grep -c 'incorrect pass'")
    assert tries.stdout == "1\n"
    assert_converges()


def test_a_full_disk_loses_nothing(deployed: Deployed) -> None:
    """The new configuration does not fit; the old one stays and is served."""
    conf = "/etc/nginx/conf.d"
    with broken(
        f"cp -a {conf} /root/conf.d && mount -t tmpfs -o size=64k tmpfs {conf} &&"
        f" cp -a /root/conf.d/. {conf}/ && {{ cat /dev/zero >{conf}/full; true; }}",
        f"umount {conf}; rm -r /root/conf.d",
    ):
        run = deploy_with(edge={"burst": 41})
        left = lab_hosts.run("gpu2", f"ls -A {conf}; cmp {conf}/vllm-hosts.conf /root/conf.d/*")
    assert_only_gpu2_failed(run, "is the disk full?")
    assert left.stdout.split() == ["full", "vllm-hosts.conf"]
    assert_converges()


@pytest.mark.nightly
def test_an_option_that_dockerd_s_unit_has_too(deployed: Deployed) -> None:
    """dockerd itself refuses both together, and is not restarted to find that out."""
    folder = "/etc/systemd/system/docker.service.d"
    drop_in = "[Service]\\nExecStart=\\nExecStart=/usr/bin/dockerd -H fd:// --live-restore\\n"
    real = lab_hosts.run(
        "gpu2",
        "dockerd --validate --config-file /etc/docker/daemon.json --live-restore 2>&1; true",
    )
    assert "specified both as a flag and in the configuration file: live-restore" in real.stdout
    with broken(
        f"mkdir -p {folder}; printf '{drop_in}' >{folder}/override.conf",
        f"rm {folder}/override.conf; rmdir --ignore-fail-on-non-empty {folder}",
    ):
        run = deploy()
    assert_only_gpu2_failed(
        run, f"{folder}/override.conf gives dockerd --live-restore", "then systemctl daemon-reload"
    )
    assert_converges()


@pytest.mark.nightly
def test_an_entry_of_apt_that_cannot_give_way(deployed: Deployed) -> None:
    path = "/etc/apt/sources.list.d/all.sources"
    with broken(
        f"sed 's/^Suites: .*/& another/' /etc/apt/sources.list.d/docker.sources >{path}",
        f"rm {path}; apt-get update -q",
    ):
        run = deploy()
    assert_only_gpu2_failed(
        run, f"{path}, line 1: one entry names", "make it an entry of its own, or remove it"
    )
    assert_converges()


@pytest.mark.nightly
def test_nginx_is_asked_before_image_and_models_are_waited_for(deployed: Deployed) -> None:
    """A user's file that nginx refuses: said in its words, before an image that is not there."""
    files = "find /etc/nginx /var/log/nginx /run -xdev -path '*vllm-hosts*' | sort; ls /run/*.pid"
    before = lab_hosts.run("gpu2", f"{files}; systemctl show -p MainPID nginx").stdout
    missing = f"{layout.REGISTRY_NAME}:{layout.REGISTRY_PORT}/vllm/not-there:v0.32.0"
    with broken(
        "echo 'no_such_directive on;' >/etc/nginx/conf.d/other.conf",
        "rm /etc/nginx/conf.d/other.conf",
    ):
        run = deploy_with(
            edge={"expected_clients": 2, "burst": 41}, vllm={"image": missing, "image_disk": 1}
        )
    assert_only_gpu2_failed(
        run,
        "nginx would reject the edge's configuration: nginx: [emerg] unknown directive"
        ' "no_such_directive" in /etc/nginx/conf.d/other.conf',
    )
    # Looks name the image: whether it is there, and whether its disk space is still needed.
    named = [line for line in run.of_host("gpu2").splitlines() if "not-there" in line]
    looks = ("SystemState", "ImageVersion")
    assert named and all(any(look in line for look in looks) for line in named), named
    assert lab_hosts.run("gpu2", f"{files}; systemctl show -p MainPID nginx").stdout == before
    assert_converges()


def test_a_configuration_that_nginx_rejects_is_put_back(deployed: Deployed) -> None:
    """Somebody else's file is in the way, only when it gets serious: ours is not taken up, and
    what ran runs on."""
    path = "/etc/nginx/conf.d/vllm-hosts.conf"
    before = lab_hosts.run("gpu2", f"sha256sum {path}; systemctl show -p MainPID nginx").stdout
    # It is there while nginx is asked beforehand, and not afterwards.
    pem = f"{TRIAL_FOLDER}/certificate.pem"
    with broken(
        f"echo 'server {{ listen 127.0.0.1:9443 ssl; ssl_certificate {pem};"
        f" ssl_certificate_key {TRIAL_FOLDER}/key.pem; }}' >/etc/nginx/conf.d/other.conf",
        "rm /etc/nginx/conf.d/other.conf",
    ):
        run = deploy_with(edge={"expected_clients": 2, "burst": 41})
    assert_only_gpu2_failed(run, pem, "what was there before is back in place")
    after = lab_hosts.run("gpu2", f"sha256sum {path}; systemctl show -p MainPID nginx").stdout
    assert after == before
    assert_converges()


def test_a_daemon_json_that_is_not_json_is_left_alone(deployed: Deployed) -> None:
    path = "/etc/docker/daemon.json"
    with broken(
        f"cp -a {path} /root/daemon.json; echo '{{' >{path}", f"mv /root/daemon.json {path}"
    ):
        run = deploy()
        content = lab_hosts.run("gpu2", f"cat {path}").stdout
    assert_only_gpu2_failed(run, path)
    assert content == "{\n"
    assert_converges()


def test_a_missing_image(deployed: Deployed) -> None:
    missing = layout.IMAGE.replace(":v0.32.0", ":v0.32.99")
    run = deploy_with(vllm={"image": missing, "image_disk": 1})
    assert_only_gpu2_failed(run, "v0.32.99", "not found")
    names = lab_hosts.run("gpu2", "docker ps --format '{{.Names}} {{.Status}}'").stdout
    assert "healthy" in names, "the running agent was lost over a missing image"
    assert_converges()


@pytest.mark.parametrize("section", ["docker", "nvidia"])
def test_an_archive_whose_key_does_not_match(deployed: Deployed, section: str) -> None:
    run = deploy_with(**{section: {"key_fingerprint": "0" * 40}})
    assert_only_gpu2_failed(run, f"the pinned {'0' * 40}; nothing was installed")
    assert_converges()


@pytest.mark.nightly
def test_an_agent_that_cannot_start_shows_its_last_lines(deployed: Deployed) -> None:
    agents = [dict(AGENTS[0], extra_args=["--enforce-eager", "--no-such-argument"])]
    # What vLLM says of it beforehand is overruled.
    run = deploy_with(agents=agents, capacity={"preflight": "warn"})
    assert_only_gpu2_failed(run, "would not start with this", "its last lines", "no-such-argument")
    assert_converges()


@pytest.mark.nightly
def test_an_interrupted_run_is_finished_by_the_next(deployed: Deployed) -> None:
    """Files are written, but the service has not taken them up: the next run sees that."""
    lab_hosts.run("gpu2", "rm /var/lib/vllm-hosts/stamps/nginx; systemctl stop nginx")
    run = deploy()
    assert run.code == 0, run.output[-4000:]
    assert changes(run)["gpu1"] == 0
    assert lab_hosts.run("gpu2", "systemctl is-active nginx").stdout.strip() == "active"
