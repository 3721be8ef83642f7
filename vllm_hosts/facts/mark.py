"""Whose keys a host has: its mark, or else digests of the keys themselves."""

from __future__ import annotations

from shlex import quote

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import stat
from vllm_hosts.host.paths import EDGE_FOLDER, STORE_MARK, TLS_CERTIFICATE
from vllm_hosts.keys.store_marks import Marked

#: As many keys are checked: one that is known is enough.
_KEYS = 200


class HostMark(HostFact[Marked]):
    """Reads the mark. No key leaves the host, and its digests only where there is no mark."""

    what = "the note of whose keys the host has"
    steady = True

    def command(self, directory: str) -> str:
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
                cd {quote(directory)} 2>/dev/null &&
                    sed -n 's/^VLLM_API_KEY[A-Z0-9_]*=//p' .env 2>/dev/null | digests
            fi
            """
        )

    def parse(self, lines: list[str]) -> Marked:
        parts = sections(lines)
        if parts["file"]:
            [file] = stat.read(parts["file"]).values()
            return Marked("\n".join(parts["mark"]), file, user="".join(parts["user"]))
        certificate = "\n".join(parts["certificate"])
        return Marked(
            None,
            certificate=f"{certificate}\n".encode() if certificate else None,
            digests=frozenset(parts["digests"]),
            user="".join(parts["user"]),
        )
