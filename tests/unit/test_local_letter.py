"""A model's folder on the controller, to the letter: what is copied of it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.unit.model_files import POINTER, safetensors
from vllm_hosts.errors import HostError, SettingsError
from vllm_hosts.hub import local
from vllm_hosts.hub.local import INDEX, LocalFile, LocalModel, contents, local_model, small_files

WHOLE = safetensors(7)


def index(*names: str, padding: int = 0) -> bytes:
    weights = {f"layer.{number}": name for number, name in enumerate(names)}
    return json.dumps({"weight_map": weights, "metadata": {"x": " " * padding}}).encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A model's folder with as little as one has."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(WHOLE)
    return made


def write(root: Path, name: str, content: bytes = b"x") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def model(root: Path, *, allow_pickle: bool = False) -> LocalModel:
    return local_model(str(root), allow_pickle=allow_pickle)


def names(root: Path, *, allow_pickle: bool = False) -> list[str]:
    return [file.name for file in model(root, allow_pickle=allow_pickle).files]


def refused(root: Path, *, allow_pickle: bool = False) -> list[str]:
    with pytest.raises(SettingsError) as found:
        model(root, allow_pickle=allow_pickle)
    return found.value.problems


class TestWhatIsCopied:
    def test_files_in_a_fixed_order_and_none_that_is_hidden(self, root: Path) -> None:
        for name in ("z.txt", "b/z.json", "b/a/z", "a.txt", ".hidden", ".git/config", "b/.x/y"):
            write(root, name)
        (root / ".link").symlink_to("b")
        assert names(root) == [
            *("a.txt", "config.json", "model.safetensors", "z.txt"),
            *("b/z.json", "b/a/z"),
        ]

    @pytest.mark.parametrize("kind", ["bin", "pt", "pth", "ckpt", "pkl", "pickle"])
    def test_pickles_where_they_are_allowed(self, root: Path, kind: str) -> None:
        write(root, f"a.{kind}")
        assert f"a.{kind}" not in names(root)
        assert f"a.{kind}" in names(root, allow_pickle=True)

    def test_sizes_and_a_word_that_changes_with_any_file(self, root: Path) -> None:
        found = model(root)
        assert (found.folder, found.sizes) == (
            str(root),
            {"config.json": 2, "model.safetensors": len(WHOLE)},
        )
        words = {found.fingerprint}
        assert found.fingerprint == model(root).fingerprint
        os.utime(root / "config.json", ns=(1, 1))
        words.add(model(root).fingerprint)
        write(root, "config.json", b"{ }")
        os.utime(root / "config.json", ns=(1, 1))
        words.add(model(root).fingerprint)
        (root / "config.json").rename(root / "params.json")
        words.add(model(root).fingerprint)
        assert len(words) == 4
        lines = [f"{one.name} {one.size} {one.changed}\n" for one in found.files]
        assert found.fingerprint == hashlib.sha256("".join(lines).encode()).hexdigest()

    def test_one_of_mistral_s_has_another_configuration(self, root: Path) -> None:
        (root / "config.json").rename(root / "params.json")
        assert names(root) == ["model.safetensors", "params.json"]

    def test_the_home_of_whoever_runs_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(root.parent))
        assert len(model(Path("~/model")).files) == 2
        assert len(small_files("~/model")) == 1

    @pytest.mark.parametrize("name", ["A-z_0.9@+-", "sub/_x", "a.b"])
    def test_names_that_are_taken(self, root: Path, name: str) -> None:
        write(root, name)
        assert name in names(root)

    @pytest.mark.parametrize("name", ["a b", "-x", "sub/+x", "ü", "a\nb", "sub-/$(x)"])
    def test_names_that_are_not(self, root: Path, name: str) -> None:
        write(root, name)
        assert refused(root) == [
            f"copy_from {root} has a file {name!r}, and names may have letters, digits and"
            " . _ @ + - only, a letter or digit first; rename or remove it"
        ]

    def test_a_folder_of_everything_is_no_model(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(local, "_MOST_FILES", 3)
        write(root, "sub/a")
        # They do not count, since they are not copied.
        write(root, "a.bin")
        assert len(names(root)) == 3
        write(root, "sub/b")
        said = f"copy_from {root} has more than 3 files; name a model's folder"
        assert refused(root) == [said]
        monkeypatch.undo()
        assert len(names(root)) == 4
        assert local._MOST_FILES == 20_000

    def test_a_folder_that_nobody_can_read(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def walk(top: Path, onerror: object) -> None:
            assert callable(onerror)
            onerror(PermissionError(13, "Permission denied", str(top)))

        monkeypatch.setattr(os, "walk", walk)
        said = f"cannot be read: [Errno 13] Permission denied: '{root}'; correct its rights, or"
        assert refused(root) == [f"copy_from {root} {said} name another"]
        with pytest.raises(SettingsError, match=f"^copy_from {root} cannot be read: "):
            small_files(str(root))

    def test_what_is_no_folder(self, root: Path) -> None:
        for odd in (root / "config.json", root / "none"):
            said = f"copy_from {odd} is not a folder on the controller; correct it"
            assert refused(odd) == [said]


class TestWeights:
    def test_without_any_that_run_no_code(self, root: Path) -> None:
        (root / "model.safetensors").rename(root / "model.bin")
        said = f"copy_from {root} has no safetensors; use another model, or set allow_pickle = True"
        assert refused(root) == [f"{said} (loading pickle files can run code)"]
        assert names(root, allow_pickle=True) == ["config.json", "model.bin"]

    @pytest.mark.parametrize("padding", [0, 2000])
    @pytest.mark.parametrize("place", ["", "text/encoder/"])
    def test_what_an_index_names_is_there(self, root: Path, place: str, padding: int) -> None:
        there, gone = "a.safetensors", "b.safetensors"
        write(root, f"{place}{INDEX}", index(there, "c.safetensors", gone, padding=padding))
        write(root, f"{place}{there}", WHOLE)
        assert refused(root) == [
            f"copy_from {root} does not hold all weights: {place}{INDEX} names {place}{gone},"
            " which does not exist; fetch the model again"
        ]
        for name in (gone, "c.safetensors"):
            write(root, f"{place}{name}", WHOLE)
        assert len(names(root)) == 6

    def test_an_index_of_a_part_has_names_of_its_own(self, root: Path) -> None:
        """As diffusers has them."""
        name = "diffusion_pytorch_model-1.safetensors"
        write(root, f"transformer/diffusion_pytorch_{INDEX}", index(name, padding=2000))
        write(root, f"transformer/{name}", WHOLE)
        # Nor is one what has other names.
        write(root, "other.json", index("none.safetensors"))
        assert len(names(root)) == 5

    def test_an_index_without_end_is_not_read(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = index("b.safetensors")
        write(root, INDEX, content)
        monkeypatch.setattr(local, "INDEX_SIZE", len(content))
        assert "b.safetensors, which does not exist" in refused(root)[0]
        monkeypatch.setattr(local, "INDEX_SIZE", len(content) - 1)
        assert len(names(root)) == 3

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.safetensors", POINTER, "holds no weights: a.safetensors is a git-lfs pointer"),
            ("a.safetensors", b"", "holds no weights: a.safetensors is empty; fetch the model"),
            ("a.bin", POINTER, "holds no weights: a.bin is a git-lfs pointer, not the file itself"),
            ("a.bin", POINTER.ljust(2000), "holds no weights: a.bin is a git-lfs pointer"),
            ("a.bin", b"", "holds no weights: a.bin is empty; fetch the model again"),
            ("a.json", POINTER, "is not whole: a.json is a git-lfs pointer, not the file itself"),
            ("a.json", POINTER.ljust(1024), "is not whole: a.json is a git-lfs pointer"),
            (INDEX, POINTER, f"is not whole: {INDEX} is a git-lfs pointer"),
        ],
    )
    def test_what_is_not_what_its_name_says(
        self, root: Path, name: str, content: bytes, said: str
    ) -> None:
        write(root, name, content)
        [found] = refused(root, allow_pickle=True)
        assert found.startswith(f"copy_from {root} {said}")

    def test_what_only_begins_like_a_pointer(self, root: Path) -> None:
        write(root, "README.md", POINTER.ljust(1025))
        write(root, "empty.txt", b"")
        write(root, "a.bin", b"x")
        assert len(names(root, allow_pickle=True)) == 5

    def test_three_of_them_are_enough(self, root: Path) -> None:
        for number in range(4):
            write(root, f"{number}.safetensors", b"")
        assert [problem.split()[5] for problem in refused(root)] == [
            "0.safetensors",
            "1.safetensors",
            "2.safetensors",
        ]


class TestReading:
    """What was listed is read, or nothing."""

    def listed(self, root: Path, name: str = "config.json") -> LocalFile:
        [found] = [file for file in model(root).files if file.name == name]
        return found

    def test_its_bytes(self, root: Path) -> None:
        file = self.listed(root)
        with file.open() as content:
            assert content.read() == b"{}"
        assert file.path == root / "config.json"

    @pytest.mark.parametrize("how", ["replaced", "longer", "touched", "link", "fifo"])
    def test_another_file_is_not_read(
        self, root: Path, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file, path = self.listed(root), root / "config.json"
        before = path.stat()
        other = write(root, "other", b"{}")
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        if how == "replaced":
            other.rename(path)
        elif how == "longer":
            path.write_bytes(b"{ }")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif how == "touched":
            os.utime(path, ns=(1, 1))
        else:
            path.unlink()
            path.symlink_to(other) if how == "link" else os.mkfifo(path)
        opened: list[int] = []
        really = os.open

        def noted(path: Path, flags: int) -> int:
            opened.append(really(path, flags))
            return opened[-1]

        # gevent's own close may do it later.
        closed: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", noted)
            patch.setattr(os, "close", closed.append)
            with pytest.raises(HostError) as found:
                file.open()
        assert closed == opened
        for descriptor in closed:
            os.close(descriptor)
        said = f"{path} was changed while it was copied; run again"
        if how == "link":
            said = f"{path} cannot be read any more: Too many levels of symbolic links; run again"
        assert str(found.value) == said

    def test_one_that_is_gone(self, root: Path) -> None:
        file = self.listed(root)
        file.path.unlink()
        with pytest.raises(HostError, match=r"config.json cannot be read any more: No such file"):
            file.open()

    def test_its_digest_is_computed_once(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = self.listed(root)
        digest = hashlib.sha256(b"{}").hexdigest()
        assert file.sha256 == digest
        file.path.unlink()
        assert file.sha256 == digest
        write(root, "config.json", b"[]")
        assert self.listed(root).sha256 == hashlib.sha256(b"[]").hexdigest()

    def test_files_that_went_while_they_were_looked_at(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def gone(file: LocalFile) -> None:
            raise HostError(f"{file.name} is gone")

        monkeypatch.setattr(LocalFile, "open", gone)
        assert refused(root) == ["config.json is gone"]

    def test_a_digest_of_several(self, root: Path) -> None:
        files = model(root).files
        lines = "".join(f"{file.sha256} {file.name}\n" for file in files)
        assert contents(files) == hashlib.sha256(lines.encode()).hexdigest()


class TestSmall:
    @pytest.mark.parametrize(
        "name",
        [f"x.{kind}" for kind in ("safetensors", "bin", "pt", "gguf", "h5", "msgpack", "onnx")],
    )
    def test_all_but_weights(self, root: Path, name: str) -> None:
        write(root, name)
        write(root, "sub/tokenizer.json")
        write(root, ".hidden")
        found = [file.name for file in small_files(str(root))]
        assert found == ["config.json", "sub/tokenizer.json"]

    def test_weights_may_be_missing(self, root: Path) -> None:
        (root / "model.safetensors").unlink()
        assert [file.name for file in small_files(str(root))] == ["config.json"]
        (root / "config.json").rename(root / "params.json")
        assert [file.name for file in small_files(str(root))] == ["params.json"]

    def test_what_is_not_small(self, root: Path) -> None:
        for name, size in (("a", 64 << 20), ("b", (64 << 20) + 1)):
            os.truncate(write(root, name), size)
        assert [file.name for file in small_files(str(root))] == ["a", "config.json"]

    def test_it_is_named_as_somebody_wrote_it(self, root: Path) -> None:
        (root / "config.json").unlink()
        for given, said in (((), "copy_from "), (("--model ",), "--model ")):
            with pytest.raises(SettingsError) as found:
                small_files(str(root), *given)
            assert found.value.problems == [
                f"{said}{root} has no config.json; name a model's folder"
            ]
        with pytest.raises(SettingsError) as found:
            small_files(str(root / "none"), "--model ")
        assert str(found.value) == (
            f"--model {root}/none cannot be read: [Errno 2] No such file or directory:"
            f" '{root}/none'; correct its rights, or name another"
        )


class TestLinks:
    def test_to_folders_are_seen(self, root: Path) -> None:
        write(root, "sub/a")
        (root / "b").symlink_to("sub")
        assert refused(root) == [
            f"copy_from {root} has the link b -> sub to a folder; put the folder itself there, or"
            " remove the link"
        ]

    def test_out_of_the_folder(self, root: Path) -> None:
        write(root.parent, "other")
        (root / "b").symlink_to("../other")
        assert refused(root) == [
            f"copy_from {root} has the link b -> ../other, which leads out of the folder to"
            f" {root.parent}/other; put the file itself there, or remove the link"
        ]

    @pytest.mark.parametrize(
        ("parts", "well"),
        [
            (("models--org--name", "snapshots"), True),
            (("models--org--name", "snapshot"), False),
            (("model--org--name", "snapshots"), False),
        ],
    )
    def test_to_what_the_hub_s_cache_has(
        self, root: Path, parts: tuple[str, str], well: bool
    ) -> None:
        repository = root.parent / parts[0]
        blob = write(repository, "blobs/x", b"1")
        write(repository, "blobs/sub/y")
        snapshot = repository / parts[1] / "abc"
        snapshot.parent.mkdir()
        root.rename(snapshot)
        (snapshot / "vocab.json").symlink_to("../../blobs/x")
        if well:
            [found] = [file for file in model(snapshot).files if file.name == "vocab.json"]
            assert (found.path, found.size) == (blob, 1)
            (snapshot / "deeper").symlink_to("../../blobs/sub/y")
        assert "which leads out of the folder" in refused(snapshot)[0]

    def test_without_blobs_there_are_none(self, root: Path) -> None:
        repository = root.parent / "models--org--name"
        other = write(root.parent, "x")
        (repository / "snapshots").mkdir(parents=True)
        root.rename(repository / "snapshots/abc")
        (repository / "snapshots/abc/v.json").symlink_to(other)
        assert "which leads out of the folder" in refused(repository / "snapshots/abc")[0]
