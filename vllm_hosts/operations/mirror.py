"""What a mirror fetches for all, and takes away again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from shlex import quote

from pyinfra.api.command import StringCommand

from vllm_hosts.facts import look
from vllm_hosts.facts.hub import HubModels, asked_of
from vllm_hosts.facts.mirror import MirrorState
from vllm_hosts.facts.tree import TreeState
from vllm_hosts.host.files import Absent
from vllm_hosts.host.mirror import MACHINE, MirrorThere, image_key, source_name
from vllm_hosts.host.paths import DOCKER_CERTS, MIRROR_IMAGES, MIRROR_STATE, MIRROR_UNIT
from vllm_hosts.hub.hub_models import Download, HubModel
from vllm_hosts.operations.base import NOTE, Commands, host_operation, watched
from vllm_hosts.operations.differences import differs, entries_differ, remember
from vllm_hosts.operations.hub import fetch_script
from vllm_hosts.operations.tree import change

_UNIT_FILE = f"/etc/systemd/system/{MIRROR_UNIT}"
#: Start the mirror's nginx, or start it again with what it reads at its start only.
RESTART = f"""
systemctl daemon-reload
systemctl restart {MIRROR_UNIT} && sleep 1 && systemctl -q is-active {MIRROR_UNIT} || {{
    journalctl -u {MIRROR_UNIT} -n 5 -o cat --no-pager
    exit 1
}}
""".strip()
#: What hosts notice of it.
RESTARTED = (
    "the mirror is restarted; what hosts are fetching goes on from where it was, or from its source"
)


@host_operation
def mirror_left(left: Callable[[MirrorThere], Sequence[Absent]]) -> Commands:
    """Remove what is here of a mirror that is another one now, or none.

    :param left: gets what is there, and returns which files of it go.
    """
    there = look(MirrorState)
    going = left(there)
    remember(going)
    if not going:
        return
    paths = [entry.path for entry in going]
    entries_differ(going, look(TreeState, paths=paths).paths)
    mirror = _UNIT_FILE in paths
    if mirror:
        yield StringCommand(f"systemctl disable --quiet --now {MIRROR_UNIT} 2>/dev/null || :")
    yield change(going, activate="systemctl daemon-reload" if mirror else None)
    folders = sorted({path.rpartition("/")[0] for path in paths if path.startswith(DOCKER_CERTS)})
    script = [f"rmdir {folder} {DOCKER_CERTS} 2>/dev/null || :" for folder in folders]
    script += [f"rm -rf --one-file-system {MIRROR_STATE}"] if mirror else []
    if script:
        yield StringCommand("\n".join(script))


@host_operation
def images_mirrored(images: Sequence[str], group: str) -> Commands:
    """Have these images as their registries have them, and no others.

    What cannot be fetched is said and left out: hosts get it from the registry themselves.

    :param group: the number of the group that may read them.
    """
    there = look(MirrorState)
    wanted = {image_key(image): image for image in images}
    if old := sorted(there.images - set(wanted)):
        differs(MIRROR_IMAGES, "has images that no host asks for")
        yield StringCommand(f"cd {MIRROR_IMAGES} && rm -rf {' '.join(f'{key}-*' for key in old)}")
    for key, image in wanted.items():
        if key not in there.images:
            differs(f"image {image}", "is not at the mirror")
            yield watched(f"mirroring {image}", image_script(image, group), notes=True)


def image_script(image: str, group: str) -> str:
    """The shell script that fetches one, by the proxies that Docker has. Blobs keep their bytes,
    and so their digests."""
    source = quote(f"docker://{source_name(image)}")
    return f"""
        set -u; umask 027
        cd {MIRROR_IMAGES} || exit 1
        at={image_key(image)}-{MACHINE}
        rm -rf "$at" "$at.new"
        HTTP_PROXY=$(docker info --format '{{{{.HTTPProxy}}}}')
        HTTPS_PROXY=$(docker info --format '{{{{.HTTPSProxy}}}}')
        NO_PROXY=$(docker info --format '{{{{.NoProxy}}}}')
        export HTTP_PROXY HTTPS_PROXY NO_PROXY
        if skopeo --insecure-policy copy --retry-times 3 {source} "dir:$at.new"; then
            case $(tr -d ' \\n' <"$at.new/manifest.json") in
                *'"mediaType":"application/vnd.docker.distribution.manifest.v2+json"'*)
                    kind=docker ;;
                *) kind=oci ;;
            esac
            mv "$at.new/manifest.json" "$at.new/manifest.$kind"
            rm -f "$at.new/version"
            chgrp -R {group} "$at.new"; chmod -R u=rwX,g=rX,o= "$at.new"
            mv -T "$at.new" "$at"
        else
            rm -rf "$at.new"
            echo "{NOTE}the mirror cannot have the image" {quote(image)} \\
                "($(tail -n 1 "$log" | cut -c 1-200)); hosts get it from its registry themselves"
        fi
    """


@host_operation
def models_mirrored(models: Sequence[HubModel], download: Download) -> Commands:
    """Complete models that other hosts need in this host's cache.

    What cannot be fetched is said, and whoever needs it fetches it, or fails, by itself.
    """
    if not models:
        return
    found = look(HubModels, models=asked_of(models, download.cache_directory), reader=download.user)
    for model in models:
        if not found[model.key].complete(model.revision):
            differs(f"model {model.model}", f"is not at the mirror at revision {model.revision}")
            script = fetch_script(model, download, distrust=found[model.key].commit is None)
            tried = f"""
                sh -c {quote(script)} || echo "{NOTE}the mirror cannot have {model.model}:" \\
                    "$(tail -n 1 "$log" | cut -c 1-200)"
            """
            yield watched(f"fetching {model.model} for others", tried, seconds=5, notes=True)
