"""What a mirror has of images, and how hosts ask for it. Touches no host."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from vllm_hosts.host.paths import DOCKER_CERTS
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.mirror import MirrorAt

#: The one tag of an image at the mirror: what its manifest says is compared with the registry's.
TAG = "mirrored"
#: The processor's architecture, in a shell: an image is another one for each.
MACHINE = "$(uname -m)"
#: A digest at the end of an image's name.
_DIGEST = re.compile(r"@[a-z0-9]+:[0-9a-f]+$")
_TAG = re.compile(r":[\w.-]+$")


@dataclass(frozen=True)
class MirrorThere:
    """What of a mirror is on a host.

    :param files: paths that deploys wrote, for a mirror or for who asks one.
    :param images: keys of the images that it has.
    :param data: whether there is a folder for them.
    """

    files: tuple[str, ...] = ()
    images: frozenset[str] = frozenset()
    data: bool = False


def mirrored_images(settings: HostSettings) -> list[str]:
    """The images of all who ask a mirror, its own first."""
    return list(dict.fromkeys([one.vllm.image for one in (settings, *settings.mirror_for)]))


def image_key(image: str) -> str:
    """One word for an image, as a path at the mirror; with the architecture behind it."""
    return hashlib.sha256(image.encode()).hexdigest()[:16]


def mirrored_name(at: MirrorAt, image: str) -> str:
    """What Docker calls an image at the mirror, as a word of a shell."""
    return f"{at.place}/{image_key(image)}-{MACHINE}:{TAG}"


def source_name(image: str) -> str:
    """An image as skopeo takes it, which does not take a tag beside a digest."""
    digest = _DIGEST.search(image)
    if digest is None:
        return image
    return _TAG.sub("", image[: digest.start()]) + digest[0]


def client_files(at: MirrorAt) -> tuple[str, str, str]:
    """Where a host has CAs, certificate and key for the mirror: as Docker reads them."""
    folder = f"{DOCKER_CERTS}/{at.place}"
    return f"{folder}/ca.crt", f"{folder}/client.cert", f"{folder}/client.key"
