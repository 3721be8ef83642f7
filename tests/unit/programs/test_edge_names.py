"""Long names, and hosts without IPv6, with the real nginx."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.unit.real_nginx import RealEdge, program
from tests.unit.samples import settings
from tests.unit.test_edge_conf import DEBIAN_13, KEYS
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.nginx import NginxState
from vllm_hosts.roles.nginx.plan import NginxVersion, edge_conf

CLOUD = "ec2-203-0-113-25.ap-southeast-2.compute.amazonaws.com"


def named(*lengths: int) -> list[str]:
    """Names of these lengths."""
    names = []
    for n, length in enumerate(lengths):
        labels = "abcdefghij." * 25
        names.append(f"{n}{labels}"[: length - 1].strip(".").ljust(length, "x"))
    return names


@pytest.mark.parametrize("length", [3, 46, 47, 54, 63, 110, 111, 200, 253])
def test_nginx_takes_names_of_every_length(tmp_path: Path, length: int) -> None:
    edge = RealEdge(tmp_path, settings(edge={"names": named(length)}), KEYS)
    assert len(edge.name) == length
    assert edge.judged() == ""


def test_without_it_nginx_refuses_a_cloud_s_name(tmp_path: Path) -> None:
    """What it is for: the same configuration without the line."""
    # This machine may have no libraries for Lua where nginx looks for them.
    without = {"count_tokens": False, "cache_isolation": "off"}
    host = settings(edge={"names": ["a.example.com", CLOUD]} | without)
    edge = RealEdge(tmp_path, host, KEYS)
    assert edge.judged() == ""
    path = tmp_path / "edge/vllm-hosts.conf"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("server_names_hash")]
    assert len(kept) == len(lines) - 1
    path.write_text("\n".join(kept))
    words = [program("nginx"), "-t", "-q", "-c", str(tmp_path / "nginx.conf")]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stderr
    assert "could not build server_names_hash" in said


def test_what_somebody_else_set_is_enough_or_named(tmp_path: Path) -> None:
    edge = RealEdge(tmp_path, settings(edge={"names": [CLOUD]}), KEYS)
    assert edge.judged(names_bucket=128) == ""
    with pytest.raises(HostError, match="sets server_names_hash_bucket_size to 64, .* needs 128"):
        edge_conf(edge.settings, NginxVersion((1, 26, 3), (3, 5, 0), names_bucket=64))


def test_a_host_without_ipv6_has_no_address_of_it() -> None:
    with_ipv6 = edge_conf(settings(), DEBIAN_13)
    without = edge_conf(settings(), NginxVersion((1, 26, 3), (3, 5, 0), ipv6=False))
    assert with_ipv6.count("listen [::]:") == 3
    lines = [line for line in with_ipv6.splitlines() if "listen [::]" not in line]
    assert without.splitlines() == lines


@pytest.mark.parametrize(
    ("said", "expected"),
    [([], None), (["128;"], 128), (["1k;  # long names"], 1024), (["64 ;", "128;"], 64)],
)
def test_what_nginx_s_other_files_set(said: list[str], expected: int | None) -> None:
    lines = ["== version", "== active", "== enabled", "== ipv6", "present", "== names", *said, END]
    found = NginxState().process(lines)
    assert (found.names_bucket, found.ipv6) == (expected, True)
    lines.remove("present")
    assert not NginxState().process(lines).ipv6


def test_another_file_s_size_is_seen(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "sites-enabled").mkdir()
    (tmp_path / "nginx.conf").write_text("http {\n\t# server_names_hash_bucket_size 64;\n}\n")
    (tmp_path / "conf.d/vllm-hosts.conf").write_text("server_names_hash_bucket_size 512;\n")
    script = NginxState().command().replace("/etc/nginx", str(tmp_path))

    def look() -> int | None:
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        return NginxState().process(done.stdout.splitlines()).names_bucket

    assert look() is None
    (tmp_path / "sites-enabled/mine").write_text("\tserver_names_hash_bucket_size  128; # x\n")
    assert look() == 128
