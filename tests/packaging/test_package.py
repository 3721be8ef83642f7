"""The wheel has everything, and nothing that is bad manners in somebody's environment."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path

from tests.packaging.conftest import ROOT, Built, Installed, files

#: Where the checkout has what the package links to.
LINKS = {
    "docs/": "vllm_hosts/docs/",
    "roles/": "vllm_hosts/roles/",
    "templates/": "vllm_hosts/templates/",
    "tests/hosts/": "vllm_hosts/suite/",
}
#: Every module, but for those that are run and not imported.
IMPORT_ALL = """
import importlib, pkgutil, pyinfra_cli, vllm_hosts
names = [m.name for m in pkgutil.walk_packages(vllm_hosts.__path__, "vllm_hosts.")]
for name in names:
    if not name.startswith(("vllm_hosts.steps.", "vllm_hosts.suite.")):
        importlib.import_module(name)
print(len(names), vllm_hosts.__file__)
"""


def names(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def wanted() -> set[str]:
    """The files of the checkout that belong into it, by their names there."""
    steps = ("deploy", "keys", "rollback", "remove")
    found = {f"vllm_hosts/steps/{name}.py" for name in steps}
    for name in files():
        for prefix, instead in LINKS.items():
            if name.startswith(prefix):
                found.add(name.replace(prefix, instead, 1))
        if name.startswith("vllm_hosts/") and not (ROOT / name).is_symlink():
            found.add(name)
    # The documents are read in a terminal.
    return {name for name in found if not name.endswith(".png")}


def test_the_wheel_has_all_files_and_no_others(built: Built) -> None:
    assert names(built.wheel) == wanted()
    assert len(wanted()) > 200


def test_a_checkout_and_an_sdist_give_the_same_wheel(built: Built) -> None:
    assert names(built.straight) == names(built.wheel)
    one, other = zipfile.ZipFile(built.straight), zipfile.ZipFile(built.wheel)
    assert [name for name in names(built.wheel) if one.read(name) != other.read(name)] == []


def test_the_sdist_has_no_links(built: Built) -> None:
    """Whoever unpacks it where there are none still has the roles."""
    with tarfile.open(built.sdist) as sdist:
        assert [one.name for one in sdist if not (one.isfile() or one.isdir())] == []


def test_nothing_of_a_general_name_is_installed(built: Built) -> None:
    assert {name.partition("/")[0] for name in names(built.wheel)} == {"vllm_hosts"}


def test_every_module_can_be_imported(installed: Installed) -> None:
    done = installed.run(installed.home, "python", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stdout
    number, where = done.stdout.split()
    assert int(number) > 200
    assert Path(where).is_relative_to(installed.folder), "the wheel's, not this checkout's"


def test_the_metadata_names_the_readme_s_python(built: Built) -> None:
    archive = zipfile.ZipFile(built.wheel)
    [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
    metadata = archive.read(name).decode()
    assert re.search(r"^Requires-Python: >=3\.11$", metadata, re.M)
    assert len(re.findall(r"^Requires-Dist: ", metadata, re.M)) > 15
    assert "# vllm-hosts" in metadata
