"""Files of SSH on this machine: what pyinfra would overlook in them is one sentence."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from vllm_hosts.connect import ssh_files
from vllm_hosts.connect.ssh_files import check_key, check_known_hosts, known_hosts, passphrase
from vllm_hosts.errors import HostError

KEY = Ed25519PrivateKey.generate()
PUBLIC = KEY.public_key().public_bytes(
    serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
)
LINE = f"gpu1 {PUBLIC.decode()}\n"


def host(**data: object) -> Any:
    return SimpleNamespace(data=data)


@pytest.fixture(autouse=True)
def new() -> None:
    ssh_files._unreadable.cache_clear()


def refused(file: Path) -> str:
    with pytest.raises(HostError) as error:
        check_known_hosts(file)
    return str(error.value)


class TestKnownHosts:
    def test_where_it_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/alice")
        assert known_hosts(host()) == Path("/home/alice/.ssh/known_hosts")
        assert known_hosts(host(ssh_known_hosts_file="")) == known_hosts(host())
        assert known_hosts(host(ssh_known_hosts_file="~/k")) == Path("/home/alice/k")
        assert known_hosts(host(ssh_known_hosts_file="/k")) == Path("/k")

    def test_one_that_can_be_read(self, tmp_path: Path) -> None:
        file = tmp_path / "known"
        # The first host's key is what makes it.
        check_known_hosts(file)
        file.write_text(LINE)
        check_known_hosts(file)

    def test_a_key_that_nobody_could_record(self, tmp_path: Path) -> None:
        file = tmp_path / "none/known"
        assert refused(file) == (
            f"the folder of {file} does not exist, so its key cannot be recorded; create the folder"
        )

    def test_one_that_is_no_file(self, tmp_path: Path) -> None:
        assert refused(tmp_path) == (
            f"{tmp_path}, with the keys of known hosts, cannot be read (Is a directory); make it"
            " readable, or name another file as ssh_known_hosts_file"
        )

    def test_a_key_that_is_cut_off(self, tmp_path: Path) -> None:
        file = tmp_path / "known"
        file.write_text(LINE + "gpu2 ssh-ed25519 AAAAC\n")
        said = refused(file)
        assert said.startswith(
            f"{file}, with the keys of known hosts, has a line that cannot be understood ("
        )
        assert said.endswith(": gpu2 ssh-ed25519 AAAAC); correct or remove that line")

    def test_what_is_no_text(self, tmp_path: Path) -> None:
        file = tmp_path / "known"
        file.write_bytes(b"\xff\xfe\n")
        said = refused(file)
        assert said.startswith(
            f"{file}, with the keys of known hosts, has a line that cannot be understood ('utf-8'"
        )
        assert said.endswith("); correct or remove that line")

    def test_it_is_read_once_as_long_as_it_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded: list[str] = []
        monkeypatch.setattr(ssh_files, "HostKeys", lambda: SimpleNamespace(load=loaded.append))
        file = tmp_path / "known"
        for text in ("a", "ab"):
            file.write_text(text)
            check_known_hosts(file)
            check_known_hosts(file)
        assert loaded == [str(file)] * 2
        file.chmod(0o600)
        check_known_hosts(file)
        file.unlink()
        check_known_hosts(file)
        assert len(loaded) == 4


class TestKey:
    """Without a terminal, where pyinfra would ask for ever."""

    @pytest.fixture(autouse=True)
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        is_one = [False]
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: is_one[0]))
        return is_one

    def written(self, file: Path, form: str, locked: bool) -> str:
        how: Any = (
            serialization.BestAvailableEncryption(b"word")
            if locked
            else serialization.NoEncryption()
        )
        formats = {
            "openssh": serialization.PrivateFormat.OpenSSH,
            "pem": serialization.PrivateFormat.PKCS8,
        }
        file.write_bytes(KEY.private_bytes(serialization.Encoding.PEM, formats[form], how))
        return str(file)

    @pytest.mark.parametrize("form", ["openssh", "pem"])
    def test_with_a_passphrase(self, tmp_path: Path, form: str, terminal: list[bool]) -> None:
        key = self.written(tmp_path / "id", form, locked=True)
        with pytest.raises(HostError) as error:
            check_key(host(ssh_key=key))
        assert str(error.value) == passphrase(key)
        # Who can be asked is asked, and who has said it is not.
        check_key(host(ssh_key=key, ssh_key_password="word"))
        terminal[0] = True
        check_key(host(ssh_key=key))

    @pytest.mark.parametrize("form", ["openssh", "pem"])
    def test_without_one(self, tmp_path: Path, form: str) -> None:
        check_key(host(ssh_key=self.written(tmp_path / "id", form, locked=False)))

    def test_in_the_home_of_who_runs_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        self.written(tmp_path / "id", "openssh", locked=True)
        with pytest.raises(HostError, match=r"^the SSH key ~/id has a passphrase"):
            check_key(host(ssh_key="~/id"))

    def test_what_pyinfra_says_itself(self, tmp_path: Path) -> None:
        (tmp_path / "odd").write_text("no key")
        for key in (None, "", str(tmp_path / "odd"), str(tmp_path / "gone"), str(tmp_path)):
            check_key(host(ssh_key=key))

    def test_the_ways_out(self) -> None:
        assert passphrase("/a b") == (
            "the SSH key /a b has a passphrase, and there is no terminal to type it on; add the key"
            " to an agent (ssh-add '/a b') and leave ssh_key out, or set ssh_key_password"
        )
