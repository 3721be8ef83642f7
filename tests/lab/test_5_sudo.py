"""A login whose sudo asks for a password: what stands in processes of the host meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import hosts as lab_hosts
from lab import layout
from tests.lab.conftest import Deployed
from tests.lab.deploys import changes, command, deploy
from tests.lab.watch import ArgumentWatch, FileWatch

SETTINGS: dict[str, Any] = {
    "hosts": {
        "gpu2": {
            "ssh_user": layout.PASSWORD_USER,
            "secrets": {"sudo_password_env": "SUDO_OF_GPU2"},
        }
    }
}


def watch() -> ArgumentWatch:
    """Of gpu2's own processes: their arguments and environments."""
    return ArgumentWatch([layout.PASSWORD], host_of=lab_hosts.process_tree("gpu2")[2])


@pytest.mark.parametrize(
    "words",
    [
        ("pyinfra", "-y", "-vvv", "--debug", "--limit", "gpu2", "inventory/lab.py", "keys.py"),
        ("vllm-hosts", "verify", "inventory/lab.py", "--host", "gpu2", "--promise", "SEC-01"),
        ("vllm-hosts", "drift", "inventory/lab.py", "--host", "gpu2"),
        ("vllm-hosts", "doctor", "inventory/lab.py"),
        ("vllm-hosts", "agents", "inventory/lab.py", "status"),
        ("vllm-hosts", "top", "inventory/lab.py", "--once"),
        ("vllm-hosts", "plan", "inventory/lab.py"),
    ],
    ids=lambda words: words[1] if words[0] == "vllm-hosts" else "keys",
)
def test_no_command_shows_it(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("SUDO_OF_GPU2", layout.PASSWORD)
    with watch() as seen:
        run = command(*words, settings=SETTINGS)
    assert run.code == 0, run.output[-4000:]
    assert layout.PASSWORD not in run.output
    assert seen.seen == []
    assert seen.commands > 3, "the watch saw next to nothing of the host"


#: What was written since a file of ours was, but for containers and models.
_WRITTEN = """
    find /dev/shm /etc /home /opt /root /run /srv /tmp /usr/local /var -xdev \\
        '(' -path /var/lib/docker -o -path /var/lib/containerd -o -path /var/lib/vllm ')' -prune \\
        -o -type f -cnewer /run/began -size -64M -print0
"""


def left_behind(text: str) -> list[str]:
    """Where gpu2 has a text in what was written, or logged, since /run/began was."""
    # An exit code of grep's would end xargs.
    found = lab_hosts.run(
        "gpu2",
        f"{_WRITTEN.strip()} | xargs -0r sh -c 'printf %s {text} | grep -laF -f - -- \"$@\" || :' x"
        f"\njournalctl --no-pager -o export --since @$(stat -c %Y /run/began) | grep -caF {text}"
        " | sed 's/^/lines of the journal: /' | grep -v ' 0$' || :",
        timeout=120,
    )
    return found.stdout.splitlines()


def test_it_is_in_no_file_of_the_host(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while commands run nor after them: files, logs and the journal."""
    monkeypatch.setenv("SUDO_OF_GPU2", layout.PASSWORD)
    lab_hosts.run("gpu2", "touch /run/began; sleep 1; rm -f /etc/nginx/vllm-hosts/scopes.map")
    with FileWatch(layout.PASSWORD, lab_hosts.process_tree("gpu2")[2]) as seen:
        keys = command(
            *("pyinfra", "-y", "-vvv", "--limit", "gpu2", "inventory/lab.py", "keys.py"),
            settings=SETTINGS,
        )
        drift = command("vllm-hosts", "drift", "inventory/lab.py", settings=SETTINGS)
    assert (keys.code, drift.code) == (0, 0), keys.output[-3000:] + drift.output[-3000:]
    assert seen.seen == []
    assert seen.rounds > 10, "the watch looked next to never"
    assert left_behind(layout.PASSWORD) == []


def test_what_looks_for_it_in_files_finds_a_text(deployed: Deployed) -> None:
    lab_hosts.run("gpu2", "touch /run/began; sleep 1")
    with FileWatch("canary-in-a-file", lab_hosts.process_tree("gpu2")[2]) as seen:
        lab_hosts.run(
            "gpu2",
            "echo canary-in-a-file >/tmp/short; sleep 1; rm /tmp/short;"
            " echo canary-in-a-file >/var/tmp/long; logger canary-in-a-file; journalctl --sync",
        )
    found = left_behind("canary-in-a-file")
    lab_hosts.run("gpu2", "rm /var/tmp/long /run/began")
    assert "/tmp/short" in seen.seen
    assert "/var/tmp/long" in found
    assert any(line.startswith("lines of the journal: ") for line in found)


@pytest.mark.nightly
def test_a_deploy_changes_nothing_and_shows_nothing(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_OF_GPU2", layout.PASSWORD)
    lab_hosts.run("gpu2", "rm /etc/nginx/vllm-hosts/scopes.map; nft delete table inet vllm_hosts")
    with watch() as seen:
        run = deploy("-vvv", "--debug", "--diff", "--limit", "gpu2", settings=SETTINGS)
    assert run.code == 0, run.output[-4000:]
    assert layout.PASSWORD not in run.output
    assert seen.seen == []
    assert seen.commands > 100
    again = deploy("--limit", "gpu2", settings=SETTINGS)
    assert (again.code, changes(again)) == (0, {"gpu2": 0})


def test_the_watch_sees_pyinfra_s_own_way(deployed: Deployed, tmp_path: Path) -> None:
    """Without our config.py pyinfra passes it as it always does."""
    data = {
        "ssh_known_hosts_file": str(layout.KNOWN_HOSTS),
        "_sudo_password": layout.PASSWORD,
    }
    address = str(lab_hosts.host("gpu2").ipv4)
    login = ("--sudo", "--user", layout.PASSWORD_USER, "--key", str(layout.SSH_KEY))
    given = [word for name, value in data.items() for word in ("--data", f"{name}={value}")]
    with watch() as seen:
        run = command(
            "pyinfra", "-y", "--chdir", str(tmp_path), *login, *given, address,
            "exec", "--", "sleep 0.5",
        )  # fmt: skip
    assert run.code == 0, run.output[-4000:]
    assert seen.seen != []
