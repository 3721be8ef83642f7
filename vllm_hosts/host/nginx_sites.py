"""Whether the edge can coexist with the sites that a host's nginx already has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vllm_hosts.host.paths import NGINX_WELCOME
from vllm_hosts.settings import HostSettings

_EVERYWHERE = ("", "*", "0.0.0.0", "[::]")
_HERE = ("127.", "[::1]", "localhost", "unix:")


def site_problems(settings: HostSettings, sites: Sites) -> list[str]:
    """What nginx would refuse later, or what the edge would silently take from a site."""
    edge = settings.edge
    ports = {edge.https_port: "edge.https_port", edge.http_port: "edge.http_port"}
    found = [problem for listen in sites.listens for problem in _listens(ports, *listen)]
    if sites.pages and edge.http_port == 80:
        found.append(
            f"nginx serves your own {', '.join(sites.pages)} by the distribution's"
            f" {NGINX_WELCOME}, which the edge replaces; write a site with a server_name for it,"
            " and remove that one, or move the files away"
        )
    return list(dict.fromkeys(found))


def site_ports(sites: Sites) -> frozenset[int]:
    """TCP ports where nginx listens for other people's sites."""
    return frozenset(_split(words.split()[0])[1] for _, words in sites.listens)


def _listens(ports: dict[int, str], file: str, words: str) -> Iterator[str]:
    where, *options = words.split()
    address, port = _split(where)
    setting = ports.get(port)
    if setting is None or address.startswith(_HERE):
        return
    if {"default_server", "default"} & set(options):
        yield (
            f"{file} answers port {port} for every name (default_server), which the edge has to;"
            " take default_server from its listen lines, so that it answers for its server_name,"
            f" or set {setting}"
        )
    elif address not in _EVERYWHERE:
        yield (
            f"{file} listens on {where} by itself, and requests there would not reach the edge;"
            f" have it listen on {port}, or set {setting}"
        )
    if "proxy_protocol" in options:
        yield (
            f"{file} expects the PROXY protocol on port {port}, where no client of the edge speaks"
            f" it; take proxy_protocol from its listen lines, or set {setting}"
        )


def _split(where: str) -> tuple[str, int]:
    """Address and port of a listen directive; port -1: not TCP."""
    if where.startswith("unix:"):
        return where, -1
    if re.fullmatch("[0-9]{1,9}", where):
        return "", int(where)
    address, colon, port = where.rpartition(":")
    if not colon or where.endswith("]"):
        return where, 80
    return address, int(port) if re.fullmatch("[0-9]{1,9}", port) else -1


@dataclass(frozen=True)
class Sites:
    """``welcome``: who wrote the distribution's default site: ``distribution``, ``own``, or empty.

    ``pages``: what it serves besides the page that came with it. ``listens``: file and arguments of
    each listen directive in files that are neither ours nor the distribution's.
    """

    welcome: str = ""
    pages: tuple[str, ...] = ()
    listens: tuple[tuple[str, str], ...] = ()
