"""What the hosts suite runs inside agents and on hosts to try their walls: on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from shlex import quote

from tests.unit.here import Here
from vllm_hosts.suite.test_docker import primary_keys
from vllm_hosts.suite.test_outward import _OUTWARD
from vllm_hosts.suite.test_walls import _HOLDERS, above


def test_what_opens_is_found_and_what_does_not_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        places = [list(one.getsockname()) for one in (server, free)]
        asked = json.dumps({"places": places, "name": None})
        done = subprocess.run(
            [sys.executable, "-I", "-c", _OUTWARD, asked],
            capture_output=True,
            text=True,
            check=True,
        )
    assert json.loads(done.stdout) == {"open": places[:1], "code": None}


def test_who_holds_which_key_without_the_key(tmp_path: Path) -> None:
    here = Here(tmp_path)
    said = "\n".join(
        [
            "/one PATH=/bin",
            "/one VLLM_API_KEY=secret-1",
            "",
            "/two VLLM_API_KEY=secret-2",
            "/three VLLM_API_KEY=secret-1",
            "/four VLLM_API_KEY=",
            "/five OTHER=VLLM_API_KEY=secret-1",
        ]
    )
    here.program("docker", f"case $1 in ps) echo id;; *) printf '%s\\n' {quote(said)};; esac")
    groups = sorted(here.check_output(_HOLDERS).split("\n"))
    assert [sorted(group.split()) for group in groups] == [["/one", "/three"], ["/two"]]


def test_the_folders_above_a_path() -> None:
    assert above("/var/lib/vllm") == ["/", "/var", "/var/lib"]


def test_every_primary_key_counts_and_no_subkey() -> None:
    listing = """pub:-:4096:1:AAAA:1:::-:::scSC::::::23::0:
fpr:::::::::0123AAAA:
uid:-::::1::X::someone::::::::::0:
sub:-:4096:1:BBBB:1::::::e::::::23:
fpr:::::::::0123BBBB:
pub:-:4096:1:CCCC:1:::-:::scSC::::::23::0:
fpr:::::::::0123CCCC:"""
    assert primary_keys(listing) == ["0123AAAA", "0123CCCC"]
