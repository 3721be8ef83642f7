"""What a machine that is both asks its own port for gateways, and what it makes of the answer."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from vllm_hosts.facts.base import sections
from vllm_hosts.host import inside
from vllm_hosts.host.paths import GATEWAY_CA, GATEWAY_CLIENT

AGENT = "qwen.h0123.vllm-hosts.internal"
#: An openssl that shows what it was given and asked, and answers what the test wrote.
OPENSSL = """#!/bin/sh
here=${0%/*}
printf '%s\\n' "$@" > "$here/words"
cat > "$here/asked"
cat "$here/answer"
cat "$here/problem" >&2
"""


class Machine:
    """A machine with a stand-in for openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.own = folder, folder / "client.pem"
        self.own.write_text("")
        self.answers(b"")
        openssl = folder / "openssl"
        openssl.write_text(OPENSSL)
        openssl.chmod(0o755)

    def answers(self, data: bytes, problem: str = "") -> None:
        (self.folder / "answer").write_bytes(data)
        (self.folder / "problem").write_text(problem)

    def asks(self, path: str = "/v1/models", body: str = "") -> dict[str, list[str]]:
        script = inside.script(
            AGENT, 8443, path, body, "controller", ca="/the ca.pem", own=str(self.own)
        )
        done = subprocess.run(
            ["sh", "-c", script],
            env={"PATH": f"{self.folder}:/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        return sections(done.stdout.splitlines())

    @property
    def asked(self) -> bytes:
        return (self.folder / "asked").read_bytes()

    @property
    def words(self) -> list[str]:
        return (self.folder / "words").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_question_without_a_body(machine: Machine) -> None:
    machine.asks()
    assert machine.asked == (
        b"GET /v1/models HTTP/1.1\r\n"
        b"Host: qwen.h0123.vllm-hosts.internal\r\n"
        b"X-Vllm-Hosts-Client: controller\r\n"
        b"Connection: close\r\n"
        b"\r\n"
    )


def test_a_question_with_one(machine: Machine) -> None:
    body = '{"prompt": "it\'s $(id) 100%s \\n"}'
    machine.asks("/v1/completions", body)
    assert machine.asked == (
        b"POST /v1/completions HTTP/1.1\r\n"
        b"Host: qwen.h0123.vllm-hosts.internal\r\n"
        b"X-Vllm-Hosts-Client: controller\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: %d\r\n"
        b"Connection: close\r\n"
        b"\r\n%s" % (len(body), body.encode())
    )


def test_a_body_is_counted_in_bytes() -> None:
    with pytest.raises(ValueError, match="a length is counted in bytes"):
        inside.script(AGENT, 8443, "/", '{"prompt": "ä"}', "controller")


def test_who_answers_has_to_prove_that_it_is_the_agent(machine: Machine) -> None:
    """Or whoever listens there could answer that the machine is well."""
    machine.asks()
    words = machine.words
    assert words[:4] == ["s_client", "-quiet", "-verify_quiet", "-verify_return_error"]
    given = dict(zip(words[4::2], words[5::2], strict=True))
    assert given == {
        "-connect": "127.0.0.1:8443",
        "-servername": AGENT,
        "-verify_hostname": AGENT,
        "-CAfile": "/the ca.pem",
        "-cert": str(machine.own),
        "-key": str(machine.own),
    }


def test_it_asks_with_what_the_machine_has_as_a_gateway() -> None:
    script = inside.script(AGENT, 8443, "/", "", "controller")
    assert f"-CAfile {GATEWAY_CA} -cert {GATEWAY_CLIENT} -key {GATEWAY_CLIENT} " in script
    assert f"timeout {inside.PATIENCE} openssl" in script
    assert inside.PATIENCE == 60


def test_an_answer(machine: Machine) -> None:
    body = bytes(range(256)) + b"\r\n\r\n== end\n"
    machine.answers(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n" + body)
    found = inside.answer(machine.asks())
    assert (found.status, found.headers, found.body) == (200, {}, body)


def test_an_answer_is_read_although_openssl_complains_of_something(machine: Machine) -> None:
    machine.answers(b"HTTP/1.1 503 No\r\n\r\n", "Connection refused, once\n")
    assert inside.answer(machine.asks()).status == 503


def test_an_answer_without_an_end_is_cut_off(machine: Machine) -> None:
    machine.answers(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 100_000)
    assert len(inside.answer(machine.asks()).body) == 65536 - len(b"HTTP/1.1 200 OK\r\n\r\n")


def test_no_gateway_yet(machine: Machine) -> None:
    machine.own.unlink()
    parts = machine.asks()
    assert not (machine.folder / "asked").exists()
    with pytest.raises(ConnectionRefusedError, match=r"^it is no gateway yet$"):
        inside.answer(parts)


@pytest.mark.parametrize("problem", ["connect: Connection refused\n", "BIO_connect:errno=111\n"])
def test_nobody_listens_yet(machine: Machine, problem: str) -> None:
    machine.answers(b"", f"first\n{problem}last")
    with pytest.raises(ConnectionRefusedError, match=r"^its port for gateways is closed: last$"):
        inside.answer(machine.asks())


@pytest.mark.parametrize(
    ("data", "problem", "said"),
    [
        (b"", "verify error:num=20\n", "verify error:num=20"),
        (b"", "a\nverify \x1b[2Jerror\n", r"verify error"),
        (b"", "x" * 300, "x"),
        (b"", "", "nothing"),
        (b"SSH-2.0-x\r\n\r\n", "", "nothing"),
        (b"xHTTP/1.1 200 OK\r\n\r\n", "", "nothing"),
        (b"HTTP/1.1 099 OK\r\n\r\n", "", "nothing"),
        (b"HTTP/1.1 200", "", "nothing"),
        (b"HTTP/1.1 2000 OK", "", "nothing"),
    ],
)
def test_what_is_no_answer(machine: Machine, data: bytes, problem: str, said: str) -> None:
    """It is not for one: a host whose port is somebody else's is not well."""
    machine.answers(data, problem)
    with pytest.raises(OSError, match=r"^its port for gateways answers ") as error:
        inside.answer(machine.asks())
    assert not isinstance(error.value, ConnectionRefusedError)
    assert said in str(error.value)
    assert "\x1b" not in str(error.value)
    assert len(str(error.value)) < 260


def test_what_the_script_did_not_print_is_an_error() -> None:
    with pytest.raises(KeyError):
        inside.answer({})
    for data in (b"HTTP/1.1 200 OK", b"\xff"):
        with pytest.raises(ValueError, match=r"base64|Only|padding"):
            inside.answer({"said": [f"answer {b64encode(data).decode()}!"]})
