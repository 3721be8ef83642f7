"""nginx.conf is somebody else's file: what is read of it, and what is written of it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.host.files import Absent, File
from vllm_hosts.host.nginx import LIMITS_CONF, MAIN_CONF, MainConf
from vllm_hosts.roles.nginx import worker_connections as module
from vllm_hosts.roles.nginx.worker_connections import connection_entries, open_files, raised

EDGE = settings().edge
CONF = "include /etc/nginx/modules-enabled/*.conf;\nevents { worker_connections 5; }\n"


def refusal(text: str) -> str:
    with pytest.raises(HostError) as caught:
        raised(text, 9)
    return str(caught.value)


def test_the_files() -> None:
    text = CONF.replace("include", "# \xe9\r\ninclude")
    found = MainConf("f", text.encode("latin-1"), 0o640, "alice", "adm")
    wanted = 2 * EDGE.connections * EDGE.expected_clients + 8192
    main = text.replace(" 5;", f" {wanted};").encode("latin-1")
    limit = (
        "# Managed by vllm-hosts. Every connection of a worker is an open file.\n"
        f"worker_rlimit_nofile {2 * wanted};\n"
    )
    written = File(MAIN_CONF, main, 0o640, "alice", "adm", partly=True)
    assert connection_entries(EDGE, found) == [written, File(LIMITS_CONF, limit.encode())]
    own = MainConf("f", b"worker_rlimit_nofile 999999;" + found.content, 0o640, "alice", "adm")
    [_, gone] = connection_entries(EDGE, own)
    assert gone == Absent(LIMITS_CONF)
    assert open_files(7) == 14


@pytest.mark.parametrize(
    ("kind", "named"), [("d", "directory"), ("l", "symbolic link"), ("o", "special file")]
)
def test_what_is_no_file(kind: str, named: str) -> None:
    with pytest.raises(HostError) as caught:
        connection_entries(EDGE, MainConf(kind, b"", 0o644, "root", "root"))
    assert str(caught.value) == (
        f"{MAIN_CONF} is a {named}, so its worker_connections cannot be raised; make it a regular"
        " file"
    )


@pytest.mark.parametrize(
    "text",
    [
        CONF.replace("events", "event"),
        CONF.replace("events { ", "http { events { ").replace("}", "} }"),
        CONF + CONF,
        CONF.replace("worker_connections", "# worker_connections"),
        "worker_connections 5; include /etc/nginx/modules-enabled/*.conf;",
        # Of a block without a name, and one that is closed too early.
        CONF.replace("events", ""),
        CONF.replace("events {", "events { }"),
    ],
)
def test_a_number_that_is_not_where_it_has_to_be(text: str) -> None:
    assert refusal(text) == (
        f"{MAIN_CONF} has no block 'events' with one worker_connections in it, so nginx cannot be"
        " given room for all clients; write 'events { worker_connections 768; }' there"
    )


@pytest.mark.parametrize(
    "line", ["", "http { include /etc/nginx/modules-enabled/*.conf; }", "include /etc/nginx/*;"]
)
def test_a_limit_that_has_no_place(line: str) -> None:
    modules = "/etc/nginx/modules-enabled/*.conf"
    assert refusal(f"{line} events {{ worker_connections 5; }}") == (
        f"{MAIN_CONF} neither sets worker_rlimit_nofile nor includes {modules}, so nginx cannot be"
        f" given enough open files; write 'include {modules};' there"
    )
    own = f"worker_rlimit_nofile 5; {line} events {{ worker_connections 5; }}"
    assert raised(own, 9) == (own.replace("nofile 5", "nofile 18").replace("connections 5",
                              "connections 9"), True)  # fmt: skip


@pytest.mark.parametrize(("value", "said"), [("5 6", "'5 6'"), ("auto", "'auto'"), ("", "''")])
def test_what_is_no_number(value: str, said: str) -> None:
    text = CONF.replace(" 5", f" {value}" if value else "")
    assert refusal(text) == (f"{MAIN_CONF}: worker_connections is {said}, which is not a number")


@pytest.mark.parametrize(("there", "then"), [(8, 9), (9, 9), (10, 10)])
def test_only_a_smaller_number_is_raised(there: int, then: int) -> None:
    text = CONF.replace(" 5;", f" {there};")
    assert raised(text, 9) == (CONF.replace(" 5;", f" {then};"), False)


@pytest.mark.parametrize(
    "before",
    [
        '# a } comment { ; "',
        "log_format x '} { ; events';",
        'log_format x "} \\" { ; events";',
        "map $a $b { default 1; x '}'; }",
        "load_module a#b;\n;;",
        "http { server { listen 80; } }",
    ],
)
def test_words_are_told_as_nginx_tells_them(before: str) -> None:
    text = f"{before}\n{CONF}"
    assert raised(text, 9) == (text.replace(" 5;", " 9;"), False)


def test_words_may_be_quoted_and_close_together() -> None:
    text = "include '/etc/nginx/modules-enabled/*.conf';events{worker_connections\t\"5\";}#"
    assert raised(text, 9) == (text.replace('"5"', "9"), False)


def test_a_directive_is_a_value() -> None:
    [one] = module._directives("a { b c d; }")
    assert (one.blocks, one.words, one.start, one.end) == (("a",), ("b", "c", "d"), 6, 7)
    with pytest.raises(FrozenInstanceError):
        one.start = 0  # type: ignore[misc]
    [bare] = module._directives("{ daemon; }")
    assert (bare.blocks, bare.words, bare.start) == (("",), ("daemon",), 2)
