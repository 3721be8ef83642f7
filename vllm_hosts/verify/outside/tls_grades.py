"""Edges graded against Mozilla's intermediate profile, by sslyze. JSON in, JSON out.

A process of its own: sslyze brings an OpenSSL of its own, and threads that gevent must not touch.
"""

from __future__ import annotations

import json
import sys
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


def request(name: str, asked: dict[str, Any]) -> ServerScanRequest:
    """One edge for sslyze."""
    location = ServerNetworkLocation(asked["server_name"], asked["port"], asked["address"])
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
    requests = {name: request(name, asked) for name, asked in edges.items()}
    names = {asked.uuid: name for name, asked in requests.items()}
    scanner.queue_scans(list(requests.values()))
    found: dict[str, dict[str, Any]] = {}
    for result in scanner.get_results():
        name = names[result.uuid]
        try:
            check_server_against_tls_configuration(result, profile)
            found[name] = {"issues": {}}
        except ServerNotCompliantWithTlsConfiguration as error:
            found[name] = {"issues": error.issues}
        except ServerScanResultIncomplete as error:
            found[name] = {"error": f"{error} {result.connectivity_error_trace or ''}".strip()}
    return found


if __name__ == "__main__":
    print(json.dumps(grades(json.loads(sys.stdin.read()))))
