"""Stands in for the web servers of Docker's and NVIDIA's apt archives: HTTPS, files of one folder.

python -m lab.archive_server FOLDER ADDRESS PORT CERTIFICATE KEY
"""

from __future__ import annotations

import contextlib
import http.server
import ssl
import sys
from functools import partial
from typing import Any


class _Server(http.server.ThreadingHTTPServer):
    def shutdown_request(self, request: Any) -> None:
        # apt takes an end without TLS's own farewell for a cut connection.
        with contextlib.suppress(OSError):
            request.unwrap()
        super().shutdown_request(request)


def main(folder: str, address: str, port: str, certificate: str, key: str) -> None:
    """Serve until the process is ended."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = _Server((address, int(port)), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
