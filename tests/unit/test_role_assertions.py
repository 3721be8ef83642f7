"""What a run ends with, and what it begins with: roles that fail a host or leave it alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.driver_hosts import DEBIAN_12
from tests.unit.fakes import listening
from tests.unit.recording import InLine, Recorder, deploy_py
from tests.unit.samples import QWEN
from tests.unit.test_ownership import PLAIN
from vllm_hosts.host.docker_unit import DockerOptions
from vllm_hosts.host.files import Found
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.host.system import ModelFolder
from vllm_hosts.keys.store_marks import Marked
from vllm_hosts.roles.assertions import assertions
from vllm_hosts.roles.ownership import ownership
from vllm_hosts.roles.preflight import preflight


class TestAssertions:
    def test_what_holds_is_not_mentioned(self, in_line: InLine) -> None:
        recorder = in_line()
        done = recorder.run(assertions)
        assert (done.failed, done.said) == (False, [])
        # A firewall that drops is waited for, and not for long.
        assert recorder.tried == {("192.0.2.11", port, 0.4) for port in (8001, 8002)}
        # The edge's own name and CA, at the host's address.
        ca_file = str(recorder.inventory.parent / ".vllm-hosts/prod/ca.pem")
        assert set(recorder.asked) == {("192.0.2.11", 443, "llm.example.com", ca_file)}

    def test_a_socket_that_nobody_expects(self, in_line: InLine) -> None:
        recorder = in_line()
        stranger = listening("0.0.0.0:9000", 'users:(("nc",pid=5,fd=3))')
        recorder.host.facts["ListeningSockets"] += (stranger,)
        done = recorder.run(assertions)
        assert done.failed
        assert "something listens on tcp 0.0.0.0:9000 (nc)" in done.said[0]

    def test_sshd_where_it_really_listens(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["SshPorts"] = (2222,)
        done = recorder.run(assertions)
        assert done.failed
        assert "something listens on tcp 0.0.0.0:22 (sshd)" in done.said[0]

    @pytest.mark.parametrize("mode", [0o640, 0o604])
    def test_an_env_that_others_can_read(self, in_line: InLine, mode: int) -> None:
        recorder = in_line()
        recorder.host.chmod("/opt/vllm/.env", mode)
        done = recorder.run(assertions)
        assert done.failed
        assert done.said == [f"/opt/vllm/.env is {mode:04o} root:root, not 0600 root:root"]

    def test_an_env_that_is_not_there(self, in_line: InLine) -> None:
        recorder = in_line(vllm={"directory": "/srv/vllm"})
        assert recorder.run(assertions).said == ["/srv/vllm/.env is not a regular file"]

    def test_an_agent_s_port_that_opens_from_here(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.open = {8002}
        done = recorder.run(assertions)
        assert done.failed
        assert done.said == ["port 8002 of 192.0.2.11 can be reached from the controller"]

    @pytest.mark.parametrize(("path", "status"), [("/v1/models", 200), ("/metrics", 403)])
    def test_an_edge_that_answers_without_a_key(
        self, in_line: InLine, path: str, status: int
    ) -> None:
        recorder = in_line()
        recorder.edge = lambda asked: status if asked == path else 401
        done = recorder.run(assertions)
        assert done.failed
        assert done.said == [f"the edge answers {path} without a key with {status}, not 401"]

    def test_nothing_of_it_is_looked_at_before_the_run(self, in_line: InLine) -> None:
        """What is true at the end only refuses no host."""
        recorder = in_line()
        recorder.open = {8001}
        assert recorder.run(assertions).refused == []

    def test_what_settings_let_others_do_is_said_each_time(self, in_line: InLine) -> None:
        exposed = QWEN | {"expose": {"networks": ["10.0.0.0/8"], "unguarded_routes": "accepted"}}
        recorder = in_line(agents=[exposed])
        recorder.host.facts["ListeningSockets"] = ()
        done = recorder.run(assertions)
        assert not done.failed
        assert done.names[-1] == "Assertions | What its settings let others do"
        assert "10.0.0.0/8" in done.said[0]


class TestPreflight:
    def test_a_host_that_cannot_be_finished_is_refused_before_the_run(
        self, in_line: InLine
    ) -> None:
        recorder = in_line()
        recorder.host.facts["OsRelease"] = replace(DEBIAN_12, version="11", name="Debian 11")
        done = recorder.run(preflight)
        assert "Debian 11 is not supported" in done.refused[0]
        assert done.names == []

    def system(self, recorder: Recorder, **changes: Any) -> None:
        system = recorder.host.facts["SystemState"]
        recorder.host.facts["SystemState"] = replace(system, **changes)

    def test_options_of_docker_s_unit_that_stand_in_daemon_json_too(self, in_line: InLine) -> None:
        recorder = in_line()
        files = [
            ("/etc/systemd/system/docker.service.d/a.conf", ["ExecStart=dockerd --ip 0.0.0.0"])
        ]
        recorder.host.facts["DockerUnit"] = DockerOptions(files)
        [problem] = recorder.run(preflight).refused
        assert "--ip" in problem

    def test_an_entry_of_apt_s_that_cannot_give_way(self, in_line: InLine) -> None:
        recorder = in_line()
        odd = "Types: deb\nURIs: https://download.docker.com/linux/debian http://x.example/y\n"
        odd += "Suites: trixie\nComponents: stable\nSigned-By: /k.asc\n"
        recorder.host.facts["AptSourceFiles"] = {"/etc/apt/sources.list.d/x.sources": odd}
        [problem] = recorder.run(preflight).refused
        assert "/etc/apt/sources.list.d/x.sources" in problem

    def test_what_others_have_there_is_for_root_to_see(self, in_line: InLine) -> None:
        recorder = in_line()
        stranger = listening("0.0.0.0:9000", 'users:(("nc",pid=5,fd=3))')
        recorder.host.facts["ListeningSockets"] += (stranger,)
        recorder.host.facts["NginxSites"] = Sites("own", ("index.html",))
        first, second = recorder.run(preflight).refused
        assert "nginx serves your own index.html" in first
        assert "something listens on tcp 0.0.0.0:9000 (nc)" in second
        self.system(recorder, user="1000")
        [problem] = recorder.run(preflight).refused
        assert "commands do not run as root" in problem

    def test_ports_of_our_own_containers_may_be_closed_by_the_deploy(self, in_line: InLine) -> None:
        recorder = in_line()
        old = listening("0.0.0.0:8009", 'users:(("docker-proxy",pid=5,fd=3))')
        recorder.host.facts["ListeningSockets"] += (old,)
        assert "tcp 0.0.0.0:8009 (docker-proxy)" in recorder.run(preflight).refused[0]
        self.system(recorder, project_ports={"/srv/theirs": frozenset({8009})})
        assert "tcp 0.0.0.0:8009 (docker-proxy)" in recorder.run(preflight).refused[0]
        self.system(recorder, project_ports={"/opt/vllm": frozenset({8009})})
        assert recorder.run(preflight).refused == []

    def test_what_is_odd_is_said(self, in_line: InLine) -> None:
        recorder = in_line()
        self.system(recorder, ipv6=False)
        [said] = recorder.run(preflight).said
        assert said.startswith("this host has no IPv6")

    @pytest.mark.parametrize(
        ("mode", "words"),
        [(mode, ["memory plan: agent 'qwen' probably does"]) for mode in ("refuse", "warn")]
        + [("off", [])],
    )
    def test_the_memory_plan_as_the_settings_want_it(
        self, in_line: InLine, mode: str, words: list[str]
    ) -> None:
        recorder = in_line(capacity={"preflight": mode})
        large = recorder.host.facts["SystemState"].models | {
            looks.HUB_MODEL: ModelFolder(looks.CONFIG, 200 << 30)
        }
        self.system(recorder, models=large)
        done = recorder.run(preflight)
        assert done.refused == []
        assert [word for word in words if any(word in said for said in done.said)] == words
        assert len(done.said) == len(words)
        asked = recorder.host.arguments["SystemState"]["models"]
        assert asked == ([] if mode == "off" else ["/srv/models/coder", looks.HUB_MODEL])


class TestOwnership:
    ANOTHERS = Marked(f"store {'a' * 32}\ninventory other", PLAIN)

    @pytest.mark.parametrize("first", [True, False])
    def test_another_inventory_s_host_is_left_alone(self, in_line: InLine, first: bool) -> None:
        recorder = in_line()
        del recorder.host.contents["/etc/vllm-hosts/store"]
        recorder.host.facts["HostMark"] = self.ANOTHERS
        done = recorder.run(lambda: ownership(first=first))
        assert "has the keys and the CA of the inventory 'other'" in done.refused[0]

    def test_a_host_with_files_of_others_where_ours_go_is_left_alone(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.run(ownership)
        assert recorder.host.noted["agent"]
        path = sorted(recorder.host.noted["agent"])[0]
        recorder.host.noted["agent"].remove(path)
        recorder.host.paths[path] = Found("d", 0o755, ("root", "0"), ("root", "0"))
        done = recorder.run(deploy_py)
        assert done.changed == []
        [refused] = done.refused
        assert f"{path} is there already, and no deploy wrote it" in refused
        # Keys need nothing of it.
        assert recorder.run(lambda: ownership(first=False)).refused == []

    def test_all_hosts_are_looked_at_before_one_becomes_ours(self, in_line: InLine) -> None:
        assert len(in_line().run(ownership).names) == 2
        assert len(in_line().run(lambda: ownership(first=False)).names) == 1

    def test_our_folders_are_looked_for_before_they_are_made(self, in_line: InLine) -> None:
        recorder = in_line()
        del recorder.host.contents["/etc/vllm-hosts/store"]
        done = recorder.run(ownership)
        script = "\n".join(done["The host belongs to this inventory's store"].commands)
        [paths] = [line for line in script.splitlines() if "for path in" in line and "/opt" in line]
        ours = {"/opt/vllm", "/var/lib/vllm", "/var/lib/vllm/agents", "/var/lib/vllm/huggingface"}
        assert ours <= set(paths.rstrip("; do").split())

    def test_keys_alone_take_no_host_over(self, in_line: InLine) -> None:
        recorder = in_line()
        del recorder.host.contents["/etc/vllm-hosts/store"]
        assert recorder.run(lambda: ownership(first=False)).changed == []
        assert recorder.run(ownership).changed == [
            "Ownership | The host belongs to this inventory's store"
        ]
