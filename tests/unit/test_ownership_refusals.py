"""What an inventory says of a host that is another one's, and the ways out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyrage
import pytest

from tests.stores import made
from tests.unit.test_ownership import PLAIN, claim, mark
from vllm_hosts.host.files import File
from vllm_hosts.keys.ownership import Claim
from vllm_hosts.keys.store_marks import Mark, Marked, Whose


@pytest.fixture
def prod(tmp_path: Path) -> Claim:
    return claim(tmp_path, "prod")


def test_what_is_put_on_a_host(prod: Claim) -> None:
    """Under a name that other versions look for, and in words that they read."""
    assert prod.file == File("/etc/vllm-hosts/store", prod.mark.text().encode())
    assert Mark.read(prod.file.content.decode()) == prod.mark
    # Where a host that only the store remembers has its agents' keys.
    assert prod.directory == "/opt/vllm"


class TestRefusal:
    def test_a_copy_is_told_to_use_the_original(self, prod: Claim, tmp_path: Path) -> None:
        copied = claim(tmp_path, "copied", keep=False)
        said = copied.refusal(mark(prod))
        assert said.startswith(f"this host has the keys and the CA of {tmp_path}/inventory/prod.py")
        state = f"{tmp_path}/inventory/.vllm-hosts"
        assert f"deploy it with {tmp_path}/inventory/prod.py" in said
        assert f"mv {state}/prod {state}/copied;" in said
        assert f"vllm-hosts hosts adopt {tmp_path}/inventory/copied.py gpu1" in said
        assert "every client of it needs a new key and the new CA" in said

    def test_a_renamed_one_takes_its_store_along(self, prod: Claim, tmp_path: Path) -> None:
        renamed = claim(tmp_path, "live", keep=False)
        prod.inventory.unlink()
        said = renamed.refusal(mark(prod))
        assert "if the inventory was renamed, move its store along: mv " in said
        move = said.split("along: ")[1].split(";")[0]
        subprocess.run(["sh", "-ec", move], check=True)
        after = claim(tmp_path, "live", keep=False)
        assert after.judge(mark(prod)) is Whose.OURS
        # The name in the mark is the old one.
        assert not mark(prod).is_right(after.mark)

    def test_a_store_in_the_way_is_put_aside(self, prod: Claim, tmp_path: Path) -> None:
        renamed = claim(tmp_path, "live", keep=False)
        made(renamed.opened.store)
        prod.inventory.unlink()
        renamed = claim(tmp_path, "live", keep=False)
        move = renamed.refusal(mark(prod)).split("along: ")[1].split(";")[0]
        subprocess.run(["sh", "-ec", move], check=True)
        assert claim(tmp_path, "live", keep=False).judge(mark(prod)) is Whose.OURS
        assert (tmp_path / "inventory/.vllm-hosts/live.unused1/keys.json").exists()

    def test_an_encrypted_one(
        self, prod: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        identity = pyrage.x25519.Identity.generate()
        (tmp_path / "identity").write_text(f"{identity}\n")
        monkeypatch.setenv("VLLM_HOSTS_IDENTITY", str(tmp_path / "identity"))
        prod.opened.store.encrypt([str(identity.to_public())])
        prod.inventory.unlink()
        renamed = claim(tmp_path, "live", keep=False)
        move = renamed.refusal(mark(prod)).split("along: ")[1].split(";")[0]
        assert f"mv {tmp_path}/keys/prod.age {tmp_path}/keys/live.age" in move
        subprocess.run(["sh", "-ec", move], check=True)
        assert claim(tmp_path, "live", keep=False).judge(mark(prod)) is Whose.OURS

    def test_a_store_that_is_not_here(self, prod: Claim, tmp_path: Path) -> None:
        (tmp_path / "clone").mkdir()
        clone = claim(tmp_path / "clone", "prod", keep=False)
        said = clone.refusal(mark(prod))
        assert "the inventory 'prod', whose store is not here" in said
        nameless = clone.refusal(Marked(None, digests=frozenset({"0" * 64})))
        assert "keys and the CA of another inventory, whose store is not here" in nameless
        assert f"bring that store here as {tmp_path}/clone/inventory/.vllm-hosts/prod" in said
        assert "hosts adopt" in said

    def test_a_store_that_nobody_here_can_open_is_known_by_its_name(
        self, prod: Claim, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        identity = pyrage.x25519.Identity.generate()
        (tmp_path / "identity").write_text(f"{identity}\n")
        monkeypatch.setenv("VLLM_HOSTS_IDENTITY", str(tmp_path / "identity"))
        prod.opened.store.encrypt([str(identity.to_public())])
        monkeypatch.setenv("VLLM_HOSTS_IDENTITY", "/nonexistent")
        renamed = claim(tmp_path, "live", keep=False)
        said = renamed.refusal(mark(prod))
        assert "this host claims to have (that store cannot be decrypted here" in said
        assert f"deploy it with {tmp_path}/inventory/prod.py; or give" in said
        # A host that lies would otherwise get the keys of that inventory's hosts.
        assert "mv " not in said
        prod.inventory.unlink()
        assert f"mv {tmp_path}/keys/prod.age" in renamed.refusal(mark(prod))

    @pytest.mark.parametrize("name", ["../prod", "a/b", "", "prod; x", "missing"])
    def test_a_name_that_a_host_made_up(self, prod: Claim, tmp_path: Path, name: str) -> None:
        text = Mark("0" * 32, name).text().strip()
        said = claim(tmp_path, "live", keep=False).refusal(Marked(text, PLAIN))
        assert "mv " not in said.replace("mv /etc/vllm-hosts/store", "")

    def test_a_host_that_only_the_store_remembers(self, prod: Claim, tmp_path: Path) -> None:
        copied = claim(tmp_path, "copied", keep=False)
        release = f"release it here: vllm-hosts hosts release {tmp_path}/inventory/copied.py gpu1"
        said = copied.refusal(mark(prod), listed=False)
        assert said == f"this host belongs to another inventory now ('prod'); {release}"
        nameless = copied.refusal(Marked(None, digests=frozenset({"0" * 64})), listed=False)
        assert nameless == f"this host belongs to another inventory now (without a name); {release}"

    def test_a_store_elsewhere_and_one_in_use_here(self, prod: Claim, tmp_path: Path) -> None:
        (tmp_path / "clone").mkdir()
        claim(tmp_path / "clone", "staging")
        clone = claim(tmp_path / "clone", "staging", keep=False)
        said = clone.refusal(mark(prod))
        assert f"take it out of {tmp_path}/clone/inventory/staging.py" in said
        assert "bring" not in said

    def test_two_inventories_in_use(self, prod: Claim, tmp_path: Path) -> None:
        said = claim(tmp_path, "other").refusal(mark(prod))
        assert "take it out of one of the two inventories" in said
        assert "mv " not in said

    def test_a_new_host_waits_while_another_is_somebody_else_s(self, tmp_path: Path) -> None:
        new = claim(tmp_path, "live", keep=False)
        assert new.must_wait() is None
        new.opened.anothers.add("gpu2")
        assert "gpu2 belongs to another" in str(new.must_wait())
        new.opened.anothers.add("gpu3")
        assert "and gpu2, gpu3 belongs to another" in str(new.must_wait())
        known = claim(tmp_path, "known")
        known.opened.anothers.add("gpu2")
        assert known.must_wait() is None

    def test_one_that_was_adopted_since_it_was_taken_out(self, prod: Claim, tmp_path: Path) -> None:
        said = prod.refusal(mark(claim(tmp_path, "other")), listed=False)
        assert "belongs to another inventory now ('other')" in said
        assert "hosts release" in said
