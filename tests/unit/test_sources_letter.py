"""Secrets from elsewhere, one host's part of a store, and stores beside one, to the letter."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.stores import made
from tests.unit.samples import settings
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, age, beside, sources
from vllm_hosts.keys.host_keys import ClientKey, HostKeys, client_keys, host_keys
from vllm_hosts.keys.pki import utc_now
from vllm_hosts.keys.store_content import add_client, new_content, with_internal
from vllm_hosts.settings.sections import Secrets

KEY = "a-key-that-has-enough-characters-0123456789"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sources, "_taken", {})
    sources._from_command.cache_clear()
    yield
    sources._from_command.cache_clear()


def problem(do: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as found:
        do()
    [sentence] = found.value.problems
    return sentence


def value(found: SecretStr | None) -> str | None:
    return found.get_secret_value() if found else None


BOTH = pytest.mark.parametrize(
    ("name", "read"),
    [("internal_key", sources.internal_key), ("hf_token", sources.hf_token)],
)


class TestKeys:
    @BOTH
    def test_from_a_variable_or_a_command_or_nowhere(
        self, name: str, read: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GIVEN", KEY)
        assert read(settings()) is None
        assert value(read(settings(secrets={f"{name}_env": "GIVEN"}))) == KEY
        command = f"printf ' {KEY}x \\r\\nnot this\\n'"
        assert value(read(settings(secrets={f"{name}_command": command}))) == f"{KEY}x"

    @BOTH
    @pytest.mark.parametrize("given", [None, "", "with space", "a\nb"])
    def test_a_variable_that_has_none(
        self, name: str, read: Any, given: str | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("GIVEN", raising=False)
        if given is not None:
            monkeypatch.setenv("GIVEN", given)
        host = settings(secrets={f"{name}_env": "GIVEN"})
        said = problem(lambda: read(host))
        how = "empty" if given == "" else "not set"
        if not given:
            assert said == (
                f"secrets.{name}_env names the environment variable GIVEN, which is {how}; export"
                " it, or remove the setting"
            )
        else:
            assert said == (
                f"secrets.{name}_env: the value of GIVEN has spaces, line breaks or other"
                " characters that a key cannot have; export it without them"
            )
        # All of that is known before a command runs.
        assert list(sources.problems(host)) == [said]

    def test_a_command_runs_once_and_its_output_is_not_shown(self, tmp_path: Path) -> None:
        host = settings(secrets={"hf_token_command": f"echo {KEY}; echo x >>{tmp_path}/ran"})
        assert value(sources.hf_token(host)) == value(sources.hf_token(host)) == KEY
        assert (tmp_path / "ran").read_text() == "x\n"
        assert list(sources.problems(host)) == []

    @pytest.mark.parametrize(
        ("command", "words"),
        [
            ("sh -c 'exit 3'", "sh ended with 3; see its output above"),
            ("printf 'a b'", "printf printed no key in its first line (its output is not shown)"),
            ("true", "true printed no key in its first line (its output is not shown)"),
        ],
    )
    def test_a_command_that_gives_none(self, command: str, words: str) -> None:
        host = settings(secrets={"hf_token_command": command})
        said = problem(lambda: sources.hf_token(host))
        assert said == f"secrets.hf_token_command: {words}"

    def test_a_command_that_does_not_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert sources._TIMEOUT == 120
        monkeypatch.setattr(sources, "_TIMEOUT", 0.1)
        host = settings(secrets={"internal_key_command": "exec sleep 5"})
        assert problem(lambda: sources.internal_key(host)) == (
            "secrets.internal_key_command: exec did not finish within 0.1 s"
        )

    def test_nothing_of_it_is_wrong_where_nothing_is_set(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert list(sources.problems(settings())) == []
        monkeypatch.setenv("GIVEN", KEY)
        given = {f"{name}_env": "GIVEN" for name in ("internal_key", "hf_token", "sudo_password")}
        assert list(sources.problems(settings(secrets=given))) == []
        monkeypatch.delenv("GIVEN")
        names = [line.split()[0] for line in sources.problems(settings(secrets=given))]
        assert names == [f"secrets.{name}" for name in given]


class TestPassword:
    def password(self, **given: str) -> Any:
        found = sources.sudo_password(Secrets(**given))
        return found and (found[0].get_secret_value(), found[1])

    def test_without_a_source(self) -> None:
        assert self.password() is None
        assert sources.taken() == {}

    def test_a_variable_leaves_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PASS", " p w ")
        for _ in range(2):
            assert self.password(sudo_password_env="PASS") == (
                " p w ", "from secrets.sudo_password_env, PASS",
            )  # fmt: skip
        assert "PASS" not in os.environ
        assert sources.taken() == {"PASS": " p w "}
        # It is not missed then.
        assert list(sources.problems(settings(secrets={"sudo_password_env": "PASS"}))) == []

    @pytest.mark.parametrize("given", ["two\nlines", "x" * 256, "\x7f"])
    def test_what_sudo_would_not_read_whole(
        self, given: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PASS", given)
        assert problem(lambda: self.password(sudo_password_env="PASS")) == (
            "secrets.sudo_password_env: the value of PASS has line breaks or other characters that"
            " a password cannot have; export it without them"
        )
        monkeypatch.setenv("PASS", "x" * 255)
        assert self.password(sudo_password_env="PASS")[0] == "x" * 255

    def test_a_command_s_first_line_is_taken_as_it_is(self) -> None:
        assert self.password(sudo_password_command="printf ' p w \\r\\nx'") == (
            " p w ", "from secrets.sudo_password_command",
        )  # fmt: skip
        said = problem(lambda: self.password(sudo_password_command="echo"))
        assert said == (
            "secrets.sudo_password_command: echo printed no password in its first line (its output"
            " is not shown)"
        )


class TestHostKeys:
    def test_an_agent_s_key_reveals_no_other(self) -> None:
        keys = HostKeys(SecretStr("internal"), (), None)
        made = hmac.new(b"internal", b"vllm-hosts agent qwen", hashlib.sha256).digest()
        expected = base64.urlsafe_b64encode(made).decode().rstrip("=")
        found = keys.internal_of("qwen").get_secret_value()
        assert found == expected and len(found) == 43
        assert keys.renew_since is None
        with pytest.raises(FrozenInstanceError):
            keys.hf_token = None  # type: ignore[misc]

    def test_what_one_host_gets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = utc_now()
        content = with_internal(new_content(now), ["gpu1"], now)
        renew = now - timedelta(days=1)
        content = content.model_copy(update={"renew": {"gpu1": renew}})
        found = host_keys(content, settings())
        assert found.internal == content.internal["gpu1"].value
        assert (found.hf_token, found.renew_since) == (None, renew)
        assert [one.client for one in found.clients] == ["default"]
        monkeypatch.setenv("GIVEN", KEY)
        given = {"internal_key_env": "GIVEN", "hf_token_env": "GIVEN"}
        found = host_keys(content, settings(secrets=given))
        assert (value(found.internal), value(found.hf_token)) == (KEY, KEY)

    def test_clients_with_what_they_may(self) -> None:
        now = utc_now()
        content = add_client(new_content(now), "bob", now, agents=("qwen",), hosts=("gpu1",))
        [bob] = [one for one in client_keys(content, "gpu1") if one.client == "bob"]
        assert bob == ClientKey("bob", content.clients["bob"].keys[0].value, None, ("qwen",))
        assert [one.client for one in client_keys(content, "gpu2")] == ["default"]
        with pytest.raises(FrozenInstanceError):
            bob.agents = None  # type: ignore[misc]


class TestBeside:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "inventory").mkdir(mode=0o755)
        monkeypatch.chdir(tmp_path)
        return tmp_path / "inventory"

    def store(self, folder: Path, name: str) -> KeyStore:
        found = KeyStore(folder / f"{name}.py")
        made(found)
        return found

    def test_other_stores_that_can_be_opened(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prod, test = self.store(folder, "prod"), self.store(folder, "test")
        assert [(one.name, content.id) for one, content in beside.stores_beside(prod)] == [
            ("test", test.read().id)
        ]
        # One that is damaged, encrypted to somebody else, or open to others.
        damaged, open_ = self.store(folder, "damaged"), self.store(folder, "open")
        damaged.plain_path.write_text("{")
        open_.plain_path.chmod(0o644)
        keys = folder.parent / "keys"
        keys.mkdir(mode=0o755)
        (keys / "theirs.age").write_bytes(b"age-encryption.org/v1\nx")
        monkeypatch.setenv(age.IDENTITY_ENV, "/none")
        assert [one.name for one, _ in beside.stores_beside(prod)] == ["test"]
        # Without an identifier it has the one that hosts know.
        test.update(lambda content: content.model_copy(update={"id": None}))
        [(_, content)] = beside.stores_beside(prod)
        assert content.id

    def test_one_that_is_gone_meanwhile(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prod = self.store(folder, "prod")
        self.store(folder, "test")
        monkeypatch.setattr(KeyStore, "peek", lambda self: None)
        assert list(beside.stores_beside(prod)) == []

    def test_an_encrypted_one_by_its_name(self, folder: Path) -> None:
        prod = self.store(folder, "prod")
        self.store(folder, "plain")
        keys = folder.parent / "keys"
        keys.mkdir(mode=0o755)
        for name in ("prod", "test", ".x"):
            (keys / f"{name}.age").touch()
        found = beside.named_beside(prod, "test")
        assert found is not None and found.encrypted_path == keys / "test.age"
        for name in ("prod", "plain", "none", "../test", ".x", "", "a/b"):
            assert beside.named_beside(prod, name) is None

    def test_whose_it_is(self, folder: Path) -> None:
        assert beside.inventory_of(self.store(folder, "prod")) == folder / "prod.py"

    def test_what_to_type_to_move_it(self, folder: Path) -> None:
        old, new = KeyStore(folder / "old.py"), KeyStore(folder / "new.py")
        assert beside.moved(old, new) == ""
        made(old)
        plain = "mv inventory/.vllm-hosts/old inventory/.vllm-hosts/new"
        assert beside.moved(old, new) == plain
        keys = folder.parent / "keys"
        keys.mkdir(mode=0o755)
        old.encrypted_path.touch()
        old.recipients_path.touch()
        new.encrypted_path.touch()
        (keys / "new.age.unused1").touch()
        assert beside.moved(old, new).split(" && ") == [
            plain,
            "mv keys/new.age keys/new.age.unused2",
            "mv keys/old.age keys/new.age",
            "mv keys/old.recipients keys/new.recipients",
        ]

    def test_paths_are_shown_as_a_shell_takes_them(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert beside.shown(folder / "a b") == "'inventory/a b'"
        monkeypatch.chdir(folder)
        assert beside.shown(folder.parent / "x") == str(folder.parent / "x")
