"""What deploys write beside files of others: whose it is, and what is noted of it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.samples import gateway, settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.host.paths import COPIES, DEPLOYED, MANIFEST
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
        assert SharedFound().others(SHARED, keys=False) == []

    @pytest.mark.parametrize("keys", [False, True])
    def test_what_is_there_and_not_noted(self, keys: bool) -> None:
        noted = SharedFound(ALL, files=frozenset({ENV}))
        assert noted.others(SHARED, keys=keys) == [COMPOSE, AGENT]
        noted = SharedFound(ALL, folders=frozenset({AGENT}))
        assert noted.others(SHARED, keys=keys) == [COMPOSE, ENV]
        noted = SharedFound(frozenset({ENV}), frozenset({COMPOSE}))
        assert noted.others(SHARED, keys=keys) == [ENV]

    def test_on_a_host_that_no_deploy_reached(self) -> None:
        assert SharedFound(ALL).others(SHARED, keys=False) == list(SHARED.paths)

    def test_a_host_names_only_what_it_was_asked_for(self) -> None:
        assert SharedFound(frozenset({"/etc/passwd"})).others(SHARED, keys=False) == []

    def test_a_version_that_noted_nothing_took_all_of_it(self) -> None:
        assert SharedFound(ALL).others(SHARED, keys=True) == []
        agents = frozenset({COMPOSE})
        assert SharedFound(ALL, recorded=agents).others(SHARED, keys=False) == []
        # Agents may have been elsewhere then.
        agents = frozenset({"/srv/old/compose.yaml"})
        assert SharedFound(ALL, recorded=agents).others(SHARED, keys=False) == []

    def test_a_gateway_that_becomes_a_gpu_host_had_no_agents(self) -> None:
        gateway = frozenset({"/etc/vllm-hosts/balancer/haproxy.cfg", "/etc/nginx/nginx.conf"})
        assert SharedFound(ALL, recorded=gateway).others(SHARED, keys=False) == [*SHARED.paths]
        kept = frozenset({"/var/lib/vllm-hosts/way-back/now/compose.yaml"})
        assert SharedFound(ALL, recorded=kept).others(SHARED, keys=False) == [*SHARED.paths]

    def test_what_the_record_names_is_ours_where_notes_were_lost(self) -> None:
        """A manifest of which a line is left."""
        found = SharedFound(
            ALL,
            files=frozenset({COMPOSE}),
            recorded=frozenset({COMPOSE, ENV}),
            mounted=frozenset({AGENT}),
        )
        assert found.others(SHARED, keys=False) == []
        noting = found.noting(SHARED, keys=False)
        assert f"brought 'file {ENV}'" in noting and f"brought 'agent {AGENT}'" in noting
        more = replace(found, mounted=frozenset())
        assert more.others(SHARED, keys=False) == [AGENT]


class TestNoting:
    def lines(self, found: SharedFound, *, keys: bool) -> list[str]:
        script = found.noting(SHARED, keys=keys)
        return [line for line in script.splitlines() if line.startswith("brought ")]

    def test_a_first_deploy_notes_all(self) -> None:
        assert self.lines(SharedFound(), keys=False) == [
            f"brought 'file {ENV}' 'file {COMPOSE}'",
            f"brought 'agent {AGENT}'",
        ]

    def test_what_is_noted_is_not_noted_again(self) -> None:
        found = SharedFound(files=frozenset(SHARED.files), folders=frozenset({AGENT}))
        assert found.noting(SHARED, keys=True) == ""
        found = SharedFound(files=frozenset({ENV}), folders=frozenset({AGENT}))
        assert self.lines(found, keys=True) == [f"brought 'file {COMPOSE}'"]

    def test_folders_of_former_agents_are_an_earlier_version_s_alone(self) -> None:
        like = (f"{ABOVE}/former", f"{ABOVE}/x; reboot")
        found = SharedFound(like_ours=like)
        assert f"brought 'agent {ABOVE}/former' 'agent {AGENT}'" in self.lines(found, keys=True)
        assert "former" not in found.noting(SHARED, keys=False)
        noted = SharedFound(files=frozenset({ENV}), like_ours=like)
        assert "former" not in noted.noting(SHARED, keys=True)


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
        for path in (MANIFEST, f"{DEPLOYED} ", COPIES, "/etc/"):
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
        self.write(tmp_path, DEPLOYED, f"{'a' * 64}  {ENV}\n-  {COMPOSE}\n{'b' * 64}  /etc/x\n")
        (tmp_path / AGENT[1:]).mkdir(parents=True, mode=0o700)
        assert self.look(tmp_path) == SharedFound(
            frozenset({AGENT}), frozenset({ENV}), frozenset({AGENT}), frozenset({ENV, "/etc/x"})
        )

    def test_folders_that_compose_has(self, tmp_path: Path) -> None:
        text = f'source: "{tmp_path}{AGENT}", target\n'
        copy = f"{COPIES}{tmp_path}/compose.yaml"
        self.write(tmp_path, copy, text)
        assert self.look(tmp_path).mounted == {AGENT}
        self.write(tmp_path, copy, text.replace(AGENT, f"{AGENT}-2"))
        assert self.look(tmp_path).mounted == frozenset()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (f"agent {AGENT}\nfile /opt", "ends in the middle of a line: 'file /opt'"),
            ("agent /var\n", "has a line that no deploy writes there: 'agent /var'"),
            ("file /opt/../x\n", "has a line that no deploy writes there: 'file /opt/../x'"),
        ],
    )
    def test_damaged_notes_are_not_added_to(self, tmp_path: Path, text: str, said: str) -> None:
        self.write(tmp_path, MANIFEST, text)
        with pytest.raises(HostError) as raised:
            self.look(tmp_path)
        assert str(raised.value) == (
            f"{MANIFEST} on the host {said}; restore that file, or correct that line, and run again"
        )

    def test_folders_as_deploys_make_them_where_nothing_is_noted(self, tmp_path: Path) -> None:
        self.write(tmp_path, MANIFEST, "package nginx\n")
        for name, mode in (("former", 0o700), ("wide", 0o755), ("roots", 0o700)):
            (tmp_path / ABOVE[1:] / name).mkdir(parents=True)
            (tmp_path / ABOVE[1:] / name).chmod(mode)
        if os.getuid() == 0:
            os.chown(tmp_path / ABOVE[1:] / "former", 64101, 64101)
            assert self.look(tmp_path).like_ours == (f"{ABOVE}/former",)
        assert self.look(tmp_path).recorded == frozenset()


def test_who_asks_a_mirror_has_its_certificates_with_docker_s() -> None:
    at = MirrorAt("gpu1", "192.0.2.11", 8444)
    found = shared_of(settings().model_copy(update={"mirror_at": at}))
    folder = "/etc/docker/certs.d/192.0.2.11:8444"
    certificates = [f"{folder}/{name}" for name in ("ca.crt", "client.cert", "client.key")]
    assert list(found.files[-3:]) == certificates and found.files[0] == COMPOSE


def test_a_gateway_alone_has_nothing_beside_others() -> None:
    alone = gateway()
    assert not alone.runs_agents
    assert shared_of(alone) == Shared()
