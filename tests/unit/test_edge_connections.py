"""nginx.conf gets room for all clients, and is otherwise left as it is."""

from __future__ import annotations

import re

import pytest

from tests.unit.fleets import gateway
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.facts.nginx import NginxMainConf
from vllm_hosts.host.files import Absent, File
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF, MainConf
from vllm_hosts.roles.nginx.worker_connections import (
    connection_entries,
    open_files,
    raised,
    worker_connections,
)
from vllm_hosts.settings.fleet import GatewayHost
from vllm_hosts.settings.joined import joined

#: As Debian 12 has it; Debian 13 and Ubuntu differ in what stands in http.
DEBIAN = """user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
include /etc/nginx/modules-enabled/*.conf;

events {
\tworker_connections 768;
\t# multi_accept on;
}

http {
\t# worker_connections 1; } {
\tlog_format x '$remote_addr { "worker_connections 3;" }';
\tinclude /etc/nginx/conf.d/*.conf;
}
"""
EDGE = settings().edge


def test_the_number_follows_the_settings() -> None:
    assert worker_connections(EDGE) == 2 * 128 * 32 + 8192
    more = EDGE.model_copy(update={"connections": 10, "expected_clients": 1000})
    assert worker_connections(more) == 2 * 10 * 1000 + 8192


def gateways_of(count: int, edge: dict[str, int] | None = None) -> tuple[GatewayHost, ...]:
    """As a host behind them knows them."""
    front = [gateway(f"gw{number}", edge=edge or {}) for number in range(count)]
    hosts = {host.name: host for host in (*front, settings(name="gpu1"))}
    return joined(hosts, [host.name for host in front])["gpu1"].gateways


def test_a_host_takes_what_all_gateways_let_in() -> None:
    assert worker_connections(EDGE, gateways_of(1)) == worker_connections(EDGE)
    assert worker_connections(EDGE, gateways_of(3)) == 3 * 2 * 128 * 32 + 8192
    # They have settings of their own, but a host is asked directly as well.
    many = gateways_of(2, {"expected_clients": 100})
    assert worker_connections(EDGE, many) == 2 * 2 * 128 * 100 + 8192
    assert worker_connections(EDGE, gateways_of(2, {"expected_clients": 1})) == 2 * 128 * 32 + 8192


def test_one_number_changes_and_nothing_else() -> None:
    text, has_limit = raised(DEBIAN, 16384)
    assert text == DEBIAN.replace("\tworker_connections 768", "\tworker_connections 16384")
    assert not has_limit
    assert raised(text, 16384) == (text, False), "once more changes nothing"


def test_a_larger_number_stays() -> None:
    text = DEBIAN.replace("768", "99999")
    assert raised(text, 16384) == (text, False)


@pytest.mark.parametrize(("there", "then"), [("1000", "32768"), ("100000", "100000")])
def test_a_limit_of_its_own_is_raised_where_it_stands(there: str, then: str) -> None:
    text = f"worker_rlimit_nofile {there};\n{DEBIAN}"
    changed, has_limit = raised(text, 16384)
    assert has_limit
    assert changed.startswith(f"worker_rlimit_nofile {then};\nuser www-data;")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DEBIAN.replace("worker_connections 768;", ""), "no block 'events'"),
        (DEBIAN.replace("768", "many"), "which is not a number"),
        ("events { include x; }", "no block 'events'"),
        ("", "no block 'events'"),
        (DEBIAN.replace("include /etc/nginx/modules-enabled/*.conf;", ""), "neither sets"),
    ],
)
def test_what_is_written_in_another_way_is_refused(text: str, said: str) -> None:
    with pytest.raises(HostError, match=re.escape(said)) as caught:
        raised(text, 16384)
    assert MAIN_CONF in str(caught.value)


def found(text: str, kind: str = "f") -> MainConf:
    return MainConf(kind, text.encode(), 0o640, "root", "adm")


def test_the_entries() -> None:
    assert connection_entries(EDGE, None) == []
    main, limits = connection_entries(EDGE, found(DEBIAN))
    assert isinstance(main, File) and isinstance(limits, File)
    assert (main.path, main.mode, main.group) == (MAIN_CONF, 0o640, "adm")
    assert limits.path == LIMITS_CONF
    assert f"worker_rlimit_nofile {open_files(16384)};" in limits.content.decode()
    _, limits = connection_entries(EDGE, found(f"worker_rlimit_nofile 5;{DEBIAN}"))
    assert limits == Absent(LIMITS_CONF), "nginx refuses the directive twice"
    with pytest.raises(HostError, match="is a symbolic link"):
        connection_entries(EDGE, found("", "l"))


def test_the_file_is_read_byte_for_byte() -> None:
    lines = [
        "== stat",
        "regular file|644|root|0|root|0|/etc/nginx/nginx.conf",
        "== content",
        "IyBcclxuCg==",
        "",
        "",
        "vllm-hosts-end",
    ]
    [*_, end] = NginxMainConf().command().split()
    assert end == "vllm-hosts-end"
    read = NginxMainConf().process(lines)
    assert read == MainConf("f", b"# \\r\\n\n", 0o644, "root", "root")
    assert NginxMainConf().process(["== stat", "== content", "", "vllm-hosts-end"]) is None
