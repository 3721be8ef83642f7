"""Stands in for the hub: a few models over HTTP, for the real huggingface_hub client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class HubServer:
    """``files``: by model and name. ``gated``: models that need ``token``."""

    url: str = ""
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_of_the_test"
    requests: list[tuple[str, str]] = field(default_factory=list)
    #: Set: requests wait for it.
    hold: threading.Event | None = None

    def add(self, model: str, config: dict[str, Any], **files: bytes) -> None:
        """A model with its config.json and further files."""
        self.files[model, "config.json"] = json.dumps(config).encode()
        for name, content in files.items():
            self.files[model, name.replace("__", ".")] = content

    def asked(self, model: str) -> int:
        """Requests about a model."""
        return sum(model in path for _, path in self.requests)


@contextmanager
def serving() -> Iterator[HubServer]:
    """A hub on a port of this machine."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            hub.requests.append((self.command, self.path))
            if hub.hold is not None:
                hub.hold.wait(20)
            model, _, name = self.path.strip("/").partition("/resolve/main/")
            allowed = self.headers.get("authorization") == f"Bearer {hub.token}"
            if not any(known == model for known, _ in hub.files):
                self._refuse(404, "RepoNotFound")
            elif model in hub.gated and not allowed:
                self._refuse(401, "GatedRepo")
            elif (model, name) not in hub.files:
                self._refuse(404, "EntryNotFound")
            else:
                content = hub.files[model, name]
                self.send_response(200)
                self.send_header("X-Repo-Commit", f"{server.server_address[1]:040x}")
                self.send_header("ETag", f'"{hash(content) & 0xFFFFFFFF:x}"')
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

        def _refuse(self, code: int, why: str) -> None:
            self.send_response(code)
            self.send_header("X-Error-Code", why)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        if hub.hold is not None:
            hub.hold.set()
        server.shutdown()
        server.server_close()
