"""The lab's own archive: several folders as one, which may come while it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.archive_server import _Files


@pytest.fixture
def files(tmp_path: Path) -> _Files:
    for release, name in (("trixie", "gpg"), ("bookworm", "dists/bookworm/Release")):
        path = tmp_path / "built" / release / name
        path.parent.mkdir(parents=True)
        path.write_text(release)
        offered = tmp_path / "offered"
        offered.mkdir(exist_ok=True)
        (offered / release).symlink_to(tmp_path / "built" / release)
    (tmp_path / "secret").touch()
    handler = _Files.__new__(_Files)
    handler.directory = str(tmp_path / "offered")
    return handler


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/gpg", "trixie/gpg"),
        ("/dists/bookworm/Release?a=b", "bookworm/dists/bookworm/Release"),
        ("/dists/", "bookworm/dists"),
        ("/none", None),
        ("/../secret", None),
        ("/%2e%2e/secret", None),
        ("/trixie/gpg", None),
    ],
)
def test_the_first_that_has_a_file_serves_it(files: _Files, path: str, found: str | None) -> None:
    served = Path(files.translate_path(path))
    if found is None:
        assert not served.exists()
    else:
        assert served == Path(files.directory) / found
