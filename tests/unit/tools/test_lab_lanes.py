"""Lab tests in two labs beside each other: each file is one lane's, and none is nobody's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import layout
from tests.lab import in_lanes


class LaneOf:
    """The plugin as a pytest of its own would have it."""

    def __init__(self, taken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LANES_TAKEN", str(taken))
        self._plugin: dict[str, Any] = {"__name__": "lane"}
        source = Path(in_lanes.__file__).with_name("lane.py")
        exec(compile(source.read_text(), source, "exec"), self._plugin)

    def ordered(self, names: list[str]) -> list[str]:
        items: Any = [_item(name) for name in names]
        self._plugin["pytest_collection_modifyitems"](items)
        return [item.path.name for item in items]

    def runs(self, name: str) -> bool:
        """Whether it would run a test of this file, or let it go."""
        said = self._plugin["pytest_runtest_protocol"](_item(name))
        assert said in (None, True)  # the latter: as if it had run
        return said is None


def _item(name: str) -> Any:
    return SimpleNamespace(path=Path("tests/lab", name))


def test_a_file_is_one_lane_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = LaneOf(tmp_path, monkeypatch), LaneOf(tmp_path, monkeypatch)
    assert one.runs("test_a.py") and one.runs("test_a.py")
    assert not other.runs("test_a.py")
    assert other.runs("test_b.py") and other.runs("test_b.py")
    assert not one.runs("test_b.py")


def test_who_begins_with_the_image_leaves_the_first_deploy_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = LaneOf(tmp_path, monkeypatch)
    first = "test_1_converge.py"
    with monkeypatch.context() as later:
        later.setenv(in_lanes.WITH_IMAGE, "1")
        assert not LaneOf(tmp_path, later).runs(first)
        assert LaneOf(tmp_path, later).runs("test_a.py")
    assert fresh.runs(first)


def test_long_ones_first_and_the_lab_s_end_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["test_9_lab.py", "test_2_words.py", "test_4_verify.py", "test_1_converge.py"]
    expected = ["test_1_converge.py", "test_4_verify.py", "test_2_words.py", "test_9_lab.py"]
    assert LaneOf(tmp_path, monkeypatch).ordered(names) == expected


def test_files_named_there_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = LaneOf(tmp_path, monkeypatch)._plugin
    folder = Path(in_lanes.__file__).parent
    named = [folder / f"test_{name}.py" for name in (*plugin["LONG"], plugin["LAST"])]
    named.append(folder / plugin["FRESH"])
    assert [path for path in named if not path.is_file()] == []


def test_a_copy_has_the_tests_and_no_keys(tmp_path: Path) -> None:
    copy = in_lanes._checkout(1, str(tmp_path))
    assert (copy / "tests/lab/in_lanes.py").is_file() and (copy / "vllm_hosts/roles").is_symlink()
    assert (copy / ".venv").is_symlink()
    assert list(copy.glob("inventory/.vllm-hosts")) == []
    assert in_lanes._checkout(0, str(tmp_path)) == in_lanes.ROOT


def test_labs_do_not_meet() -> None:
    """What another number changes: all that two labs must not share on one machine."""

    def of(number: str) -> dict[str, object]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("VLLM_HOSTS_LAB_NUMBER", number)
            patched.delenv("VLLM_HOSTS_LAB_STATE", raising=False)
            space: dict[str, Any] = {"__name__": "vllm_hosts_lab_layout"}
            patched.setitem(__import__("sys").modules, space["__name__"], SimpleNamespace(**space))
            exec(Path(layout.__file__).read_text(), space)
        machine = space["gpu_hosts"](1)[0].machine
        names = ("STATE", "BRIDGE", "BRIDGE_V4", "BRIDGE_V6", "SSH_KEY", "APT_CACHE", "CACHE")
        return {name: space[name] for name in names} | {"machine": machine}

    usual, second = of("0"), of("1")
    assert {name for name in usual if usual[name] == second[name]} == {"CACHE"}
    assert not usual["BRIDGE_V4"].network.overlaps(second["BRIDGE_V4"].network)  # type: ignore[attr-defined]
    assert not usual["BRIDGE_V6"].network.overlaps(second["BRIDGE_V6"].network)  # type: ignore[attr-defined]
