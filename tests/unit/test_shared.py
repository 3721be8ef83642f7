"""What deploys write beside files of others: whose it is, and what is noted of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.unit.samples import gateway, settings
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.host.paths import DEPLOYED, MANIFEST
from vllm_hosts.host.shared import Shared, SharedFound, refusal, shared_of
from vllm_hosts.settings.mirror import MirrorAt

COMPOSE, ENV = "/opt/vllm/compose.yaml", "/opt/vllm/.env"
ABOVE = "/var/lib/vllm/agents"
AGENT = f"{ABOVE}/qwen"
SHARED = Shared((COMPOSE, ENV), (AGENT,), ABOVE)
ALL = frozenset(SHARED.paths)


def test_paths_of_a_host_with_agents() -> None:
    found = shared_of(settings())
    assert found.files == (
        *(COMPOSE, ENV),
        "/opt/vllm/compose.override.yaml",
        "/opt/vllm/compose.override.yml",
        "/opt/vllm/docker-compose.override.yaml",
        "/opt/vllm/docker-compose.override.yml",
    )
    assert (found.folders, found.above) == ((AGENT,), ABOVE)
    assert found.paths == (*found.files, AGENT)


class TestOthers:
    def test_nothing_is_there(self) -> None:
        assert SharedFound().others(SHARED, ours=False) == []

    @pytest.mark.parametrize("ours", [False, True])
    def test_what_is_there_and_not_noted(self, ours: bool) -> None:
        noted = SharedFound(ALL, files=frozenset({ENV}))
        assert noted.others(SHARED, ours=ours) == [COMPOSE, AGENT]
        noted = SharedFound(ALL, folders=frozenset({AGENT}))
        assert noted.others(SHARED, ours=ours) == [COMPOSE, ENV]
        noted = SharedFound(frozenset({ENV}), frozenset({COMPOSE}))
        assert noted.others(SHARED, ours=ours) == [ENV]

    def test_on_a_host_that_no_deploy_reached(self) -> None:
        assert SharedFound(ALL).others(SHARED, ours=False) == list(SHARED.paths)

    def test_a_host_names_only_what_it_was_asked_for(self) -> None:
        assert SharedFound(frozenset({"/etc/passwd"})).others(SHARED, ours=False) == []

    def test_a_version_that_noted_nothing_took_all_of_it(self) -> None:
        assert SharedFound(ALL).others(SHARED, ours=True) == []
        assert SharedFound(ALL, recorded=True).others(SHARED, ours=False) == []


class TestNoting:
    def lines(self, found: SharedFound, *, ours: bool) -> list[str]:
        script = found.noting(SHARED, ours=ours)
        return [line for line in script.splitlines() if line.startswith("brought ")]

    def test_a_first_deploy_notes_all(self) -> None:
        assert self.lines(SharedFound(), ours=False) == [
            f"brought 'file {ENV}' 'file {COMPOSE}'",
            f"brought 'agent {AGENT}'",
        ]

    def test_what_is_noted_is_not_noted_again(self) -> None:
        found = SharedFound(files=frozenset(SHARED.files), folders=frozenset({AGENT}))
        assert found.noting(SHARED, ours=True) == ""
        found = SharedFound(files=frozenset({ENV}), folders=frozenset({AGENT}))
        assert self.lines(found, ours=True) == [f"brought 'file {COMPOSE}'"]

    def test_folders_of_former_agents_are_an_earlier_version_s_alone(self) -> None:
        like = (f"{ABOVE}/former", f"{ABOVE}/x; reboot")
        found = SharedFound(like_ours=like)
        assert f"brought 'agent {ABOVE}/former' 'agent {AGENT}'" in self.lines(found, ours=True)
        assert "former" not in found.noting(SHARED, ours=False)
        noted = SharedFound(files=frozenset({ENV}), like_ours=like)
        assert "former" not in noted.noting(SHARED, ours=True)


class TestRefusal:
    def test_one_file(self) -> None:
        assert refusal([ENV], SHARED) == (
            f"{ENV} is there already, and no deploy wrote it: this one would replace it, and"
            " remove.py remove it later; move it away, or set vllm.directory to another folder"
        )

    def test_several(self) -> None:
        said = refusal([COMPOSE, AGENT], SHARED)
        assert said.startswith(f"{COMPOSE}, {AGENT} are there already, and no deploy wrote them")
        assert said.endswith("set vllm.directory and vllm.cache_directory to another folder")

    def test_no_setting_moves_docker_s_certificates(self) -> None:
        path = "/etc/docker/certs.d/mirror:8444/ca.crt"
        assert refusal([path], Shared((path,))).endswith("remove it later; move it away")
        assert "cache_directory" in refusal([AGENT], SHARED)
        assert "vllm.directory" not in refusal([AGENT], SHARED)


class TestTheLook:
    """The fact's script, on this machine."""

    def look(self, folder: Path) -> SharedFound:
        shared = [f"{folder}{path}" for path in SHARED.paths]
        script = HostMark().command(str(folder), shared=shared, above=f"{folder}{ABOVE}")
        for path in (MANIFEST, DEPLOYED, "/etc/"):
            script = script.replace(path, f"{folder}{path}")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        found = HostMark().process(done.stdout.replace(str(folder), "").splitlines())
        return found.shared

    def write(self, folder: Path, name: str, text: str = "") -> Path:
        path = folder / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def test_a_host_with_nothing(self, tmp_path: Path) -> None:
        assert self.look(tmp_path) == SharedFound()

    def test_what_is_there_links_included(self, tmp_path: Path) -> None:
        self.write(tmp_path, ENV)
        (tmp_path / COMPOSE[1:]).symlink_to("/nowhere")
        (tmp_path / AGENT[1:]).mkdir(parents=True)
        assert self.look(tmp_path).there == ALL

    def test_what_is_noted(self, tmp_path: Path) -> None:
        self.write(tmp_path, MANIFEST, f"agent {AGENT}\nfile {ENV}\npackage file\n")
        self.write(tmp_path, DEPLOYED)
        (tmp_path / AGENT[1:]).mkdir(parents=True, mode=0o700)
        assert self.look(tmp_path) == SharedFound(
            frozenset({AGENT}), frozenset({ENV}), frozenset({AGENT}), recorded=True
        )

    def test_folders_as_deploys_make_them_where_nothing_is_noted(self, tmp_path: Path) -> None:
        self.write(tmp_path, MANIFEST, "package nginx\n")
        for name, mode in (("former", 0o700), ("wide", 0o755), ("roots", 0o700)):
            (tmp_path / ABOVE[1:] / name).mkdir(parents=True)
            (tmp_path / ABOVE[1:] / name).chmod(mode)
        if os.getuid() == 0:
            os.chown(tmp_path / ABOVE[1:] / "former", 64101, 64101)
            assert self.look(tmp_path).like_ours == (f"{ABOVE}/former",)
        assert self.look(tmp_path).recorded is False


def test_who_asks_a_mirror_has_its_certificates_with_docker_s() -> None:
    at = MirrorAt("gpu1", "192.0.2.11", 8444)
    found = shared_of(settings().model_copy(update={"mirror_at": at}))
    folder = "/etc/docker/certs.d/192.0.2.11:8444"
    certificates = [f"{folder}/{name}" for name in ("ca.crt", "client.cert", "client.key")]
    assert list(found.files[-3:]) == certificates and found.files[0] == COMPOSE


def test_a_gateway_alone_has_nothing_beside_others() -> None:
    alone = gateway()
    assert not alone.runs_agents
    assert shared_of(alone) == Shared((), (), "")
