"""The files of a mirror, and of hosts that ask it. Touches no host."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import Absent, Entry, File, Folder, Kept
from vllm_hosts.host.mirror import MirrorThere, client_files
from vllm_hosts.host.paths import (
    DOCKER_CERTS,
    MIRROR_CA,
    MIRROR_CERTIFICATE,
    MIRROR_CONF,
    MIRROR_FOLDER,
    MIRROR_IMAGES,
    MIRROR_KEY,
    MIRROR_RUN,
    MIRROR_STATE,
    MIRROR_UNIT,
    models_folder,
)
from vllm_hosts.host.render import render
from vllm_hosts.keys.pki import LocalCa, Role
from vllm_hosts.keys.renewal import reason_to_renew
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.mirror import asking_name

UNIT_FILE = f"/etc/systemd/system/{MIRROR_UNIT}"
#: Where systemd puts what only the mirror's own user may read.
_CREDENTIALS = f"/run/credentials/{MIRROR_UNIT}"


@dataclass(frozen=True)
class Pair:
    """A certificate and its key: for whom, which end it is for, and where they are."""

    name: str
    role: Role
    certificate: str
    key: str


@dataclass(frozen=True)
class Signing:
    """By whom certificates are signed, whose are accepted (PEM), and when it is."""

    ca: LocalCa
    trusted: bytes
    now: datetime
    renew_since: datetime | None = None


def asking_pair(settings: HostSettings) -> Pair:
    """Of a host that asks the mirror: no server can use it, and no gateway has that name."""
    assert settings.mirror_at is not None
    _, certificate, key = client_files(settings.mirror_at)
    return Pair(asking_name(settings.name), "client", certificate, key)


def serving_pair(settings: HostSettings) -> Pair:
    """Of the mirror, for the address that Docker has for it."""
    return Pair(settings.address, "server", MIRROR_CERTIFICATE, MIRROR_KEY)


def reason(settings: HostSettings, pair: Pair, found: Certificate, by: Signing) -> str | None:
    """Why the host needs a new certificate; None: it has a good one."""
    return reason_to_renew(
        found.certificate_pem,
        found.public_key_pem,
        by.ca,
        (pair.name,),
        settings.tls.renew_before_days,
        by.now,
        by.renew_since,
        pair.role,
    )


def asking_entries(settings: HostSettings, found: Certificate, by: Signing) -> list[Entry]:
    """Of a host that asks the mirror: where Docker looks for it, at each pull."""
    assert settings.mirror_at is not None
    return [
        Folder(DOCKER_CERTS),
        Folder(f"{DOCKER_CERTS}/{settings.mirror_at.place}", 0o700),
        File(client_files(settings.mirror_at)[0], by.trusted),
        *_pair(settings, asking_pair(settings), found, by),
    ]


def serving_certificates(settings: HostSettings, found: Certificate, by: Signing) -> list[Entry]:
    """Of the mirror: what it shows, and whose certificates it accepts."""
    return [
        Folder("/etc/vllm-hosts"),
        Folder(MIRROR_FOLDER),
        File(MIRROR_CA, by.trusted),
        *_pair(settings, serving_pair(settings), found, by),
    ]


def serving_entries(settings: HostSettings) -> list[Entry]:
    """Of the mirror: an nginx of its own."""
    group = settings.vllm.fetch_user.partition(":")[2]
    return [
        Folder(MIRROR_STATE, 0o750, group=group),
        Folder(MIRROR_IMAGES, 0o750, group=group),
        File(MIRROR_CONF, configuration(settings).encode()),
        File(UNIT_FILE, unit(settings).encode()),
    ]


def _pair(settings: HostSettings, pair: Pair, found: Certificate, by: Signing) -> list[Entry]:
    if reason(settings, pair, found, by) is None:
        return [Kept(pair.certificate), Kept(pair.key, 0o600)]
    issued = by.ca.issue((pair.name,), settings.tls.valid_days, by.now, pair.role)
    return [
        File(pair.certificate, issued.certificate_pem),
        File(pair.key, issued.key_pem.get_secret_value(), 0o600, secret=True),
    ]


def left(settings: HostSettings, there: MirrorThere) -> list[Absent]:
    """Files of a mirror that is another one now, or none."""
    kept: set[str] = set()
    if settings.mirror_at is not None:
        kept |= set(client_files(settings.mirror_at))
    if settings.is_mirror:
        kept |= {MIRROR_CA, MIRROR_CERTIFICATE, MIRROR_KEY, MIRROR_CONF, UNIT_FILE}
    return [Absent(path) for path in there.files if path not in kept]


def configuration(settings: HostSettings) -> str:
    """The mirror's nginx. Contains no secret."""
    return render(
        "mirror/nginx.conf.j2",
        run=MIRROR_RUN,
        port=settings.mirror.port,
        credentials=_CREDENTIALS,
        asking=[asking_name(one.name) for one in settings.mirror_for],
        images=MIRROR_IMAGES,
        models=f"{models_folder(settings)}/hub",
    )


def unit(settings: HostSettings) -> str:
    """Its unit."""
    group = settings.vllm.fetch_user.partition(":")[2]
    return render(
        f"mirror/{MIRROR_UNIT}.j2",
        conf=MIRROR_CONF,
        run=MIRROR_RUN,
        user=MIRROR_UNIT.removesuffix(".service"),
        group=group,
        certificate=MIRROR_CERTIFICATE,
        key=MIRROR_KEY,
        ca=MIRROR_CA,
    )
