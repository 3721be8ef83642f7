"""nginx is asked about files that only it sees: which, and what becomes of its answer."""

from __future__ import annotations

import os
import subprocess
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from pyinfra.context import ctx_host, ctx_state

from tests.unit.fleets import fleet
from tests.unit.samples import settings
from vllm_hosts.errors import HostError
from vllm_hosts.host import paths
from vllm_hosts.host.files import Absent, Entry, File, Folder
from vllm_hosts.host.nginx import NGINX_FOLDER, TRIAL_FOLDER
from vllm_hosts.operations import edge_trial
from vllm_hosts.operations.differences import listening
from vllm_hosts.operations.edge_trial import configuration_accepted, sentences, trial
from vllm_hosts.roles.nginx.trial import trial_entries

LOGGED = "2026/11/26 08:00:00 [emerg] 12#12: "
#: They stand in for what needs a namespace: a mount is a copy, which ``nginx`` finds in ``sees``.
UNSHARE = '#!/bin/sh\n[ "$1 $2 $3" = "-m --propagation private" ] || exit 9\nshift 3; exec "$@"\n'
MOUNT = """#!/bin/sh
case $1 in
    --rbind) cp -a "$2/." "$3/" ;;
    --bind) rm -rf "$SEES"; cp -aL "$2" "$SEES"; [ "$3" = "$FOLDER" ] ;;
esac
"""
NGINX = """#!/bin/sh
echo "$*" >"$SEES.asked"
[ -z "$PID_MADE" ] || : >/run/nginx.pid
[ -z "$SAYS" ] || { echo "$SAYS" >&2; exit 1; }
"""


class Host:
    """A host's /etc/nginx, with programs that stand in for its own."""

    def __init__(self, folder: Path) -> None:
        self.nginx, self.sees, self.bin = folder / "nginx", folder / "sees", folder / "bin"
        self.nginx.mkdir()
        self.bin.mkdir()
        for name, text in (("unshare", UNSHARE), ("mount", MOUNT), ("nginx", NGINX)):
            self.program(name, text)
        for name in ("nginx.conf", "old.conf", "gone.conf"):
            (self.nginx / name).write_text(f"{name} of theirs")

    def program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def entries(self) -> list[Entry]:
        return [
            File(f"{self.nginx}/nginx.conf", b"ours"),
            File(f"{self.nginx}/conf.d/new.conf", b"new"),
            Absent(f"{self.nginx}/gone.conf"),
            Absent(f"{self.nginx}/never.conf"),
        ]

    def ask(self, entries: list[Entry], **environment: str) -> subprocess.CompletedProcess[str]:
        command = trial(entries, folder=str(self.nginx))
        lines = command.connector_arguments["_stdin"]
        assert isinstance(lines, list)
        search = f"{self.bin}:{os.environ['PATH']}"
        given = {"PATH": search, "SEES": str(self.sees), "FOLDER": str(self.nginx)} | environment
        text = "".join(f"{line}\n" for line in lines)
        return subprocess.run(
            ["sh", "-c", command.get_raw_value()], input=text, env=given, text=True,
            capture_output=True, check=False, timeout=30,
        )  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def result(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return done.returncode, done.stdout, done.stderr


def test_nginx_sees_the_files_among_what_is_there(host: Host) -> None:
    # Others have folders in /run meanwhile; this one's are noted.
    made = host.sees.with_name("made")
    host.program("mktemp", f'#!/bin/sh\n/usr/bin/mktemp "$@" | tee -a {made}')
    assert result(host.ask(host.entries())) == (0, "", "")
    seen = {
        str(path.relative_to(host.sees)): path.read_text()
        for path in host.sees.rglob("*")
        if path.is_file()
    }
    assert seen == {"nginx.conf": "ours", "conf.d/new.conf": "new",
                    "old.conf": "old.conf of theirs"}  # fmt: skip
    assert (host.sees / "vllm-hosts-trial").is_dir()
    assert Path(f"{host.sees}.asked").read_text() == f"-t -q -c {host.nginx}/nginx.conf\n"
    # Nothing has happened to the host's own.
    assert (host.nginx / "nginx.conf").read_text() == "nginx.conf of theirs"
    assert sorted(os.listdir(host.nginx)) == ["gone.conf", "nginx.conf", "old.conf"]
    folders = made.read_text().splitlines()
    assert folders and not any(Path(folder).exists() for folder in folders)


def test_files_alone_are_enough(host: Host) -> None:
    assert result(host.ask(host.entries()[:1])) == (0, "", "")
    assert (host.sees / "gone.conf").exists()


def test_what_nginx_refuses_is_said(host: Host) -> None:
    assert result(host.ask(host.entries(), SAYS="no")) == (1, "", "no\n")


@pytest.mark.skipif(Path("/run/nginx.pid").exists(), reason="needs a machine without nginx")
def test_an_empty_file_that_nginx_makes_goes_again(host: Host) -> None:
    host.ask(host.entries(), PID_MADE="yes")
    assert not Path("/run/nginx.pid").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unshare", "echo 'unshare: not permitted' >&2; exit 1"),
        ("unshare", "echo 'sh: 1: unshare: not found' >&2; exit 127"),
        ("mount", "echo 'mount: not permitted' >&2; exit 1"),
        ("mount", 'echo "$1" >&2; [ "$1" != --bind ]'),
    ],
)
def test_a_host_that_cannot_be_asked_so(host: Host, name: str, text: str) -> None:
    host.program(name, f"#!/bin/sh\n{text}\n")
    done = host.ask(host.entries())
    assert (done.returncode, done.stdout) == (1, "vllm-hosts-unasked\n")
    assert done.stderr


