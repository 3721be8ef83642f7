"""The edge's configuration, from settings, keys and the host's nginx. Touches no host."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_hosts.errors import HostError
from vllm_hosts.host import paths
from vllm_hosts.host.certificates import left_over
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.nginx import INTERNAL_MAP, TARGETS_MAP, internal_line
from vllm_hosts.host.probe import host_header
from vllm_hosts.host.render import render
from vllm_hosts.keys import HostKeys
from vllm_hosts.roles.nginx.edge_refusals import ERRORS, INNER_ERRORS, MODEL_ERRORS, RESPONSE_ERRORS
from vllm_hosts.roles.nginx.inner import inner_conf
from vllm_hosts.roles.nginx.lua_files import lua_entries, lua_paths, model_body, side_of
from vllm_hosts.roles.nginx.routes import (
    browser_paths,
    chosen_paths,
    encoded_models,
    model_routes,
    routes,
)
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.cells import CONTAINER_PORT

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

#: Headers that vLLM has no reason to send, and that a compromised agent could use to redirect
#: clients and their data.
_HIDDEN = (
    *("Server", "X-Powered-By", "Set-Cookie", "Clear-Site-Data", "Trailer"),
    *("Location", "Content-Location", "Refresh", "Link", "Alt-Svc"),
    *(f"Access-Control-{what}" for what in ("Expose-Headers", "Max-Age", "Request-Method")),
    *(f"Access-Control-Allow-{what}" for what in ("Credentials", "Headers", "Methods", "Origin")),
    *("Strict-Transport-Security", "Public-Key-Pins", "Expect-CT", "Service-Worker-Allowed"),
    *("Content-Security-Policy", "Content-Security-Policy-Report-Only", "Permissions-Policy"),
    *("NEL", "Report-To", "Reporting-Endpoints", "WWW-Authenticate", "Proxy-Authenticate"),
)

#: What web pages may send. A browser refuses the whole request for one that is not named, and
#: OpenAI's and Anthropic's clients for JavaScript add the last three lines by themselves.
_CORS_HEADERS = (
    *("Authorization", "Content-Type", "X-Api-Key", "Anthropic-Version", "Anthropic-Beta"),
    *("Anthropic-Dangerous-Direct-Browser-Access", "OpenAI-Organization", "OpenAI-Project"),
    *(f"X-Stainless-{name}" for name in ("Arch", "Lang", "OS", "Package-Version", "Retry-Count")),
    *(f"X-Stainless-{name}" for name in ("Runtime", "Runtime-Version", "Timeout", "Helper")),
    *(f"X-Stainless-{name}" for name in ("Helper-Method", "Poll-Helper", "Custom-Poll-Interval")),
)

#: Statuses that nginx itself produces, and where they are handled. 494 to 497 are about malformed
#: TLS or headers. A request without a readable path cannot go to a named location.
_ERROR_PAGES = (
    "400 412 416 501 505 414 431 494 495 496 497 =400 /./400",
    "401 /./401",
    "403 /./403",
    "404 /./404",
    "405 /./405",
    "413 /./413",
    "429 @error429",
    "500 502 503 504 =503 @error503",
)
#: The same on a gateway, where a request that nobody has answered goes elsewhere first.
_GATEWAY_PAGES = (*_ERROR_PAGES[:-1], "500 503 504 =503 @error503")
#: Those that strangers can cause, which are rate-limited before they are answered.
_REFUSALS = (400, 401, 403, 404, 405, 413)

_INNER_CONF = f"{paths.EDGE_FOLDER}/inner.conf"
#: Bytes. nginx rounds smaller buckets up to the processor's cache line.
_CACHE_LINE = 64


@dataclass(frozen=True)
class NginxVersion:
    """The host's nginx, as far as the configuration depends on it. Versions have three numbers.

    ``ipv6``: whether the host's kernel supports it. ``names_bucket``: the
    server_names_hash_bucket_size in somebody else's configuration, since nginx accepts only one.
    """

    nginx: tuple[int, int, int]
    openssl: tuple[int, int, int]
    ipv6: bool = True
    names_bucket: int | None = None


def parse_version(text: str) -> NginxVersion:
    """From the output of ``nginx -V``; what counts is the OpenSSL that it runs with.

    :raises ValueError: a version is missing.
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
class Upstream:
    """An agent as the edge reaches it. ``again``: where it asks a second time, on a gateway."""

    name: str
    server: str
    again: str = ""


