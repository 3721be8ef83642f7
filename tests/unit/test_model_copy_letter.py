"""Copying a model from the controller, to the letter: what is sent, said and asked of a host."""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api.command import FileUploadCommand, FunctionCommand, StringCommand

from tests.unit.copied_models import WEIGHTS, Site, made_site
from tests.unit.here import Ended, Here
from vllm_hosts.errors import HostError
from vllm_hosts.facts.hub import CopyFound, ModelCopy
from vllm_hosts.hub.hub_models import Copy
from vllm_hosts.hub.local import local_model
from vllm_hosts.operations import base
from vllm_hosts.operations import model_copy as operation
from vllm_hosts.operations.model_copy import _send


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    yield from made_site(tmp_path, monkeypatch)


class TestTheOperation:
    """What is said and asked of each model, by operation."""

    @pytest.fixture(autouse=True)
    def ready(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.patch = site, monkeypatch
        self.asked: list[object] = []
        self.told: list[tuple[str, str]] = []

        def look(fact: type, **given: object) -> CopyFound:
            assert fact is ModelCopy
            self.asked.append(given)
            return site.look()

        monkeypatch.setattr(operation, "look", look)
        monkeypatch.setattr(operation, "differs", lambda *about: self.told.append(about))

    def commands(self, *copies: Copy) -> list[object]:
        wrapped = operation.models_copied._inner.__wrapped__  # type: ignore[attr-defined]
        return list(wrapped(copies or [self.site.copy]))

    def test_one_that_is_missing_is_sent(self) -> None:
        copy = self.site.copy
        prepared, *sent, manifest, checked, stamped = self.commands()
        assert self.asked == [{"folder": copy.target, "staging": copy.staging, "key": copy.key}]
        assert self.told == [(f"model {copy.target}", "is not on the host")]
        assert str(prepared).splitlines()[:2] == [
            "set -eu",
            f"(umask 022; mkdir -p {copy.target.rpartition('/')[0]} {self.site.notes});"
            f" umask 077; mkdir -p {copy.staging} {copy.staging}/sub",
        ]
        assert str(prepared).splitlines()[-2:] == [
            f"cd {copy.staging}",
            "touch config.json empty.txt sub/model.safetensors",
        ]
        # Each is put behind what came before, piece by piece; an empty file has none.
        assert [str(one) for one in sent[1::2]] == [
            f"cd {copy.staging} && cat .piece >>{name} && rm -f .piece"
            for name in ("config.json", *["sub/model.safetensors"] * 3)
        ]
        pieces = [one for one in sent[::2] if isinstance(one, FileUploadCommand)]
        assert {one.dest for one in pieces} == {f"{copy.staging}/.piece"}
        assert len(pieces) == 4
        assert "damaged=" in str(checked)
        for command in (manifest, stamped):
            assert isinstance(command, StringCommand)

    def test_one_at_the_top_of_the_host(self) -> None:
        local = local_model(self.site.copy.source, allow_pickle=False)
        script = operation._prepared(Copy("x", "/mine", False), local, set())
        assert f"mkdir -p / {self.site.notes})" in script

    def test_what_is_noted_of_it(self) -> None:
        self.site.run()
        local = local_model(self.site.copy.source, allow_pickle=False)
        noted = Path(self.site.notes, self.site.copy.key).read_text()
        assert noted == f"source {local.fingerprint}\n" + "".join(
            f"file {file.sha256} {file.name}\n" for file in local.files
        )
        # A second source beside the first.
        Path(self.site.notes, self.site.copy.key).write_text(
            noted.replace(f"source {local.fingerprint}", "source a")
        )
        assert len(self.commands()) == 1
        assert self.told == [
            (f"model {self.site.copy.target}", "has not been compared with this controller's")
        ]
        self.site.run()
        assert (
            Path(self.site.notes, self.site.copy.key).read_text()
            == "".join(f"source {one}\n" for one in sorted(["a", local.fingerprint]))
            + noted.partition("\n")[2]
        )

    def test_what_is_known_of_another_one_is_compared_without_reading_it(self) -> None:
        self.site.run()
        notes = Path(self.site.notes, self.site.copy.key)
        digest = local_model(self.site.copy.source, allow_pickle=False).files[0].sha256
        fingerprint, _, rest = notes.read_text().partition("\n")
        assert fingerprint.startswith("source ")
        notes.write_text(f"source a\n{rest.replace(digest, '0' * 64)}")
        with pytest.raises(HostError) as refused:
            self.commands()
        target = self.site.copy.target
        assert str(refused.value) == (
            f"{target} on the host is not the model in {self.site.source} (copy_from): config.json"
            " differs; agents may be reading it, so give the new one a folder of its own, such as"
            f" model = '{target}-2', or move the old one away"
        )

    def test_what_nobody_noted_is_read_there(self) -> None:
        shutil.copytree(self.site.source, self.site.target)
        manifest, compared, stamped = self.commands()
        words = str(compared)
        assert f"cd {self.site.target}" in words
        assert "(copy_from): '\"$(echo $different)\"' differs; agents" in words
        assert f"rm -f {self.site.notes}/{self.site.copy.key}.new" in words
        assert isinstance(manifest, StringCommand) and isinstance(stamped, StringCommand)

    def test_a_folder_that_is_none_fails_its_host(self) -> None:
        with pytest.raises(HostError, match="is not a folder on the controller; correct it"):
            self.commands(Copy("/none", "/mine", False))
        assert self.asked == []

    def test_pickles_only_where_they_are_allowed(self) -> None:
        for allowed in (True, False):
            copy = Copy(str(self.site.source), str(self.site.target), allowed)
            assert ("training.bin" in str(self.commands(copy)[0])) is allowed

    def test_room_for_it_and_a_reserve(self) -> None:
        local = local_model(self.site.copy.source, allow_pickle=False)
        total = sum(local.sizes.values())
        self.patch.setattr(operation, "_RESERVE", 1 << 30)
        found = CopyFound(None, {"config.json": 1}, frozenset(), {}, total - 1 + (1 << 30))
        assert list(_send(self.site.copy, local, found))
        with pytest.raises(HostError) as refused:
            list(_send(self.site.copy, local, replace(found, free=found.free - 1)))
        assert str(refused.value) == (
            f"{self.site.target} needs 0.00 GB more and 1.07 GB of reserve, and 1.07 GB are free;"
            " make room"
        )

    def test_what_is_there_of_it_is_not_sent(self) -> None:
        local = local_model(self.site.copy.source, allow_pickle=False)
        staged = {"config.json": 2, "sub/model.safetensors": 100_001, "old": 0, ".piece": 1}
        found = CopyFound(None, staged, frozenset(), {}, 1 << 60)
        prepared, *sent = _send(self.site.copy, local, found)
        removed = [line for line in str(prepared).splitlines() if line.startswith("rm ")]
        assert removed == ["rm -f ./.piece", "rm -f ./old"]
        pieces = [one for one in sent if isinstance(one, FileUploadCommand)]
        assert [len(one.src.read()) for one in pieces] == [  # type: ignore[union-attr]
            100_000,
            len(WEIGHTS) - 200_001,
        ]

    def test_progress_is_said_every_ten_seconds(self) -> None:
        now = iter([100, 106, 110, 110.5, 111, 120])
        self.patch.setattr(operation, "time", SimpleNamespace(monotonic=lambda: next(now)))
        local = local_model(self.site.copy.source, allow_pickle=False)
        found = CopyFound(None, {}, frozenset(), {}, 1 << 60)
        self.patch.setattr(operation, "_gb", lambda count: f"{count} B")
        commands = _send(self.site.copy, local, found)
        said = [str(one.args) for one in commands if isinstance(one, FunctionCommand)]
        total = sum(local.sizes.values())
        assert said == [f"('copying {self.site.source}: 200002 B of {total} B',)"]

    def test_a_file_that_became_shorter(self) -> None:
        class Short:
            path, size = Path("/x"), 9

            def open(self) -> io.BytesIO:
                return io.BytesIO(b"abc")

        assert operation._piece(Short(), 1) == b"bc"  # type: ignore[arg-type]
        with pytest.raises(HostError, match="/x became shorter while it was copied; run again"):
            operation._piece(Short(), 3)  # type: ignore[arg-type]

    def test_pieces_and_what_stays_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        assert (operation._PIECE, operation._RESERVE) == (64 << 20, 1 << 30)
        assert operation._gb(140_000_000_000) == "140.00 GB"


def test_a_file_of_another_size_is_noticed_however_often_it_was_compared(site: Site) -> None:
    """The host has lost some of it, or all, since."""
    site.run()
    assert site.run() == 0
    weights = site.target / "sub/model.safetensors"
    os.truncate(weights, 100)
    with pytest.raises(HostError, match=r"sub/model\.safetensors differs"):
        site.run()
    weights.unlink()
    with pytest.raises(HostError, match=r"sub/model\.safetensors differs"):
        site.run()


def test_a_file_that_grows_is_sent_as_long_as_it_was() -> None:
    class Longer:
        path, size = Path("/x"), 3

        def open(self) -> io.BytesIO:
            return io.BytesIO(b"abcdef")

    assert operation._piece(Longer(), 1) == b"bc"  # type: ignore[arg-type]


def test_what_takes_long_is_named_and_fails_with_one_sentence(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, object]] = []
    run = base.watched

    def watched(label: str, script: str, *, tail: int) -> object:
        told.append((label, tail))
        return run(label, script, tail=tail)

    monkeypatch.setattr(operation, "watched", watched)
    site.run()
    (site.notes / site.copy.key).unlink()
    site.run()
    assert told == [(f"checking {site.target}", 1), (f"comparing {site.target}", 1)]


