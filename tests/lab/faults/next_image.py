"""The agents' image as it is released anew: the same, with one layer more, at its own registries.

Hosts have all other layers, so that a pull takes seconds. One registry serves it as it is; the
other serves that layer with a bit that is not as its digest says.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lab import image, processes, services
from lab.layout import IMAGE, REGISTRY_PORT, STATE

PORT, WRONG_PORT = REGISTRY_PORT + 1, REGISTRY_PORT + 2
#: As settings name it.
NEXT = IMAGE.replace(f":{REGISTRY_PORT}/", f":{PORT}/")
#: Bytes of the layer. They take a while over a link that is as slow as `links.slow` makes it.
_SIZE = 12 << 20
_STORAGE = "docker/registry/v2"


@contextmanager
def served(stay: bool) -> Iterator[None]:
    """Both registries run meanwhile.

    :param stay: leave them running: another run uses them too.
    """
    for name, port, flip in (("next", PORT, False), ("wrong", WRONG_PORT, True)):
        folder = STATE / f"registry-{name}"
        if processes.alive(folder.name) is None:
            shutil.rmtree(folder, ignore_errors=True)
            _fill(folder, flip)
            services.start_registry(folder.name, folder, port, folder / "config.yml")
    try:
        yield
    finally:
        if not stay:
            for name in ("next", "wrong"):
                processes.stop(f"registry-{name}")
                shutil.rmtree(STATE / f"registry-{name}", ignore_errors=True)


def _fill(folder: Path, flip: bool) -> None:
    """A registry's storage: what the lab's own has, by links, and the layer, as Docker's registry
    keeps them (distribution/distribution, registry/storage/paths.go)."""
    old, new = image.build() / _STORAGE, folder / _STORAGE
    shutil.copytree(old / "repositories", new / "repositories")
    for blob in (old / "blobs" / "sha256").glob("*/*"):
        link = new / "blobs" / "sha256" / blob.parent.name / blob.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    [repository] = (new / "repositories").glob("*/*")
    manifest = json.loads(_blob(new, image.digest()).read_bytes())
    config = json.loads(_blob(new, manifest["config"]["digest"]).read_bytes())
    layer = _layer()
    described = _keep(new, repository / "_layers", layer)
    described |= {"mediaType": "application/vnd.oci.image.layer.v1.tar"}
    manifest["layers"].append(described)
    config["rootfs"]["diff_ids"].append(described["digest"])
    manifest["config"] |= _keep(new, repository / "_layers", _json(config))
    named = _keep(new, repository / "_manifests" / "revisions", _json(manifest))["digest"]
    for link in (repository / "_manifests" / "tags").glob("*/current/link"):
        link.write_text(named)
    if flip:
        other = bytearray(layer)
        other[len(layer) // 2] ^= 1
        _blob(new, described["digest"]).write_bytes(other)


def _layer() -> bytes:
    """A tar with a file that does not compress: the same bytes each time."""
    content = random.Random(1).randbytes(_SIZE)
    with io.BytesIO() as packed:
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
            entry = tarfile.TarInfo("srv/lab-next")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


def _keep(storage: Path, links: Path, content: bytes) -> dict[str, Any]:
    """Add a blob, and say under a repository's links that it has it; its digest and size."""
    name = hashlib.sha256(content).hexdigest()
    digest = f"sha256:{name}"
    blob = _blob(storage, digest)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link = links / "sha256" / name / "link"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.write_text(digest)
    return {"digest": digest, "size": len(content)}


def _blob(storage: Path, digest: str) -> Path:
    kind, _, name = digest.partition(":")
    return storage / "blobs" / kind / name[:2] / name / "data"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
