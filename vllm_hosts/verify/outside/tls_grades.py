"""Edges graded against Mozilla's intermediate profile, by sslyze. JSON in, JSON out.

A process of its own: sslyze brings an OpenSSL of its own, and threads that gevent must not touch.
"""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from sslyze.mozilla_tls_profile.tls_config_checker import (
    SCAN_COMMANDS_NEEDED_BY_MOZILLA_CHECKER,
    MozillaTlsConfiguration,
    ServerNotCompliantWithTlsConfiguration,
    ServerScanResultIncomplete,
    TlsConfigurationEnum,
    check_server_against_tls_configuration,
)
from sslyze.plugins.certificate_info.implementation import CertificateInfoExtraArgument
from sslyze.scanner.models import ScanCommandsExtraArguments, ServerScanRequest
from sslyze.scanner.scanner import Scanner
from sslyze.server_setting import ServerNetworkLocation

#: Whether a certificate is good for each name is TLS-03.
_OF_NAMES = "certificate_path_validation"


def _is_another(asked: dict[str, Any]) -> bool:
    """Whether clients call another address than the one that is asked, as where gateways share one:
    sslyze takes an address for a name then, and finds no certificate good for it."""
    try:
        return ip_address(asked["server_name"]) != ip_address(asked["address"])
    except ValueError:
        return False


def request(asked: dict[str, Any]) -> ServerScanRequest:
    """One edge for sslyze."""
    called = asked["address"] if _is_another(asked) else asked["server_name"]
    location = ServerNetworkLocation(called, asked["port"], asked["address"])
    ca = CertificateInfoExtraArgument(Path(asked["ca_file"])) if asked["ca_file"] else None
    return ServerScanRequest(
        location,
        scan_commands=SCAN_COMMANDS_NEEDED_BY_MOZILLA_CHECKER,
        scan_commands_extra_arguments=ScanCommandsExtraArguments(certificate_info=ca),
    )


def grades(edges: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By host: ``issues``, in sslyze's words; empty where the edge complies. Or an ``error``."""
    profile = MozillaTlsConfiguration.get(TlsConfigurationEnum.MOZILLA_INTERMEDIATE)
    scanner = Scanner()
    requests = {name: request(asked) for name, asked in edges.items()}
    names = {asked.uuid: name for name, asked in requests.items()}
    scanner.queue_scans(list(requests.values()))
    found: dict[str, dict[str, Any]] = {}
    for result in scanner.get_results():
        name = names[result.uuid]
        try:
            check_server_against_tls_configuration(result, profile)
            found[name] = {"issues": {}}
        except ServerNotCompliantWithTlsConfiguration as error:
            without = {_OF_NAMES} if _is_another(edges[name]) else set()
            issues = {what: why for what, why in error.issues.items() if what not in without}
            found[name] = {"issues": issues}
        except ServerScanResultIncomplete as error:
            found[name] = {"error": f"{error} {result.connectivity_error_trace or ''}".strip()}
    return found


if __name__ == "__main__":
    print(json.dumps(grades(json.loads(sys.stdin.read()))))
