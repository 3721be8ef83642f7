"""Known vulnerabilities: by version, by branch, and patched by a distribution."""

from __future__ import annotations

import pytest
from packaging.version import Version

from vllm_hosts.settings.vllm import VLLM_FLOOR
from vllm_hosts.verify.advisories import floors, holes


def cves(product: str, version: str, *mended: str) -> list[str]:
    return [hole.cve for hole in holes(product, Version(version), mended)]


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("1.31.0", []),
        ("1.30.1", []),
        ("1.30.0", ["CVE-2026-42945"]),
        ("1.26.3", ["CVE-2026-42945"]),
        ("1.26.2", ["CVE-2026-42945", "CVE-2025-23419"]),
    ],
)
def test_a_fix_counts_within_its_branch(version: str, expected: list[str]) -> None:
    assert cves("nginx", version) == expected


def test_a_distribution_s_own_fix_counts() -> None:
    assert cves("nginx", "1.26.3", "CVE-2026-42945") == []
    assert cves("nginx", "1.18.0", "CVE-2026-42945") == ["CVE-2025-23419"]


def test_an_older_vllm_has_a_way_around_its_key() -> None:
    assert cves("vllm", "0.31.9") == ["CVE-2026-115911"]
    assert cves("vllm", str(VLLM_FLOOR)) == []


def test_every_hole_has_a_source() -> None:
    for packages, found in floors().values():
        assert isinstance(packages, tuple)
        for hole in found:
            assert hole.cve.startswith("CVE-")
            assert hole.source.startswith("https://")
            assert hole.what
