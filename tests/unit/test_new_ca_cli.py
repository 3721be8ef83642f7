"""`vllm-hosts keys new-ca`, from its question to its end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest
from cryptography import x509

from tests.stores import made
from tests.unit.ca_change import PROD
from tests.unit.projects import BIN, Project
from vllm_hosts.keys import KeyStore


@pytest.fixture(params=["plain", "encrypted"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.environment = {"HOME": str(tmp_path)}
    made(KeyStore(tmp_path / PROD))
    KeyStore(tmp_path / PROD).local_ca()
    if request.param == "encrypted":
        key = pyrage.x25519.Identity.generate()
        (tmp_path / "identity").write_text(str(key))
        (tmp_path / "identity").chmod(0o600)
        project.environment["VLLM_HOSTS_IDENTITY"] = str(tmp_path / "identity")
        done = project.run("vllm-hosts", "keys", "init", PROD)
        assert done.returncode == 0, done.stdout
    return project


class TestCommand:
    def test_it_asks(self, project: Project) -> None:
        file = project.folder / "inventory/.vllm-hosts/prod/ca.pem"
        before = file.read_bytes()
        done = project.run("vllm-hosts", "keys", "new-ca", PROD)
        assert done.returncode == 2
        assert (
            "confirmation is needed, and there is no terminal to ask on; nothing was changed"
            in done.stdout
        )
        assert file.read_bytes() == before
        with project.terminal("vllm-hosts", "keys", "new-ca", PROD) as terminal:
            terminal.wait_for("Create a new CA for inventory/prod.py?")
            terminal.type("n\n")
            assert terminal.wait() == 1
        assert file.read_bytes() == before

    def test_it_does_not_ask_about_what_cannot_be_done(self, project: Project) -> None:
        for option in ("--cancel", "--finish"):
            done = project.run("vllm-hosts", "keys", "new-ca", PROD, option)
            assert done.returncode == 1
            assert "no new CA is about to take over" in done.stdout
        assert project.run("vllm-hosts", "keys", "new-ca", PROD, "-y").returncode == 0
        done = project.run("vllm-hosts", "keys", "new-ca", PROD)
        assert done.returncode == 1
        assert "a new CA was already created on" in done.stdout
        project.write("inventory/new.py", "gpu_hosts = ['192.0.2.1']")
        done = project.run("vllm-hosts", "keys", "new-ca", "inventory/new.py")
        assert done.returncode == 1
        assert "there is no CA to replace yet" in done.stdout
        assert "Every client" not in done.stdout

    def test_from_its_beginning_to_its_end(self, project: Project) -> None:
        def keys(*words: str) -> str:
            done = project.run("vllm-hosts", "keys", "new-ca", PROD, *words)
            assert done.returncode == 0, done.stdout
            return done.stdout

        file = project.folder / "inventory/.vllm-hosts/prod/ca.pem"
        before = file.read_text()
        by = f"{datetime.now(UTC) + timedelta(days=7):%Y-%m-%d}"
        said = keys("--yes", "--overlap", "7d")
        assert f"They have until {by}" in said
        assert f"1. Now: give every client {file}, which holds both CAs" in said
        assert "pyinfra -y inventory/prod.py deploy.py" in said
        assert file.read_text().startswith(before)
        printed = project.run("vllm-hosts", "ca", PROD).stdout
        assert printed.startswith(file.read_text())
        assert f"clients need this file by {by}" in printed
        shown = project.run("vllm-hosts", "endpoints", PROD).stdout
        assert f"{file} (includes the new CA: give it to clients by {by}" in shown
        done = project.run("vllm-hosts", "keys", "new-ca", PROD, "--yes")
        assert done.returncode == 1
        assert "keys new-ca inventory/prod.py --finish" in done.stdout
        file.write_text(before)
        shown = project.run("vllm-hosts", "endpoints", PROD).stdout
        assert f"write it again: {BIN}" in shown or "write it again: vllm-hosts ca" in shown
        assert "To give hosts certificates from the new CA, run" in keys("--finish", "-y")
        assert len(x509.load_pem_x509_certificates(file.read_bytes())) == 2
        assert "holds only the new CA" in keys("--finish", "-y")
        assert len(x509.load_pem_x509_certificates(file.read_bytes())) == 1
        assert file.read_text() not in before
        assert "withdrawn" in (keys("--yes"), keys("--cancel", "--yes"))[1]

    @pytest.mark.parametrize(
        ("words", "code", "sentence"),
        [
            (["--finish", "--cancel"], 2, "choose one"),
            (["--finish", "--yes"], 1, "create one with: vllm-hosts keys new-ca inventory/prod.py"),
            (["--cancel", "--yes"], 1, "no new CA is about to take over"),
            (["--overlap", "soon"], 2, "write it as 90m, 24h or 30d"),
        ],
    )
    def test_mistakes(self, project: Project, words: list[str], code: int, sentence: str) -> None:
        done = project.run("vllm-hosts", "keys", "new-ca", PROD, *words)
        assert (done.returncode, sentence in done.stdout) == (code, True), done.stdout


def test_where_there_is_no_ca_yet(tmp_path: Path) -> None:
    project = Project(tmp_path)
    done = project.run("vllm-hosts", "keys", "new-ca", PROD, "--yes")
    assert done.returncode == 1
    assert "there is no CA to replace yet; the first deploy creates one" in done.stdout
