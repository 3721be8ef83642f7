"""Stands in for Docker's and NVIDIA's apt archives: the same names and layout, signed.

Docker's packages are Debian 13's own under Docker's names, for Ubuntu 24.04 too. Debian 12 has no
Docker that Compose v2 could be had for, so it gets Debian 13's as well, with its own runc. NVIDIA's
are made from standins/nvidia, and the driver's in driver_archive.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lab import debs, driver_archive, recipe
from lab.layout import RELEASES

_PACKAGES = ("apt-utils", "dpkg-dev", "gnupg", "debian-archive-keyring")
_STANDINS = Path(__file__).with_name("standins") / "nvidia"
_DOCKER_VERSION = "5:26.1.5-1~debian.@NUMBER@~@RELEASE@"
#: The newest is the toolkit's default; the other one is for tests of pinning.
_TOOLKIT_VERSIONS = ("1.20.0-1", "1.20.1-1")

#: Docker's name -> Debian's, and what the relations of the new package say.
_RENAMED: dict[str, tuple[str, dict[str, str]]] = {
    "containerd.io": (
        "containerd",
        {"Conflicts": "containerd, runc", "Provides": "containerd, runc"},
    ),
    "docker-ce": ("docker.io", {"Conflicts": "docker.io", "Replaces": "docker.io"}),
    "docker-ce-cli": ("docker-cli", {"Conflicts": "docker-cli, docker.io"}),
    "docker-buildx-plugin": ("docker-buildx", {"Conflicts": "docker-buildx"}),
    "docker-compose-plugin": ("docker-compose", {"Conflicts": "docker-compose"}),
}
_TOOLKIT: dict[str, str] = {
    "libnvidia-container1": "",
    "libnvidia-container-tools": "libnvidia-container1 (= {version})",
    "nvidia-container-toolkit-base": "",
    "nvidia-container-toolkit": "nvidia-container-toolkit-base (= {version}),"
    " libnvidia-container-tools (= {version})",
}
_DOCKER = json.dumps([_RENAMED, _DOCKER_VERSION])
_RECIPE = [
    json.dumps([_TOOLKIT, _TOOLKIT_VERSIONS]),
    "layout 5",
    *recipe.files_below(_STANDINS),
    *driver_archive.RECIPE,
]
_KEYS = ("docker", "nvidia", "wrong")


def build(release: str = "trixie") -> Path:
    """The web root of https://archive.lab/, or what another release of Debian finds there besides.

    Each is signed with the same keys.
    """
    prints = json.dumps(fingerprints())
    if release == "trixie":
        return recipe.keep("archive", [prints, _DOCKER, *_RECIPE], _make)
    return recipe.keep(
        f"archive-{release}", [prints, _DOCKER, "layout 1"], partial(_make_for, release)
    )


def fingerprints() -> dict[str, str]:
    """Fingerprints of the signing keys: ``docker``, ``nvidia`` and ``wrong``."""
    found: dict[str, str] = json.loads((_keys() / "fingerprints.json").read_text())
    return found


def _keys() -> Path:
    """gpg's homes, by the name of the key: what is signed later is signed by the same."""

    def make(folder: Path) -> None:
        recipe.ensure_packages(_PACKAGES)
        prints = {name: debs.make_key(folder / name, name) for name in _KEYS}
        (folder / "fingerprints.json").write_text(json.dumps(prints))
        for name in _KEYS:
            recipe.run(["gpgconf", "--homedir", folder / name, "--kill", "all"], "ending gpg-agent")

    return recipe.keep("signing", [json.dumps(_KEYS), "layout 1"], make)


@contextmanager
def _signing() -> Iterator[Path]:
    """The homes, and no gpg-agent of theirs afterwards."""
    keys = _keys()
    try:
        yield keys
    finally:
        for name in _KEYS:
            recipe.run(["gpgconf", "--homedir", keys / name, "--kill", "all"], "ending gpg-agent")


def _make_for(release: str, folder: Path) -> None:
    """Docker's packages for another release of Debian than 13."""
    recipe.ensure_packages(_PACKAGES)
    work = folder / "work"
    debian = folder / "docker/linux/debian"
    _docker(release, work, debian / "pool" / release)
    binary = f"dists/{release}/stable/binary-{debs.ARCHITECTURE}"
    with _signing() as keys:
        debs.index(debian, binary, f"pool/{release}", keys / "docker", release)
    shutil.rmtree(work)


def _docker(release: str, work: Path, pool: Path) -> None:
    """Docker's packages in a new folder."""
    pool.mkdir(parents=True)
    wanted = {"trixie": [original for original, _ in _RENAMED.values()]}
    wanted.setdefault(release, []).append("runc")
    originals: dict[str, Path] = {}
    for source, names in wanted.items():
        originals |= _download(work, source, names)
    version = _DOCKER_VERSION.replace("@RELEASE@", release)
    version = version.replace("@NUMBER@", str(RELEASES[release]))
    for name, (original, relations) in _RENAMED.items():
        _rename(originals, name, original, {"Version": version, **relations}, work, pool)


