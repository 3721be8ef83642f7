"""The edge's configuration, from settings, keys and the nginx of the host. Touches no host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_hosts import paths
from vllm_hosts.keys import HostKeys
from vllm_hosts.operations.edge import INTERNAL_MAP, TARGETS_MAP, internal_line
from vllm_hosts.probe import host_header
from vllm_hosts.render import render
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import CONTAINER_PORT
from vllm_hosts.tree import Absent, Entry, File, Folder

CONF = "/etc/nginx/conf.d/vllm-hosts.conf"
#: The distribution's own site claims port 80 as its default; it serves a welcome page.
WELCOME = "/etc/nginx/sites-enabled/default"

#: Mozilla's server side TLS guideline 6.0, intermediate.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
_CURVES = ("X25519", "prime256v1", "secp384r1")
_ML_KEM = "X25519MLKEM768"

#: What clients of a chat, embedding, transcription or reranking model need. vLLM serves more,
#: and much of that without asking for its key: everything else is 404.
_ROUTES = (
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/rerank"),
    ("POST", "/v1/score"),
)
_RESPONSE_ID = "[A-Za-z0-9_-]{1,128}"

#: Status that the edge answers itself -> message, type and code in OpenAI's error format.
_ERRORS = {
    400: ("The request could not be understood.", "invalid_request_error", "bad_request"),
    401: ("Missing or wrong API key.", "invalid_request_error", "invalid_api_key"),
    403: ("This key or network may not use this model.", "invalid_request_error", "forbidden"),
    404: ("There is nothing at this address.", "invalid_request_error", "not_found"),
    405: ("This method is not allowed here.", "invalid_request_error", "method_not_allowed"),
    413: ("The request is too large.", "invalid_request_error", "request_too_large"),
    429: ("Too many requests; slow down.", "rate_limit_error", "rate_limit_exceeded"),
    503: ("The model is not ready; try again.", "server_error", "model_not_ready"),
}
#: nginx's own statuses that become another one: 494 to 497 are about malformed TLS or headers.
_ERROR_PAGES = {400: "400 414 431 494 495 496 497 =400", 503: "500 502 503 504 =503"}


@dataclass(frozen=True)
class NginxVersion:
    """What the edge's configuration depends on. Versions as tuples of three numbers."""

    nginx: tuple[int, int, int]
    openssl: tuple[int, int, int]


def parse_version(text: str) -> NginxVersion:
    """From what ``nginx -V`` prints; the OpenSSL that it runs with counts, not the build's.

    :raises ValueError: a version is not found in the text.
    """
    running = re.search(r"running with OpenSSL (\d+)\.(\d+)\.(\d+)", text)
    built = re.search(r"built with OpenSSL (\d+)\.(\d+)\.(\d+)", text)
    nginx = re.search(r"nginx version: nginx/(\d+)\.(\d+)\.(\d+)", text)
    openssl = running or built
    if nginx is None or openssl is None:
        raise ValueError(f"no versions in {text[:80]!r}")
    return NginxVersion(_numbers(nginx), _numbers(openssl))


def _numbers(match: re.Match[str]) -> tuple[int, int, int]:
    return int(match[1]), int(match[2]), int(match[3])


@dataclass(frozen=True)
class Route:
    """One location: how it matches, the only method, the agent and the path there."""

    match: str
    method: str
    agent: str
    path: str


@dataclass(frozen=True)
class Upstream:
    """An agent, where the edge reaches it."""

    name: str
    address: str
    port: int


def routes(settings: HostSettings) -> Iterator[Route]:
    """``/AGENT/v1/...`` for every agent, and ``/v1/...`` for the first."""
    prefixes = [("", settings.agents[0].name)]
    prefixes += [(f"/{agent.name}", agent.name) for agent in settings.agents]
    for prefix, agent in prefixes:
        for method, path in _ROUTES:
            yield Route(f"= {prefix}{path}", method, agent, path)
        # A named group: later regular expressions overwrite numbered ones.
        group = f"(?<vllm_hosts_id>{_RESPONSE_ID})"
        base = f'"^{prefix}/v1/responses/{group}'
        target = "/v1/responses/$vllm_hosts_id"
        yield Route(f'~ {base}$"', "GET", agent, target)
        yield Route(f'~ {base}/cancel$"', "POST", agent, f"{target}/cancel")


def edge_entries(settings: HostSettings, keys: HostKeys, version: NginxVersion) -> list[Entry]:
    """All files of the edge. Those with keys are for root's eyes: nginx reads them as root."""
    return [
        Folder(paths.EDGE_FOLDER, mode=0o700),
        Absent(WELCOME),
        File(CONF, edge_conf(settings, version).encode()),
        File(f"{paths.EDGE_FOLDER}/tls.conf", _tls_conf(version).encode(), mode=0o600),
        File(f"{paths.EDGE_FOLDER}/error.conf", render("nginx/error.conf.j2").encode(), mode=0o600),
        File(
            f"{paths.EDGE_FOLDER}/upstream.conf",
            render("nginx/upstream.conf.j2").encode(),
            mode=0o600,
        ),
        File(INTERNAL_MAP, internal_map(settings, keys).encode(), mode=0o600, secret=True),
        # Agents answer for themselves, whatever a run that was cut off left here.
        File(TARGETS_MAP, b"", mode=0o600),
    ]


def internal_map(settings: HostSettings, keys: HostKeys) -> str:
    """From upstreams to the key that each asks for. Holds keys."""
    lines = sorted(
        internal_line(agent.name, keys.internal_of(agent.name)) for agent in settings.agents
    )
    return "".join(f"{line}\n" for line in lines)


def edge_conf(settings: HostSettings, version: NginxVersion) -> str:
    """The main file of the edge. Holds no secret."""
    edge = settings.edge
    name = host_header(settings.edge_names[0], edge.https_port)
    return render(
        "nginx/edge.conf.j2",
        edge=edge,
        folder=paths.EDGE_FOLDER,
        allow_from=[str(network) for network in edge.allow_from],
        upstreams=[
            Upstream(agent.name, str(settings.cell(agent.name).address), CONTAINER_PORT)
            for agent in settings.agents
        ],
        url=f"https://{name}",
        server_names=[f"[{name}]" if ":" in name else name for name in settings.edge_names],
        listen_options="" if _has_http2_directive(version) else " http2",
        errors={status: _error_body(*error) for status, error in _ERRORS.items()},
        error_pages={status: _ERROR_PAGES.get(status, str(status)) for status in _ERRORS},
        routes=list(routes(settings)),
    )


def _tls_conf(version: NginxVersion) -> str:
    return render(
        "nginx/tls.conf.j2",
        http2_directive=_has_http2_directive(version),
        certificate=paths.TLS_CERTIFICATE,
        key=paths.TLS_KEY,
        ciphers=CIPHERS,
        curves=(_ML_KEM, *_CURVES) if version.openssl >= (3, 5, 0) else _CURVES,
    )


def _has_http2_directive(version: NginxVersion) -> bool:
    """From 1.25.1 on HTTP/2 is a directive; before it is an option of ``listen``."""
    return version.nginx >= (1, 25, 1)


def _error_body(message: str, kind: str, code: str) -> str:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})
