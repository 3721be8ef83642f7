"""What sslyze is asked of an edge, and which of its words count."""

from __future__ import annotations

from typing import Any

import pytest
from sslyze.mozilla_tls_profile import tls_config_checker as checker

from vllm_hosts.verify.outside import tls_grades

EDGE: dict[str, Any] = {"address": "192.0.2.21", "port": 443, "ca_file": None}


@pytest.mark.parametrize(
    ("server_name", "called", "counts"),
    [
        ("llm.example.com", "llm.example.com", True),
        ("192.0.2.21", "192.0.2.21", True),
        # Where gateways share an address, each is asked at its own.
        ("192.0.2.20", "192.0.2.21", False),
    ],
)
def test_by_what_an_edge_is_called(
    monkeypatch: pytest.MonkeyPatch, server_name: str, called: str, counts: bool
) -> None:
    edge = EDGE | {"server_name": server_name}
    asked = tls_grades.request(edge)
    location = asked.server_location
    assert (location.hostname, location.ip_address) == (called, "192.0.2.21")
    issues = {"certificate_path_validation": "failed", "tls_versions": "old"}
    monkeypatch.setattr(tls_grades, "request", lambda asked: ScanOf)
    monkeypatch.setattr(tls_grades, "Scanner", Scans)
    monkeypatch.setattr(tls_grades, "check_server_against_tls_configuration", refusing(issues))
    expected = issues if counts else {"tls_versions": "old"}
    assert tls_grades.grades({"gw1": edge}) == {"gw1": {"issues": expected}}


class ScanOf:
    uuid = "one"


class Scans:
    def queue_scans(self, requests: list[object]) -> None:
        assert requests == [ScanOf]

    def get_results(self) -> list[object]:
        return [ScanOf]


def refusing(issues: dict[str, str]) -> Any:
    def check(result: object, profile: object) -> None:
        wanted = checker.MozillaTlsConfiguration.get(
            checker.TlsConfigurationEnum.MOZILLA_INTERMEDIATE
        )
        raise checker.ServerNotCompliantWithTlsConfiguration(wanted, issues)

    return check
