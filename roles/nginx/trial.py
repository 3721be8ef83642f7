"""The files that nginx tests before the edge is written. Touches no host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vllm_hosts.host import paths
from vllm_hosts.host.files import Entry, File
from vllm_hosts.host.nginx import NGINX_FOLDER, TRIAL_FOLDER
from vllm_hosts.keys.pki import LocalCa, utc_now
from vllm_hosts.settings import HostSettings


def trial_entries(settings: HostSettings, entries: Sequence[Entry]) -> list[Entry]:
    """The edge's files, with certificates, and with logs of their own.

    The certificate is the user's, or one for this trial alone: the CA issues its own later, and the
    result of the test does not depend on it.
    """
    certificate, key = _certificate(settings)
    inner = LocalCa.create("trial", utc_now()) if settings.behind_gateways else None
    return [
        *(
            _moved(entry) if isinstance(entry, File) else entry
            for entry in entries
            # Anything else would be changed on the host itself.
            if entry.path.startswith(f"{NGINX_FOLDER}/")
        ),
        File(f"{TRIAL_FOLDER}/certificate.pem", certificate),
        File(f"{TRIAL_FOLDER}/key.pem", key, 0o600, secret=True),
        *(_for_gateways(inner) if inner else []),
    ]


def _for_gateways(ca: LocalCa) -> list[Entry]:
    issued = ca.issue(["trial"], 1, utc_now())
    return [
        File(f"{TRIAL_FOLDER}/{name}", content, 0o600, secret=True)
        for name, content in (
            ("ca.pem", ca.certificate_pem),
            ("inner.pem", issued.certificate_pem),
            ("inner.key", issued.key_pem.get_secret_value()),
        )
    ]


def _moved(entry: File) -> File:
    content = entry.content
    for folder in (paths.TLS_FOLDER, paths.EDGE_LOGS, paths.GATEWAY_FOLDER):
        content = content.replace(f"{folder}/".encode(), f"{TRIAL_FOLDER}/".encode())
    return replace(entry, content=content)


def _certificate(settings: HostSettings) -> tuple[bytes, bytes]:
    tls = settings.tls
    if tls.mode == "files":
        assert tls.certificate is not None
        assert tls.key is not None
        return Path(tls.certificate).read_bytes(), Path(tls.key).read_bytes()
    now = utc_now()
    issued = LocalCa.create("trial", now).issue(settings.edge_names, 1, now)
    return issued.certificate_pem, issued.key_pem.get_secret_value()
