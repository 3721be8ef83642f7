"""Whether the files that agents are started from are what was deployed."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_hosts.connect.connections import ask_host
from vllm_hosts.facts.tree import FileTexts, TreeState
from vllm_hosts.host.changes import NOT_TEXT, changed_lines
from vllm_hosts.host.files import Found
from vllm_hosts.host.paths import COPIES, compose_overrides
from vllm_hosts.settings import HostSettings


@dataclass(frozen=True)
class Edited:
    """What somebody did to a host's compose.yaml, in a sentence, and the lines of it.

    ``stops``: agents would run as no deploy has said. What is only worth knowing does not stop.
    """

    sentence: str
    lines: tuple[str, ...] = ()
    stops: bool = True


def edited(settings: HostSettings) -> list[Edited]:
    """What differs on the current host from what the last deploy left there.

    :raises HostError: the host cannot be asked.
    """
    directory, others = settings.vllm.directory, compose_overrides(settings)
    compose, env = f"{directory}/compose.yaml", f"{directory}/.env"
    copy = f"{COPIES}{compose}"
    found = ask_host(TreeState, paths=[compose, copy, env, *others]).paths
    said = [
        Edited(f"{path} exists, which no deploy wrote and Compose reads")
        for path in others
        if found[path].kind != "-"
    ]
    if (keys := found[env]).deployed and _whole(keys) not in keys.deployed:
        # To take up what it holds now is what a restart is for.
        said.append(
            Edited(f"{env} is not what was deployed; agents get what it holds", stops=False)
        )
    there = found[compose]
    if there.deployed is not None and _whole(there) in there.deployed:
        return said
    if not there.deployed:
        unknown = Edited(
            f"has no record of what was deployed, so whether {compose} was edited since cannot be"
            " determined; the next deploy leaves one",
            stops=False,
        )
        return [*said, unknown]
    if there.kind == "-":
        return [*said, Edited(f"{compose} no longer exists")]
    if found[copy].kind != "f" or found[copy].sha256 not in there.deployed:
        lines = [f"what was deployed cannot be shown: {copy} does not match the record"]
    else:
        texts = ask_host(FileTexts, paths=[copy, compose], directory=directory)
        before, after = texts[copy], texts[compose]
        lines = [NOT_TEXT] if before is None or after is None else changed_lines(before, after)
    return [*said, Edited(f"{compose} is not what was deployed", tuple(lines))]


def _whole(found: Found) -> str:
    """Its digest; of what is no file, something that no digest is."""
    return found.sha256 if found.kind == "f" else "-"