def test_its_sentences_are_told_once() -> None:
    lines = [f"{LOGGED}no", f"{LOGGED}no", "plain", "nginx: configuration x test failed"]
    assert sentences(lines) == "nginx: [emerg] no; plain"


class TestAnswer:
    def ask(
        self, monkeypatch: pytest.MonkeyPatch, accepted: bool, stdout: str, *errors: str
    ) -> list[str]:
        said: list[str] = []
        self.given: list[tuple[object, dict[str, object]]] = []

        def run(command: object, **given: object) -> tuple[bool, object]:
            self.given.append((command, given))
            return accepted, SimpleNamespace(stdout=stdout, stderr_lines=list(errors))

        monkeypatch.setattr(edge_trial, "say", said.extend)
        monkeypatch.setattr(edge_trial, "connector_options", lambda state, host: {"_sudo": 1})
        state: Any = SimpleNamespace()
        host: Any = SimpleNamespace(run_shell_command=run)
        operation: Any = configuration_accepted
        with ctx_state.use(state), ctx_host.use(host):
            assert list(operation._inner.__wrapped__(lambda: self.entries)) == []
        return said

    entries: tuple[Entry, ...] = (File("/etc/nginx/x", b"secret"),)

    def test_nothing_of_it_is_printed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask(monkeypatch, True, "", "x") == []
        [(command, given)] = self.given
        stdin = given.pop("_stdin")
        assert isinstance(stdin, list) and "secret" not in str(command)
        assert given == {"print_output": False, "print_input": False, "_sudo": 1}

    def test_without_files_nobody_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries = ()
        assert self.ask(monkeypatch, False, "") == [] == self.given

    def test_whoever_collects_differences_asks_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with listening():
            assert self.ask(monkeypatch, False, "") == [] == self.given

    def test_what_nginx_would_reject_fails_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(HostError) as caught:
            self.ask(monkeypatch, False, "out", f"{LOGGED}no\x1b")
        assert str(caught.value) == (
            "nginx would reject the edge's configuration: nginx: [emerg] no; change the setting or"
            " the file concerned ('nginx -T' on the host shows all files) and deploy again. The"
            " edge was not changed, and no image or model was fetched"
        )
        with pytest.raises(HostError, match="configuration: out; change"):
            self.ask(monkeypatch, False, "out")
        with pytest.raises(HostError) as caught:
            self.ask(monkeypatch, False, "", "y" * 9000)
        assert len(str(caught.value).split(": ")[1].split(" ...")[0].split(";")[0]) == 1500

    def test_a_host_that_cannot_be_asked_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.ask(monkeypatch, False, "vllm-hosts-unasked\n", "no") == [
            "nginx's configuration can be tested only once it is in place: no"
        ]


