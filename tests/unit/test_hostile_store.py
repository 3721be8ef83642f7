"""A store that is damaged, or a colleague's: a sentence, and nothing in it reaches a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pyrage
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings

from tests.unit import hostile
from tests.unit.examples import examples
from tests.unit.projects import Project
from vllm_hosts.cli.main import main
from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import KeyStore, age, store_content
from vllm_hosts.keys.hosts import with_host
from vllm_hosts.keys.store_content import DeployedHost, new_content

NOW = datetime(2026, 11, 26, tzinfo=UTC)
#: What reads a store, and what changes one.
COMMANDS = (
    ("keys", "list"),
    ("keys", "list", "--json"),
    ("keys", "list", "--names"),
    ("keys", "show", "--force", "default"),
    ("keys", "rotate", "default"),
    ("keys", "extend", "default", "--expires", "1d"),
    ("keys", "revoke", "default"),
    ("keys", "add", "bob"),
    ("keys", "rotate-internal"),
    ("keys", "recipients", "list"),
    ("hosts", "list"),
    ("hosts", "list", "--json"),
    ("hosts", "release", "gone"),
    ("endpoints",),
    ("check",),
    ("ca",),
)


class Site:
    """An inventory of one host, with a store of keys beside it."""

    def __init__(self, folder: Path) -> None:
        project = Project(folder)
        self.inventory = project.folder / "inventory/prod.py"
        for place in (folder, folder / "inventory"):
            place.chmod(0o755)
        self.store = KeyStore(self.inventory)
        content = new_content(NOW)
        content = store_content.add_client(content, "bob", NOW, agents=["one"], hosts=["gpu1"])
        content = store_content.with_internal(content, ["192.0.2.1", "gone"], NOW)
        gone = DeployedHost(data={"ssh_user": "root"}, agents=("one",))
        self.store.update(lambda _: with_host(content, "gone", gone), start=content)
        self.store.local_ca()
        self.sound = json.loads(self.store.plain_path.read_text())

    def type(self, words: tuple[str, ...]) -> Result:
        at = 2 if words[0] in ("keys", "hosts") else 1
        at += "recipients" in words
        return CliRunner().invoke(main, [*words[:at], str(self.inventory), *words[at:]])

    def judge(self, done: Result) -> None:
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        for line in done.output.split("\n"):
            assert not hostile.evil(line), line


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("HOME", str(folder))
        patch.delenv(age.IDENTITY_ENV, raising=False)
        yield Site(folder)


_TIMES = ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "2026-11-26T00:00:00+23:59", "now", 0)


def changed(random: Random, value: Any) -> Any:
    """A store with something else in one place: of its kind, or anything."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(list(value))
        if random.random() < 0.1:
            return value | {hostile.word(random): value[key]}
        return value | {key: changed(random, value[key])}
    if isinstance(value, list) and value and random.random() < 0.8:
        return [*value[:-1], changed(random, value[-1])]
    if isinstance(value, str) and value[:2] == "20":
        return random.choice(_TIMES)
    if isinstance(value, str | None) and random.random() < 0.5:
        return hostile.word(random) if value else [hostile.word(random)]
    return hostile.odd(random, value)


@settings(max_examples=examples(25), deadline=None)
@given(random=hostile.seeds)
def test_a_store_that_holds_anything(site: Site, random: Random) -> None:
    content = json.dumps(changed(random, site.sound)).encode()
    if random.random() < 0.2:
        at = random.randrange(len(content))
        content = content[:at] + random.randbytes(random.randint(0, 3)) + content[at + 1 :]
    site.store.plain_path.write_bytes(content)
    site.judge(site.type(random.choice(COMMANDS)))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("clients", "bob", "agents"), ["\x1b]0;owned\x07"]),
        (("clients", "bob", "hosts"), ["gpu1\nforged"]),
        (("clients", "bob", "keys"), []),
        (("clients", "bob", "created"), "0001-01-01T00:00:00+14:00"),
        (("hosts", "gone", "data"), {"ssh_user": "\x1b[2J"}),
        (("internal", "\u202egone"), None),
        (("ca",), {"certificate": "\x1b]0;owned\x07", "key": "x"}),
    ],
)
def test_names_and_times_that_no_store_of_ours_has(
    site: Site, place: tuple[str, ...], value: object
) -> None:
    content = json.loads(json.dumps(site.sound))
    part = content
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value or content["internal"]["gone"] if value is None else value
    site.store.plain_path.write_text(json.dumps(content))
    with pytest.raises(SettingsError, match=r"keys\.json is damaged; restore it from a backup"):
        site.store.read()


