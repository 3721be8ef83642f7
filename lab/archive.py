"""Stands in for Docker's and NVIDIA's apt archives: the same names and layout, signed.

Docker's packages are Debian 13's own under Docker's names, for Ubuntu 24.04 too. NVIDIA's are made
from standins/nvidia, and the driver's in driver_archive.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from lab import debs, driver_archive, recipe

_PACKAGES = ("apt-utils", "dpkg-dev", "gnupg", "debian-archive-keyring")
_STANDINS = Path(__file__).with_name("standins") / "nvidia"
_DOCKER_VERSION = "5:26.1.5-1~debian.13~trixie"
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
_RECIPE = [
    json.dumps([_RENAMED, _TOOLKIT, _TOOLKIT_VERSIONS, _DOCKER_VERSION]),
    "layout 4",
    *recipe.files_below(_STANDINS),
    *driver_archive.RECIPE,
]


def build() -> Path:
    """The web root of https://archive.lab/."""
    return recipe.keep("archive", _RECIPE, _make)


def fingerprints() -> dict[str, str]:
    """Fingerprints of the signing keys, ``docker`` and ``nvidia``."""
    found: dict[str, str] = json.loads((build() / "fingerprints.json").read_text())
    return found


def _make(folder: Path) -> None:
    recipe.ensure_packages(_PACKAGES)
    work = folder / "work"
    debian = folder / "docker/linux/debian"
    pool = debian / "pool/stable"
    pool.mkdir(parents=True)
    originals = _download(work)
    for name, (original, relations) in _RENAMED.items():
        _rename(originals, name, original, relations, work, pool)
    flat = folder / "nvidia/libnvidia-container/stable/deb" / debs.ARCHITECTURE
    flat.mkdir(parents=True)
    for version in _TOOLKIT_VERSIONS:
        for name, depends in _TOOLKIT.items():
            _standin(name, version, depends.format(version=version), work, flat)
    prints = {}
    for name in ("docker", "nvidia", "wrong"):
        prints[name] = debs.make_key(work / f"gpg-{name}", name)
    ubuntu = folder / "docker/linux/ubuntu"
    shutil.copytree(debian, ubuntu, copy_function=os.link)
    for root, suite in ((debian, "trixie"), (ubuntu, "noble")):
        binary = f"dists/{suite}/stable/binary-{debs.ARCHITECTURE}"
        debs.index(root, binary, "pool", work / "gpg-docker", suite)
        debs.export(work / "gpg-docker", root / "gpg")
    debs.index(flat, ".", ".", work / "gpg-nvidia")
    driver_archive.make(folder, work / "driver", work / "gpg-nvidia")
    debs.export(work / "gpg-nvidia", folder / "nvidia/libnvidia-container/gpgkey")
    debs.export(work / "gpg-wrong", folder / "wrong-key.asc")
    (folder / "fingerprints.json").write_text(json.dumps(prints))
    for keys in work.glob("gpg-*"):
        recipe.run(["gpgconf", "--homedir", keys, "--kill", "all"], "stopping gpg's agent")
    shutil.rmtree(work)


def _download(work: Path) -> dict[str, Path]:
    """Debian 13's own packages, by an apt that knows only that release."""
    apt = work / "apt"
    for name in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d"):
        (apt / name).mkdir(parents=True)
    (apt / "state/status").touch()
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "etc/sources.list").write_text(
        f"deb [signed-by={keyring}] http://deb.debian.org/debian trixie main\n"
    )
    (apt / "apt.conf").write_text(
        f'Dir::State "{apt}/state"; Dir::State::status "{apt}/state/status";'
        f' Dir::Cache "{apt}/cache"; Dir::Etc::SourceList "{apt}/etc/sources.list";'
        ' Dir::Etc::SourceParts "/dev/null"; Acquire::Languages "none";'
        ' APT::Sandbox::User "root";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(apt / "apt.conf")}
    names = [original for original, _ in _RENAMED.values()] + ["runc"]
    recipe.run(["apt-get", "update"], "reading Debian 13's lists", env=environment)
    found = work / "debs"
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
    fields |= {"Package": name, "Version": _DOCKER_VERSION, "Maintainer": "lab <lab@localhost>"}
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
