"""Roles on hosts where something differs: what they do about it, and what fails a host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from roles.assertions import assertions
from roles.client_keys import client_keys
from roles.docker import docker
from roles.edge_logs import edge_logs
from roles.firewall import firewall
from roles.models import models
from roles.nginx import nginx, nginx_asked
from roles.nvidia_container_toolkit import nvidia_container_toolkit
from roles.nvidia_driver import nvidia_driver
from roles.ownership import ownership
from roles.preflight import preflight
from roles.record import record
from roles.secrets import secrets
from roles.ssh_hardening import ssh_hardening
from roles.tls import tls
from roles.vllm import vllm
from roles.vllm_image import vllm_image
from tests.unit import recorded_looks as looks
from tests.unit.driver_hosts import DEBIAN_12
from tests.unit.recording import Recorder, Run, keys_py
from tests.unit.samples import QWEN
from tests.unit.test_gpu import smi
from vllm_hosts.facts.compose import AgentState
from vllm_hosts.facts.docker import ImageFound, Served
from vllm_hosts.facts.firewall import Loaded, Others
from vllm_hosts.facts.vllm_images import Image, ImagesFound, Used
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.nginx_sites import Sites
from vllm_hosts.keys import KeyStore, model
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_marks import Marked
from vllm_hosts.operations.edge import RELOADED

InLine = Callable[..., Recorder]


@pytest.fixture
def in_line(deployed: tuple[Recorder, Run], tmp_path: Path) -> InLine:
    """A host that has everything, to be changed, with these settings in the place of its own."""
    return lambda **changes: deployed[0].copied(tmp_path, **changes)


def with_mode(recorder: Recorder, path: str, mode: int) -> None:
    recorder.host.paths[path] = replace(recorder.host.paths[path], mode=mode)


class TestAssertions:
    def test_what_holds_is_not_mentioned(self, in_line: InLine) -> None:
        recorder = in_line()
        done = recorder.run(assertions)
        assert (done.failed, done.said) == (False, [])
        # The edge's own name and CA, at the host's address.
        ca_file = str(recorder.inventory.parent / ".vllm-hosts/prod/ca.pem")
        assert set(recorder.asked) == {("192.0.2.11", 443, "llm.example.com", ca_file)}

    def test_a_socket_that_nobody_expects(self, in_line: InLine) -> None:
        recorder = in_line()
        stranger = 'tcp LISTEN 0 9 0.0.0.0:9000 0.0.0.0:* users:(("nc",pid=5,fd=3))'
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
        with_mode(recorder, "/opt/vllm/.env", mode)
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
        assert done.said == ["port 8002 of 192.0.2.11 opens from the controller"]

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


class TestOwnership:
    ANOTHERS = Marked(f"store {'a' * 32}\ninventory other", "regular file 644 0:0")

    @pytest.mark.parametrize("first", [True, False])
    def test_another_inventory_s_host_is_left_alone(self, in_line: InLine, first: bool) -> None:
        recorder = in_line()
        del recorder.host.contents["/etc/vllm-hosts/store"]
        recorder.host.facts["HostMark"] = self.ANOTHERS
        done = recorder.run(lambda: ownership(first=first))
        assert "has the keys and the CA of the inventory 'other'" in done.refused[0]

    def test_all_hosts_are_looked_at_before_one_becomes_ours(self, in_line: InLine) -> None:
        assert len(in_line().run(ownership).names) == 2
        assert len(in_line().run(lambda: ownership(first=False)).names) == 1

    def test_keys_alone_take_no_host_over(self, in_line: InLine) -> None:
        recorder = in_line()
        del recorder.host.contents["/etc/vllm-hosts/store"]
        assert recorder.run(lambda: ownership(first=False)).changed == []
        assert recorder.run(ownership).changed == [
            "Ownership | The host belongs to this inventory's store"
        ]


class TestKeys:
    def test_a_new_client_is_one_write_and_one_reload(self, in_line: InLine) -> None:
        recorder = in_line()
        store = KeyStore(recorder.inventory)
        store.update(lambda content: model.add_client(content, "alice", utc_now(), agents=["qwen"]))
        done = recorder.run(keys_py)
        assert done.changed == ["Client keys | The edge accepts exactly the keys of the store"]
        assert done.effects == [RELOADED]
        assert set(done.operations[-1].written) == {
            "/etc/nginx/vllm-hosts/clients.map",
            "/etc/nginx/vllm-hosts/scopes.map",
        }
        scopes = recorder.host.contents["/etc/nginx/vllm-hosts/scopes.map"].decode()
        assert '"coder alice" 1;' in scopes
        assert recorder.run(keys_py).changed == []

    def test_a_host_without_an_edge_gets_no_keys(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.paths["/etc/nginx/vllm-hosts/clients.map"] = NOTHING
        recorder.host.fails["this host has no edge yet"] = "this host has no edge yet"
        assert recorder.run(client_keys).failed


class TestDocker:
    def test_the_distribution_s_own(self, in_line: InLine) -> None:
        recorder = in_line(docker={"source": "distro"})
        recorder.host.packages.clear()
        recorder.host.offered = {**looks.OFFERED, "docker.io": "1", "docker-cli": "1"} | {
            "docker-compose": "1"
        }
        done = recorder.run(docker)
        assert done.names[0] == "Docker | The distribution's Docker is installed"
        assert set(recorder.host.packages) == {"docker.io", "docker-cli", "docker-compose"}
        recorder.host.facts["OsRelease"] = DEBIAN_12
        recorder.host.packages.clear()
        assert (
            "Debian GNU/Linux 12 (bookworm) has no Compose v2 of its own"
            in (recorder.run(docker).refused[0])
        )

    def test_what_conflicts_goes_and_what_it_ran_is_noted_before(self, in_line: InLine) -> None:
        recorder = in_line()
        del recorder.host.packages["docker-ce"]
        recorder.host.packages["docker.io"] = "26.1.5"
        recorder.host.facts["AgentsServed"] = Served(True, False, ("qwen",), {"qwen": 61})
        done = recorder.run(docker)
        assert "docker.io" not in recorder.host.packages
        commands = done["Docker Engine is installed"].commands
        # Agents that served are waited for, in the host's turn.
        assert len(commands) == 2
        assert "docker ps -q --no-trunc" in commands[0]
        assert "qwen is out for about 61 s after it" in done.effects[0]

    def test_old_entries_of_apt_give_way(self, in_line: InLine) -> None:
        recorder = in_line()
        old = "/etc/apt/sources.list.d/docker-ce.list"
        recorder.host.paths[old] = Found("f", 0o644, ("root", "0"), ("root", "0"), "x")
        assert f"rm -f {old}" in recorder.run(docker)["Docker's apt archive is known"]

    def test_a_restart_is_a_turn_where_containers_do_not_outlive_it(self, in_line: InLine) -> None:
        recorder = in_line(docker={"live_restore": False})
        recorder.host.facts["AgentsServed"] = Served(True, False, ("qwen", "coder"), {})
        done = recorder.run(docker)
        assert done.changed == ["Docker | daemon.json is merged, Docker runs with it"]
        assert "qwen, coder are out for minutes" in done.effects[0]
        assert b'"live-restore": false' in recorder.host.contents["/etc/docker/daemon.json"]


class TestGpus:
    def test_a_host_whose_agents_need_none_gets_nothing(self, in_line: InLine) -> None:
        recorder = in_line(agents=[QWEN | {"gpus": []}])
        done = recorder.run(nvidia_driver, nvidia_container_toolkit)
        assert done.names == []

    def test_a_driver_that_is_somebody_else_s_matter(self, in_line: InLine) -> None:
        assert in_line(nvidia={"driver": "present"}).run(nvidia_driver).names == []

    def test_a_driver_that_cannot_work_is_refused_first(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["GpuState"] = replace(looks.SILENT, devices=())
        assert "the PCI bus shows no GPU" in recorder.run(nvidia_driver).refused[0]

    @pytest.mark.parametrize("allowed", [False, True])
    def test_a_reboot_only_where_it_is_allowed(self, in_line: InLine, allowed: bool) -> None:
        recorder = in_line(nvidia={"driver": "install", "allow_reboot": allowed})
        state = recorder.host.facts["GpuState"]
        recorder.host.facts["GpuState"] = replace(state, smi=smi("mismatch"))
        done = recorder.run(nvidia_driver, dry=True)
        if allowed:
            assert done.refused == []
            assert (
                "where that does not work without a reboot, the host is rebooted"
                in (done.effects[0])
            )
        else:
            assert done.refused[0].startswith("a reboot is needed: ")
            assert "set nvidia.allow_reboot = True" in done.refused[0]

    def test_a_gpu_that_an_agent_asks_for_and_that_is_gone(self, in_line: InLine) -> None:
        recorder = in_line()
        state = recorder.host.facts["GpuState"]
        two = replace(state.smi, gpus=state.smi.gpus[:2])
        recorder.host.facts["GpuState"] = replace(state, smi=two)
        done = recorder.run(nvidia_driver)
        assert done.failed
        assert any("asks for GPU 2" in sentence for sentence in done.said)

    def test_the_fabric_manager_where_there_are_switches(self, in_line: InLine) -> None:
        recorder = in_line()
        state = recorder.host.facts["GpuState"]
        recorder.host.facts["GpuState"] = replace(state, nvswitch=True)
        done = recorder.run(nvidia_driver)
        assert recorder.host.packages["nvidia-fabricmanager-550"] == "550.163.01-1"
        assert done.changed == ["GPU driver | The Fabric Manager runs, where it has to"]

    def test_every_package_of_the_driver_is_held(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.held.clear()
        recorder.run(nvidia_driver)
        assert recorder.host.held == {
            *("nvidia-open-kernel-dkms", "libcuda1", "libnvidia-nvvm4", "nvidia-smi"),
            "nvidia-persistenced",
        }

    def test_nouveau_is_kept_out_of_the_initramfs_too(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.stamps.pop("nouveau")
        done = recorder.run(nvidia_driver)
        assert "update-initramfs" in done["The free driver nouveau is kept away"]

    def test_the_toolkit_has_one_version_and_keeps_it(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.packages["libnvidia-container1"] = "1.0"
        recorder.host.held.discard("nvidia-container-toolkit")
        recorder.run(nvidia_container_toolkit)
        assert recorder.host.packages["libnvidia-container1"] == "1.20.1-1"
        assert "nvidia-container-toolkit" in recorder.host.held

    def test_docker_starts_anew_where_it_has_not_seen_the_toolkit(self, in_line: InLine) -> None:
        recorder = in_line()
        daemon = recorder.host.facts["DockerDaemon"]
        recorder.host.facts["DockerDaemon"] = replace(daemon, stale=("hook",))
        recorder.host.facts["AgentsServed"] = Served(True, False, ("qwen",), {"qwen": 61})
        done = recorder.run(nvidia_container_toolkit)
        assert done.changed == ["NVIDIA Container Toolkit | Docker knows the NVIDIA runtime"]
        assert "qwen is out for about 61 s" in done.effects[0]
        hook = "/usr/bin/nvidia-container-runtime-hook"
        assert hook in recorder.host.arguments["DockerDaemon"]["read_at_start"]

    def test_a_container_is_seen_with_all_cards_that_agents_ask_for(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["LastGpuCheck"] = looks.FRESH["LastGpuCheck"]
        done = recorder.run(nvidia_container_toolkit)
        assert """'"device=0,1,2"'""" in done["A container gets the GPUs"]
        assert "vllm/vllm-openai:v0.33.0" in done["A container gets the GPUs"]


class TestFirewall:
    RULES = "/etc/vllm-hosts/firewall.nft"

    def test_it_is_written_from_what_the_host_is(self, in_line: InLine) -> None:
        recorder = in_line()
        around = recorder.host.facts["HostSurroundings"]
        recorder.host.facts["SshPorts"] = (2222,)
        recorder.host.facts["HostSurroundings"] = replace(around, edge_user=101, uplinks=("br0",))
        done = recorder.run(firewall)
        text = recorder.host.contents[self.RULES].decode()
        assert "tcp dport { 2222 } accept" in text
        assert "br0" in text and "{ 0, 101 }" in text
        assert done.effects == ["the firewall's table is loaded anew; open connections stay"]

    def test_a_table_that_somebody_changed_is_loaded_anew(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["FirewallLoaded"] = Loaded(in_force=False, enabled=True, active=True)
        done = recorder.run(firewall)
        assert done.changed == ["Firewall | The firewall is in force, now and at boot"]
        assert recorder.host.arguments["FirewallLoaded"] == {
            "rules": self.RULES,
            "unit": "vllm-hosts-firewall.service",
        }

    def test_another_firewall_has_to_let_clients_in_as_well(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["llm.example.com"], "https_port": 8443})
        recorder.host.facts["OtherFirewalls"] = Others(("ufw",))
        said = recorder.run(firewall).said
        assert "(ufw allow 8443/tcp; ufw allow 80/tcp)" in said[0]


class TestSsh:
    CONF = "/etc/ssh/sshd_config.d/00-vllm-hosts.conf"

    def test_switched_off_it_takes_our_file_away(self, in_line: InLine) -> None:
        recorder = in_line(ssh_hardening={"enabled": False})
        recorder.host.facts["PasswordLogins"] = ("passwordauthentication",)
        done = recorder.run(ssh_hardening)
        assert recorder.host.paths[self.CONF].kind == NOTHING.kind
        assert (done.failed, len(done.names)) == (False, 1)

    def test_another_file_that_lets_passwords_in(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["PasswordLogins"] = ("passwordauthentication",)
        done = recorder.run(ssh_hardening)
        assert done.failed
        assert "sshd still takes passwords (passwordauthentication)" in done.said[0]


class TestFiles:
    def test_secrets_are_put_back(self, in_line: InLine) -> None:
        recorder = in_line()
        with_mode(recorder, "/opt/vllm/.env", 0o644)
        done = recorder.run(secrets)
        assert done.operations[0].written == {"/opt/vllm/.env": "0600 root:root"}
        names = [
            line.split("=")[0]
            for line in recorder.host.contents["/opt/vllm/.env"].decode().splitlines()
            if "=" in line
        ]
        assert names == ["VLLM_API_KEY_QWEN", "VLLM_API_KEY_CODER"]

    @pytest.mark.parametrize(
        "path",
        ["/var/log/vllm-hosts/access.log", "/var/log/vllm-hosts/error.log"],
    )
    def test_a_log_that_everybody_reads(self, in_line: InLine, path: str) -> None:
        recorder = in_line()
        with_mode(recorder, path, 0o644)
        done = recorder.run(edge_logs)
        assert done.changed == ["Edge logs | Only root and adm read the edge's logs"]

    def test_logs_as_large_as_the_settings_say(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["llm.example.com"], "log_max_size": "7m"})
        recorder.run(edge_logs)
        assert b"7M" in recorder.host.contents["/etc/vllm-hosts/edge-logs.conf"]

    def test_a_timer_that_does_not_run(self, in_line: InLine) -> None:
        recorder = in_line()
        fresh = looks.FRESH["Units"]["vllm-hosts-edge-logs.timer"]
        recorder.host.facts["Units"]["vllm-hosts-edge-logs.timer"] = fresh
        assert recorder.run(edge_logs).changed == ["Edge logs | The timer for it runs"]

    def test_what_earlier_versions_left_is_noted(self, in_line: InLine) -> None:
        recorder = in_line()
        for path, found in recorder.host.paths.items():
            recorder.host.paths[path] = replace(found, deployed=None)
        done = recorder.run(secrets, record)
        assert done.changed == ["Record | The host has a record of what was deployed"]
        assert "note /opt/vllm/.env" in done["The host has a record of what was deployed"]
        # Secrets are noted by their digest alone.
        assert "copy /opt/vllm/.env" not in done["The host has a record of what was deployed"]

    def test_old_images_are_named_with_the_way_to_remove_them(self, in_line: InLine) -> None:
        recorder = in_line()
        images = [
            Image(f"sha256:{number * 64}", (f"vllm/vllm-openai:v0.3{number}.0",), (), 9 << 30)
            for number in "123"
        ]
        used = [Used(image.id, image.names[0]) for image in images]
        recorder.host.facts["ImagesThere"] = ImagesFound(tuple(images), (), tuple(used))
        [said] = recorder.run(record).said
        assert "no agent uses any more: vllm/vllm-openai:v0.31.0 (9.7 GB)" in said
        assert f"vllm-hosts images {recorder.inventory} prune" in said


class TestTls:
    def test_a_certificate_for_another_name_is_replaced(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["other.example.com"]})
        done = recorder.run(tls, nginx)
        assert "it gets a new certificate: " in done.said[0]
        assert done["The edge has a certificate in date"].commands
        # nginx has it open, so it is reloaded, and that is said before the run.
        assert done["The edge is configured and nginx has taken it up"].commands

    def test_nginx_takes_a_new_certificate_up(self, in_line: InLine) -> None:
        recorder = in_line()
        for path in ("/etc/vllm-hosts/tls/certificate.pem", "/etc/vllm-hosts/tls/key.pem"):
            found = recorder.host.paths[path]
            recorder.host.paths[path] = replace(found, sha256="0" * 64)
            done = recorder.run(nginx)
            assert done.changed == ["nginx | The edge is configured and nginx has taken it up"]
            assert done.effects == [RELOADED]

    def test_a_renewal_that_somebody_asked_for(self, in_line: InLine) -> None:
        recorder = in_line()
        now = utc_now()
        KeyStore(recorder.inventory).update(
            lambda content: content.model_copy(update={"renew": {"gpu1": now}})
        )
        assert recorder.run(tls).changed == ["TLS | The edge has a certificate in date"]

    def test_the_user_s_own_files(self, in_line: InLine, tmp_path: Path) -> None:
        for name in ("certificate", "key"):
            (tmp_path / name).write_text(f"of the user: {name}\n")
        given = {name: str(tmp_path / name) for name in ("certificate", "key")}
        recorder = in_line(tls={"mode": "files", **given})
        recorder.run(tls)
        assert recorder.host.contents["/etc/vllm-hosts/tls/key.pem"] == b"of the user: key\n"


class TestNginx:
    def test_a_configuration_that_nginx_rejects_fails_the_host_early(self, in_line: InLine) -> None:
        recorder = in_line(edge={"names": ["llm.example.com"], "https_port": 8443})
        recorder.host.fails["unshare -m"] = "nginx: [emerg] unknown directive"
        done = recorder.run(nginx_asked)
        assert "nginx would refuse the edge's configuration: nginx: [emerg]" in done.refused[0]

    def test_a_host_that_has_all_of_it_is_not_asked(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.fails["unshare -m"] = "nginx: [emerg] unknown directive"
        assert recorder.run(nginx_asked).refused == []
        with_mode(recorder, "/etc/nginx/conf.d/vllm-hosts.conf", 0o600)
        assert recorder.run(nginx_asked).refused != []

    def test_it_is_installed_without_being_started(self, in_line: InLine) -> None:
        recorder = in_line()
        del recorder.host.packages["nginx"]
        assert (
            "mask --runtime --quiet nginx.service"
            in recorder.run(nginx_asked)["nginx is installed"]
        )

    def test_a_site_of_somebody_s_own_stays(self, in_line: InLine) -> None:
        recorder = in_line()
        welcome = "/etc/nginx/sites-enabled/default"
        there = Found("l", 0o777, ("root", "0"), ("root", "0"))
        for whose, stays in (("own", True), ("distribution", False)):
            recorder.host.facts["NginxSites"] = Sites(whose)
            recorder.host.paths[welcome] = there
            recorder.run(nginx)
            assert (recorder.host.paths[welcome] is there) == stays

    def test_the_configuration_is_for_the_nginx_that_is_there(self, in_line: InLine) -> None:
        recorder = in_line()
        state = recorder.host.facts["NginxState"]
        old = "nginx version: nginx/1.18.0\nbuilt with OpenSSL 3.0.2 15 Mar 2022\n"
        recorder.host.facts["NginxState"] = replace(
            state, version_text=old, ipv6=False, names_bucket=128
        )
        recorder.run(nginx)
        conf = recorder.host.contents["/etc/nginx/conf.d/vllm-hosts.conf"].decode()
        assert "listen 443 ssl http2" in conf
        assert "[::]" not in conf
        recorder.host.facts["NginxState"] = replace(state, version_text="apache", active=False)
        assert "the version of nginx cannot be told" in recorder.run(nginx).refused[0]

    def test_a_number_that_somebody_lowered(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.contents["/etc/nginx/nginx.conf"] = looks.NGINX_CONF
        recorder.host.paths["/etc/nginx/nginx.conf"] = replace(
            recorder.host.paths["/etc/nginx/nginx.conf"], sha256="0" * 64
        )
        done = recorder.run(nginx)
        assert set(done.operations[0].written) == {"/etc/nginx/nginx.conf"}
        assert b"worker_connections 768" not in recorder.host.contents["/etc/nginx/nginx.conf"]

    def test_nginx_that_does_not_run(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["NginxState"] = replace(recorder.host.facts["NginxState"], active=False)
        assert recorder.run(nginx).changed == ["nginx | nginx runs, now and at boot"]


class TestModels:
    def test_a_cache_that_agents_could_write_is_taken_over(self, in_line: InLine) -> None:
        recorder = in_line()
        with_mode(recorder, "/var/lib/vllm", 0o777)
        done = recorder.run(models)
        script = done["No agent can write into the models' cache"]
        assert "chown -hR 64102:64101 /models" in script
        assert "source=/var/lib/vllm/huggingface,target=/models" in script
        assert "vllm/vllm-openai:v0.33.0" in script
        assert done.changed[0] == "Models | No agent can write into the models' cache"

    def test_a_model_that_is_not_whole_is_fetched(self, in_line: InLine) -> None:
        recorder = in_line(agents=[QWEN], hub={"endpoint": "https://mirror.example"})
        recorder.host.facts["HubModels"] = looks.FRESH["HubModels"]
        done = recorder.run(models)
        script = done["Models from the hub are whole"]
        assert done.changed == ["Models | Models from the hub are whole"]
        assert "--env HF_ENDPOINT=https://mirror.example" in script
        assert "--user 64102:64101" in script
        asked = recorder.host.arguments["HubModels"]
        assert asked["cache_directory"] == "/var/lib/vllm"

    def test_a_copied_model_that_is_another_fails_the_host(
        self, in_line: InLine, tmp_path: Path
    ) -> None:
        recorder = in_line()
        recorder.host.facts["ModelCopy"] = {"config.json": 1, "model.safetensors": 2}
        done = recorder.run(models)
        assert "is not the model in" in done.refused[0]


class TestVllm:
    UP = "The agents run as compose.yaml says"

    def test_a_new_definition_recreates_its_agent_alone(self, in_line: InLine) -> None:
        recorder = in_line()
        project = recorder.host.facts["ComposeProject"]
        recorder.host.facts["ComposeProject"] = replace(
            project, wanted=project.wanted | {"coder": "h9"}
        )
        recorder.host.after = {}
        recorder.edge = lambda path: 200
        done = recorder.run(vllm)
        assert any("starting coder" in command for command in done[self.UP].commands)
        assert "starting qwen" not in done[self.UP]
        assert "agent coder is recreated (its definition changed)" in done.effects[0]
        # The key that the edge shows to it comes from the new container.
        assert 'vllm_hosts_coder "' in done[self.UP]

    def test_a_new_key_is_foreseen(self, in_line: InLine) -> None:
        recorder = in_line()
        env = recorder.host.contents["/opt/vllm/.env"].decode().splitlines()
        changed = [line + "x" if "QWEN" in line else line for line in env]
        recorder.host.contents["/opt/vllm/.env"] = "\n".join(changed).encode()
        [effect] = recorder.run(vllm).effects
        assert effect.startswith("agent qwen is recreated (its key changed)")

    def test_compose_yaml_is_written_for_the_host_s_memory(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["HostMemory"] = 64 << 30
        done = recorder.run(vllm)
        assert done[self.UP].written == {"/opt/vllm/compose.yaml": "0644 root:root"}
        assert f"mem_limit: {57 << 30}" in recorder.host.contents["/opt/vllm/compose.yaml"].decode()

    def test_an_edge_that_answered_before_has_to_do_so_again(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = in_line()
        project = recorder.host.facts["ComposeProject"]
        recorder.host.facts["ComposeProject"] = replace(
            project, wanted=project.wanted | {"coder": "h9"}
        )
        recorder.host.after = {}
        answers = iter([200])
        recorder.edge = lambda path: next(answers, 503)
        monkeypatch.setattr("vllm_hosts.operations.compose._LOOK_EVERY", 0)
        done = recorder.run(vllm)
        assert done.failed
        assert "the edge, which answered before, says that they are not" in done.said[-1]
        assert recorder.asked[0][:3] == ("192.0.2.11", 443, "llm.example.com")

    def test_an_agent_that_crashes_fails_the_host_with_its_last_lines(
        self, in_line: InLine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = in_line()
        recorder.host.facts["AgentStates"]["qwen"] = AgentState("exited", 0, "none")
        recorder.host.facts["AgentLog"] = ("CUDA out of memory",)
        monkeypatch.setattr("vllm_hosts.operations.healthy._LOOK_EVERY", 0)
        done = recorder.run(vllm)
        assert done.failed
        assert "agent qwen is exited; its last lines:" in done.said[-1]
        assert "CUDA out of memory" in done.said[-1]
        assert recorder.host.arguments["AgentLog"]["directory"] == "/opt/vllm"

    def test_an_agent_s_folder_that_is_another_s(self, in_line: InLine) -> None:
        recorder = in_line()
        path = "/var/lib/vllm/agents/qwen"
        recorder.host.paths[path] = replace(recorder.host.paths[path], owner=("root", "0"))
        assert recorder.run(vllm).operations[0].written == {path: "0700 64101:64101"}


class TestImage:
    def test_an_image_with_a_way_around_its_key_fails_the_host(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["ImageVersion"] = ImageFound(looks.IMAGE_ID, "0.31.0")
        assert "has known ways around its key" in recorder.run(vllm_image).refused[0]

    def test_an_image_that_is_not_there_is_pulled(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["ImageId"] = ""
        recorder.host.after = {}
        done = recorder.run(vllm_image)
        assert done.changed == ["vLLM image | The vLLM image is on the host"]
        assert recorder.host.arguments["ImageId"] == {"image": "vllm/vllm-openai:v0.33.0"}
