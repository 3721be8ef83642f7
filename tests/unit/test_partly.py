"""Files that are partly somebody else's give up our part alone, step by step."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.operation_steps import Steps
from vllm_hosts.facts.nginx import Nginx
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.host import daemon_json, paths
from vllm_hosts.host.files import NOTHING, Absent, File, Found
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF, MainConf
from vllm_hosts.host.remains import Version
from vllm_hosts.operations import partly
from vllm_hosts.operations.edge import RELOAD
from vllm_hosts.operations.partly import NginxAfter, daemon_restored, edge_closed

ROOT = ("root", "0")
THERE = {
    paths.EDGE_CONF: Found("f", 0o640, ROOT, ROOT),
    LIMITS_CONF: Found("f", 0o644, ROOT, ROOT),
    paths.EDGE_FOLDER: Found("d", 0o700, ROOT, ROOT),
    paths.EDGE_LUA: Found("d", 0o755, ROOT, ROOT),
}
OLD, NEW = b"worker_connections 7;\n", b"worker_connections 16;\n"
GONE = [Absent(paths.EDGE_CONF), Absent(LIMITS_CONF)]
FOLDERS = f"rm -rf {paths.EDGE_FOLDER} {paths.EDGE_LUA}"
STOP = "systemctl stop nginx.service"
DISABLE = "systemctl disable --quiet nginx.service"
CLOSES = ("leads_to", "the edge answers no client any more")
BACK = {"validate": partly._BACK, "activate": RELOAD}
RAN = Nginx("", active=True, enabled=True)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    facts = {
        "TreeState": TreeFound(THERE, ""),
        "Versions": {MAIN_CONF: Version(NEW, OLD, NEW)},
        "NginxMainConf": MainConf("f", NEW, 0o600, "alice", "adm"),
        "NginxState": RAN,
    }
    steps = Steps(partly, monkeypatch, facts)
    monkeypatch.setattr(partly, "change", lambda entries, **more: ("change", entries, more))
    monkeypatch.setattr(partly, "say", steps.telling("say"))
    return steps


class TestEdge:
    def run(self, steps: Steps, *, stays: bool = True, **before: bool) -> list[Any]:
        return steps.run(edge_closed, lambda: NginxAfter(stays, **before))

    def test_where_there_is_none_nothing_is_done(self, steps: Steps) -> None:
        steps.facts["TreeState"] = TreeFound(dict.fromkeys(THERE, NOTHING), "")
        assert self.run(steps) == []
        assert steps.told == []
        assert steps.asked == [("TreeState", {"paths": list(THERE)})]

    def test_sites_of_others_go_on_with_the_numbers_of_before(self, steps: Steps) -> None:
        lowered = File(MAIN_CONF, OLD, 0o600, "alice", "adm")
        assert self.run(steps) == [("change", [*GONE, lowered], BACK), FOLDERS]
        assert steps.told == [*(("differs", path, "is there") for path in THERE), CLOSES]
        assert ("Versions", {"paths": [MAIN_CONF]}) in steps.asked

    @pytest.mark.parametrize(
        "version",
        [Version(None, OLD, NEW), Version(NEW, None, NEW), Version(OLD, OLD, NEW)],
    )
    def test_numbers_that_nobody_raised_stay(self, steps: Steps, version: Version) -> None:
        steps.facts["Versions"] = {MAIN_CONF: version}
        assert self.run(steps) == [("change", GONE, BACK), FOLDERS]

    def test_a_main_configuration_that_cannot_be_described_stays(self, steps: Steps) -> None:
        steps.facts["NginxMainConf"] = None
        assert self.run(steps) == [("change", GONE, BACK), FOLDERS]

    def test_one_that_others_have_changed_too_stays_and_that_is_said(self, steps: Steps) -> None:
        steps.facts["Versions"] = {MAIN_CONF: Version(b"user x;\n" + NEW, OLD, NEW)}
        assert self.run(steps) == [("change", GONE, BACK), FOLDERS]
        words = f"{MAIN_CONF} was changed by others too, so its numbers stay as they are"
        assert steps.told[-1] == ("say", [words])

    def test_an_nginx_that_goes_is_stopped_first(self, steps: Steps) -> None:
        stopped = "! systemctl -q is-active nginx.service || systemctl stop nginx"
        ended = self.run(steps, stays=False, ran=False, enabled=False)
        assert ended == [stopped, ("change", GONE, {}), FOLDERS]
        only = dict.fromkeys(THERE, NOTHING) | {paths.EDGE_LUA: THERE[paths.EDGE_LUA]}
        steps.facts["TreeState"] = TreeFound(only, "")
        assert self.run(steps, stays=False) == [stopped, ":", FOLDERS]

    def test_folders_alone_need_no_reload(self, steps: Steps) -> None:
        only = dict.fromkeys(THERE, NOTHING) | {paths.EDGE_LUA: THERE[paths.EDGE_LUA]}
        steps.facts["TreeState"] = TreeFound(only, "")
        assert self.run(steps) == [FOLDERS]

    @pytest.mark.parametrize(
        ("now", "before", "more"),
        [
            (RAN, {"ran": False, "enabled": False}, [STOP, DISABLE]),
            (RAN, {"ran": False}, [STOP]),
            (RAN, {"enabled": False}, [DISABLE]),
            (RAN, {}, []),
            (replace(RAN, active=False), {"ran": False, "enabled": False}, [DISABLE]),
            (replace(RAN, enabled=False), {"ran": False, "enabled": False}, [STOP]),
        ],
    )
    def test_an_nginx_that_stays_is_as_it_was_before(
        self, steps: Steps, now: Nginx, before: dict[str, bool], more: list[str]
    ) -> None:
        steps.facts["NginxState"] = now
        assert self.run(steps, **before)[1:] == [*more, FOLDERS]


class TestWelcomePage:
    """The distribution's page, with an nginx that accepts what it finds or does not."""

    @pytest.fixture
    def back(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        (tmp_path / "bin").mkdir()
        (tmp_path / "enabled").mkdir()
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        self.kept, self.page = tmp_path / "kept", tmp_path / "enabled/default"
        moved = partly._BACK.replace(paths.BEFORE + "/files" + paths.NGINX_WELCOME, str(self.kept))
        return moved.replace(paths.NGINX_WELCOME, str(self.page))

    def run(self, script: str, *, accepts: bool = True) -> int:
        nginx = self.kept.parent / "bin/nginx"
        nginx.write_text(f'#!/bin/sh\n[ "$*" = "-t -q" ] && {str(accepts).lower()}\n')
        nginx.chmod(0o755)
        return subprocess.run(["sh", "-euc", script], check=False).returncode

    def test_it_comes_back_where_nginx_accepts_it(self, back: str) -> None:
        self.kept.symlink_to("/nowhere")
        assert self.run(back) == 0
        assert os.readlink(self.page) == "/nowhere"

    def test_it_goes_again_where_nginx_does_not(self, back: str) -> None:
        self.kept.symlink_to("/nowhere")
        assert self.run(back, accepts=False) == 1
        assert not self.page.is_symlink()

    def test_one_that_is_there_stays_as_it_is(self, back: str) -> None:
        self.kept.symlink_to("/nowhere")
        self.page.write_text("theirs")
        assert self.run(back, accepts=False) == 1
        assert self.run(back) == 0
        assert self.page.read_text() == "theirs"

    def test_one_that_was_not_there_before_does_not_come(self, back: str) -> None:
        assert self.run(back) == 0
        assert not self.page.is_symlink()


class TestDaemon:
    PATH = daemon_json.PATH
    OURS = b'{"live-restore": true, "mtu": 1400}'
    HAD = b'{"mtu": 1400}'
    KEPT = f"{paths.BEFORE}/files{PATH}"
    READ = (
        "leads_to",
        "Docker reads its settings of before; those that it reads at its start, at the next",
    )

    def run(
        self, steps: Steps, version: Version, *, known: bool = True, stays: bool = True
    ) -> list[Any]:
        steps.facts["Versions"] = {self.PATH: version}
        return steps.run(daemon_restored, known=lambda: known, stays=lambda: stays)

    def test_the_settings_of_before_are_read_at_once(self, steps: Steps) -> None:
        [changed, owner] = self.run(steps, Version(self.OURS, self.HAD, self.OURS))
        signal = "systemctl kill --signal=HUP --kill-who=main docker.service"
        assert changed == (
            "change",
            [File(self.PATH, self.HAD)],
            {
                "validate": f"[ ! -e {self.PATH} ] || dockerd --validate --config-file {self.PATH}",
                "activate": f"! systemctl -q is-active docker.service || {signal}",
            },
        )
        copied = f"cp -a --remove-destination {self.KEPT} {self.PATH}"
        assert owner == f"! cmp -s {self.KEPT} {self.PATH} || {copied}"
        assert steps.told == [("differs", self.PATH, "has settings of ours"), self.READ]
        assert steps.asked == [("Versions", {"paths": [self.PATH]})]

    def test_where_there_was_no_file_there_is_none_again(self, steps: Steps) -> None:
        done = self.run(steps, Version(b'{"live-restore": true}', None, self.OURS))
        assert done[0][1] == [Absent(self.PATH)]

    def test_nobody_tells_a_docker_that_goes(self, steps: Steps) -> None:
        done = self.run(steps, Version(self.OURS, self.HAD, self.OURS), stays=False)
        assert done == [("change", [File(self.PATH, self.HAD)], {})]
        assert steps.told == [("differs", self.PATH, "has settings of ours")]

    def test_nothing_is_done_where_nothing_is_ours_or_known(self, steps: Steps) -> None:
        ours = Version(self.OURS, self.HAD, self.OURS)
        assert self.run(steps, ours, known=False) == []
        assert self.run(steps, replace(ours, now=None)) == []
        # Somebody has set it since: in the very bytes that are there.
        theirs = b'{\n    "mtu": 1400\n}\n'
        assert self.run(steps, Version(theirs, theirs, self.OURS)) == []
        assert steps.told == []