def _make(folder: Path) -> None:
    recipe.ensure_packages(_PACKAGES)
    work = folder / "work"
    debian = folder / "docker/linux/debian"
    _docker("trixie", work, debian / "pool/stable")
    flat = folder / "nvidia/libnvidia-container/stable/deb" / debs.ARCHITECTURE
    flat.mkdir(parents=True)
    for version in _TOOLKIT_VERSIONS:
        for name, depends in _TOOLKIT.items():
            _standin(name, version, depends.format(version=version), work, flat)
    ubuntu = folder / "docker/linux/ubuntu"
    shutil.copytree(debian, ubuntu, copy_function=os.link)
    with _signing() as keys:
        for root, suite in ((debian, "trixie"), (ubuntu, "noble")):
            binary = f"dists/{suite}/stable/binary-{debs.ARCHITECTURE}"
            debs.index(root, binary, "pool", keys / "docker", suite)
            debs.export(keys / "docker", root / "gpg")
        debs.index(flat, ".", ".", keys / "nvidia")
        driver_archive.make(folder, work / "driver", keys / "nvidia")
        debs.export(keys / "nvidia", folder / "nvidia/libnvidia-container/gpgkey")
        debs.export(keys / "wrong", folder / "wrong-key.asc")
    shutil.rmtree(work)


def _download(work: Path, release: str, names: Sequence[str]) -> dict[str, Path]:
    """Debian's own packages, by an apt that knows only one release."""
    apt = work / f"apt-{release}"
    for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d"):
        (apt / name).mkdir(parents=True)
    (apt / "state/status").touch()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "etc/sources.list").write_text(
        f"deb [signed-by={keyring}] http://deb.debian.org/debian {release} main\n"
    )
    (apt / "apt.conf").write_text(
        f'Dir::State "{apt}/state"; Dir::State::status "{apt}/state/status";'
        f' Dir::Cache "{apt}/cache"; Dir::Etc::SourceList "{apt}/etc/sources.list";'
        ' Dir::Etc::SourceParts "/dev/null"; Acquire::Languages "none";'
        ' APT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    recipe.run(["apt-get", "update"], f"reading Debian's lists of {release}", env=environment)
    found = work / f"debs-{release}"
    found.mkdir()
    recipe.run(["apt-get", "download", *names], "downloading Docker", cwd=found, env=environment)
    return {path.name.partition("_")[0]: path for path in found.iterdir()}


def _rename(
    originals: Mapping[str, Path],
    name: str,
    original: str,
    relations: Mapping[str, str],
    work: Path,
    pool: Path,
) -> None:
    tree = work / name
    recipe.run(["dpkg-deb", "-R", originals[original], tree], f"unpacking {original}")
    if name == "containerd.io":
        # Docker's package brings its own runc.
        recipe.run(["dpkg-deb", "-x", originals["runc"], tree], "unpacking runc")
    control = tree / "DEBIAN/control"
    fields = debs.read_control(control.read_text())
    fields |= {"Package": name, "Maintainer": "lab <lab@localhost>"}
    for field in ("Source", "Built-Using", "Static-Built-Using", "Recommends", "Suggests"):
        fields.pop(field, None)
    for field in ("Breaks", "Replaces", "Conflicts", "Provides"):
        fields.pop(field, None)
    fields["Depends"] = _new_depends(fields.get("Depends", ""), name)
    fields |= relations
    fields["Description"] = f"stands in for Docker's {name}: Debian's {original} under its name"
    debs.write_control(control, fields)
    debs.pack(tree, pool)


def _new_depends(depends: str, name: str) -> str:
    """Debian's relations with Docker's names; runc came along, and nothing depends on itself."""
    names = {original: renamed for renamed, (original, _) in _RENAMED.items()}
    kept = []
    for item in filter(None, (part.strip() for part in depends.split(","))):
        plain = re.split(r"[ (|:]", item, maxsplit=1)[0]
        if plain == "runc" or names.get(plain) == name:
            continue
        kept.append(names.get(plain, item))
    if name == "docker-ce":
        kept += ["docker-ce-cli", "containerd.io"]
    return ", ".join(dict.fromkeys(kept))


def _standin(name: str, version: str, depends: str, work: Path, target: Path) -> None:
    tree = work / f"{name}-{version}"
    shutil.copytree(_STANDINS / name, tree)
    for path in tree.rglob("*"):
        if path.is_file():
            path.write_text(path.read_text().replace("@VERSION@", version.partition("-")[0]))
    (tree / "DEBIAN").mkdir(exist_ok=True)
    debs.write_control(
        tree / "DEBIAN/control",
        {
            "Package": name,
            "Version": version,
            "Architecture": debs.ARCHITECTURE,
            "Maintainer": "lab <lab@localhost>",
            "Depends": depends,
            "Description": f"stands in for NVIDIA's {name}",
        },
    )
    for script in (tree / "DEBIAN").glob("p*"):
        script.chmod(0o755)
    for program in tree.glob("usr/bin/*"):
        program.chmod(0o755)
    debs.pack(tree, target)
