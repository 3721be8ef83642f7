"""Which models a host has whole, from the hub and from the controller."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts.base import HostFact, as_user, ending, sections
from vllm_hosts.host.paths import MODEL_NOTES
from vllm_hosts.hub.hub_models import Fetched, HubModel

#: Given a repository, a commit and a revision; file names by pipe. What lies there was written by a
#: container, so it is checked with no more rights than that had.
_PRESENT = """
    [ ! -f "$1/refs/$3" ] || echo "ref $(head -c 200 "$1/refs/$3")"
    cd "$1/snapshots/$2" 2>/dev/null || exit 0
    xargs -r -d '\\n' stat -L -c 'there %s %n' -- 2>/dev/null || :
"""


def asked_of(models: Iterable[HubModel], cache_directory: str) -> list[tuple[str, str, str]]:
    """What a look needs to know of models, and no more: their environment may hold a password."""
    return [(model.key, model.folder(cache_directory), model.revision) for model in models]


class HubModels(HostFact[dict[str, Fetched]]):
    """By key: what was fetched, and which of it is there. Looks at sizes, reads no weights."""

    what = "the models in the cache"
    steady = True

    def command(self, models: Sequence[tuple[str, str, str]], reader: str) -> str:
        """
        :param models: key, folder in the cache and revision of each (``asked_of``).
        :param reader: ``UID:GID`` that looks into the cache.
        """
        return ending(
            "\n".join(
                f"""
                (   echo {quote(f"== {key}")}
                    stamp={MODEL_NOTES}/{key}
                    [ -f "$stamp" ] || exit 0
                    cat "$stamp"
                    commit=$(sed -n 's/^commit //p' "$stamp")
                    sed -n 's/^file [0-9]* //p' "$stamp" | {
                    as_user(
                        reader,
                        _PRESENT,
                        arguments=f'{folder} "$commit" {revision}',
                        given="",
                    )
                }
                ) || exit 1
                """
                for key, folder, revision in models
            )
        )

    def parse(self, lines: list[str]) -> dict[str, Fetched]:
        return {key: _fetched(content) for key, content in sections(lines).items()}


def _fetched(lines: list[str]) -> Fetched:
    words = [line.split(" ", 1) for line in lines]
    commits = [rest for kind, rest in words if kind == "commit"]
    refs = [rest for kind, rest in words if kind == "ref"]
    return Fetched(
        commit=commits[0] if commits else None,
        ref=refs[0] if refs else "",
        files=_sizes([rest for kind, rest in words if kind == "file"]),
        present=_sizes([rest for kind, rest in words if kind == "there"]),
    )


def _sizes(lines: list[str]) -> dict[str, int]:
    return {name: int(size) for size, name in (line.split(" ", 1) for line in lines)}


@dataclass(frozen=True)
class CopyFound:
    """A model folder on a host, and what was sent of it so far; bytes by name.

    ``present`` is None where there is no such folder. ``sources`` and ``digests`` are what was
    noted when it was complete: fingerprints of the controller's folder, SHA-256 by name.
    ``free`` is in bytes.
    """

    present: dict[str, int] | None
    staged: dict[str, int]
    sources: frozenset[str]
    digests: dict[str, str]
    free: int


class ModelCopy(HostFact[CopyFound]):
    """What a host has of a model that is copied from the controller."""

    what = "a model's folder"
    steady = True

    def command(self, folder: str, staging: str, key: str) -> str:
        return ending(
            f"""
            at={folder}; while [ ! -d "$at" ]; do at=$(dirname "$at"); done
            echo '== free'; df --output=avail -B1 "$at" | tail -n 1
            echo '== folder'
            if [ -e {folder} ]; then
                echo present
                timeout 60 find {folder} -type f -printf '%s %P\\n' 2>/dev/null ||
                    # What was not seen would count as missing.
                    [ $? != 124 ] || {{ echo "looking at {folder} took 60 s" >&2; exit 1; }}
            fi
            echo '== staged'
            [ ! -d {staging} ] || find {staging} -type f -printf '%s %P\\n'
            echo '== stamp'; cat {MODEL_NOTES}/{key} 2>/dev/null
            """
        )

    def parse(self, lines: list[str]) -> CopyFound:
        parts = sections(lines)
        folder = parts["folder"]
        stamp = [line.split(" ", 1) for line in parts["stamp"]]
        return CopyFound(
            present=_sizes(folder[1:]) if folder else None,
            staged=_sizes(parts["staged"]),
            sources=frozenset(rest for kind, rest in stamp if kind == "source"),
            digests={
                rest.split(" ", 1)[1]: rest.split(" ", 1)[0]
                for kind, rest in stamp
                if kind == "file"
            },
            free=int(parts["free"][0]),
        )