def test_a_newer_version_s_store_is_not_called_damaged(site: Site) -> None:
    for version, said in (
        (2, "was written by a newer vllm-hosts .format 2, and this one knows 1.; install"),
        (0, "is damaged"), ("2", "is damaged"), (None, "is damaged"),
    ):  # fmt: skip
        site.store.plain_path.write_text(json.dumps(site.sound | {"version": version, "new": 1}))
        with pytest.raises(SettingsError, match=rf"keys\.json {said}"):
            site.store.read()


def test_a_duration_has_an_end(site: Site) -> None:
    site.store.plain_path.write_text(json.dumps(site.sound))
    done = site.type(("keys", "add", "--expires", "999999w", "carol"))
    assert done.exit_code == 2 and "'999999w' is more than 36500 days" in done.output


#: What a file of age's may become.
BROKEN = ("cut", "flipped", "filled", "empty", "folder", "header", "other")


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(f"{identity}\n")
    monkeypatch.setenv(age.IDENTITY_ENV, str(tmp_path / "identity"))
    (tmp_path / "site").mkdir(mode=0o755)
    site = Site(tmp_path / "site")
    site.store.encrypt([str(identity.to_public())])
    return site


@pytest.mark.parametrize("how", BROKEN)
def test_an_age_file_that_is_broken(locked: Site, how: str) -> None:
    path, random = locked.store.encrypted_path, Random(1)
    sound = path.read_bytes()
    for _ in range(examples(3)):
        at = random.randrange(len(sound))
        broken = {
            "cut": sound[:at],
            "flipped": sound[:at] + bytes([sound[at] ^ 1 << random.randrange(8)]) + sound[at + 1 :],
            "filled": sound + random.randbytes(at),
            "header": sound[: sound.index(b"\n---")] + b"\n-> X25519 " + b"A" * 99 + sound[at:],
            "other": b"age-encryption.org/v2\n" + random.randbytes(at),
        }.get(how, b"")
        path.unlink(missing_ok=True)
        if how == "folder":
            path.mkdir(exist_ok=True)
            break
        path.write_bytes(broken)
        path.chmod(0o600)
        done = locked.type(("keys", "list"))
        locked.judge(done)
        assert done.exit_code == 1 and str(path) in done.output
    done = locked.type(("keys", "list"))
    locked.judge(done)
    assert done.exit_code == 1 and str(path) in done.output


@pytest.mark.parametrize("content", [b"\xff\xfe", b"age1\x1b]0;owned\x07", b"", b"ssh-rsa A\r"])
def test_recipients_that_are_none(locked: Site, content: bytes) -> None:
    locked.store.recipients_path.write_bytes(content)
    for words in (("keys", "add", "carol"), ("keys", "recipients", "list")):
        locked.judge(locked.type(words))
    assert locked.type(("keys", "add", "carol")).exit_code == 1


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_sound_store_is_read(site: Site, words: tuple[str, ...]) -> None:
    """So that one that is not sound is, too."""
    site.store.plain_path.write_text(json.dumps(site.sound))
    done = site.type(words)
    site.judge(done)
    wrong = words in (("keys", "recipients", "list"), ("keys", "add", "bob"))
    assert done.exit_code == int(wrong), done.output