def edge_entries(
    settings: HostSettings, keys: HostKeys, version: NginxVersion, *, own_site: bool = False
) -> list[Entry]:
    """All files of the edge. Those with keys are only for root: nginx reads them as root.

    :param own_site: the file with the distribution's name is somebody's own site.
    """
    return [
        Folder(paths.EDGE_FOLDER, mode=0o700),
        *([] if own_site else [Absent(paths.NGINX_WELCOME)]),
        File(paths.EDGE_CONF, edge_conf(settings, version).encode()),
        *(
            File(f"{paths.EDGE_FOLDER}/{name}.conf", text.encode(), mode=0o600)
            for name, text in included(settings, version).items()
        ),
        *([] if settings.behind_gateways else [Absent(_INNER_CONF)]),
        *left_over(settings),
        File(INTERNAL_MAP, internal_map(settings, keys).encode(), mode=0o600, secret=True),
        # Agents answer for themselves, even if a run that was cut off left a diversion here.
        File(TARGETS_MAP, b"", mode=0o600),
        *lua_entries(settings),
    ]


def edge_paths(settings: HostSettings) -> list[str]:
    """The paths of ``edge_entries``, without making them."""
    names = [f"{paths.EDGE_FOLDER}/{name}.conf" for name in _included_names(settings)]
    return [
        paths.EDGE_FOLDER,
        paths.NGINX_WELCOME,
        paths.EDGE_CONF,
        *names,
        _INNER_CONF,
        *(entry.path for entry in left_over(settings)),
        INTERNAL_MAP,
        TARGETS_MAP,
        *([paths.EDGE_LUA] if settings.edge_runs_lua else []),
        *lua_paths(),
    ]


def internal_map(settings: HostSettings, keys: HostKeys) -> str:
    """The map from upstreams to their keys. Contains keys.

    On a gateway they are what salts of prefix caches are made from, and agents of one pool have the
    same caches. A machine that is both has both kinds.
    """
    lines = [internal_line(one.name, keys.internal_of(one.name)) for one in settings.own_agents]
    if gateway := settings.as_gateway:
        side, secret = side_of(settings), keys.edge_side
        lines += [
            internal_line(f"{side}{one.name}", secret.internal_of(gateway.pool(one.name).name))
            for one in gateway.agents
        ]
    return "".join(f"{line}\n" for line in sorted(lines))


def edge_conf(settings: HostSettings, version: NginxVersion) -> str:
    """The main file of the edge. Contains no secret."""
    side, behind = side_of(settings), settings.behind_gateways
    inside = [_upstream(settings, one.name) for one in settings.own_agents] if side else []
    settings = settings.edge_side
    edge = settings.edge
    name = host_header(settings.edge_names[0], edge.https_port)
    names = [f"[{name}]" if ":" in name else name for name in settings.edge_names]
    return render(
        "nginx/edge.conf.j2",
        ipv6=version.ipv6,
        names_bucket=_names_bucket(names, version.names_bucket),
        edge=edge,
        folder=paths.EDGE_FOLDER,
        allow_from=[str(network) for network in edge.allow_from],
        upstreams=[_upstream(settings, agent.name) for agent in settings.agents],
        gateway=settings.is_gateway,
        behind_gateways=behind,
        side=side,
        inside=inside,
        changes_requests=edge.changes_requests or settings.is_gateway,
        url=f"https://{name}",
        server_names=names,
        listen_options="" if _has_http2_directive(version) else " http2",
        logs=paths.EDGE_LOGS,
        cors_origins=edge.cors_origins,
        cors_headers=(
            *_CORS_HEADERS,
            *([settings.gateway.session_header] if settings.is_gateway else []),
        ),
        browser_paths=browser_paths(settings),
        errors=ERRORS,
        error_pages=_GATEWAY_PAGES if settings.is_gateway else _ERROR_PAGES,
        refusals=_REFUSALS,
        routes=list(routes(settings)),
        hidden_headers=_HIDDEN,
        encoded_models=encoded_models(settings),
        by_model=settings.chooses_by_model,
        agent_models={agent.name: agent.client_model_name for agent in settings.agents},
        lua=paths.EDGE_LUA,
        chosen_paths=chosen_paths(settings),
        model_errors=MODEL_ERRORS | (RESPONSE_ERRORS if settings.is_gateway else {}),
        model_routes=model_routes(settings),
        models={agent.name: model_body(agent.client_model_name) for agent in settings.agents},
    )