class TestItsName:
    """The last step: what is whole gets the model's name, and nothing else does."""

    @pytest.fixture(autouse=True)
    def ready(self, site: Site, tmp_path: Path) -> None:
        self.site, self.staging = site, Path(site.copy.staging)
        self.staging.mkdir(parents=True)
        (self.staging / "config.json").write_text("{}")
        site.notes.mkdir()
        self.listed = site.notes / f"{site.copy.key}.new"
        digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        self.listed.write_text(f"{digest}  config.json\n")
        (tmp_path / "bin").mkdir()
        self.here = Here(tmp_path / "bin")

    def checked(self) -> Ended:
        return self.here.run(operation.check_script(self.site.copy))

    def test_it_is_on_the_disk_before_it_has_its_name(self, tmp_path: Path) -> None:
        """Or a power cut would leave a folder with the right name and empty files."""
        self.here.program("sync", f'[ -e {self.site.target} ] || echo "$PWD $*" >{tmp_path}/synced')
        assert self.checked().rc == 0
        assert (tmp_path / "synced").read_text() == f"{self.staging} -f .\n"
        assert os.listdir(self.site.target) == ["config.json"]

    def test_nobody_but_root_can_change_it(self) -> None:
        """Whoever sent a file there, and whatever rights it came with."""
        os.chown(self.staging / "config.json", 1234, 1234)
        (self.staging / "config.json").chmod(0o777)
        assert self.checked() == Ended(0, "", "")
        found = (self.site.target / "config.json").stat()
        assert (found.st_uid, found.st_gid) == (0, 0)
        assert stat.S_IMODE(found.st_mode) & 0o022 == 0

    def test_one_that_is_gone_meanwhile_takes_nothing_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the folder cannot be entered, files of those names elsewhere stay."""
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere/config.json").write_text("another's")
        monkeypatch.chdir(tmp_path / "elsewhere")
        shutil.rmtree(self.staging)
        assert self.checked().rc != 0
        assert (tmp_path / "elsewhere/config.json").read_text() == "another's"
        self.listed.unlink()

    def test_one_whose_owner_cannot_be_changed_gets_no_name(self) -> None:
        self.here.program("chown", "exit 1")
        assert self.checked().rc != 0
        assert not self.site.target.exists()
