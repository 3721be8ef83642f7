"""The files of the edge's certificate, from settings and what the host has. Touches no host."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import Entry, File, Folder, Kept
from vllm_hosts.host.paths import TLS_CERTIFICATE, TLS_FOLDER, TLS_KEY
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.renewal import reason_to_renew
from vllm_hosts.settings import HostSettings


def reason(
    settings: HostSettings,
    ca: LocalCa,
    found: Certificate,
    now: datetime,
    renew_since: datetime | None = None,
) -> str | None:
    """Why the host needs a new certificate from the local CA; None: it has a good one.

    :param renew_since: when `vllm-hosts tls renew` requested one.
    """
    return reason_to_renew(
        found.certificate_pem,
        found.public_key_pem,
        ca,
        settings.edge_names,
        settings.tls.renew_before_days,
        now,
        renew_since,
    )


def from_local_ca(
    settings: HostSettings,
    ca: LocalCa,
    found: Certificate,
    now: datetime,
    renew_since: datetime | None = None,
) -> list[Entry]:
    """A new certificate and key if the host needs them, else the ones that it has.

    Only the host keeps its key: it is created here, sent once and forgotten.
    """
    if reason(settings, ca, found, now, renew_since) is None:
        return [Folder(TLS_FOLDER), Kept(TLS_CERTIFICATE), Kept(TLS_KEY, 0o600)]
    issued = ca.issue(settings.edge_names, settings.tls.valid_days, now)
    return _files(issued.certificate_pem, issued.key_pem.get_secret_value())


def from_files(settings: HostSettings) -> list[Entry]:
    """The certificate and key that the user provides, which validation has checked already."""
    assert settings.tls.certificate is not None
    assert settings.tls.key is not None
    return _files(Path(settings.tls.certificate).read_bytes(), Path(settings.tls.key).read_bytes())


def _files(certificate: bytes, key: bytes) -> list[Entry]:
    return [
        Folder(TLS_FOLDER),
        File(TLS_CERTIFICATE, certificate),
        File(TLS_KEY, key, 0o600, secret=True),
    ]
