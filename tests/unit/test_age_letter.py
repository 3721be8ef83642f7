"""Who can open a store, and whose name means which recipient, to the letter."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path

import click
import pyrage
import pytest

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys import age

ADA = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
SSH = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN"
NAMING = (
    "put VLLM_HOSTS_IDENTITY=FILE, with your identity's file, before the command that you typed"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(age.IDENTITY_ENV, raising=False)
    for folder in (".config/age", ".ssh"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def ssh_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """A new key there; its public half."""
    words = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "ada@laptop", "-f", str(path)]
    if kind == "rsa":
        words += ["-b", "2048"]
    subprocess.run(words, check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def age_key(path: Path) -> str:
    key = pyrage.x25519.Identity.generate()
    path.write_text(f"# created: today\n# public key: {key.to_public()}\n  {key}\n")
    return str(key.to_public())


def problem(do: Callable[[], object]) -> str:
    with pytest.raises(SettingsError) as found:
        do()
    [sentence] = found.value.problems
    return sentence


class TestRecipients:
    def test_what_is_one(self) -> None:
        for text in (ADA, f" {ADA} # ada", SSH, f"{SSH} ada@laptop at home"):
            encrypted = age.encrypt(b"content", [text])
            assert encrypted.startswith(b"age-encryption.org/")

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("", "''"),
            ("age1x", "'age1x'"),
            ("ada@laptop", "'ada@laptop'"),
            ("ecdsa-sha2-nistp256 AAAA ada", "'ecdsa-sha2-nistp256 AAAA'"),
            (f"ssh-ed25519 {'A' * 60}", f"'ssh-ed25519 {'A' * 28}'"),
        ],
    )
    def test_what_is_none_is_named(self, text: str, shown: str) -> None:
        said = problem(lambda: age.encrypt(b"content", [ADA, text]))
        assert said.startswith(
            f"{shown}... is not a recipient: it must be an age recipient (age1...) or an SSH"
            " public key (ssh-ed25519 or ssh-rsa): "
        )

    def test_the_lines_of_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "prod.recipients"
        file.write_text(f"# people\n\n  {ADA}  \n\t# more\n{SSH} ada@laptop\n")
        assert age.read_recipients(file) == [ADA, f"{SSH} ada@laptop"]

    def test_a_file_that_names_nobody(self, tmp_path: Path) -> None:
        file = tmp_path / "prod.recipients"
        file.write_text("# nobody\n\n")
        assert problem(lambda: age.read_recipients(file)) == (
            f"{file} lists no recipient, and nobody could decrypt the keys; add one"
        )
        assert problem(lambda: age.read_recipients(tmp_path)) == (
            f"{tmp_path} cannot be read: it is not a regular file; restore it, for instance with:"
            " git checkout -- FILE"
        )


class TestNamed:
    LINES = (f"{ADA} # ada at home", f"{SSH}  bob@laptop of bob", "ssh-rsa AAAAB3 # carol", ADA)

    @pytest.mark.parametrize(
        ("text", "numbers"),
        [
            (ADA, [0, 3]),
            (f"{ADA}  # ada at home", [0]),
            ("ada at home", [0]),
            ("# ada  at home", [0]),
            ("# ada", []),
            ("ada", []),
            (SSH, [1]),
            (SSH.split()[1], [1]),
            (f"{SSH} bob@laptop of bob", [1]),
            ("bob@laptop of bob", [1]),
            ("bob@laptop", []),
            ("carol", [2]),
            ("#", [0]),
            # They would mean everybody.
            ("ssh-rsa", []),
            ("ssh-ed25519", []),
            ("", []),
            ("  ", []),
        ],
    )
    def test_whom_a_name_means(self, text: str, numbers: list[int]) -> None:
        assert age.named_recipients(self.LINES, text) == [self.LINES[one] for one in numbers]


class TestDecrypt:
    FILE = Path("keys/prod.age")

    def opened(self, content: bytes, identity: Path | None = None) -> bytes:
        return age.decrypt(self.FILE, content, identity)

    @pytest.mark.parametrize(
        "place", [".config/age/keys.txt", ".ssh/id_ed25519", ".ssh/id_rsa", "chosen", "named"]
    )
    def test_identities_in_their_places(
        self, home: Path, place: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = home / place
        if place.startswith(".ssh"):
            public = ssh_key(path, path.name.removeprefix("id_"))
        else:
            public = age_key(path)
        content = age.encrypt(b"content", [public])
        if place == "chosen":
            # The one that is chosen is the only one.
            monkeypatch.setenv(age.IDENTITY_ENV, "/none")
            assert self.opened(content, Path("~/chosen")) == b"content"
        elif place == "named":
            monkeypatch.setenv(age.IDENTITY_ENV, "~/named")
            assert self.opened(content) == b"content"
            assert "/none: cannot be read" in problem(lambda: self.opened(content, Path("/none")))
        else:
            assert self.opened(content) == b"content"
        assert age.own_recipients(Path("~/chosen") if place == "chosen" else None) == [public]

    def test_the_first_that_fits_opens_it(self, home: Path) -> None:
        age_key(home / ".config/age/keys.txt")
        content = age.encrypt(b"content", [ADA, ssh_key(home / ".ssh/id_ed25519")])
        assert self.opened(content) == b"content"
        keys = home / ".config/age/keys.txt"
        first = keys.read_text()
        content = age.encrypt(b"content", [age_key(keys)])
        keys.write_text(first + keys.read_text())
        (home / ".ssh/id_ed25519").unlink()
        assert self.opened(content) == b"content"

    def test_where_none_fits_each_is_named_with_its_reason(self, home: Path) -> None:
        content = age.encrypt(b"content", [ADA])
        first = f"{self.FILE} cannot be decrypted: no identity fits"
        assert problem(lambda: self.opened(content)) == (
            f"{first} (there is none in the usual places); {NAMING}"
        )
        age_key(home / ".config/age/keys.txt")
        (home / ".ssh/id_rsa").write_text("AGE-SECRET-KEY-1SESAME\n")
        (home / ".ssh/id_ed25519").write_bytes(b"\xff\x00 sesame")
        neither = "is neither an age nor an SSH identity"
        assert problem(lambda: self.opened(content)) == (
            f"{first} ({home}/.config/age/keys.txt: is not one of the recipients;"
            f" {home}/.ssh/id_ed25519: {neither}; {home}/.ssh/id_rsa: {neither}); {NAMING}"
        )

    def test_one_with_a_passphrase_is_told_what_to_do(self, home: Path) -> None:
        content = age.encrypt(b"content", [ssh_key(home / ".ssh/id_ed25519", passphrase="sesame")])
        said = problem(lambda: self.opened(content))
        assert "id_ed25519: has a passphrase, which only ssh-agent could use and age cannot" in said
        assert "(age-keygen -o ~/.config/age/keys.txt)" in said and "ssh-keygen -p -N ''" in said
        said = problem(lambda: age.own_recipients(None))
        assert said.startswith(f"no recipient is known: {home}/.ssh/id_ed25519: has a passphrase")

    def test_an_option_is_named_where_there_is_one(self, home: Path) -> None:
        content = age.encrypt(b"content", [ADA])
        for options, naming in (
            ([click.Option(["--identity"])], "name one with --identity or VLLM_HOSTS_IDENTITY"),
            ([click.Option(["--other"])], NAMING),
        ):
            with click.Context(click.Command("keys", params=[*options])):
                assert problem(lambda: self.opened(content)).endswith(f"; {naming}")

    def test_a_damaged_file_is_no_matter_of_identities(self, home: Path) -> None:
        content = age.encrypt(b"content" * 9, [age_key(home / ".config/age/keys.txt")])
        restore = "restore it, for instance with: git checkout -- FILE"
        said = problem(lambda: self.opened(content[:-3]))
        assert said.startswith(f"{self.FILE} is damaged: ") and said.endswith(f"; {restore}")
        assert problem(lambda: self.opened(b"{}")) == (
            f"{self.FILE} is damaged: it is not an age file; {restore}"
        )

    def test_a_place_is_what_was_found_there(self) -> None:
        with pytest.raises(FrozenInstanceError):
            age._Found(self.FILE, ()).problem = "x"  # type: ignore[misc]


class TestOwn:
    def test_all_of_them(self, home: Path) -> None:
        mine = age_key(home / ".config/age/keys.txt")
        both = [mine, ssh_key(home / ".ssh/id_ed25519")]
        assert age.own_recipients(None) == both
        (home / ".ssh/id_ed25519.pub").unlink()
        assert age.own_recipients(None) == [mine]

    def test_where_there_is_none(self, home: Path) -> None:
        first, last = "no recipient is known: ", "; name one with --recipient"
        assert problem(lambda: age.own_recipients(None)) == (
            f"{first}there is no identity in the usual places of age and SSH{last}"
        )
        ssh_key(home / ".ssh/id_ed25519")
        (home / ".ssh/id_ed25519.pub").unlink()
        (home / ".ssh/id_rsa").write_text("x")
        assert problem(lambda: age.own_recipients(None)) == (
            f"{first}{home}/.ssh/id_ed25519.pub is missing;"
            f" {home}/.ssh/id_rsa: is neither an age nor an SSH identity{last}"
        )
