"""What programs print beside their answers: mutations of real ones.

A parser tells the truth or says in a sentence that it cannot: no other exception, and no "absent"
made of "odd".
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.examples import examples
from tests.unit.fakes import inspect_line, inspected
from tests.unit.samples import settings as host_settings
from tests.unit.test_apt_entries import LINE, STANZA
from tests.unit.test_driver import TestAptSources
from tests.unit.test_facts import SYSTEM
from tests.unit.test_gpu import BARE, RECORDED
from tests.unit.test_sockets import GOOD
from vllm_hosts.errors import HostError
from vllm_hosts.facts.agents import AgentLogs, AgentsInspected
from vllm_hosts.facts.apt import AllPackages, AptKeyFingerprints, AptSourceFiles, AptVersions
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.compose import AgentStates, ComposeHashes, ComposeProject
from vllm_hosts.facts.docker import DockerDaemon, ImageVersion
from vllm_hosts.facts.docker_state import DockerState
from vllm_hosts.facts.firewall import FirewallLoaded, HostSurroundings, SshPorts
from vllm_hosts.facts.gpu import GpuState
from vllm_hosts.facts.nginx import NginxMainConf, NginxState
from vllm_hosts.facts.release import OsRelease
from vllm_hosts.facts.sockets import ListeningSockets
from vllm_hosts.facts.system import SystemState
from vllm_hosts.facts.tree import FileTexts, TreeState
from vllm_hosts.facts.units import Units
from vllm_hosts.facts.vllm_images import ImagesThere, ImagesUsed
from vllm_hosts.host.apt_entries import in_the_way
from vllm_hosts.host.apt_sources import extended
from vllm_hosts.host.apt_sources import read as read_sources
from vllm_hosts.host.docker_stats import usages
from vllm_hosts.host.image_places import image_places
from vllm_hosts.host.nvidia_smi import parse as parse_smi
from vllm_hosts.host.sockets import read as read_sockets
from vllm_hosts.host.sockets import unexpected_sockets
from vllm_hosts.host.vllm_metrics import http_body, metrics
from vllm_hosts.roles.nginx.plan import parse_version
from vllm_hosts.suite.listening import read as read_listeners
from vllm_hosts.top.poll import _gpus

#: What programs print beside their answers, as seen.
STRAY = (
    "",
    "WARNING: infoROM is corrupted at gpu 0000:00:1E.0",
    'time="2026-11-25T20:00:00Z" level=warning msg="the attribute `version` is obsolete"',
    "W: Some index files failed to download. They have been ignored, or old ones used instead.",
    "N: Ignoring file 'docker.list.save' in directory '/etc/apt/sources.list.d/'",
    'nginx: [warn] conflicting server name "_" on 0.0.0.0:80, ignored',
    "bash: warning: setlocale: LC_ALL: cannot change locale (de_DE.UTF-8)",
    "Failed to connect to bus: No such file or directory",
    "/bin/sh: 1: Cannot fork",
    "sudo: unable to resolve host gpu1: Name or service not known",
    "Cannot open netlink socket: Protocol not supported",
    "Killed",
    "[N/A]",
    "== ",
    "exit 1",
    "\x1b[31mred\x1b[0m \u202e \ufeff",
)
_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=12)


@st.composite
def mutated(draw: st.DrawFn, lines: Sequence[str]) -> list[str]:
    """Real lines with one to three things wrong with them."""
    found = list(lines)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.integers(0, 6)) if found else 0:
            case 0:
                found.insert(at, draw(st.sampled_from(STRAY)))
            case 1:
                del found[at]
            case 2:
                found.insert(at, found[at])
            case 3:
                found[at] = found[at][: draw(st.integers(0, len(found[at])))]
            case 4:
                cut = draw(st.integers(0, len(found[at])))
                found[at] = found[at][:cut] + draw(_TEXT) + found[at][cut + 1 :]
            case 5:
                words = found[at].split(" ")
                words[draw(st.integers(0, len(words) - 1))] = draw(_TEXT)
                found[at] = " ".join(words)
            case _:
                other = draw(st.integers(0, len(found) - 1))
                found[at], found[other] = found[other], found[at]
    return found


#: Parts of the answers of facts, without the marker at the end.
SHA = "a" * 64
ROW = "0, NVIDIA H200, GPU-0, 143771, 590.48.01, 9.0, Disabled, Enabled"
INSPECTED, LOGGED = AgentsInspected(), AgentLogs()
# What they were asked, they are told with their commands.
INSPECTED.asked, LOGGED.asked = ["one", "two"], ["qwen", "coder"]
FACTS: list[tuple[HostFact[Any], list[str]]] = [
    (GpuState(), [*BARE, ROW, "exit 0"]),
    (
        SystemState(),
        [*SYSTEM, ROW, "exit 0", "== ipv6", "present", "== model /srv/a", "config e30=",
         "total 1.5e10", "file 1208 200 1000 model.safetensors"],
    ),
    (
        DockerState(),
        ["== images", "kind docker", "feature -", "root /var/lib/docker",
         "free root 53687091200", "store /var/lib/containerd", "free store 53687091200",
         "== docker", "path /usr/bin/dockerd", "daemon Docker version 28.5.1", "swarm inactive",
         "package ii |docker-ce|5:28.5.1", "== compose", "v2.40.2"],
    ),
    (
        DockerDaemon(),
        ["== active", "active", "== enabled",
         "enabled", "== config", "present", base64.b64encode(b"{}\n").decode(), "== stale"],
    ),
    (
        ComposeProject(),
        ["== hashes", f"qwen {SHA}", f"coder {SHA}", "exit 0", "== containers",
         inspect_line("qwen", hash=SHA), "== networks",
         "qwen vllm_qwen 198.18.250.8/29 vllm-8001 qwen"],
    ),
    (ComposeHashes(), ["== hashes", f"qwen {SHA}", STRAY[2], f"coder {SHA}", "exit 0"]),
    (AgentStates(), ["== states", inspect_line("qwen"), inspect_line("coder", "exited", None)]),
    (
        INSPECTED,
        ["== containers", json.dumps(inspected("one")),
         json.dumps(inspected("two", "exited", None))],
    ),
    (ImageVersion(), ["== id", f"sha256:{SHA}", "== note", f"sha256:{SHA} 0.33.0"]),
    (
        TreeState(),
        ["== stat", "regular file|600|root|0|root|0|/opt/vllm/.env",
         "symbolic link|777|root|0|root|0|/etc/x", "directory|755|root|0|root|0|/opt", "== sha256",
         f"{SHA}  /opt/vllm/.env", "== stamp", SHA, "== deployed", "noted",
         f"{SHA}  /opt/vllm/.env", "-  /opt", "== asked", "/opt/vllm/.env", "/etc/x", "/opt"],
    ),
    (FileTexts(), ["== /opt/a", "text", base64.b64encode(b"a: 1\n").decode(), "== /opt/b"]),
    (
        ImagesThere(),
        ["== record", f"sha256:{SHA} vllm/vllm-openai:v0.33.0", "== images",
         json.dumps({"id": f"sha256:{SHA}", "tags": ["a/b:c"], "digests": [], "size": 1}),
         "== containers", inspect_line("a"), "== way back", f"sha256:{SHA}"],
    ),
    (
        ImagesUsed(),
        ["== record", f"sha256:{SHA} vllm/vllm-openai:v0.33.0", "== agents",
         inspect_line("qwen")],
    ),
    (
        NginxMainConf(),
        ["== stat", "regular file|644|root|0|root|0|/etc/nginx/nginx.conf", "== content",
         base64.b64encode(b"events { worker_connections 768; }\n").decode()],
    ),
    (
        NginxState(),
        ["== version", "nginx version: nginx/1.26.3", "built with OpenSSL 3.5.1 1 Jul 2025",
         "== active", "active", "== enabled", "enabled", "== ipv6", "present", "== names", "128;"],
    ),
    (
        AllPackages(),
        ["== installed", "ii |nginx|1.26.3-3+deb13u1", "rc |docker.io|26.1.5", "== held", "nginx"],
    ),
    (
        AptVersions(),
        ["== offered", " nginx | 1.26.3-3+deb13u1 | http://deb.debian.org/debian trixie/main"],
    ),
    (AptSourceFiles(), ["== /etc/apt/sources.list", base64.b64encode(LINE.encode()).decode()]),
    (
        AptKeyFingerprints(),
        ["== keys", "pub:-:4096:1:8D81803C0EBFCD88:1487788586:::-:::scSC::::::23::0:",
         "fpr:::::::::9DC858229FC7DD38854AE2D88D81803C0EBFCD88:"],
    ),
    (
        FirewallLoaded(),
        ["== live", f"{SHA}  -", "== file", f"{SHA}  -", "== rules", "present", "== enabled",
         "enabled", "== active", "active"],
    ),
    (
        SshPorts(),
        ["== listeners", 'tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=1,fd=3)) ino:7',
         "== configured", "22",
         "== socket", "[::]:2222 (Stream)"],
    ),
    (HostSurroundings(), ["== edge user", "33", "== uplinks", "br0"]),
    (ListeningSockets(), ["== sockets", *GOOD]),
    (
        OsRelease(),
        ["== release", 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"', 'VERSION_ID="13"', "ID=debian",
         "VERSION_CODENAME=trixie", "== architecture", "amd64"],
    ),
    (Units(), ["== enabled nginx.service", "enabled", "== active nginx.service", "active"]),
]  # fmt: skip


@pytest.mark.parametrize(("fact", "lines"), FACTS, ids=[type(fact).__name__ for fact, _ in FACTS])
def test_a_fact_reads_its_own_sample(fact: HostFact[Any], lines: list[str]) -> None:
    assert fact.process([*lines, END]) is not None


@pytest.mark.parametrize(("fact", "lines"), FACTS, ids=[type(fact).__name__ for fact, _ in FACTS])
@settings(max_examples=examples(20), deadline=None)
@given(data=st.data())
def test_a_fact_understands_or_says_that_it_does_not(
    fact: HostFact[Any], lines: list[str], data: st.DataObject
) -> None:
    try:
        fact.process([*data.draw(mutated(lines)), END])
    except HostError as error:
        assert fact.what in str(error) or "sshd" in str(error)  # noqa: PT017


def socket_sentences(lines: list[str]) -> object:
    return list(unexpected_sockets(read_sockets(lines), host_settings(), [22]))


def sources(lines: list[str]) -> object:
    files = {"/etc/apt/sources.list.d/a.sources": "\n".join(lines)}
    found = extended(read_sources(files, but="ours"), "trixie", ("non-free",), "ours")
    return [found, in_the_way(files, "https://x/debian", "trixie", "amd64", but="")]


def lists(lines: list[str]) -> object:
    files = {"/etc/apt/sources.list": "\n".join(lines)}
    found = extended(read_sources(files, but="ours"), "bookworm", ("non-free",), "ours")
    return [found, in_the_way(files, "https://x/debian", "trixie", "amd64", but="")]


METRICS = (Path(__file__).with_name("recorded") / "metrics-0.33.txt").read_text().splitlines()
HTTP = [
    "HTTP/1.1 200 OK\r",
    "content-length: 12\r",
    "content-type: text/plain\r",
    "\r",
    "a_metric 1.0",
]
STATS = json.dumps(
    {"Name": "qwen", "CPUPerc": "101.20%", "MemUsage": "3GiB / 64GiB", "MemPerc": "4.69%"}
)
NGINX = [
    "nginx version: nginx/1.26.3 (Ubuntu)",
    "built with OpenSSL 3.0.13 30 Jan 2024 (running with OpenSSL 3.0.15 3 Sep 2024)",
    "TLS SNI support enabled",
]
TOP_ROW = "0, NVIDIA H200, 130211, 143771, 97, 64, 612.31, 700.00, Disabled"
PARSERS: dict[str, tuple[Callable[[list[str]], object], list[str]]] = {
    "nvidia-smi": (parse_smi, (RECORDED / "l40s.txt").read_text().splitlines()),
    "nvidia-smi, no driver": (parse_smi, (RECORDED / "mismatch.txt").read_text().splitlines()),
    "nvidia-smi of top": (_gpus, [TOP_ROW, TOP_ROW.replace("0", "1", 1), "exit 0"]),
    "ss": (socket_sentences, GOOD),
    "ss of the suite": (lambda lines: list(read_listeners("\n".join(lines))), GOOD),
    "apt's stanzas": (sources, [*TestAptSources.DEB822.splitlines(), "", *STANZA.splitlines()]),
    "apt's lists": (lists, [*TestAptSources.LINES.splitlines(), LINE.strip()]),
    "nginx -V": (lambda lines: parse_version("\n".join(lines)), NGINX),
    "vLLM's metrics": (lambda lines: metrics("\n".join(lines)), METRICS),
    "HTTP": (lambda lines: http_body("\n".join(lines).encode()), HTTP),
    "docker stats": (usages, [STATS]),
    "places of images": (
        image_places,
        ["kind docker", "feature -", "root /a", "free root 1", "store /b", "free store 2"],
    ),
}


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=examples(30), deadline=None)
@given(data=st.data())
def test_a_parser_understands_or_says_that_it_does_not(name: str, data: st.DataObject) -> None:
    parse, lines = PARSERS[name]
    try:
        parse(data.draw(mutated(lines)))
    except (HostError, ValueError) as error:
        assert str(error)  # noqa: PT017


@given(
    st.lists(st.sampled_from([line for line in STRAY if line != "exit 1"]), max_size=4), st.data()
)
def test_stray_lines_change_no_card(stray: list[str], data: st.DataObject) -> None:
    *rows, code = (RECORDED / "l40s.txt").read_text().splitlines()
    for line in stray:
        rows.insert(data.draw(st.integers(0, len(rows))), line)
    found = parse_smi([*rows, data.draw(st.sampled_from([code, "exit 14", "exit 124"]))])
    assert [card.index for card in found.gpus] == [0, 1]
    assert found.message is None


@given(st.lists(st.sampled_from(STRAY[1:12]), max_size=3), st.data())
def test_a_warning_of_compose_recreates_nobody(stray: list[str], data: st.DataObject) -> None:
    hashes = [f"qwen {SHA}", f"coder {SHA}"]
    for line in stray:
        hashes.insert(data.draw(st.integers(0, len(hashes))), line)
    found = ComposeProject().process(
        ["== hashes", *hashes, "exit 0", "== containers", "== networks", END]
    )
    assert found.wanted == {"qwen": SHA, "coder": SHA}


def test_odd_is_not_absent() -> None:
    """No hash among the lines of a program that says that all is well."""
    with pytest.raises(HostError, match="could not be understood"):
        ComposeProject().process(
            ["== hashes", STRAY[2], "exit 0", "== containers", "== networks", END]
        )
