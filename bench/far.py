"""The lab's hosts behind the relay: how each program gets there, and what Ansible is to keep."""

from __future__ import annotations

import json
import shlex
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import yaml

from lab import layout
from vllm_hosts.host.paths import DEPLOYED, EDGE_LOGS, MANIFEST

#: On a host: Ansible's modules are Python, and what it is to keep is what the deploy has written.
_COLLECTED = f"""
set -eu; export LC_ALL=C DEBIAN_FRONTEND=noninteractive
python3 -c 'import apt' 2>/dev/null || {{
    apt-get -qq update && apt-get -qq install -y --no-install-recommends python3 python3-apt
}} >&2
cd /
{{
    {{ echo {MANIFEST}; cut -c 67- {DEPLOYED}; }} | while IFS= read -r path; do
        [ ! -f "$path" ] || printf '%s\\n' "${{path%/*}}" "$path"
    done
    printf '%s\\n' {EDGE_LOGS} /etc/apt/keyrings/*.asc
    printf '%s\\n' /var/lib/vllm /var/lib/vllm/*/ /var/lib/vllm/agents/*/
}} | sed 's|^/||; s|/$||' | sort -u | tar --no-recursion -cf - -T -
"""


@dataclass(frozen=True)
class Far:
    """Hosts and the ports of this machine that lead to them, with files for it in ``folder``."""

    folder: Path
    hosts: Mapping[layout.Host, int]

    @property
    def config(self) -> Path:
        """For ssh and for pyinfra: hosts keep their addresses, and only SSH goes through here."""
        return self.folder / "ssh_config"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def inventory(self) -> Path:
        """Ansible's."""
        return self.folder / "inventory.json"

    def written(self) -> Far:
        """With its files for SSH."""
        ports = {str(host.ipv4): port for host, port in self.hosts.items()}
        self.config.write_text(
            "".join(
                f"Host {address}\n    HostName 127.0.0.1\n    Port {port}\n"
                f"    UserKnownHostsFile {self.known_hosts}\n    IdentityFile {layout.SSH_KEY}\n"
                "    IdentitiesOnly yes\n    BatchMode yes\n"
                for address, port in ports.items()
            )
        )
        self.known_hosts.write_text(known(layout.KNOWN_HOSTS.read_text(), ports))
        return self

    def pyinfra(self, *hosts: layout.Host) -> list[str]:
        """Options of pyinfra's, for these hosts."""
        data = {"ssh_config_file": self.config, "ssh_known_hosts_file": self.known_hosts}
        limits = [word for host in hosts for word in ("--limit", host.name)]
        return [*limits, *(word for name in data for word in ("--data", f"{name}={data[name]}"))]

    def ssh(self, host: layout.Host, command: str) -> list[str]:
        return ["ssh", "-F", str(self.config), f"{host.ssh_user}@{host.ipv4}", command]

    def files(self, host: layout.Host) -> Path:
        """What a host has of the deploy, since ``for_ansible``."""
        return self.folder / "files" / host.name

    def for_ansible(self) -> None:
        """Write its inventory, with what each host is to have. Stock pyinfra's is the same."""
        found = {}
        for host, port in self.hosts.items():
            sudo = "" if host.ssh_user == "root" else "sudo "
            done = subprocess.run(
                self.ssh(host, f"{sudo}sh -c {shlex.quote(_COLLECTED)}"),
                check=False,
                capture_output=True,
                timeout=900,
            )
            if done.returncode:
                said = done.stderr.decode(errors="replace")[-2000:]
                raise RuntimeError(f"{host.name} does not say what Ansible is to keep:\n{said}")
            files = self.files(host)
            login = {
                "ansible_host": "127.0.0.1",
                "ansible_port": port,
                "ansible_user": host.ssh_user,
                "ansible_ssh_private_key_file": str(layout.SSH_KEY),
                "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.known_hosts}",
                "known_hosts": str(self.known_hosts),
                "address": str(host.ipv4),
            }
            found[host.name] = login | kept(done.stdout, files)
        self.inventory.write_text(json.dumps({"all": {"hosts": found}}, indent=1))


def known(lines: str, ports: Mapping[str, int]) -> str:
    """known_hosts as it has to be for ports of this machine that lead to its hosts."""
    found = []
    for line in lines.splitlines():
        names, _, key = line.partition(" ")
        found += [
            f"[127.0.0.1]:{ports[name]} {key}\n" for name in names.split(",") if name in ports
        ]
    return "".join(found)


def kept(archive: bytes, files: Path) -> dict[str, Any]:
    """Variables of a host, from a tar of the files that it is to keep. Those are put below a
    folder."""
    managed, folders = [], []
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        for member in tar:
            path = f"/{member.name}"
            as_it_is = {
                "path": path,
                "mode": f"{member.mode:04o}",
                "owner": member.uname or str(member.uid),
                "group": member.gname or str(member.gid),
            }
            if member.isdir() and ("vllm" in path or path.endswith(".service.d")):
                folders.append(as_it_is)
            content = tar.extractfile(member)
            if content is None:
                continue
            (files / member.name).parent.mkdir(parents=True, exist_ok=True)
            (files / member.name).write_bytes(content.read())
            managed.append(as_it_is)
    words: dict[str, list[str]] = {"package": [], "hold": [], "model": []}
    for line in (files / MANIFEST.lstrip("/")).read_text().splitlines():
        kind, _, rest = line.partition(" ")
        words.get(kind, []).append(rest)
    compose = yaml.safe_load((files / "opt/vllm/compose.yaml").read_text())
    return {
        "files": str(files),
        "managed": [one for one in managed if one["path"] != MANIFEST],
        "folders": folders,
        "packages": words["package"],
        "held": words["hold"],
        "models": words["model"],
        "image": next(iter(compose["services"].values()))["image"],
        "agents": [
            {"name": name, "port": int(service["ports"][0].split(":")[-2])}
            for name, service in compose["services"].items()
        ],
    }
