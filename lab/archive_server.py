"""Stands in for the web servers of Docker's and NVIDIA's apt archives: HTTPS, files of folders.

FOLDER has a link to each archive, which may come while the server runs; the first that has a file
serves it.

python -m lab.archive_server FOLDER ADDRESS PORT CERTIFICATE KEY
"""

from __future__ import annotations

import contextlib
import http.server
import os
import ssl
import sys
from functools import partial
from pathlib import Path
from typing import Any


class _Files(http.server.SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        below = os.path.relpath(super().translate_path(path), self.directory)
        roots = sorted(entry for entry in Path(self.directory).iterdir() if entry.name[0] != ".")
        found = [root / below for root in roots if (root / below).exists()]
        return str(found[0] if found else Path(self.directory) / ".none")


class _Server(http.server.ThreadingHTTPServer):
    def shutdown_request(self, request: Any) -> None:
        # apt takes an end without TLS's own farewell for a cut connection.
        with contextlib.suppress(OSError):
            request.unwrap()
        super().shutdown_request(request)


def main(folder: str, address: str, port: str, certificate: str, key: str) -> None:
    """Serve until the process is ended."""
    handler = partial(_Files, directory=folder)
    server = _Server((address, int(port)), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
