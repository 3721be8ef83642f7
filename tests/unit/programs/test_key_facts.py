"""Whose keys a host has, and which certificates: what its shell says of them, and what it keeps."""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END, HostFact
from vllm_hosts.facts.mark import HostMark
from vllm_hosts.facts.tls import GatewayCertificate, HostCertificate
from vllm_hosts.host import paths
from vllm_hosts.host.certificates import Certificate
from vllm_hosts.keys.store_marks import Marked


def said(script: str) -> str:
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


# The mark of a store, or else what its keys come to.


class Marks:
    """A host's folders, below one of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.agents = folder, folder / "it's agents"
        self.mark, self.edge = folder / "store", folder / "edge"
        self.certificate = folder / "certificate.pem"
        self.edge.mkdir()
        self.agents.mkdir()

    def output(self) -> str:
        script = HostMark().command(str(self.agents))
        for path, here in (
            (paths.STORE_MARK, self.mark),
            (paths.TLS_CERTIFICATE, self.certificate),
            (paths.EDGE_FOLDER, self.edge),
        ):
            assert path in script
            script = script.replace(path, str(here))
        return said(script)

    def seen(self) -> Marked:
        return HostMark().process(self.output().splitlines())


@pytest.fixture
def marks(tmp_path: Path) -> Marks:
    return Marks(tmp_path)


USER = str(os.getuid())


def test_a_host_that_nobody_has_set_up(marks: Marks) -> None:
    marks.agents.rmdir()
    marks.edge.rmdir()
    assert marks.seen() == Marked(None, user=USER)


def test_a_mark(marks: Marks) -> None:
    marks.mark.write_text('{"store": 1}\nsecond\n')
    marks.mark.chmod(0o640)
    found = marks.seen()
    assert (found.text, found.user) == ('{"store": 1}\nsecond', USER)
    assert (found.file.kind, found.file.mode, found.file.owner[1]) == ("f", 0o640, USER)
    assert (found.certificate, found.digests) == (None, frozenset())


def test_beside_a_mark_no_key_is_looked_at(marks: Marks) -> None:
    """Whatever a mark says, and whether it can be read: it decides alone."""
    marks.certificate.write_text("x")
    (marks.edge / "clients.map").write_text('"Bearer one" "a";\n')
    (marks.agents / ".env").write_text("VLLM_API_KEY=two\n")
    marks.mark.write_text("")
    assert "== digests" not in marks.output()
    assert marks.seen().text == ""
    marks.mark.unlink()
    marks.mark.mkdir()
    found = marks.seen()
    assert (found.text, found.file.kind, found.digests) == ("", "d", frozenset())


def test_a_mark_without_an_end_is_cut_off(marks: Marks) -> None:
    marks.mark.write_text("x" * 100_000)
    assert marks.seen().text == "x" * 2000


def test_without_a_mark_digests_of_keys_say_whose_they_are(marks: Marks) -> None:
    (marks.edge / "clients.map").write_text(
        '# "Bearer no" 1;\n"Bearer one two" "alice";\n  "Bearer indented" "x";\nBearer three\n'
        '"Bearer four" "b";\n'
    )
    (marks.agents / ".env").write_text(
        "VLLM_API_KEY=five\nVLLM_API_KEY_A2=six=6\nHF_TOKEN=no\nXVLLM_API_KEY=no\n#VLLM_API_KEY=no\n"
    )
    marks.certificate.write_text("-----BEGIN\nx\n-----END\n")
    found = marks.seen()
    assert found == Marked(
        None,
        certificate=b"-----BEGIN\nx\n-----END\n",
        digests=frozenset(map(digest, ["Bearer one two", "Bearer four", "five", "six=6"])),
        own=frozenset(map(digest, ["five", "six=6"])),
        user=USER,
    )


def test_no_key_leaves_the_host(marks: Marks) -> None:
    (marks.edge / "clients.map").write_text('"Bearer secret-one" "alice";\n')
    (marks.agents / ".env").write_text("VLLM_API_KEY=secret-two\n")
    assert "secret" not in marks.output()


def test_one_kind_of_keys_without_the_other(marks: Marks) -> None:
    (marks.edge / "clients.map").write_text('"Bearer one" "alice";\n')
    marks.agents.rmdir()
    assert marks.seen().digests == {digest("Bearer one")}
    (marks.edge / "clients.map").unlink()
    marks.edge.rmdir()
    marks.agents.mkdir()
    (marks.agents / ".env").write_text("VLLM_API_KEY=two\n")
    assert marks.seen().digests == {digest("two")}


def test_a_large_host_is_known_by_its_first_keys(marks: Marks) -> None:
    lines = [f'"Bearer {n}" "c{n}";\n' for n in range(300)]
    (marks.edge / "clients.map").write_text("".join(lines))
    assert marks.seen().digests == {digest(f"Bearer {n}") for n in range(200)}
    marks.certificate.write_text("c" * 50_000)
    assert marks.seen().certificate == b"c" * 20_000 + b"\n"


# Certificates: the public half of a key, and never the key.


def openssl(*words: str) -> str:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=True)
    return done.stdout


@dataclass
class Pair:
    certificate: Path
    key: Path
    public: bytes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
    openssl("req", "-x509", *made, "-keyout", str(key), "-out", str(certificate))
    return Pair(certificate, key, openssl("pkey", "-in", str(key), "-pubout").encode())


FACTS = [HostCertificate, GatewayCertificate]


def seen(fact: HostFact[Certificate], certificate: Path, key: Path) -> Certificate:
    output = said(str(fact.command(str(certificate), str(key))))
    assert "PRIVATE" not in output
    return fact.process(output.splitlines())


@pytest.mark.parametrize("kind", FACTS)
def test_a_certificate_and_the_public_half_of_its_key(
    pair: Pair, kind: type[HostCertificate]
) -> None:
    assert seen(kind(), pair.certificate, pair.key) == Certificate(
        pair.certificate.read_bytes(), pair.public
    )


@pytest.mark.parametrize("kind", FACTS)
def test_one_without_the_other(pair: Pair, tmp_path: Path, kind: type[HostCertificate]) -> None:
    absent = tmp_path / "absent"
    assert seen(kind(), absent, absent) == Certificate(None, None)
    assert seen(kind(), pair.certificate, absent) == Certificate(
        pair.certificate.read_bytes(), None
    )
    assert seen(kind(), absent, pair.key) == Certificate(None, pair.public)


def test_a_chain_is_read_as_it_is(pair: Pair, tmp_path: Path) -> None:
    chain = tmp_path / "chain.pem"
    chain.write_bytes(pair.certificate.read_bytes() * 2)
    assert seen(HostCertificate(), chain, pair.key) == Certificate(chain.read_bytes(), pair.public)


def test_a_key_in_the_certificate_s_own_file_stays_there(pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
    assert seen(GatewayCertificate(), both, both) == Certificate(
        pair.certificate.read_bytes(), pair.public
    )


@pytest.mark.parametrize("kind", FACTS)
def test_what_openssl_says_instead_is_no_absent_key(kind: type[HostCertificate]) -> None:
    """For which another one would be made, and clients that know the old one be left alone."""
    lines = ["== certificate", "== public key", "Could not read" + "x" * 300, END]
    with pytest.raises(HostError, match="openssl pkey says b'Could not read") as error:
        kind().process(lines)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("fact", "what"),
    [
        (HostMark(), "the note of whose keys the host has"),
        (HostCertificate(), "the edge's certificate"),
        (GatewayCertificate(), "the certificate between gateways and hosts"),
    ],
)
def test_an_answer_that_is_cut_short_says_of_what(fact: HostFact[object], what: str) -> None:
    assert fact.steady
    with pytest.raises(HostError, match=f"^{what} could not be read: the answer was cut short$"):
        fact.process(["== certificate"])
