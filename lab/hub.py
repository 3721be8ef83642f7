"""Stands in for the Hugging Face hub: its read-only API, for huggingface_hub's own client.

python -m lab.hub MODEL_FOLDER TOKENS_FILE CDN ADDRESS PORT CERTIFICATE KEY

TOKENS_FILE is read at every request: its first line may read the gated model, the others are
known, and may not. CDN is the URL, with a host name of its own, from which large files come; no
token may arrive there. What is asked is logged to stderr, without tokens.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

#: Larger files, and all weights, are Git LFS objects and come from another address, as on the hub.
_LFS_FROM = 10_000_000
_PIECE = 1 << 16
_TAG = "v1"


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository, with the names that git and Git LFS have for its content."""

    content: bytes
    weights: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def lfs(self) -> bool:
        return self.weights or len(self.content) >= _LFS_FROM

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Repo:
    """A model. ``rate``: bytes per second of its large files; None: as fast as it goes."""

    files: Mapping[str, RepoFile]
    gated: bool = False
    rate: int | None = None

    @cached_property
    def commit(self) -> str:
        lines = [f"{name} {file.sha256}\n" for name, file in sorted(self.files.items())]
        return hashlib.sha1("".join(lines).encode()).hexdigest()

    def knows(self, revision: str) -> bool:
        return revision in ("main", _TAG, self.commit)


@dataclass
class Hub:
    """All models by id, the file with the tokens, and the URL for large files."""

    repos: dict[str, Repo]
    tokens: Path
    cdn: str = ""
    #: Method, path, Range and status of every request, for tests in this process.
    asked: list[tuple[str, str, str, int]] = field(default_factory=list)

    def known_tokens(self) -> list[str]:
        with contextlib.suppress(OSError):
            return self.tokens.read_text().split()
        return []


def repo_files(folder: Path) -> dict[str, RepoFile]:
    """A folder as a repository's files."""
    return {
        str(path.relative_to(folder)): RepoFile(path.read_bytes(), path.suffix == ".safetensors")
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def the_lab_s(model: Path) -> dict[str, Repo]:
    """The lab's models: all of them the same tiny one, each with its own difficulty."""
    files = repo_files(model)
    slow = files | {"padding.txt": RepoFile(b"padding\n" * 8_000_000)}
    pickled = {"config.json": files["config.json"], "pytorch_model.bin": RepoFile(b"\x80\x04.")}
    return {
        "lab/tiny": Repo(files),
        "lab/gated": Repo(files, gated=True),
        "lab/slow": Repo(slow, gated=True, rate=4_000_000),
        "lab/pickled": Repo(pickled),
    }


class _AnswerError(Exception):
    """An answer that is not 200, as the hub words it."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Handler(http.server.BaseHTTPRequestHandler):
    """The parts of the API that a download asks for."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            if api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
                name, kind, revision = api.groups()
                self._api(name, kind or "revision", revision or "main")
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._resolve(*found.groups())
            elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([0-9a-f]{64})", path):
                self._cdn(*found.groups())
            else:
                raise _AnswerError(404, "", "no such page")
        except _AnswerError as answer:
            headers = {"X-Error-Message": answer.message}
            if answer.code:
                headers["X-Error-Code"] = answer.code
            self._send(answer.status, headers, json.dumps({"error": answer.message}).encode())

    def _repo(self, name: str, revision: str) -> tuple[Repo, str | None]:
        """A model at a revision, and the token that came along."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token is not None and token not in self.server.hub.known_tokens():
            raise _AnswerError(401, "", "Invalid credentials in Authorization header")
        repo = self.server.hub.repos.get(name)
        if repo is None:
            # The hub does not tell strangers which names are taken.
            raise _AnswerError(404 if token else 401, "RepoNotFound", "Repository not found")
        if not repo.knows(revision):
            raise _AnswerError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, token

    def _api(self, name: str, kind: str, revision: str) -> None:
        repo, _ = self._repo(name, revision)
        listing: list[dict[str, Any]] = []
        for path, file in repo.files.items():
            entry: dict[str, Any] = {"oid": file.oid, "size": len(file.content)}
            lfs = {"size": len(file.content), "pointerSize": 134}
            if kind == "tree":
                entry |= {"type": "file", "path": path}
                entry |= {"lfs": lfs | {"oid": file.sha256}} if file.lfs else {}
            else:
                entry |= {"rfilename": path, "blobId": file.oid}
                entry |= {"lfs": lfs | {"sha256": file.sha256}} if file.lfs else {}
            listing.append(entry)
        info = {"id": name, "modelId": name, "sha": repo.commit, "siblings": listing}
        answer = listing if kind == "tree" else info | {"gated": "auto" if repo.gated else False}
        headers = {"Content-Type": "application/json"}
        self._send(200, headers, json.dumps(answer).encode())

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo, token = self._repo(name, revision)
        if repo.gated and token is None:
            raise _AnswerError(401, "GatedRepo", f"Access to model {name} is restricted.")
        if repo.gated and token != self.server.hub.known_tokens()[0]:
            raise _AnswerError(403, "GatedRepo", f"Access to model {name} is restricted.")
        file = repo.files.get(path)
        if file is None:
            raise _AnswerError(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{file.etag}"'}
        if file.lfs:
            headers |= {
                "X-Linked-Size": str(len(file.content)),
                "X-Linked-ETag": f'"{file.sha256}"',
                "Location": f"{self.server.hub.cdn}/cdn/{name}/{file.sha256}",
            }
            self._send(302, headers, b"")
        else:
            self._send(200, headers, file.content)

    def _cdn(self, name: str, sha256: str) -> None:
        if "Authorization" in self.headers:
            raise _AnswerError(400, "", "a token left the hub")
        repo = self.server.hub.repos[name]
        for file in repo.files.values():
            if file.sha256 == sha256:
                self._send(200, {"ETag": f'"{sha256}"'}, file.content, repo.rate)
                return
        raise _AnswerError(404, "", "no such object")

    def _send(
        self, status: int, headers: Mapping[str, str], content: bytes, rate: int | None = None
    ) -> None:
        asked = self.headers.get("Range", "")
        part = re.fullmatch(r"bytes=(\d+)-", asked)
        if part and status == 200 and int(part[1]) < len(content):
            begin = int(part[1])
            headers = {
                **headers,
                "Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}",
            }
            status, content = 206, content[begin:]
        self.server.hub.asked.append((self.command, self.path, asked, status))
        self.log_message("%s %s %s %s", self.command, self.path, asked or "-", status)
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(OSError):
                self._write(content, rate)

    def _write(self, content: bytes, rate: int | None) -> None:
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            self.wfile.write(piece)
            if rate is not None:
                time.sleep(len(piece) / rate)


class Server(http.server.ThreadingHTTPServer):
    """The hub over HTTP, or over HTTPS with a certificate."""

    daemon_threads = True

    def __init__(self, hub: Hub, address: str, port: int) -> None:
        self.hub = hub
        super().__init__((address, port), Handler)


def main(
    model: str, tokens: str, cdn: str, address: str, port: str, certificate: str, key: str
) -> None:
    """Serve until the process is ended."""
    server = Server(Hub(the_lab_s(Path(model)), Path(tokens), cdn), address, int(port))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
