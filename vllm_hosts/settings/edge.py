"""The settings of the edge, and which of vLLM's routes it serves."""

from __future__ import annotations

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from vllm_hosts.settings.types import CacheIsolation, Cidr, HostName, Origin, Port, Section, Size

#: What clients of a chat, embedding, transcription or reranking model need. vLLM serves more, much
#: of it without requiring its key: everything else is 404.
SERVED = (
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/messages"),
    ("POST", "/v1/messages/count_tokens"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/translations"),
    ("POST", "/v1/rerank"),
    ("POST", "/v2/rerank"),
    ("POST", "/v1/score"),
)
#: vLLM requires its own key below these paths, and nowhere else (vLLM 0.33, read).
_GUARDED = ("/v1/", "/v2/", "/inference/", "/cohere/")
#: Each takes two open files, and Linux allows a process a million.
_MOST_CONNECTIONS = 120_000
_LOADS_WEIGHTS = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")
#: Paths that the edge answers itself, or serves by a pattern.
_PATTERNS = re.compile(r"/v1/(models|responses)/.*")


class Edge(Section):
    """nginx: the only way in for clients."""

    names: tuple[HostName, ...] = Field(
        (),
        description="DNS names and addresses that clients use; empty: the host's SSH address",
        strict=False,
    )
    https_port: Port = Field(443, description="Port for clients")
    http_port: Port = Field(80, description="Port that only redirects to HTTPS")
    allow_from: tuple[Cidr, ...] = Field(
        (),
        description="Networks that may send requests, including the controller's, which verifies"
        " the edge; empty: everybody with a key",
        strict=False,
    )
    max_body_size: Size = Field("32m", description="Largest request")
    timeout: int = Field(
        3600, ge=10, description="Seconds that a response may pause before it is cut off"
    )
    requests_per_second: int = Field(20, ge=1, description="Per client; more get 429")
    burst: int = Field(
        40, ge=0, description="Requests above the rate that are still accepted at once"
    )
    connections: int = Field(
        128, ge=1, le=4096, description="Simultaneous requests per client; more get 429"
    )
    expected_clients: int = Field(
        32,
        ge=1,
        le=1000,
        description="Clients that may use all of `connections` at the same time; nginx gets room"
        " for them and for strangers",
    )
    connections_per_source: int = Field(
        512,
        ge=16,
        description="Simultaneous TCP connections from one address, or from one IPv6 /64 (four"
        " times as many from one IPv6 /48); a gateway that calls for many clients needs as many as"
        " it"
        " holds open",
    )
    routes: tuple[str, ...] = Field(
        (),
        description="More of vLLM's routes that clients may use, such as `POST /v2/embed`; only"
        " those for which vLLM requires its own key. See docs/clients.md",
        strict=False,
    )
    by_model: bool = Field(
        True,
        description="On a host with several agents, `/v1` serves all of them: the request's `model`"
        " says which. Needs the distribution's package `libnginx-mod-http-lua`; False: `/v1` is the"
        " first agent's",
    )
    count_tokens: bool = Field(
        True,
        description="The access log has each request's prompt, cached and completion tokens, for"
        " `vllm-hosts usage`. Needs the distribution's package `libnginx-mod-http-lua`",
    )
    cache_isolation: CacheIsolation = Field(
        "client",
        description="Whose requests share a prefix cache: `client`, nobody's, so that no client can"
        " tell from the time of an answer what another one has asked (CVE-2025-46570); `off`,"
        " everybody's. Needs the distribution's package `libnginx-mod-http-lua`",
    )
    cache_groups: tuple[tuple[str, ...], ...] = Field(
        (),
        description="Lists of clients; those of one list share a prefix cache nevertheless."
        " See docs/clients.md",
        strict=False,
    )
    cors_origins: tuple[Origin, ...] = Field(
        (),
        description="Origins of web pages that may use this host from a browser, such as"
        " `https://app.example.com`; empty: none",
        strict=False,
    )
    log_max_size: Size = Field(
        "64m", description="The access log is rotated at this size; checked every ten minutes"
    )
    log_max_files: int = Field(
        10, ge=1, le=1000, description="Rotated access logs kept, compressed"
    )
    log_reserve: Size = Field(
        "1g",
        description="If less than this is free on the logs' file system, the edge's oldest logs are"
        " removed",
    )

    @field_validator("routes")
    @classmethod
    def _routes_ask_for_a_key(cls, routes: tuple[str, ...]) -> tuple[str, ...]:
        for route in routes:
            if problem := _route_problem(route):
                raise ValueError(f"{route!r} {problem}")
            if routes.count(route) > 1:
                raise ValueError(f"{route!r} is listed twice; remove one")
        paths = [route.partition(" ")[2] for route in routes]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(
                    f"{path!r} is listed with two methods, and the edge accepts one; remove the"
                    " other"
                )
        return routes

    @field_validator("cache_groups", mode="before")
    @classmethod
    def _groups_are_lists(cls, groups: object) -> object:
        """Lists as users write them."""
        if isinstance(groups, (list, tuple)):
            return tuple(tuple(one) if isinstance(one, list) else one for one in groups)
        return groups

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        clients = [client for group in self.cache_groups for client in group]
        for client in clients:
            if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", client):
                raise ValueError(
                    f"edge.cache_groups has {client!r}, which is no client's name; write it as"
                    " vllm-hosts keys list shows it"
                )
            if clients.count(client) > 1:
                raise ValueError(
                    f"edge.cache_groups has {client!r} twice; leave it in one group only"
                )
        if self.cache_groups and self.cache_isolation == "off":
            raise ValueError(
                "edge.cache_groups means nothing while edge.cache_isolation is 'off'; remove one of"
                " them"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.https_port == self.http_port:
            raise ValueError("edge.https_port and edge.http_port must differ")
        return self

    @model_validator(mode="after")
    def _connections_fit(self) -> Self:
        if self.requests > _MOST_CONNECTIONS:
            raise ValueError(
                f"edge.connections times edge.expected_clients is {self.requests}, and nginx is"
                f" given room for at most {_MOST_CONNECTIONS}; lower one of them"
            )
        return self

    @property
    def requests(self) -> int:
        """How many requests of clients are let in at the same time."""
        return self.connections * self.expected_clients

    @property
    def changes_requests(self) -> bool:
        """Whether the edge adds to requests, to count tokens or to keep caches apart."""
        return self.count_tokens or self.cache_isolation != "off"


def _route_problem(route: str) -> str | None:
    """Why the edge cannot serve this route."""
    if not re.fullmatch(r"(GET|POST) (/[A-Za-z0-9_-][A-Za-z0-9_.-]*)+", route):
        return (
            "is not a route such as 'POST /v2/embed': GET or POST, a space, and a path of letters,"
            " digits and _ . -"
        )
    path = route.partition(" ")[2]
    if not path.startswith(_GUARDED):
        below = " ".join(prefix.rstrip("/") for prefix in _GUARDED)
        return f"cannot be served: vLLM requires its key below {below} only; leave it out"
    if path in _LOADS_WEIGHTS:
        return "cannot be served: it lets clients load weights; leave it out"
    if path in {served for _, served in SERVED} or _PATTERNS.fullmatch(path):
        return (
            "is not needed: the edge already serves that path, or a pattern that covers it; leave"
            " it out"
        )
    return None
