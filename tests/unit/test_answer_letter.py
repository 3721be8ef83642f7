"""A rehearsal's answer is a host's text: each value is read, bounded, or refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vllm_hosts.rehearsal import remembered
from vllm_hosts.rehearsal.answer import (
    STAGES,
    Answer,
    LayerGroup,
    Refusal,
    Room,
    read,
    read_text,
    unrehearsed,
)

MARK = "m" * 32
WHOLE: dict[str, Any] = {
    "format": 1,
    "vllm": "0.33.0",
    "platform": "cuda",
    "architecture": "Qwen3ForCausalLM",
    "dtype": "bfloat16",
    "quantization": "fp8",
    "max_model_len": 40960,
    "auto_length": True,
    "batched_tokens": 8192,
    "sequences": 256,
    "hidden": 4096,
    "vocabulary": 151936,
    "cache_dtype": "fp8_e4m3",
    "weights": 9,
    "cache": 0,
    "cache_token": 1.5,
    "groups": [{"kind": "full", "layers": 36, "block_size": 16}],
    "rooms": [
        {"other": 7, "room": -5, "fits": False, "longest": 3, "times": 2, "sentence": "no"},
        {"room": 4, "fits": True},
    ],
    "refused": {"stage": "model", "sentence": "no"},
    "unknown": {"weights": "drafts"},
}
ANSWER = Answer(
    "0.33.0", "cuda", "Qwen3ForCausalLM", "bfloat16", "fp8", 40960, True, 8192, 256, 4096, 151936,
    "fp8_e4m3", 9, 0, 1.5, (LayerGroup("full", 36, 16),),
    (Room(7, -5, False, 3, 2.0, "no"), Room(0, 4, True, 0, None, "")),
    Refusal("model", "no"), {"weights": "drafts"},
)  # fmt: skip


def answer(**given: Any) -> Answer:
    return read_text(json.dumps(WHOLE | given))


def test_every_value_is_read() -> None:
    assert answer() == ANSWER
    why = {"memory": "a reason"}
    assert read_text(json.dumps({"format": 1, "unknown": why})) == Answer(unknown=why)
    with pytest.raises(ValueError, match="neither figures nor why"):
        read_text('{"format": 1}')
    assert Answer().auto_length is False
    assert STAGES == ("arguments", "configuration", "model")


def test_whether_it_is_whole() -> None:
    assert ANSWER.whole and Answer().whole
    assert replace(ANSWER, unknown={}).whole
    assert not replace(ANSWER, refused=None).whole


def test_only_true_is_true() -> None:
    assert [answer(auto_length=value).auto_length for value in (1, "true", False)] == [False] * 3


@pytest.mark.parametrize(
    "given",
    [
        {"format": 2},
        {"max_model_len": True},
        {"max_model_len": -1},
        {"max_model_len": 1 << 60},
        {"weights": 1.5},
        {"weights": "9"},
        {"cache_token": -0.1},
        {"cache_token": float(1 << 60)},
        {"cache_token": True},
        {"cache_token": "1"},
        {"cache_token": 1e999},
        {"refused": {"stage": "other", "sentence": "no"}},
        {"refused": {"stage": "model", "sentence": " \n"}},
        {"refused": {"stage": "model"}},
        {"rooms": [{"room": 4, "fits": 1}]},
        {"rooms": [{"room": 4.0, "fits": True}]},
        {"rooms": [{"room": True, "fits": True}]},
        {"rooms": [{"fits": True}]},
        {"rooms": 7},
        {"rooms": [7]},
        {"groups": [{}]},
        {"unknown": []},
    ],
)
def test_what_is_no_answer_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        answer(**given)


def test_the_largest_that_counts() -> None:
    largest = (1 << 60) - 1
    assert answer(weights=largest, cache_token=0).weights == largest
    assert answer(cache_token=0).cache_token == 0.0
    rooms = [{"room": size, "fits": False} for size in (1 << 70, -(1 << 70))]
    assert [room.room for room in answer(rooms=rooms).rooms] == [1 << 60, -(1 << 60)]


def test_more_than_anybody_reads_is_left_out() -> None:
    group, room = WHOLE["groups"][0], WHOLE["rooms"][1]
    found = answer(groups=[group] * 99, rooms=[room] * 99, unknown={str(n): "x" for n in range(99)})
    assert (len(found.groups), len(found.rooms), len(found.unknown)) == (64, 8, 16)


def test_text_is_no_longer_than_needed() -> None:
    long = "x" * 9000
    found = answer(
        vllm=long,
        groups=[{"kind": long, "layers": None}],
        rooms=[{"room": 1, "fits": False, "sentence": long}],
        refused={"stage": "model", "sentence": long},
        unknown={long: long},
    )
    assert found.vllm is not None and found.refused is not None
    [(name, why)] = found.unknown.items()
    texts = (found.vllm, found.groups[0].kind, found.rooms[0].sentence, found.refused.sentence,
             name, why, unrehearsed(long).unknown["all"])  # fmt: skip
    cut = [len(text.removesuffix(" ...")) for text in texts]
    assert cut == [100, 60, 1200, 1200, 20, 1200, 1200]
    assert (found.groups[0].layers, found.groups[0].block_size) == (0, 0)


def framed(text: str) -> str:
    return f"a log\n{MARK}{text}{MARK} and more"


def test_what_stands_between_two_marks_is_the_answer() -> None:
    assert read(framed(json.dumps(WHOLE)), MARK, 137) == ANSWER
    assert read(framed(json.dumps(WHOLE)).encode() + b"\xff", MARK) == ANSWER
    with pytest.raises(ValueError, match="^a request without a mark has no answer$"):
        read("x", "")


@pytest.mark.parametrize(
    ("output", "code", "why"),
    [
        ("x", 142, "it took too long"),
        ("x", 124, "it took too long"),
        ("x", 137, "it was killed for its memory"),
        (f"x{MARK}y", 137, "it was killed for its memory"),
        (" \n", 3, "it ended with 3 and no answer: it printed nothing"),
        (f"{'a' * 400}b ", 0, f"it ended with 0 and no answer: {'a' * 299}b"),
        (framed('{"format": 2}'), 0, "its answer cannot be read: it is of format 2"),
        (framed("{}"), 0, "its answer cannot be read: KeyError('format')"),
        (framed('{"format": 1, "cache": -1}'), 0,
         "its answer cannot be read: its cache is no count"),
        (framed('{"format": 1, "cache_token": -1}'), 0,
         "its answer cannot be read: its cache_token is no number"),
        (framed('{"format": 1, "rooms": [{"room": 1, "fits": 1}]}'), 0,
         "its answer cannot be read: it says of a room what is no answer"),
        (framed('{"format": 1, "refused": {"stage": "x"}}'), 0,
         "its answer cannot be read: its refusal has no sentence of vLLM's"),
        (framed(f'{{"format": "{"y" * 90}"}}'), 0,
         f"its answer cannot be read: it is of format {'y' * 20} ..."),
    ],
)  # fmt: skip
def test_why_there_is_none(output: str, code: int, why: str) -> None:
    assert read(output, MARK, code) == Answer(unknown={"all": why})


class TestRemembered:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(remembered, "cache_folder", lambda: tmp_path / "vllm-hosts/hub")
        return tmp_path / "vllm-hosts/rehearsals"

    def test_what_was_said_is_said_again(self, folder: Path) -> None:
        assert remembered.recall("a") is None
        remembered.keep("a", ANSWER)
        os.utime(folder / "a.json", (1, 1))
        assert remembered.recall("a") == ANSWER
        # Whatever is asked for is kept longest.
        assert (folder / "a.json").stat().st_mtime > 1
        assert [path.name for path in folder.iterdir()] == ["a.json"]

    def test_what_nobody_said_is_not_kept(self, folder: Path) -> None:
        remembered.keep("a", unrehearsed("no memory"))
        assert not folder.exists()
        folder.mkdir(parents=True)
        (folder / "a.json").write_text('{"format": 1, "unknown": {"all": "x"}}')
        assert remembered.recall("a") is None
        (folder / "a.json").write_text("{")
        assert remembered.recall("a") is None

    def test_the_oldest_go(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert remembered.MOST == 500
        monkeypatch.setattr(remembered, "MOST", 2)
        for at, key in enumerate("dcba"):
            remembered.keep(key, ANSWER)
            os.utime(folder / f"{key}.json", (at + 1, at + 1))
        assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]

    def test_a_cache_that_cannot_be_written_is_no_reason_to_stop(self, folder: Path) -> None:
        folder.parent.mkdir()
        folder.write_text("in the way")
        remembered.keep("a", ANSWER)
        assert remembered.recall("a") is None
