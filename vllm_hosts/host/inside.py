"""What a machine that is both asks its own agents: as a gateway, and at its port for gateways.

Its edge for clients cannot say whether an agent of its own answers, since HAProxy chooses among all
hosts there. So nothing more is open than to any gateway, and what answers is what requests pass.
"""

from __future__ import annotations

import re
from base64 import b64decode
from shlex import quote

from vllm_hosts.host.paths import GATEWAY_CA, GATEWAY_CLIENT
from vllm_hosts.host.probe import Response
from vllm_hosts.text import clean

#: Seconds for one answer: the first token of an agent takes longest.
PATIENCE = 60
#: Bytes of an answer; one token, or a list of one model, has a few hundred.
_MOST = 65536
_HEAD = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9]) ")
#: What openssl says where nobody listens.
_NOBODY = ("Connection refused", "errno=111")


def script(
    agent: str,
    port: int,
    path: str,
    body: str,
    client: str,
    *,
    ca: str = GATEWAY_CA,
    own: str = GATEWAY_CLIENT,
) -> str:
    """Shell: one request, and what it leads to.

    :param agent: its name among gateways and hosts.
    :param body: JSON; empty: the request is a GET.
    :param client: who asks, for the host's log.
    """
    lines = [
        f"{'POST' if body else 'GET'} {path} HTTP/1.1",
        f"Host: {agent}",
        f"X-Vllm-Hosts-Client: {client}",
        *(["Content-Type: application/json", f"Content-Length: {len(body)}"] if body else []),
        "Connection: close",
        "",
    ]
    if not body.isascii():
        raise ValueError("a length is counted in bytes")
    return f"""
        if [ ! -e {quote(own)} ]; then echo '== absent'; else
            echo '== said'
            {{
                {{ printf '%s\\r\\n' {" ".join(map(quote, lines))}; printf '%s' {quote(body)}; }} |
                    timeout {PATIENCE} openssl s_client -quiet -verify_quiet -verify_return_error \\
                        -connect 127.0.0.1:{port} -servername {agent} -verify_hostname {agent} \\
                        -CAfile {quote(ca)} -cert {quote(own)} -key {quote(own)} 2>&3 |
                    head -c {_MOST} | base64 -w 0 | sed 's/^/answer /'
                echo
            }} 3>&1
        fi
    """


def answer(parts: dict[str, list[str]]) -> Response:
    """What the script printed.

    :raises ConnectionRefusedError: nothing is there for gateways yet.
    :raises OSError: nothing answered.
    :raises ValueError: this is not what it prints.
    """
    if "absent" in parts:
        raise ConnectionRefusedError("it is no gateway yet")
    said = [line for line in parts["said"] if not line.startswith("answer ")]
    [data, *_] = [line[7:] for line in parts["said"] if line.startswith("answer ")] or [""]
    head, _, body = b64decode(data, validate=True).partition(b"\r\n\r\n")
    if found := _HEAD.match(head):
        return Response(int(found[1]), {}, body)
    why = clean(said[-1], 200) if said else "nothing"
    if any(words in line for line in said for words in _NOBODY):
        raise ConnectionRefusedError(f"its port for gateways is closed: {why}")
    raise OSError(f"its port for gateways answers {why}")
