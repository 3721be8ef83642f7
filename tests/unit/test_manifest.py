"""What a host had before us is written down whole, and what deploys brought line by line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from vllm_hosts.facts.remains import HostRemains
from vllm_hosts.host import manifest, paths


def sh(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=False,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **environment},
    )  # fmt: skip


def test_each_line_is_there_once_whoever_writes_it(tmp_path: Path) -> None:
    first = manifest.brought("package", ["nginx", "g++"])
    second = manifest.brought("hold", ["nginx"])
    for script in (first, second, first):
        moved = script.replace("/var/lib/vllm-hosts", f"{tmp_path}/state")
        assert sh(f"set -eu\n{moved}").returncode == 0
    lines = (tmp_path / "state/manifest").read_text().splitlines()
    assert lines == ["hold nginx", "package g++", "package nginx"]
    found = manifest.manifest_of(lines, ["/b", "/a"])
    assert found.packages == {"nginx", "g++"} and found.held == {"nginx"}
    assert (found.files, found.before) == (("/a", "/b"), None)


def test_nothing_is_no_line() -> None:
    assert manifest.brought("package", []) == ":"


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs dpkg")
def test_what_was_there_before_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine, into a folder of the test's."""
    monkeypatch.setattr(paths, "BEFORE", f"{tmp_path}/state/before")
    anothers = tmp_path / "state/way-back"
    monkeypatch.setattr(paths, "WAY_BACK", str(anothers))
    (anothers / "now").mkdir(parents=True)
    theirs = tmp_path / "daemon.json"
    theirs.write_text('{"mtu": 1400}')
    theirs.chmod(0o640)
    monkeypatch.setattr(manifest, "COPIED", (str(theirs), f"{tmp_path}/none"))
    for _ in range(2):
        done = sh(manifest.before_taken([str(tmp_path), "/not/there"]))
        assert done.returncode == 0, done.stderr
    assert not anothers.exists(), "agents of another inventory could be put back"
    before = tmp_path / "state/before"
    assert before.stat().st_mode & 0o777 == 0o700
    kept = Path(f"{before}/files{theirs}")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ('{"mtu": 1400}', 0o640)
    assert sorted(path.name for path in before.iterdir()) == sorted([*manifest.LISTS, "files"])
    found = manifest.before_of(
        {name: (before / name).read_text().split() for name in manifest.LISTS}
    )
    assert "dpkg" in found.packages and "root" in found.groups
    assert str(tmp_path) in found.paths and "/not/there" not in found.paths


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs dpkg")
def test_the_look_runs_and_is_understood(tmp_path: Path) -> None:
    """On this machine, whatever it has, but for notes of deploys."""
    fact = HostRemains()
    command = fact.command(directory="/opt/x", project="x", fetching="y", bridges="x-")
    done = sh(command.replace(paths.STATE, str(tmp_path)))
    found = fact.process(done.stdout.splitlines())
    assert "dpkg" in found.packages
    assert ("tar",) in found.packages["dpkg"].needs
    assert "/etc/nginx/mime.types" not in found.sites


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="needs dpkg")
def test_files_of_others_in_nginx_s_folder_are_seen(tmp_path: Path) -> None:
    """nginx's package takes all of the folder along, also what no site uses at the moment."""
    etc = tmp_path / "nginx"
    theirs = ["conf.d/wiki.conf", "sites-available/off", "snippets/sso.conf", "modules-enabled/x"]
    ours = ["conf.d/vllm-hosts.conf", "modules-enabled/00-vllm-hosts-limits.conf"]
    ours += ["vllm-hosts/tls.conf", "vllm-hosts-lua/chooser.lua"]
    for name in (*theirs, *ours):
        (etc / name).parent.mkdir(parents=True, exist_ok=True)
        (etc / name).touch()
    (etc / "modules-enabled/50-lua.conf").symlink_to("/usr/share/nginx/lua.conf")
    fact = HostRemains()
    command = fact.command(directory="/opt/x", project="x", fetching="y", bridges="x-")
    done = sh(command.replace("/etc/nginx", str(etc)).replace(paths.STATE, str(tmp_path)))
    found = fact.process(done.stdout.splitlines())
    assert sorted(found.sites) == sorted(f"{etc}/{name}" for name in theirs)
