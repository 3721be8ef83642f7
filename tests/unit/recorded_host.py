"""A host that answers looks from recorded ones, and does what commands of a deploy do to it.

Facts are answered from plain dictionaries (``recorded_looks.py``), but for what the run itself
changes there: files, packages, what agents are. Nothing starts a process.
"""

from __future__ import annotations

import base64
import hashlib
import io
import pickle
import re
import shlex
import tarfile
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from pydantic import SecretStr

from vllm_hosts.facts.apt import Packages
from vllm_hosts.facts.base import END
from vllm_hosts.facts.hub import CopyFound
from vllm_hosts.facts.nginx import EdgeFound
from vllm_hosts.facts.tree import TreeFound
from vllm_hosts.facts.vllm_images import recorded
from vllm_hosts.facts.way_back import WayBackFound
from vllm_hosts.host.agent_changes import digest
from vllm_hosts.host.certificates import Certificate
from vllm_hosts.host.compose import ComposeFound, Hashes
from vllm_hosts.host.files import NOTHING, Found
from vllm_hosts.host.mirror import MirrorThere
from vllm_hosts.host.paths import (
    DOCKER_CERTS,
    FIREWALL_RULES,
    IMAGES_RECORD,
    MIRROR_FOLDER,
    MIRROR_UNIT,
    MODEL_NOTES,
    STAMPS,
    STORE_MARK,
    WAY_BACK,
)
from vllm_hosts.host.shared import SharedFound
from vllm_hosts.host.systemctl import UnitState
from vllm_hosts.host.way_back import WayBack
from vllm_hosts.keys.store_marks import Marked
from vllm_hosts.rehearsal.answer import Answer
from vllm_hosts.rehearsal.container import Asked
from vllm_hosts.rehearsal.fact import Heard
from vllm_hosts.rehearsal.on_host import Fetch
from vllm_hosts.settings import HostSettings

ROOT = ("root", "0")
#: When anything was written that says when.
AT = "2026-11-26 09:00:00 UTC"
#: Commands of apt's, as operations write them.
_INSTALL = re.compile(
    r"install --no-install-recommends [^\n]*?--allow-change-held-packages (.*?) \|\|"
)
_REMOVE = re.compile(r"apt-get [^\n]*? remove (.*?) \|\|")
_ENABLE = re.compile(r"systemctl enable (?:--now )?([^\s&]+)")
#: How an archive is added: its key's path and fingerprint, and the source file.
_ARCHIVE = re.compile(
    r"""\[ "\$prints" = (\S+) \].*?install -m 0644 "\$folder/key" (\S+)[.]new\s+"""
    r"""printf '%s' '([^']*)' >(\S+)[.]new""",
    re.S,
)
_OWNER = re.compile(r"chown (?:-h )?(\S+:\S+) (/[^\s;]+)[;\n]\s*chmod (\d+) \2$", re.M)
_NOTE = re.compile(r"^note (/.*)$", re.M)
_HOLD = re.compile(r"apt-mark hold ([^\n]*)")


#: What commands of tree_synced's and of watched's are about.
_ASKED = re.compile(r'^\( ((?:(?!^\( ).)*?) \) >"\$work/said"', re.M | re.S)
_TAKEN_UP = re.compile(r'^activated=(.+?)\n\( eval "', re.M | re.S)
_WATCHED = re.compile(r'echo "    (.*?): \$waited s')


@dataclass
class Operation:
    """One operation of a run, as its host saw it."""

    #: Deploy and name, as pyinfra shows them.
    name: str
    commands: list[str] = field(default_factory=list)
    #: Path -> mode and owner of the files and folders that were written, None for what was removed.
    written: dict[str, str | None] = field(default_factory=dict)

    def __contains__(self, words: str) -> bool:
        """Whether a command has these words."""
        return any(words in command for command in self.commands)

    def shown(self) -> Iterator[str]:
        """The operation as lines that a person reads in a review."""
        yield self.name
        for path, how in self.written.items():
            yield f"    {how or 'removed'} {path}"
        for command in self.commands:
            if label := _WATCHED.search(command):
                yield f"    {label[1]}"
            elif command.startswith("suffix=;"):
                yield f"    notes {' '.join(_NOTE.findall(command))}"
            elif "finished=yes" not in command:
                lines = [line.strip() for line in command.splitlines() if "set -e" not in line]
                yield f"    runs {_short(next(filter(None, lines)))}"
            if (asked := _ASKED.search(command)) and "eval" not in asked[1]:
                yield f"    asks {_short(asked[1])}"
            if up := _TAKEN_UP.search(command):
                yield f"    taken up by {_short(shlex.split(up[1])[0])}"