def _upstream(settings: HostSettings, agent: str) -> Upstream:
    """Where an agent is: for clients of a gateway, whoever knows the hosts that have it."""
    if settings.runs_agents:
        return Upstream(agent, f"{settings.cell(agent).address}:{CONTAINER_PORT}")
    pool = settings.pool(agent)
    return Upstream(
        agent,
        f"unix:{paths.pool_socket(pool.name)}",
        f"unix:{paths.pool_socket(pool.again)}" if pool.again else "",
    )


def _names_bucket(names: Sequence[str], there: int | None) -> int | None:
    """The server_names_hash_bucket_size that these names need; None: it need not be set.

    An entry is a pointer, two bytes and the name, padded to whole pointers, and a pointer ends the
    bucket (ngx_hash.h, ngx_hash.c). The default is a processor's cache line, often 64 bytes.

    :param there: the value that is set elsewhere.
    :raises HostError: that value is too small.
    """
    longest = max(names, key=len)
    needed = 8 + -(-(len(longest) + 2) // 8) * 8 + 8
    if there is None:
        return None if needed <= _CACHE_LINE else 1 << (needed - 1).bit_length()
    if there < needed:
        raise HostError(
            f"nginx's configuration on this host sets server_names_hash_bucket_size to {there}, and"
            f" the name {longest} needs {1 << (needed - 1).bit_length()}; raise it there, or take"
            " the line out"
        )
    return None


def included(settings: HostSettings, version: NginxVersion) -> dict[str, str]:
    """Files that the main file includes more than once, by name. Contain no secret."""
    curves = (_ML_KEM, *_CURVES) if version.openssl >= (3, 5, 0) else _CURVES
    values = {
        "folder": paths.EDGE_FOLDER,
        "logs": paths.EDGE_LOGS,
        "cors_origins": settings.edge.cors_origins,
        "http2_directive": _has_http2_directive(version),
        # Later versions use HTTP/1's timeouts for both.
        "http2_timeouts": version.nginx < (1, 19, 7),
        "certificate": paths.TLS_CERTIFICATE,
        "key": paths.TLS_KEY,
        "ciphers": CIPHERS,
        "curves": curves,
        # What clients meet; of a machine that is both, what gateways meet is a file of its own.
        "gateway": settings.is_gateway,
        "behind_gateways": settings.edge_side.behind_gateways,
    }
    names = _included_names(settings)
    found = {name: render(f"nginx/{name}.conf.j2", **values) for name in names}
    if settings.behind_gateways:
        found["inner"] = inner_conf(
            settings,
            side=side_of(settings),
            ipv6=version.ipv6,
            curves=curves,
            errors=INNER_ERRORS,
            hidden_headers=_HIDDEN,
        )
    return found


def _included_names(settings: HostSettings) -> list[str]:
    names = ["tls", "common", "checks", "refused", "error", "upstream"]
    return [*names, "cors"] if settings.edge.cors_origins else names


def _has_http2_directive(version: NginxVersion) -> bool:
    """Whether HTTP/2 is a directive, as from 1.25.1 on; before it is an option of ``listen``."""
    return version.nginx >= (1, 25, 1)
