"""A host for the doctor's look: programs that answer as on one, and its files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from secrets import token_hex
from typing import Any

from tests.unit.fakes import inspect_line
from vllm_hosts.doctor.query import DoctorLook
from vllm_hosts.doctor.seen import Seen

KEY = "internal-Key_0123456789/abc"
OTHER = "another-Key_9876543210"
TOKEN = "hf_0123456789abcdef"
CLIENT = "client-Key_4711"


class StandInHost:
    """Programs that answer as on a host, and its files, below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Other tests deploy on this machine meanwhile; their commands are none of this host's.
        self.mark = f"VLLM_HOSTS_DEPLOY_{token_hex(4)}"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.edge = folder / "edge"
        self.edge.mkdir()
        self.state: dict[str, Any] = {"started": "2026-10-02T11:20:41.123456789Z"}
        self.container_key = KEY
        self.exists = True
        self.log = "vLLM says nothing"
        self.write("compose.yaml", "services: {}\n")
        self.write(".env", f"# ours\nVLLM_API_KEY_QWEN={KEY}\nHF_TOKEN={TOKEN}\n")
        self.write("edge/internal.map", f'vllm_hosts_qwen "{KEY}";\n')
        self.write("edge/clients.map", f'"Bearer {CLIENT}" "default Bearer {CLIENT}";\n')
        self.program("id", "echo 0")
        self.program("systemctl", "case $1 in is-active) echo active;; esac")
        self.program("nginx", "exit 0")
        self.program("nft", "exit 0")
        self.program(
            "ss", "echo 'tcp LISTEN 0 511 0.0.0.0:443 0.0.0.0:* users:((\"nginx\",pid=1,fd=2))'"
        )
        self.program("journalctl", "echo 'Oct 02 gpu1 kernel: NVRM: loading NVIDIA UNIX Open'")
        self.program("nvidia-container-runtime-hook", "exit 0")
        self.program(
            "nvidia-smi",
            """case $* in
            *clocks_event_reasons*) echo 'Field "x" is not a valid field to query.'; exit 2 ;;
            *clocks_throttle_reasons*) echo '0, 34, 0, Not Active, Not Active, Not Active' ;;
            *) echo '0, NVIDIA H200, 143771' ;;
            esac""",
        )

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def output(self) -> str:
        """What leaves the host."""
        self.write("inspected", inspect_line("qwen", **self.state) + "\n")
        self.write("environment", f"PATH=/bin\nVLLM_API_KEY={self.container_key}\nX=1\n")
        self.write("log", self.log)
        self.program(
            "docker",
            f"""echo "$*" >>{self.folder}/asked
            case $* in
            version*) echo 29.1 ;;
            image*) echo present ;;
            *Config.Env*) cat {self.folder}/environment ;;
            *RestartCount*) {"" if self.exists else "exit 1; "}cat {self.folder}/inspected ;;
            *State.StartedAt*) echo 2026-10-02T11:20:41Z ;;
            logs*) cat {self.folder}/log ;;
            exec*) echo 'GPU 0: NVIDIA H200 (UUID: GPU-1)' ;;
            esac""",
        )
        script = DoctorLook().command(
            *(str(self.folder), str(self.folder), "vllm/x:v1", ["qwen"], ["qwen"], ["/no/such"]),
            deployed=f"{self.folder}/compose.yaml",
        )
        script = script.replace("edge_folder=/etc/nginx/vllm-hosts", f"edge_folder={self.edge}")
        assert "mark=VLLM_HOSTS_DEPLOY\n" in script
        script = script.replace("mark=VLLM_HOSTS_DEPLOY\n", f"mark={self.mark}\n")
        script = script.replace(
            "watchdog=/var/lib/vllm-hosts/watchdog", f"watchdog={self.folder}/watchdog"
        )
        script = script.replace("/var/log/vllm-hosts/access.log", f"{self.folder}/access.log")
        script = script.replace("history=/var/lib/vllm-hosts/", f"history={self.folder}/")
        script = script.replace("/etc/vllm-hosts/balancer", f"{self.folder}/balancer")
        done = subprocess.run(
            ["sh", "-c", script],
            env={"PATH": f"{self.programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def seen(self) -> Seen:
        return DoctorLook().process(self.output().splitlines())
