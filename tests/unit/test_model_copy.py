"""Copying a model from the controller: the operation's commands, run here as on a host."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api.command import FileUploadCommand, FunctionCommand, StringCommand

from tests.unit.model_files import safetensors
from tests.unit.test_tree_operation import apply
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.facts import hub as facts
from vllm_hosts.facts.hub import CopyFound, ModelCopy
from vllm_hosts.host.manifest import brought
from vllm_hosts.host.paths import MANIFEST
from vllm_hosts.hub.hub_models import Copy
from vllm_hosts.hub.local import local_model
from vllm_hosts.operations import model_copy as operation
from vllm_hosts.operations import tree
from vllm_hosts.operations.model_copy import _compare, _send

WEIGHTS = safetensors(content=os.urandom(299_888))
SMALL = safetensors(7)


class Cut(Exception):
    """The connection broke."""


class Site:
    """A controller's folder, and a host: both are folders of the test."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "source", folder / "srv/models/mine"
        self.notes = folder / "notes"
        (self.source / "sub").mkdir(parents=True)
        (self.source / "config.json").write_text("{}")
        (self.source / "empty.txt").write_text("")
        (self.source / "sub/model.safetensors").write_bytes(WEIGHTS)
        (self.source / "training.bin").write_bytes(b"pickle")
        (self.source / ".git").mkdir()
        (self.source / ".git/config").write_text("x")
        self.copy = Copy(str(self.source), str(self.target), False)
        self.sent = 0

    def look(self) -> CopyFound:
        command = ModelCopy().command(self.copy.target, self.copy.staging, self.copy.key)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        return ModelCopy().process(done.stdout.splitlines())

    def run(self, cut_after: int | None = None) -> int:
        """One run. Returns how many commands it needed; zero: nothing changed."""
        local = local_model(self.copy.source, allow_pickle=False)
        found = self.look()
        commands = (_send if found.present is None else _compare)(self.copy, local, found)
        count = 0
        self.sent = 0
        for command in commands:
            count += 1
            if isinstance(command, FileUploadCommand):
                if cut_after is not None and self.sent >= cut_after:
                    raise Cut
                assert not isinstance(command.src, str)
                content = command.src.read()
                assert isinstance(content, bytes)
                self.sent += len(content)
                Path(command.dest).write_bytes(content)
            elif not isinstance(command, FunctionCommand):
                assert isinstance(command, StringCommand)
                if "_stdin" in command.connector_arguments:
                    done = apply(command)
                else:
                    words = ["sh", "-c", command.get_raw_value()]
                    done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise HostError(done.stderr.strip().splitlines()[-1])
        return count


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(tmp_path)
    for module in (facts, operation):
        monkeypatch.setattr(module, "MODEL_NOTES", str(site.notes))
    for name in ("PREVIOUS", "DEPLOYED", "COPIES", "STAMPS"):
        monkeypatch.setattr(tree, name, f"{tmp_path}/state/{name.lower()}")
    known = brought
    monkeypatch.setattr(
        operation,
        "brought",
        lambda *about: known(*about).replace(MANIFEST, str(tmp_path / "manifest")),
    )
    monkeypatch.setattr(operation, "_PIECE", 100_000)
    monkeypatch.setattr(operation, "_RESERVE", 0)
    yield site
    assert not Path(f"{site.notes}/{site.copy.key}.new").exists()


def test_a_model_arrives_whole_readable_and_without_pickles(site: Site, tmp_path: Path) -> None:
    assert site.run() > 0
    # remove.py may be told to take it away again.
    assert (tmp_path / "manifest").read_text() == f"model {site.target}\n"
    names = sorted(str(path.relative_to(site.target)) for path in site.target.rglob("*"))
    assert names == ["config.json", "empty.txt", "sub", "sub/model.safetensors"]
    assert (site.target / "sub/model.safetensors").read_bytes() == WEIGHTS
    modes = {stat.S_IMODE(path.stat().st_mode) for path in site.target.rglob("*.*")}
    assert modes == {0o644}
    assert stat.S_IMODE(site.target.stat().st_mode) == 0o755
    assert stat.S_IMODE((site.target / "sub").stat().st_mode) == 0o755
    assert not Path(site.copy.staging).exists()