class TestWhatItAsksAbout:
    """The edge's files, beside a certificate for this alone."""

    def test_the_edge_s_files_and_no_other(self) -> None:
        places = (paths.TLS_FOLDER, paths.EDGE_LOGS, paths.GATEWAY_FOLDER)
        text = "".join(f"{place}/x {place}-2 " for place in places)
        edge = File(f"{NGINX_FOLDER}/edge.conf", text.encode(), 0o640, secret=False)
        kept: list[Entry] = [Folder(f"{NGINX_FOLDER}/a"), Absent(f"{NGINX_FOLDER}/b")]
        others: list[Entry] = [
            File("/etc/other", b""),
            Folder(f"{NGINX_FOLDER}-2"),
            Absent(NGINX_FOLDER),
        ]
        found, *same = trial_entries(settings(), [edge, *kept, *others])
        assert isinstance(found, File)
        assert (found.path, found.mode) == (edge.path, edge.mode)
        assert found.content.decode() == "".join(f"{TRIAL_FOLDER}/x {place}-2 " for place in places)
        assert same[:2] == kept
        assert [one.path for one in same[2:]] == [
            f"{TRIAL_FOLDER}/certificate.pem",
            f"{TRIAL_FOLDER}/key.pem",
        ]

    def test_a_certificate_of_a_day_with_its_key(self) -> None:
        certificate, key, *more = files(trial_entries(settings(), []))
        assert more == []
        assert judged(certificate, key) == ("192.0.2.11", "vllm-hosts local CA (trial)")
        assert (certificate.mode, certificate.secret) == (0o644, False)
        assert (key.mode, key.secret) == (0o600, True)

    def test_one_for_gateways_beside_it(self) -> None:
        found = files(trial_entries(fleet()["gpu1"], []))
        assert [one.path.rpartition("/")[2] for one in found] == [
            *("certificate.pem", "key.pem", "ca.pem", "inner.pem", "inner.key")
        ]
        assert {one.path.rpartition("/")[0] for one in found} == {TRIAL_FOLDER}
        ca, inner, key = found[2:]
        assert judged(inner, key) == ("trial", "vllm-hosts local CA (trial)")
        authority = x509.load_pem_x509_certificate(ca.content)
        x509.load_pem_x509_certificate(inner.content).verify_directly_issued_by(authority)
        assert {(one.mode, one.secret) for one in (ca, inner, key)} == {(0o600, True)}

    def test_the_user_s_own(self, tmp_path: Path) -> None:
        for name in ("certificate", "key"):
            (tmp_path / name).write_text(name)
        named = {name: str(tmp_path / name) for name in ("certificate", "key")}
        certificate, key = files(trial_entries(settings(tls={"mode": "files", **named}), []))
        assert (certificate.content, key.content) == (b"certificate", b"key")
        assert (certificate.secret, key.secret) == (False, True)


def files(entries: list[Entry]) -> list[File]:
    found = [one for one in entries if isinstance(one, File)]
    assert len(found) == len(entries)
    return found


def judged(certificate: File, key: File) -> tuple[object, object]:
    """Who it is for and from, if the key is its own and it lasts for a day."""
    found = x509.load_pem_x509_certificate(certificate.content)
    private = load_pem_private_key(key.content, password=None)
    assert private.public_key() == found.public_key()
    lasts = found.not_valid_after_utc - found.not_valid_before_utc
    assert timedelta(days=1) <= lasts < timedelta(days=1, hours=1)
    [subject], [issuer] = (
        name.get_attributes_for_oid(NameOID.COMMON_NAME) for name in (found.subject, found.issuer)
    )
    return subject.value, issuer.value
