"""Programs without known vulnerabilities that matter on such a host."""

from __future__ import annotations

import re
from collections.abc import Callable

from packaging.version import Version
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.roles.nvidia_container_toolkit.plan import PACKAGES
from vllm_hosts.settings import Agent, HostSettings
from vllm_hosts.suite.promise import promise
from vllm_hosts.verify.advisories import floors, holes

Noted = Callable[[str, str], None]


def version_in(text: str) -> Version:
    """The first version in what a program says of itself."""
    found = re.search(r"\d+\.\d+\.\d+", text)
    if found is None:
        raise HostError(f"no version in {text!r}")
    return Version(found[0])


def open_holes(host: Host, product: str, version: Version) -> list[str]:
    """CVEs that neither the version nor the distribution's own patches have fixed."""
    changelogs = " ".join(f"/usr/share/doc/{name}/changelog.*" for name in floors()[product][0])
    mended = host.run(f"zgrep -hos 'CVE-[0-9]*-[0-9]*' {changelogs}").stdout.split()
    return [f"{hole.cve}: {hole.what} ({hole.source})" for hole in holes(product, version, mended)]


@promise("VER-01")
def test_docker_has_no_known_hole(host: Host, settings: HostSettings, noted: Noted) -> None:
    said = host.check_output("docker version --format '{{.Server.Version}}'")
    noted("Docker", said)
    assert open_holes(host, "docker", version_in(said)) == []


@promise("VER-02")
def test_runc_has_no_known_hole(host: Host, settings: HostSettings, noted: Noted) -> None:
    said = host.check_output("runc --version | head -n 1")
    noted("runc", str(version_in(said)))
    assert open_holes(host, "runc", version_in(said)) == []


@promise("VER-03")
def test_nginx_has_no_known_hole(host: Host, settings: HostSettings, noted: Noted) -> None:
    said = host.check_output("nginx -v 2>&1")
    noted("nginx", host.check_output("dpkg-query -W -f '${Version}' nginx"))
    assert open_holes(host, "nginx", version_in(said)) == []


@promise("VER-04")
def test_the_toolkit_has_no_known_hole(host: Host, gpu_agent: Agent, noted: Noted) -> None:
    said = host.check_output(f"dpkg-query -W -f '${{Version}}' {PACKAGES[0]}")
    noted("NVIDIA Container Toolkit", said)
    assert open_holes(host, "toolkit", version_in(said)) == []
