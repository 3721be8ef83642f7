"""What of a mirror is on a host: as the mirror, as one that asks it, or left from before."""

from __future__ import annotations

import re

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host.mirror import MACHINE, MirrorThere
from vllm_hosts.host.paths import (
    DEPLOYED,
    DOCKER_CERTS,
    MIRROR_FOLDER,
    MIRROR_IMAGES,
    MIRROR_STATE,
    MIRROR_UNIT,
)

_UNIT_FILE = f"/etc/systemd/system/{MIRROR_UNIT}"
_OURS = re.compile(
    rf"({re.escape(DOCKER_CERTS)}/[A-Za-z0-9._:-]+|{re.escape(MIRROR_FOLDER)})/[a-z.]+"
    rf"|{re.escape(_UNIT_FILE)}"
)
_KEY = re.compile(r"[0-9a-f]{16}")


class MirrorState(HostFact[MirrorThere]):
    """By the record of what was deployed, since a mirror's place is known from there alone once it
    is in no inventory any more."""

    what = "what a mirror has, or was given,"
    steady = True

    def command(self) -> str:
        return ending(
            f"""
            echo '== files'
            [ ! -e {DEPLOYED} ] || sed -n 's/^[0-9a-f]\\{{64\\}}  //p' {DEPLOYED} | sort -u |
                grep -e '^{DOCKER_CERTS}/' -e '^{MIRROR_FOLDER}/' -e '^{_UNIT_FILE}$'
            echo '== images'; ls {MIRROR_IMAGES} 2>/dev/null | sed -n "s/-{MACHINE}$//p"
            echo '== data'; [ ! -d {MIRROR_STATE} ] || echo there
            """
        )

    def parse(self, lines: list[str]) -> MirrorThere:
        parts = sections(lines)
        # They become words of commands.
        for path in parts["files"]:
            if not _OURS.fullmatch(path):
                raise ValueError(path[:200])
        return MirrorThere(
            files=tuple(parts["files"]),
            images=frozenset(key for key in parts["images"] if _KEY.fullmatch(key)),
            data=bool(parts["data"]),
        )