def test_the_second_run_changes_nothing_and_reads_no_weights(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.run()
    monkeypatch.setattr(operation, "_digests", lambda local: pytest.fail("weights were read"))
    assert site.run() == 0


def test_a_copy_that_was_cut_off_goes_on(site: Site) -> None:
    with pytest.raises(Cut):
        site.run(cut_after=150_000)
    assert not site.target.exists()
    assert site.run() > 0
    assert site.sent == 100_000, "what had come was sent again"
    assert (site.target / "sub/model.safetensors").read_bytes() == WEIGHTS
    assert site.run() == 0


def test_a_damaged_piece_is_noticed_and_only_that_file_sent_again(site: Site) -> None:
    with pytest.raises(Cut):
        site.run(cut_after=150_000)
    staged = Path(site.copy.staging) / "sub/model.safetensors"
    staged.write_bytes(b"x" * staged.stat().st_size)
    with pytest.raises(HostError, match="sub/model.safetensors of .* arrived damaged"):
        site.run()
    assert not site.target.exists()
    assert not staged.exists()
    assert site.run() > 0
    assert site.sent == len(WEIGHTS)
    assert (site.target / "sub/model.safetensors").read_bytes() == WEIGHTS


def test_what_an_earlier_version_left_behind_is_not_taken(site: Site) -> None:
    staging = Path(site.copy.staging)
    staging.mkdir(parents=True)
    (staging / "old.json").write_text("{}")
    (staging / ".piece").write_text("x")
    (staging / "config.json").write_text("longer than the new one")
    # Whoever can write there may give a file any name.
    (staging / "it's; touch evil;'.json").write_text("{}")
    assert site.run() > 0
    assert not list(site.target.parent.rglob("evil"))
    assert (site.target / "config.json").read_text() == "{}"
    assert sorted(os.listdir(site.target)) == ["config.json", "empty.txt", "sub"]


def test_a_folder_in_use_is_never_changed(site: Site) -> None:
    site.run()
    before = (site.target / "config.json").stat()
    (site.source / "config.json").write_text("[]")
    with pytest.raises(HostError) as refused:
        site.run()
    assert "config.json differs" in str(refused.value)
    assert f"model = '{site.target}-2'" in str(refused.value)
    assert (site.target / "config.json").stat() == before
    (site.source / "config.json").write_text("other length")
    with pytest.raises(HostError, match=r"config\.json differs"):
        site.run()


def test_a_second_controller_with_the_same_model_is_noted_once(site: Site) -> None:
    site.run()
    again = site.source.with_name("again")
    shutil.copytree(site.source, again, copy_function=shutil.copyfile)
    os.utime(again / "config.json", (1, 1))
    first, site.copy = site.copy, Copy(str(again), str(site.target), False)
    assert site.run() == 1
    assert site.run() == 0
    site.copy = first
    assert site.run() == 0


def test_a_folder_that_somebody_put_there_is_compared_byte_by_byte(site: Site) -> None:
    shutil.copytree(site.source, site.target)
    assert site.run() > 0
    assert site.sent == 0
    assert site.run() == 0
    (site.notes / site.copy.key).unlink()
    (site.target / "sub/model.safetensors").write_bytes(WEIGHTS[::-1])
    with pytest.raises(HostError, match="sub/model.safetensors differs"):
        site.run()


def test_a_disk_that_is_too_small(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operation, "_RESERVE", 1 << 60)
    with pytest.raises(HostError, match=r"needs 0\.00 GB more and .* are free; make room"):
        site.run()
    assert not Path(site.copy.staging).exists()


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
        assert operation._gb(1_234_567_890) == "1.23 GB"


def refused(folder: Path, **options: bool) -> str:
    with pytest.raises(SettingsError) as error:
        local_model(str(folder), **{"allow_pickle": False, **options})
    return str(error.value)


def test_folders_that_are_no_model(tmp_path: Path) -> None:
    assert "is not a folder on the controller" in refused(tmp_path / "none")
    for odd in ("x" * 300, "~no-such-user/model"):
        assert "is not a folder on the controller" in refused(Path(odd))
    (tmp_path / "pytorch_model.bin").write_text("x")
    assert "has no config.json" in refused(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "has no safetensors" in refused(tmp_path)
    found = local_model(str(tmp_path), allow_pickle=True)
    assert sorted(found.sizes) == ["config.json", "pytorch_model.bin"]
    (tmp_path / "a b.json").write_text("x")
    assert "has a file 'a b.json'" in refused(tmp_path)


def test_the_hub_s_own_cache_is_a_folder_to_copy_from(tmp_path: Path) -> None:
    snapshot = snapshot_of_the_hub(tmp_path)
    found = local_model(str(snapshot), allow_pickle=False)
    assert found.sizes == {"config.json": 2, "model.safetensors": len(SMALL)}
    # The folder that was named may be a link: somebody decided that.
    (tmp_path / "link").symlink_to(snapshot)
    assert local_model(str(tmp_path / "link"), allow_pickle=False).sizes == found.sizes


def snapshot_of_the_hub(folder: Path) -> Path:
    repository = folder / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs/x").write_bytes(SMALL)
    snapshot = repository / "snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/x")
    (snapshot / "config.json").write_text("{}")
    return snapshot


def model(folder: Path) -> Path:
    root = folder / "model"
    (root / "sub").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git/config").write_text("url = https://alice:password@example.com/")
    (root / "config.json").write_text("{}")
    (root / "model.safetensors").write_bytes(SMALL)
    return root


def test_a_link_within_the_folder_is_its_file(tmp_path: Path) -> None:
    root = model(tmp_path)
    (root / "sub/again.json").symlink_to("../config.json")
    found = local_model(str(root), allow_pickle=False)
    assert found.sizes["sub/again.json"] == 2


#: Kind -> name of the link, where it leads, and a word of the refusal.
LINKS = {
    "a key": ("vocab.json", "{home}/.ssh/id_ed25519", "out of the folder to {home}/.ssh/id_ed"),
    "relative": ("vocab.json", "../home/.ssh/id_ed25519", "out of the folder to {home}"),
    "in two steps": ("vocab.json", "sub/step", "out of the folder to {home}"),
    "a neighbour with the same beginning": ("vocab.json", "../model-2/x", "out of the folder"),
    "a folder outside": ("extra", "{home}/.ssh", "out of the folder to {home}/.ssh"),
    "a folder inside": ("extra", "sub", "to a folder"),
    "the folder itself": ("extra", ".", "to a folder"),
    "a loop": ("vocab.json", "vocab.json", "leads nowhere"),
    "nothing": ("vocab.json", "no-such-file", "leads nowhere"),
    "what is not copied": ("vocab.json", ".git/config", "out of the folder"),
    "a device": ("vocab.json", "/dev/zero", "out of the folder to /dev/zero"),
    "a process": ("vocab.json", "/proc/self/environ", "out of the folder"),
    "a FIFO": ("vocab.json", "sub/fifo", "neither a file nor a folder"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_that_would_carry_something_else_away(kind: str, tmp_path: Path) -> None:
    name, leads, word = LINKS[kind]
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text("PRIVATE KEY")
    (tmp_path / "model-2").mkdir()
    (tmp_path / "model-2/x").write_text("x")
    root = model(tmp_path)
    if kind == "in two steps":
        (root / "sub/step").symlink_to(home / ".ssh/id_ed25519")
    if kind == "a FIFO":
        os.mkfifo(root / "sub/fifo")
    (root / name).symlink_to(leads.format(home=home))
    said = refused(root)
    assert word.format(home=home) in said, said
    assert f"{name}" in said or kind == "in two steps"
    assert "\n" not in said


@pytest.mark.parametrize("where", ["model.safetensors", "sub/x.json"])
def test_what_is_no_file_is_never_opened(where: str, tmp_path: Path) -> None:
    root = model(tmp_path)
    (root / where).unlink(missing_ok=True)
    os.mkfifo(root / where)
    assert f"has {where}, which is neither a file nor a folder" in refused(root)


def test_blobs_are_those_of_the_same_model(tmp_path: Path) -> None:
    snapshot = snapshot_of_the_hub(tmp_path)
    other = tmp_path / "models--org--other/blobs"
    other.mkdir(parents=True)
    (other / "y").write_text("secret")
    (snapshot / "vocab.json").symlink_to(other / "y")
    assert "out of the folder" in refused(snapshot)
    # A folder that only looks like the hub's cache has no blobs.
    (snapshot / "vocab.json").unlink()
    (tmp_path / "models--org--name").rename(tmp_path / "clone")
    assert "out of the folder" in refused(tmp_path / "clone/snapshots/abc")
    # Nor are they anywhere else.
    (tmp_path / "clone").rename(tmp_path / "models--org--name")
    blobs = snapshot.parent.parent / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    assert "out of the folder" in refused(snapshot)


def test_a_file_that_is_exchanged_after_the_look_is_not_read(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}")
    file = local_model(site.copy.source, allow_pickle=False).files[0]
    assert file.name == "config.json"
    os.utime(secret, ns=(file.changed, file.changed))
    file.path.unlink()
    for exchange in (
        lambda: file.path.symlink_to(secret),
        lambda: shutil.copy2(secret, file.path),
        lambda: os.mkfifo(file.path),
        lambda: None,
    ):
        exchange()
        with pytest.raises(HostError, match="was changed|cannot be read"):
            _ = file.sha256
        with pytest.raises(HostError, match="was changed|cannot be read"):
            operation._piece(file, 0)
        file.path.unlink(missing_ok=True)
