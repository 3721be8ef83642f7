"""Whose keys a host has: its mark, or else digests of the keys themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import stat
from vllm_hosts.host.manifest import damaged, is_ours, unended, whole
from vllm_hosts.host.paths import (
    COPIES,
    DEPLOYED,
    EDGE_FOLDER,
    MANIFEST,
    STORE_MARK,
    TLS_CERTIFICATE,
)
from vllm_hosts.host.shared import SharedFound
from vllm_hosts.keys.store_marks import Marked

#: As many keys are checked: one that is known is enough.
_KEYS = 200


class HostMark(HostFact[Marked]):
    """Reads the mark, and what is somebody else's where ours goes. No key leaves the host, and its
    digests only where there is no mark."""

    what = "the note of whose keys the host has"
    steady = True

    def command(self, directory: str, shared: Sequence[str] = (), above: str | None = None) -> str:
        """
        :param shared: paths that a deploy writes, in folders that are not only ours.
        :param above: the folder of agents' folders.
        """
        return ending(
            rf"""
            digests() {{
                head -n {_KEYS} | while IFS= read -r key; do
                    printf %s "$key" | sha256sum | cut -c 1-64
                done
            }}
            echo '== user'; id -u
            echo '== file'; {stat.query(STORE_MARK)}
            echo '== mark'; [ ! -f {STORE_MARK} ] || head -c 2000 {STORE_MARK}; echo
            if [ ! -e {STORE_MARK} ]; then
                echo '== certificate'; head -c 20000 {TLS_CERTIFICATE} 2>/dev/null; echo
                echo '== digests'
                cd {EDGE_FOLDER} 2>/dev/null &&
                    sed -n 's/^"\(Bearer [^"]*\)" .*/\1/p' clients.map 2>/dev/null | digests
                echo '== own'; cd {quote(directory)} 2>/dev/null &&
                    sed -n 's/^VLLM_API_KEY[A-Z0-9_]*=//p' .env 2>/dev/null | digests
            fi
            {_look_at(directory, shared, above) if shared else ":"}
            """
        )

    def parse(self, lines: list[str]) -> Marked:
        parts = sections(lines)
        shared, user = _shared(parts), "".join(parts["user"])
        if parts["file"]:
            [file] = stat.read(parts["file"]).values()
            return Marked("\n".join(parts["mark"]), file, user=user, shared=shared)
        certificate = "\n".join(parts["certificate"])
        return Marked(
            None,
            certificate=f"{certificate}\n".encode() if certificate else None,
            digests=frozenset({*parts["digests"], *parts["own"]}),
            own=frozenset(parts["own"]),
            user=user,
            shared=shared,
        )


def _look_at(directory: str, shared: Sequence[str], above: str | None) -> str:
    # Folders beside those of agents matter where no deploy has noted which are its own. Of agents'
    # own, compose.yaml says as it was deployed.
    compose = quote(f"{COPIES}{directory}/compose.yaml")
    return rf"""
            echo '== there'
            for path in {" ".join(map(quote, shared))}; do
                [ ! -e "$path" ] && [ ! -L "$path" ] || echo "$path"
                ! grep -qsF "\"$path\"" {compose} || echo "mounted $path"
            done
            echo '== noted'; grep -se '^file ' -e '^agent ' {MANIFEST} ||
                find {quote(above or "/nowhere")} -mindepth 1 -maxdepth 1 -type d \
                    -perm 700 ! -uid 0 -printf 'like %p\n' 2>/dev/null
            sed -n 's/^[0-9a-f]\{{64\}}  /recorded /p' {DEPLOYED} 2>/dev/null
            echo '== unended'
            {unended(MANIFEST)}
    """.strip()


def _shared(parts: Mapping[str, Sequence[str]]) -> SharedFound:
    """
    :raises HostError: what deploys noted is damaged, and more notes would hide that.
    """
    noted: dict[str, list[str]] = {"file": [], "agent": [], "like": [], "recorded": []}
    whole(parts.get("unended", ()))
    for line in parts.get("noted", ()):
        kind, _, path = line.partition(" ")
        noted[kind].append(path)
    for kind in ("file", "agent"):
        for path in noted[kind]:
            if not is_ours(kind, path):
                raise damaged(MANIFEST, f"{kind} {path}")
    there = parts.get("there", ())
    return SharedFound(
        there=frozenset(line for line in there if line.startswith("/")),
        files=frozenset(noted["file"]),
        folders=frozenset(noted["agent"]),
        recorded=frozenset(noted["recorded"]),
        mounted=frozenset(line[8:] for line in there if line.startswith("mounted /")),
        like_ours=tuple(noted["like"]),
    )
