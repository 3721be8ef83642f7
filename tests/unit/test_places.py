"""Where an inventory's keys and its CA are, and which folders may hold code that we run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.samples import settings
from vllm_hosts.keys.places import CA_FILE, client_ca_file, nobody_else_s, site_of, state_folder

STATE = Path("/sites/one/inventory/.vllm-hosts/prod")


def test_the_state_of_an_inventory_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a name that versions and backups know: another one would mean new keys."""
    (tmp_path / "inventory").mkdir()
    (tmp_path / "link.py").symlink_to("inventory/prod.py")
    monkeypatch.chdir(tmp_path)
    wanted = tmp_path / "inventory/.vllm-hosts/prod"
    assert state_folder(Path("inventory/prod.py")) == wanted
    assert state_folder(Path("link.py")) == wanted
    assert CA_FILE == "ca.pem"


def test_which_ca_clients_need() -> None:
    assert client_ca_file(settings(), STATE) == f"{STATE}/ca.pem"
    files = {"mode": "files", "certificate": "/c.pem", "key": "/k.pem"}
    assert client_ca_file(settings(tls=files), STATE) is None
    assert client_ca_file(settings(tls=files | {"ca_file": "/own.pem"}), STATE) == "/own.pem"


class TestOwners:
    """Root's folders, one's own, and those of whoever owns the folder that one stands in."""

    def found(self, folder: Path, owners: dict[Path, int], us: int) -> list[Path]:
        real = Path.stat

        def stat(path: Path, **options: bool) -> os.stat_result:
            values = list(real(path, **options))
            values[4] = owners.get(path, 0)
            return os.stat_result(values)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "stat", stat)
            patch.setattr(os, "geteuid", lambda: us)
            return [one for one in nobody_else_s(folder) if one.is_relative_to(self.top)]

    @pytest.fixture(autouse=True)
    def folders(self, tmp_path: Path) -> None:
        self.top, self.inner = tmp_path, tmp_path / "a" / "b"
        self.inner.mkdir(parents=True)
        # What is above may be open to everybody, as /tmp is.
        self.all = [self.inner, self.inner.parent, self.top]

    def test_root_s_own_and_ours(self) -> None:
        assert self.found(self.inner, {}, 1000) == self.all
        assert self.found(self.inner, {self.top: 1000}, 1000) == self.all
        assert self.found(self.inner, {self.inner: 1000}, 1000) == self.all

    def test_whoever_owns_the_folder_owns_what_is_above(self) -> None:
        owners = dict.fromkeys(self.all, 1000)
        assert self.found(self.inner, owners, 0) == self.all
        assert self.found(self.inner, owners | {self.top: 1001}, 0) == self.all[:2]
        assert self.found(self.inner, {self.inner.parent: 1}, 1000) == [self.inner]

    def test_a_folder_that_is_not_there(self) -> None:
        assert self.found(self.inner / "gone", {}, 0) == []
        assert site_of(self.inner / "gone" / "prod.py") == self.inner
