"""Docker, GPUs, firewall and sshd on hosts where something differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit import recorded_looks as looks
from tests.unit.driver_hosts import DEBIAN_12
from tests.unit.recording import InLine
from tests.unit.samples import QWEN
from tests.unit.test_gpu import smi
from vllm_hosts.facts.docker import Served
from vllm_hosts.facts.firewall import Loaded, Others
from vllm_hosts.host.daemon_json import HOOK
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.roles.docker import docker
from vllm_hosts.roles.firewall import firewall
from vllm_hosts.roles.nvidia_container_toolkit import gpus_in_containers, nvidia_container_toolkit
from vllm_hosts.roles.nvidia_driver import nvidia_driver
from vllm_hosts.roles.ssh_hardening import ssh_hardening


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
        assert "qwen is down for about 61 s after it" in done.effects[0]

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
        assert "qwen, coder are down for minutes" in done.effects[0]
        assert b'"live-restore": false' in recorder.host.contents["/etc/docker/daemon.json"]


class TestGpus:
    def test_a_host_whose_agents_need_none_gets_nothing(self, in_line: InLine) -> None:
        recorder = in_line(agents=[QWEN | {"gpus": []}])
        done = recorder.run(nvidia_driver, nvidia_container_toolkit, gpus_in_containers)
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
        assert "update-initramfs" in done["The open-source driver nouveau is disabled"]

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
        recorder.host.facts["DockerDaemon"] = replace(daemon, stale=(HOOK,))
        recorder.host.facts["AgentsServed"] = Served(True, False, ("qwen",), {"qwen": 61})
        done = recorder.run(gpus_in_containers)
        assert done.changed == ["NVIDIA Container Toolkit | Docker knows the NVIDIA runtime"]
        assert "qwen is down for about 61 s" in done.effects[0]
        assert HOOK in recorder.host.arguments["DockerDaemon"]["read_at_start"]

    def test_a_container_is_seen_with_all_cards_that_agents_ask_for(self, in_line: InLine) -> None:
        recorder = in_line()
        recorder.host.facts["LastGpuCheck"] = looks.FRESH["LastGpuCheck"]
        done = recorder.run(gpus_in_containers)
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
        assert done.effects == ["the firewall's table is reloaded; open connections stay"]

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
        assert "sshd still accepts passwords (passwordauthentication)" in done.said[0]
