"""What is written down of a host before its first deploy, to the letter: what is missing there is
taken for ours, and goes with remove.py."""

from __future__ import annotations

import subprocess
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.host import manifest, paths
from vllm_hosts.host.manifest import Before, Manifest, before_of, manifest_of, recorded_files

#: As these programs have it on a host; ``docker`` does not answer where "down" lies beside it.
_PROGRAMS = {
    "dpkg-query": "printf 'ii |nginx|1.0\\nhi |docker-ce|2.0\\nrc |gone|1.0\\n'",
    "apt-mark": "echo zfs; echo docker-ce",
    "systemctl": """case "$2 $3" in
        'is-enabled docker.service' | 'is-active docker.service' | 'is-enabled nginx.service') ;;
        *) echo odd >&2; exit 1 ;; esac""",
    "docker": """[ ! -e "${0%/*}/down" ] || exit 1
        case "$*" in info) echo whatever ;;
            'image ls --no-trunc --quiet') echo sha256:b; echo sha256:a; echo sha256:b ;; esac""",
    "sync": 'echo "sync $*" >>"${0%/*}/said"',
}


class Host:
    """A machine of its own, with a folder in the place of /."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name, script in _PROGRAMS.items():
            self.program(name, script)
        self.before = folder / "state/deep/before"
        monkeypatch.setattr(paths, "BEFORE", str(self.before))
        monkeypatch.setattr(paths, "WAY_BACK", str(folder / "state/way-back"))
        self.kept = folder / "etc/kept.json"
        self.kept.parent.mkdir()
        monkeypatch.setattr(manifest, "COPIED", (str(self.kept), f"{folder}/etc/none"))
        monkeypatch.setattr(manifest, "WATCHED", (str(self.kept), f"{folder}/etc/none"))

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def run(self, *further: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "LC_ALL": "xx"}
        script = f"umask 022\n{manifest.before_taken(further)}"
        return subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, env=environment
        )

    def lists(self) -> dict[str, list[str]]:
        return {name: (self.before / name).read_text().split() for name in manifest.LISTS}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_each_list_has_what_the_host_s_programs_say(host: Host) -> None:
    host.kept.write_text("{}")
    link = host.folder / "etc/link"
    link.symlink_to("/not/there")
    done = host.run(str(link), str(host.kept))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    lists = host.lists()
    assert "root" in lists.pop("groups")
    assert lists == {
        "packages": ["docker-ce", "nginx"],
        "held": ["docker-ce", "zfs"],
        "enabled": ["docker.service", "nginx.service"],
        "active": ["docker.service"],
        "images": ["sha256:a", "sha256:b"],
        "paths": [str(host.kept), str(link)],
    }
    assert (host.before / f"files{host.kept}").read_text() == "{}"
    # It is on the disk before anything counts on it.
    assert (host.bin / "said").read_text() == "sync -f .\n"
    found = before_of(host.lists())
    assert found.packages == {"docker-ce", "nginx"} and found.active == {"docker.service"}


def test_it_is_root_s_alone_and_the_folder_around_it_stays_open(host: Host) -> None:
    host.kept.write_text("{}")
    assert host.run().returncode == 0
    assert {path.stat().st_mode & 0o077 for path in host.before.iterdir()} == {0}
    assert host.before.parent.stat().st_mode & 0o777 == 0o755
    assert not (host.before / "copies.tar").exists()


def test_a_host_without_any_of_it_has_empty_lists(host: Host) -> None:
    for name in ("apt-mark", "dpkg-query"):
        host.program(name, ":")
    host.program("systemctl", "exit 1")
    (host.bin / "down").touch()
    assert host.run().returncode == 0
    lists = host.lists()
    assert lists.pop("groups")
    assert not any(lists.values())
    assert list((host.before / "files").iterdir()) == []


def test_all_of_it_or_nothing(host: Host) -> None:
    """A host of which a part is known would lose the rest."""
    host.kept.write_text("{}")
    host.program("cut", "exit 1")
    host.program("tar", "exit 1")
    assert host.run().returncode != 0
    assert not host.before.exists()


def test_what_was_cut_off_is_begun_anew(host: Host) -> None:
    half = Path(f"{host.before}.new")
    half.mkdir(parents=True)
    (half / "enabled").write_text("another.service\n")
    (half / "old").touch()
    assert host.run().returncode == 0
    assert not (host.before / "old").exists()
    assert "another.service" not in host.lists()["enabled"]


def test_what_deploys_change_or_may_make_is_watched() -> None:
    assert set(manifest.COPIED) == {
        "/etc/apt/sources.list",
        "/etc/apt/sources.list.d",
        "/etc/apt/keyrings",
        "/etc/docker/daemon.json",
        "/etc/nginx/nginx.conf",
        "/etc/nginx/sites-enabled/default",
        paths.PERSISTENCE_UNIT,
    }
    assert set(manifest.WATCHED) - set(manifest.COPIED) == {
        "/var/lib/docker",
        "/var/lib/containerd",
        "/var/lib/docker-engine",
        "/etc/docker",
        "/etc/containerd",
        "/opt/containerd",
        "/etc/cni/net.d",
        "/etc/cni",
        "/etc/nvidia-container-runtime",
        "/usr/bin/dockerd",
        "/var/www",
        "/var/www/html",
        "/var/www/html/index.nginx-debian.html",
    }
    assert manifest.UNITS == ("docker.service", "nginx.service", "nvidia-persistenced.service")


def test_lines_of_every_kind_are_read() -> None:
    digest = "1" * 64
    found = manifest_of(
        [
            "package nginx",
            "hold nginx",
            "source /etc/apt/sources.list.d/docker.sources",
            f"gave-way {digest} /etc/apt/sources.list.d/their own.list",
            "gave-way - /etc/apt/sources.list.d/gone.list",
            "model /srv/models/a",
            "file /etc/nginx/conf.d/edge.conf",
            "agent /var/lib/vllm/agents/a",
        ],
        ["/b", "/a"],
    )
    assert found == Manifest(
        None,
        ("/a", "/b"),
        frozenset({"nginx"}),
        frozenset({"nginx"}),
        ("/etc/apt/sources.list.d/docker.sources",),
        {
            "/etc/apt/sources.list.d/their own.list": digest,
            "/etc/apt/sources.list.d/gone.list": "",
        },
        ("/srv/models/a",),
        ("/etc/nginx/conf.d/edge.conf",),
        ("/var/lib/vllm/agents/a",),
    )


@pytest.mark.parametrize("line", ["", "package", "gave-way /a", "other nginx", "x" * 300])
def test_a_line_that_is_none_of_ours_is_named(line: str) -> None:
    with pytest.raises(ValueError) as found:
        manifest_of([line], [])
    assert found.value.args == (line[:200],)


def test_a_list_that_is_missing_is_no_empty_one() -> None:
    with pytest.raises(KeyError, match="groups"):
        before_of({name: [] for name in manifest.LISTS if name != "groups"})


class TestTheRecord:
    """Files that deploys wrote are taken away by it."""

    def read(self, folder: Path, text: str | None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        file = folder / "deployed"
        if text is not None:
            file.write_text(text)
        monkeypatch.setattr(paths, "DEPLOYED", str(file))
        return said(manifest.recorded())

    def test_its_paths_once_each(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = f"{'b' * 64}  /b\n{'a' * 64}  /a\n-  /gone\n{'c' * 64}  /a\n"
        lines = self.read(tmp_path, text, monkeypatch)
        assert lines == ["/a", "/b"] == recorded_files(lines)

    def test_a_host_without_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.read(tmp_path, None, monkeypatch) == []

    @pytest.mark.parametrize("line", [f"{'a' * 63}  /a", "- /gone", "/a", "-  a", "odd " * 99])
    def test_another_line_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
    ) -> None:
        lines = self.read(tmp_path, f"{'a' * 64}  /a\n{line}\n", monkeypatch)
        with pytest.raises(ValueError) as found:
            recorded_files(lines)
        assert found.value.args == (line[:200],)


def test_notes_that_were_cut_off(tmp_path: Path) -> None:
    texts = ("a\nb\n", "a\nhalf of a line", "", "c" * 300)
    for number, text in enumerate(texts):
        (tmp_path / str(number)).write_text(text)
    files = [str(tmp_path / str(number)) for number in range(len(texts) + 1)]
    lines = said(manifest.unended(*files))
    assert lines == [f"{files[1]} half of a line", f"{files[3]} {'c' * 200}"]
    manifest.whole([])
    with pytest.raises(HostError) as found:
        manifest.whole(lines)
    assert str(found.value) == (
        f"{files[1]} on the host ends in the middle of a line: 'half of a line';"
        " restore that file, or correct that line, and run again"
    )


def test_a_damaged_line_is_said_in_short() -> None:
    assert str(manifest.damaged("/a", "x" * 300)) == (
        f"/a on the host has a line that no deploy writes there: '{'x' * 200} ...';"
        " restore that file, or correct that line, and run again"
    )


def said(script: str) -> list[str]:
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_what_was_written_down_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Before().packages = frozenset({"nginx"})  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Manifest().before = Before()  # type: ignore[misc]
