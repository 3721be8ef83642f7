"""The mirror: one host fetches image and models, and the others get the bytes from it.

Promises: only hosts of the inventory get anything from the mirror, by certificates of its CA; they
only read, and believe nothing that they cannot compare with what its source says; it runs as a
user of its own that has no secret. Needs: docker, nginx's package, firewall. Writes: on the mirror
/etc/vllm-hosts/mirror, a unit and /var/lib/vllm-hosts-mirror; on all hosts certificates in
/etc/docker/certs.d. Restarts the mirror's own nginx if its files changed; Docker reads certificates
at each pull. Without a group `mirror` it only removes what one has left.
"""

from __future__ import annotations

from functools import partial

from pyinfra.api.deploy import deploy

from vllm_hosts.facts import look
from vllm_hosts.facts.tls import MirrorCertificate
from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.files import Entry
from vllm_hosts.host.mirror import mirrored_images
from vllm_hosts.host.paths import MIRROR_CA, MIRROR_CERTIFICATE, MIRROR_KEY, MIRROR_UNIT
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.operations.apt import packages_present
from vllm_hosts.operations.checks import say
from vllm_hosts.operations.docker import image_present
from vllm_hosts.operations.mirror import RESTART, RESTARTED, images_mirrored, mirror_left
from vllm_hosts.operations.service import units_enabled
from vllm_hosts.operations.tree import tree_synced
from vllm_hosts.project import run
from vllm_hosts.project.run import Current
from vllm_hosts.roles.mirror.plan import (
    Pair,
    Signing,
    asking_entries,
    asking_pair,
    left,
    reason,
    serving_certificates,
    serving_entries,
    serving_pair,
)


@deploy("Mirror")
def mirror() -> None:
    """Let hosts and the mirror know each other, and have the mirror fetch their images."""
    current = run.current()
    settings = current.settings
    mirror_left(partial(left, settings), name="Nothing of another mirror is left")
    if settings.mirror_at is None:
        return
    tree_synced(partial(_asking, current), name="The mirror knows this host by a certificate")
    if not settings.is_mirror:
        return
    packages_present({"skopeo": None}, name="skopeo is installed")
    tree_synced(partial(_serving, current), name="Hosts know the mirror by a certificate")
    tree_synced(
        serving_entries(settings),
        watch=[MIRROR_CA, MIRROR_CERTIFICATE, MIRROR_KEY],
        activate=RESTART,
        stamp="mirror",
        effect=RESTARTED,
        name="The mirror is configured and its nginx has loaded it",
    )
    units_enabled([MIRROR_UNIT], name="The mirror runs, now and at boot")
    group = settings.vllm.fetch_user.partition(":")[2]
    images_mirrored(mirrored_images(settings), group, name="The mirror has the images of all hosts")
    # Before the others ask for it: an operation ends on all hosts before the next begins.
    image_present(settings.vllm.image, settings.mirror_at, name="The mirror has its own image")


def _asking(current: Current) -> list[Entry]:
    found, by = _known(current, asking_pair(current.settings))
    return asking_entries(current.settings, found, by)


def _serving(current: Current) -> list[Entry]:
    found, by = _known(current, serving_pair(current.settings))
    return serving_certificates(current.settings, found, by)


def _known(current: Current, pair: Pair) -> tuple[Certificate, Signing]:
    by = Signing(
        current.store.local_ca(), current.store.trusted(), utc_now(), current.keys.renew_since
    )
    found = look(MirrorCertificate, certificate=pair.certificate, key=pair.key)
    if why := reason(current.settings, pair, found, by):
        say([f"it gets a new certificate for the mirror: {why}"])
    return found, by