def snapshot(value: Any) -> Callable[[], Any]:
    """Makes copies of what a value is now, in a fraction of the time of ``deepcopy``."""
    try:
        return partial(pickle.loads, pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    except (pickle.PicklingError, AttributeError, TypeError):
        # A class or a function that stands inside of a test.
        return partial(deepcopy, deepcopy(value))


def _short(script: str) -> str:
    return textwrap.shorten(script, 90)


@dataclass
class Host:
    """What is there. ``facts``: by the name of a fact, what it answers. ``after``: a part of a
    command, and the facts that are others once it ran."""

    settings: HostSettings
    facts: dict[str, Any]
    after: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    paths: dict[str, Found] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    #: Paths by kind, in folders that are not only ours.
    noted: dict[str, set[str]] = field(default_factory=lambda: {"file": set(), "agent": set()})
    #: What the archives have.
    offered: Mapping[str, str] = field(default_factory=dict)
    #: By the name of a fact, what it was asked last.
    arguments: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: A part of a command -> what the host says as it fails.
    fails: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.facts = snapshot(self.facts)()

    def answer(self, fact: type, **asked: Any) -> Any:
        """What a fact finds now."""
        self.arguments[fact.__name__] = asked
        special = getattr(self, f"_{fact.__name__}", None)
        return special(**asked) if special else self.facts[fact.__name__]

    def chmod(self, path: str, mode: int) -> None:
        """Somebody else has changed a mode."""
        self.paths[path] = replace(self.paths[path], mode=mode)

    def _TreeState(
        self, paths: Sequence[str], stamp: str | None = None, content: bool = True
    ) -> TreeFound:
        found = {path: self.paths.get(path, NOTHING) for path in paths}
        return TreeFound(found, self.stamps.get(stamp or "-", ""))

    def _AptPackages(self, names: Sequence[str]) -> Packages:
        there = {name: self.packages[name] for name in names if name in self.packages}
        return Packages(there, frozenset(self.held))

    def _AllPackages(self) -> Packages:
        return Packages(dict(self.packages), frozenset(self.held))

    def _AptKeyFingerprints(self, key_path: str) -> tuple[str, ...]:
        found: tuple[str, ...] = self.facts["AptKeyFingerprints"].get(key_path, ())
        return found

    def _Units(self, names: Sequence[str]) -> Any:
        return {name: self.facts["Units"][name] for name in names}

    def _DockerDaemon(self, **_: Any) -> Any:
        written = self.contents.get("/etc/docker/daemon.json")
        return replace(self.facts["DockerDaemon"], config=written)

    def _ImagesUsed(self, **_: Any) -> Any:
        lines = self.contents.get(IMAGES_RECORD, b"").decode().splitlines()
        return replace(self.facts["ImagesUsed"], record=recorded(lines))

    def _AgentStates(self, agents: Sequence[str]) -> Any:
        return {name: self.facts["AgentStates"][name] for name in agents}

    def _HubModels(self, models: Sequence[tuple[str, str, str]], reader: str) -> Any:
        names = {key: folder.rpartition("/models--")[2] for key, folder, _ in models}
        known = self.facts["HubModels"]
        return {key: known[name.replace("--", "/")] for key, name in names.items()}

    def _Rehearsals(self, asked: Sequence[Asked], fetch: Fetch, mark: str, **_: Any) -> Heard:
        """vLLM takes what it is not said to refuse."""
        known: dict[str, Answer] = self.facts["Rehearsals"]
        names = [one.agent.agent for one in asked]
        answers = {name: known.get(name, Answer(vllm="0.33.0", weights=1)) for name in names}
        return Heard(answers, dict.fromkeys(fetch.models, "c" * 40))

    def _EdgeState(self, paths: Sequence[str]) -> EdgeFound:
        known = self.facts
        return EdgeFound(
            known["NginxState"], self._NginxMainConf(), known["NginxSites"], self._TreeState(paths)
        )

    def _NginxMainConf(self) -> Any:
        found = self.facts["NginxMainConf"]
        written = self.contents.get("/etc/nginx/nginx.conf")
        return replace(found, content=written) if found and written else found

    def _HostMark(
        self, directory: str, shared: list[str] | None = None, above: str | None = None
    ) -> Marked:
        there = {path for path in shared or () if self.paths.get(path, NOTHING).kind != "-"}
        noted = self.noted
        lies = SharedFound(frozenset(there), frozenset(noted["file"]), frozenset(noted["agent"]))
        if STORE_MARK not in self.contents:
            marked: Marked = self.facts["HostMark"]
            return replace(marked, shared=lies)
        text = self.contents[STORE_MARK].decode().strip()
        return Marked(text, Found("f", 0o644, ROOT, ROOT), shared=lies)

    def _HostCertificate(self, certificate: str, key: str) -> Certificate:
        if key not in self.contents:
            return Certificate(None, None)
        # One file may have both.
        private = self.contents[key][self.contents[key].index(b"-----BEGIN PRIVATE") :]
        public = load_pem_private_key(private, None).public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return Certificate(self.contents[certificate], pem)

    def _GatewayCertificate(self, certificate: str, key: str) -> Certificate:
        return self._HostCertificate(certificate, key)

    def _MirrorCertificate(self, certificate: str, key: str) -> Certificate:
        return self._HostCertificate(certificate, key)

    def _MirrorState(self) -> MirrorThere:
        """What commands of this run have brought, and files of ours."""
        ours = (f"{DOCKER_CERTS}/", f"{MIRROR_FOLDER}/", f"/etc/systemd/system/{MIRROR_UNIT}")
        there = tuple(sorted(path for path in self.contents if path.startswith(ours)))
        found: MirrorThere = replace(self.facts["MirrorState"], files=there)
        return found

    def _ComposeHashes(self, directory: str) -> Hashes:
        # A test may have its own in the place of that one.
        project = self._ComposeProject()
        return Hashes(project.wanted, project.error)

    def _ComposeProject(self, salt: str = "", **_: Any) -> ComposeFound:
        """What .env has, as the host digests it."""
        project: ComposeFound = self.facts["ComposeProject"]
        text = self.contents.get(f"{self.settings.vllm.directory}/.env", b"").decode()
        lines = [line.split("=", 1) for line in text.splitlines() if not line.startswith("#")]
        env = {name: digest(salt, name, SecretStr(value)) for name, value in lines}
        return replace(project, env=env)

    def _WayBackFound(self, directory: str) -> WayBack:
        """Read by the fact itself, from the files that are here."""

        def digest(path: str) -> list[str]:
            found = self.paths.get(path, NOTHING)
            return [found.sha256] if found.kind == "f" else []

        lines = ["== present", *digest(f"{directory}/compose.yaml")]
        for one in ("now", "before"):
            file = f"{WAY_BACK}/{one}/definition.json"
            compose = digest(f"{WAY_BACK}/{one}/compose.yaml")
            lines.append(f"== {one}")
            if compose and digest(file):
                lines += [*compose, AT, *self.contents[file].decode().splitlines()]
        undone = self.contents.get(f"{WAY_BACK}/undone", b"").decode().split()
        lines += ["== undone", *undone, *([AT] if undone else []), "== guarded"]
        rules = self.contents.get(FIREWALL_RULES, b"").decode()
        for name, pattern in {
            "network": r"ip daddr (\S*) meta skuid",
            "ports": r"tcp dport \{ (.*) \} meta skuid",
        }.items():
            lines += [f"{name} {found}" for found in re.findall(pattern, rules)]
        return WayBackFound().process([*lines, END])

    def _ModelCopy(self, folder: str, staging: str, key: str) -> CopyFound:
        stamp = self.contents.get(f"{MODEL_NOTES}/{key}", b"").decode().splitlines()
        sources = frozenset(line.split()[1] for line in stamp if line.startswith("source "))
        files = [line.split()[1:] for line in stamp if line.startswith("file ")]
        present = {name: self.facts["ModelCopy"][name] for _, name in files}
        digests = {name: sha256 for sha256, name in files}
        return CopyFound(present if stamp else None, {}, sources, digests, 1 << 40)

    def run(self, command: str, given: Sequence[str], done: Operation) -> str:
        """Do as a command says, as far as that matters to what is looked at. What it fails with."""
        done.commands.append(command)
        for part, said in self.fails.items():
            if part in command:
                return said
        self._change(command, given, done)
        if install := _INSTALL.search(command):
            for word in install[1].split():
                name, _, version = word.strip("'").partition("=")
                self.packages[name] = version or self.offered[name]
        if remove := _REMOVE.search(command):
            for name in remove[1].split():
                del self.packages[name]
        for kind, path in re.findall(r" '(file|agent) (/[^']+)'", command):
            self.noted[kind].add(path)
        if hold := _HOLD.search(command):
            self.held.update(hold[1].split())
        for name in _ENABLE.findall(command):
            self.facts["Units"] |= {name: UnitState(enabled=True, active=True)}
        for part, facts in self.after.items():
            if part in command:
                self.facts.update(facts)
                self.paths.update(facts.get("paths", {}))
        return ""

    def _change(self, command: str, given: Sequence[str], done: Operation) -> None:
        """Files and folders, as tree_synced and its like write them."""
        for mode, owner, group, path in re.findall(
            r"^folder (\d+) (\S+) (\S+) (\S+)$", command, re.M
        ):
            self.paths[path] = Found("d", int(mode, 8), (owner, owner), (group, group))
            done.written[path] = f"{mode} {owner}:{group}"
        contents: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
        if given and ".vllm-hosts-new" in command:
            archive = io.BytesIO(base64.b64decode("".join(given)))
            with tarfile.open(fileobj=archive) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    assert content is not None
                    path = f"/{member.name.removesuffix('.vllm-hosts-new')}"
                    contents[path] = member, content.read()
        for mode, source, path in re.findall(r"^bring (\d+) (\S+) (\S+)$", command, re.M):
            copied = tarfile.TarInfo(path)
            copied.mode, copied.uname, copied.gname = int(mode, 8), "root", "root"
            contents[path] = copied, self.contents[source]
        for path in re.findall(r"^swap (\S+)$", command, re.M):
            if path not in contents:
                self.contents.pop(path, None)
                self.paths[path] = NOTHING
                done.written[path] = None
                continue
            member, content_ = contents[path]
            owner, group = (member.uname or str(member.uid)), (member.gname or str(member.gid))
            sha256 = hashlib.sha256(content_).hexdigest()
            names = (owner, owner), (group, group)
            self.paths[path] = Found("f", member.mode, *names, sha256)
            self.contents[path] = content_
            done.written[path] = f"{member.mode:04o} {owner}:{group}"
        for owner, path, mode in _OWNER.findall(command):
            user, group = owner.split(":")
            self.paths[path] = Found("f", int(mode, 8), (user, user), (group, group))
            done.written[path] = f"{mode} {owner}"
        for fingerprint, key, content, path in _ARCHIVE.findall(command):
            self.facts["AptKeyFingerprints"] |= {key: (fingerprint,)}
            sha256 = hashlib.sha256(content.encode()).hexdigest()
            self.paths[path] = Found("f", 0o644, ROOT, ROOT, sha256)
            done.written[path] = "0644 root:root"
        for stamp, path in re.findall(r"^printf %s (\S+) >(\S+)$", command, re.M):
            self.stamps[path.removeprefix(f"{STAMPS}/")] = stamp
        for path in " ".join(_NOTE.findall(command)).split():
            found = self.paths.get(path, NOTHING)
            self.paths[path] = replace(found, deployed=(found.sha256,))
