"""The edge's logs: bounded, for few eyes, and without what strangers and clients send."""

from __future__ import annotations

import secrets

from pydantic import SecretStr
from testinfra.host import Host

from vllm_hosts.errors import HostError
from vllm_hosts.host import probe
from vllm_hosts.host.paths import EDGE_LOGS
from vllm_hosts.roles.edge_logs.plan import SCRIPT, TIMER
from vllm_hosts.settings import HostSettings
from vllm_hosts.settings.types import in_bytes
from vllm_hosts.suite.conftest import Edge
from vllm_hosts.suite.looks import edge_statuses
from vllm_hosts.suite.promise import BrokenError, promise, unit_runs
from vllm_hosts.verify.outside.shapes import Shape, send

_KEPT = "/etc/vllm-hosts/edge-logs.conf"


@promise("LOG-01")
def test_the_edge_s_logs_are_bounded_in_size(host: Host, settings: HostSettings) -> None:
    edge = settings.edge
    unit_runs(host, TIMER)
    result = host.check_output("systemctl show -p Result vllm-hosts-edge-logs.service")
    if result != "Result=success":
        raise BrokenError("journalctl -u vllm-hosts-edge-logs.service shows why")
    assert host.check_output("stat -c %%a:%%u %s", SCRIPT) == "755:0"
    ours = f"sed -n '\\|^{EDGE_LOGS}/|,/}}/p' {_KEPT}"
    limits = host.check_output(f"{ours} | grep -E '^ *(size|rotate) '").split()
    size = edge.log_max_size.replace("m", "M").replace("g", "G")
    assert limits == ["size", size, "rotate", str(edge.log_max_files)]
    listing = host.check_output(f"stat -c '%n %s %a %U:%G' {EDGE_LOGS} {EDGE_LOGS}/*").splitlines()
    folder, *files = [line.split() for line in listing]
    assert folder[2:] == ["751", "root:adm"]
    assert {line[0] for line in files} >= {f"{EDGE_LOGS}/access.log", f"{EDGE_LOGS}/error.log"}
    assert [line for line in files if int(line[2], 8) & 0o137 or line[3] != "www-data:adm"] == []
    # A timer looks every ten minutes, in which a log may grow beyond its size.
    bound = (edge.log_max_files + 8) * in_bytes(edge.log_max_size)
    assert sum(int(line[1]) for line in files) <= bound


@promise("LOG-02")
def test_no_query_and_no_key_reaches_the_edge_s_logs(
    host: Host, settings: HostSettings, edge: Edge
) -> None:
    # Made like a key, and fresh, so that nobody else's line is found.
    marker = f"Zq7{secrets.token_hex(16).upper()}_marker"
    seen = f"/seen-{secrets.token_hex(8)}"
    key = SecretStr(marker)
    edge.ask(seen)
    for path in (f"/v1/models?api_key={marker}", f"/v1/{marker}", f"/v1/models/{marker}"):
        for sent in (None, key, edge.key):
            edge.ask(path, key=sent, headers={"X-Api-Key": marker})
    edge.ask(f"/v1/responses/{marker}", key=key)
    edge.ask("/v1/models", method="POST", key=key)
    probe.get(settings.address, settings.edge.http_port, f"/{marker}?key={marker}", name=None)
    name = settings.edge_names[0]
    port = settings.edge.https_port
    for data in broken(probe.host_header(name, port), marker):
        # nginx keeps those open whose body is still to come.
        send(settings.address, port, name, Shape("", "", data, ()), quiet=1)
    # At last so many that most are limited.
    for _ in range(3):
        edge_statuses(settings, f"/v1/models?api_key={marker}", 80)
    if lines_with(host, seen) < 1:
        raise BrokenError("the log does not even contain an ordinary refusal")
    assert lines_with(host, marker) == 0


def broken(host: str, marker: str) -> list[bytes]:
    """Requests that nginx itself refuses, with the marker wherever there is a place for it."""
    start = f"GET /{marker}?key={marker} HTTP/1.1\r\n"
    named = f"{start}Host: {host}\r\nCookie: {marker}\r\nUser-Agent: {marker}\r\n"
    named += f"Authorization: {marker}\r\nX-Api-Key: {marker}\r\n"
    end = "Connection: close\r\n\r\n"
    return [
        text.encode()
        for text in (
            f"{marker}\r\n\r\n",
            f"{marker.upper().replace('7', 'X')} / HTTP/1.1\r\nHost: {host}\r\n{end}",
            f"GET /{marker} HTTP/9.{marker}\r\n\r\n",
            f"{start}\r\n",
            f"{start}Host: {marker}.invalid\r\n{end}",
            f"{start}Host: {marker.replace('_', '/')}\r\n{end}",
            f"{named}X: {'x' * 40_000}\r\n{end}",
            f"{named}Content-Length: 99999999999\r\n{end}",
            f"{named}Transfer-Encoding: {marker}\r\n{end}",
            f"TRACE{named[3:]}{end}",
        )
    ]


def lines_with(host: Host, text: str) -> int:
    """How many lines of nginx's logs have the text in them, in whatever letters.

    :raises HostError: they could not be searched.
    """
    found = host.run(
        f"find {EDGE_LOGS} /var/log/nginx -type f -mmin -60 -exec zcat -f {{}} + |"
        " grep -aciF -e %s",
        text,
    )
    if found.rc not in (0, 1) or found.stderr.strip():
        raise HostError(f"the search of the edge's logs failed: {found.stderr.strip()[-300:]}")
    return int(found.stdout)
