"""Making Debian packages and signed apt archives of them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

from lab import recipe

ARCHITECTURE = "amd64"


def read_control(text: str) -> dict[str, str]:
    """A control file as field -> value; continuation lines stay with their field."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if line[:1] in (" ", "\t"):
            fields[last] += f"\n{line}"
        elif line:
            last, _, value = line.partition(":")
            fields[last] = value.strip()
    return fields


def write_control(path: Path, fields: Mapping[str, str]) -> None:
    """The fields as a control file, without empty ones."""
    path.write_text("".join(f"{name}: {value}\n" for name, value in fields.items() if value))


def pack(tree: Path, target: Path) -> None:
    """A tree with its DEBIAN folder as a package in the folder ``target``."""
    recipe.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", tree, target], "packing")


def make_key(home: Path, name: str) -> str:
    """Make a signing key in a new home of gpg's; its fingerprint."""
    home.mkdir(mode=0o700)
    gpg: list[str | Path] = ["gpg", "--homedir", home, "--batch", "--passphrase", ""]
    recipe.run([*gpg, "--quick-gen-key", f"lab {name} archive", "ed25519", "sign", "never"], "keys")
    listing = recipe.run([*gpg, "--with-colons", "--list-keys"], "reading a key")
    return next(line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr"))


def export(home: Path, path: Path) -> None:
    """Write the public half of a home's key, armoured."""
    path.write_text(recipe.run(["gpg", "--homedir", home, "--armor", "--export"], "exporting"))


def index(root: Path, binary: str, pool: str, home: Path, suite: str = "trixie") -> None:
    """Packages, Release and its signatures; ``binary`` is ``.`` for a flat archive."""
    folder = root / binary
    folder.mkdir(parents=True, exist_ok=True)
    packages = recipe.run(["apt-ftparchive", "packages", pool], "indexing", cwd=root)
    (folder / "Packages").write_text(packages)
    (folder / "Packages.gz").write_bytes(gzip.compress(packages.encode()))
    release = root if binary == "." else root / "dists" / suite
    options = ["-o", "APT::FTPArchive::Release::Origin=lab"]
    if binary != ".":
        for field, value in (("Suite", suite), ("Codename", suite), ("Components", "stable")):
            options += ["-o", f"APT::FTPArchive::Release::{field}={value}"]
        options += ["-o", f"APT::FTPArchive::Release::Architectures={ARCHITECTURE}"]
    text = recipe.run(["apt-ftparchive", *options, "release", "."], "indexing", cwd=release)
    (release / "Release").write_text(text)
    gpg: list[str | Path] = ["gpg", "--homedir", home, "--batch", "--yes"]
    recipe.run([*gpg, "--clearsign", "-o", "InRelease", "Release"], "signing", cwd=release)
    recipe.run([*gpg, "-abs", "-o", "Release.gpg", "Release"], "signing", cwd=release)
