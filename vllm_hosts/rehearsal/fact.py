"""Asking the vLLM of a host's image about agents, before they are touched."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from vllm_hosts.facts.base import HostFact, as_user, ending, sections
from vllm_hosts.host.nvidia_smi import QUERY, Smi, parse
from vllm_hosts.rehearsal.answer import Answer, read, unrehearsed
from vllm_hosts.rehearsal.container import Asked
from vllm_hosts.rehearsal.on_host import LACKING, Fetch, shell

#: What is not weights, in a folder with a model: names and sizes of all, and what small ones say.
_FOLDER = """
cd "$1" 2>/dev/null && [ -f config.json ] || { echo "folder - $1"; exit 0; }
{ find -L . -type f -printf '%P %s\\n' | sort
find -L . -type f -size -64M ! -name '*.safetensors' ! -name '*.bin' -print0 | sort -z |
    xargs -0 -r cat; } | sha256sum | sed "s|^\\([0-9a-f]*\\).*|folder \\1 $1|"
"""
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True)
class Grounds:
    """What an answer depends on beside the question.

    :ivar image: its id; empty: the host does not have it.
    :ivar folders: a digest of what is in folders with models; one that has none is missing.
    :ivar smi: the cards; None: nobody asked.
    """

    image: str
    folders: Mapping[str, str]
    smi: Smi | None


class RehearsalGrounds(HostFact[Grounds]):
    """The image, cards and models of agents, as far as vLLM's answer depends on them."""

    what = "the image and the models of agents"

    def command(self, image: str, folders: Sequence[str], reader: str, cards: bool) -> str:
        """:param reader: ``UID:GID`` that looks into the folders."""
        looks = [as_user(reader, _FOLDER, arguments=quote(folder)) for folder in folders]
        return ending(
            f"""
            echo '== image'; docker image inspect --format '{{{{.Id}}}}' {quote(image)} 2>/dev/null
            echo '== folders'
            {"; ".join(looks)}
            echo '== gpus'
            {QUERY if cards else ":"}
            """
        )

    def parse(self, lines: list[str]) -> Grounds:
        parts = sections(lines)
        image = "".join(parts["image"])
        if image and not re.fullmatch(r"sha256:[0-9a-f]{64}", image):
            raise ValueError(image[:200])
        folders = {}
        for line in parts["folders"]:
            word, digest, folder = line.split(" ", 2)
            if word != "folder":
                raise ValueError(line[:200])
            if digest != "-":
                folders[folder] = digest
        return Grounds(image, folders, parse(parts["gpus"]) if parts["gpus"] else None)


@dataclass(frozen=True)
class Heard:
    """By agent what its own vLLM said; by key the commit of each model that was fetched for it."""

    answers: Mapping[str, Answer]
    commits: Mapping[str, str]


class Rehearsals(HostFact[Heard]):
    """What the vLLM of the image says about agents, in containers that end with it."""

    what = "what vLLM says of its agents"

    def command(self, asked: Sequence[Asked], fetch: Fetch, mark: str) -> str:
        self.asked = {one.agent.agent for one in asked}
        self.mark = mark
        return ending(shell(asked, fetch, mark))

    def parse(self, lines: list[str]) -> Heard:
        found, commits = {}, {}
        for line in filter(None, lines):
            agent, code, output = line.split(" ")
            if agent == "=":
                if not _COMMIT.fullmatch(output):
                    raise ValueError(output[:100])
                commits[code] = output
                continue
            text = base64.b64decode(output)
            if code == LACKING:
                found[agent] = unrehearsed(text.decode(errors="replace").strip())
            else:
                found[agent] = read(text, self.mark, int(code))
        if found.keys() != self.asked:
            raise ValueError("not every agent has an answer")
        return Heard(found, commits)
