"""What goes wrong at run time: that host fails with its reason, the other one finishes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import hosts as lab_hosts
from lab import layout
from lab.settings import AGENTS
from tests.lab.conftest import HOSTS, Deployed
from tests.lab.deploys import Run, changes, deploy


def assert_only_gpu2_failed(run: Run, *reason: str) -> None:
    """gpu1 went through all roles; gpu2 failed, and its lines say why."""
    assert run.code != 0, run.output[-4000:]
    for words in reason:
        assert words in run.output, run.output[-6000:]
    last = "The edge answers only to keys, on its own paths"
    assert last in run.output, "the other host did not get to the end"
    assert "Success" in run.of_host("gpu1") or "No changes" in run.of_host("gpu1")
    after = run.output[run.output.rindex(last) :]
    assert "[gpu1]" in after and "[gpu2]" not in after.split("Results")[0], after


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
        "cp -a /etc/os-release /root/os; rm /etc/os-release;"
        " sed -e 's/^VERSION_ID=.*/VERSION_ID=\"11\"/'"
        " -e 's/^PRETTY_NAME=.*/PRETTY_NAME=\"Debian GNU\\/Linux 11 (bullseye)\"/'"
        " /usr/lib/os-release >/etc/os-release",
        "rm /etc/os-release; mv /root/os /etc/os-release",
    ):
        assert_only_gpu2_failed(deploy(), "Debian GNU/Linux 11 (bullseye) is not supported")
    assert_converges()


def test_an_unreachable_host(deployed: Deployed) -> None:
    with broken("systemctl stop ssh.service ssh.socket", "systemctl start ssh.service"):
        run = deploy()
        assert run.code != 0
        assert "gpu2" in run.output
        assert changes(run)["gpu1"] == 0
    assert_converges()


def test_a_wrong_sudo_password(deployed: Deployed) -> None:
    run = deploy(
        "--data",
        f"ssh_user={layout.PASSWORD_USER}",
        settings={
            "_sudo": True,
            "_sudo_password": "not-the-password",
        },
    )
    assert run.code != 0
    assert "sudo password" in run.output
    assert "not-the-password" not in run.output
    assert_converges()


def test_a_full_disk(deployed: Deployed) -> None:
    with broken(
        "mkdir -p /root/small && mount -t tmpfs -o size=1m tmpfs /etc/nginx/conf.d 2>/dev/null;"
        " cp -a /etc/nginx/conf.d /root/small/; mount -t tmpfs -o size=16k tmpfs /opt/vllm;"
        " head -c 16384 /dev/zero >/opt/vllm/full || true",
        "umount /opt/vllm; umount /etc/nginx/conf.d",
    ):
        assert_only_gpu2_failed(deploy(), "is the disk full?")
    assert_converges()


def test_a_missing_image(deployed: Deployed) -> None:
    missing = layout.IMAGE.replace(":v0.32.0", ":v0.32.99")
    run = deploy("--limit", "gpu2", settings={"vllm": {"image": missing, "image_disk": 1}})
    assert run.code != 0
    assert "v0.32.99" in run.output
    names = lab_hosts.run("gpu2", "docker ps --format '{{.Names}} {{.Status}}'").stdout
    assert "healthy" in names, "the running agent was lost over a missing image"
    assert_converges()


@pytest.mark.parametrize("section", ["docker", "nvidia"])
def test_an_archive_whose_key_does_not_match(deployed: Deployed, section: str) -> None:
    run = deploy("--limit", "gpu2", settings={section: {"key_fingerprint": "0" * 40}})
    assert run.code != 0
    assert "not" in run.output and f"the pinned {'0' * 40}" in run.output
    assert_converges()


def test_an_agent_that_cannot_start_shows_its_last_lines(deployed: Deployed) -> None:
    agents = [dict(AGENTS[0], extra_args=["--enforce-eager", "--no-such-argument"])]
    run = deploy("--limit", "gpu2", settings={"agents": agents})
    assert run.code != 0
    assert "its last lines" in run.output
    assert "no-such-argument" in run.output
    assert_converges()
