"""What ``nvidia-smi`` is asked, word by word, and each value and failure that is read of it."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_hosts.host import nvidia_apps, nvidia_smi
from vllm_hosts.host.nvidia_apps import Holder
from vllm_hosts.host.nvidia_smi import (
    CARDS,
    FIELDS,
    LOAD,
    NOT_INSTALLED,
    QUERY,
    REASONS,
    Failure,
    Gpu,
    Smi,
    failure,
    health,
    parse,
    query,
    read,
)

ROW = "0, NVIDIA A10G, GPU-1, 23028, 550.163.01, 8.6, [N/A], Disabled"
CARD = Gpu(0, "NVIDIA A10G", "GPU-1", 23028, "550.163.01", (8, 6), None, False)


def test_the_fields() -> None:
    assert " ".join(FIELDS) == (
        "index name uuid memory.total driver_version compute_cap mig.mode.current persistence_mode"
    )
    assert " ".join(LOAD) == (
        "index name memory.used memory.total utilization.gpu temperature.gpu power.draw power.limit"
        " mig.mode.current"
    )
    assert " ".join(CARDS) == "index name memory.total"
    assert " ".join(REASONS) == "clocks_event_reasons clocks_throttle_reasons"
    wanted = (
        "index temperature.gpu ecc.errors.uncorrected.volatile.total {0}.hw_thermal_slowdown"
        " {0}.sw_thermal_slowdown {0}.hw_power_brake_slowdown"
    )
    assert " ".join(health()) == wanted.format("clocks_event_reasons")
    assert " ".join(health("x")) == wanted.format("x")


ASK = "timeout -k 5 {} nvidia-smi --format=csv,noheader,nounits 2>&1 --query-gpu={}"


def lines(text: str) -> list[str]:
    found = [line.strip() for line in text.splitlines()]
    return [line for line in found if line and not line.startswith("#")]


def test_what_is_asked() -> None:
    once = ASK.format(7, "index,name")
    assert lines(query(("index", "name"), 7)) == [
        "if command -v nvidia-smi >/dev/null; then",
        f'gpus=$({{ {once}; echo "exit $?"; }} | head -c 200000)',
        'echo "$gpus"',
        "else",
        "echo 'exit -'",
        "fi",
    ]


def test_a_driver_that_does_not_know_a_field_is_asked_again() -> None:
    older = ",".join("index" if name == "compute_cap" else name for name in FIELDS)
    first, again = ASK.format(60, ",".join(FIELDS)), ASK.format(60, older)
    assert lines(QUERY)[1:5] == [
        f'gpus=$({{ {first}; echo "exit $?"; }} | head -c 200000)',
        "case $gpus in *'is not a valid field'*)",
        f'gpus=$({{ {again}; echo "exit $?"; }} | head -c 200000) ;;',
        "esac",
    ]


@pytest.mark.parametrize(
    ("part", "meaning", "helps"),
    [
        ("version mismatch", "the driver was updated and the old kernel module still runs", True),
        ("GPU is lost", "the card has fallen off the bus; if it recurs, check power and riser",
         True),
        ("Unable to determine the device handle", "a card does not answer; dmesg has an Xid", True),
        ("GPU requires reset", "a card needs a reset", True),
        ("Unknown Error", "a card does not answer; dmesg has an Xid", True),
        ("No devices were found", "the driver runs but claims no card; dmesg shows why", False),
        ("libnvidia-ml", "the driver's libraries are missing", False),
        ("couldn't communicate", "the kernel module does not run", False),
        ("nobody knows", "", False),
    ],
)  # fmt: skip
def test_what_failures_mean(part: str, meaning: str, helps: bool) -> None:
    found = failure(f"a {part} b")
    assert found == Failure(f"a {part} b", meaning, helps)
    assert str(found) == f"a {part} b"
    assert found.explained == (f"a {part} b ({meaning})" if meaning else f"a {part} b")


def test_where_there_is_no_such_program() -> None:
    found = parse(["exit -"])
    assert found == Smi((), NOT_INSTALLED, code=None)
    assert found.message == "nvidia-smi is not installed: the driver is missing"
    assert NOT_INSTALLED.meaning == "there is no driver"
    assert (found.installed, found.answers, found.driver) == (False, False, None)
    assert Failure("x") == Failure("x", "", False)


def test_cards_that_answer() -> None:
    found = parse([ROW, "exit 0"])
    assert found == Smi((CARD,), None, {}, (), 0, ROW)
    assert Smi((), None) == Smi((), None, {}, (), 0, "")
    assert (found.installed, found.answers, found.driver) == (True, True, "550.163.01")
    assert found.message is None
    # A warning has an exit code too, and a driver without cards answers.
    assert parse([ROW, "exit 14"]).answers
    assert parse(["No devices were found", "exit 0"]).answers
    assert not parse(["No devices were found", "exit 6"]).answers


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (["exit 0"], "No devices were found"),
        (["exit 9"], "nvidia-smi ended with 9 and no output"),
        (["  a ", "", "b  c", "exit 9"], "a b c"),
        (["exit 124"], "nvidia-smi did not answer within 60 s"),
        (["a", "exit 137"], "nvidia-smi did not answer within 60 s a"),
    ],
)
def test_why_none_answers(said: list[str], words: str) -> None:
    found = read(said)
    assert found.message == words and found.gpus == ()
    hangs = "the driver or a card hangs; dmesg may have an Xid"
    if "within" in words:
        assert found.failure == Failure(words, hangs)
        assert found.notes[0] == "nvidia-smi did not finish within 60 s"
    assert read(["exit 124"], seconds=7).message == "nvidia-smi did not answer within 7 s"


def test_what_is_no_card_at_all_is_an_error() -> None:
    for said in (["x", "exit 0"], ["x" * 900, "exit 0"]):
        with pytest.raises(ValueError, match="^nvidia-smi lists no card that can be read: 'x"):
            parse(said)
    with pytest.raises(ValueError) as caught:
        parse(["x" * 900, "exit 0"])
    assert str(caught.value).count("x") == 500
    for said in (["exit 1000"], ["exit"], ["exit x"], [ROW], []):
        with pytest.raises(ValueError, match="^no exit code at the end: "):
            read(said)
    # With a card that is gone there is a list.
    lost = parse(["3, [GPU is lost], x", "exit 0"])
    assert lost.lost == {3: "GPU is lost"}
    assert lost.failure == failure("GPU 3: GPU is lost")


def test_a_driver_that_went_mad_is_quoted_in_part() -> None:
    found = read([ROW, *(f"warning {n}" for n in range(30)), "exit 0"])
    assert list(found.notes) == [f"warning {n}" for n in range(20)]
    long = read(["y" * 9000, "exit 1"])
    assert long.said.count("y") == 2000 and long.said.isprintable()
    assert read(["a\x1b[2Jb", "exit 1"]).said.isprintable()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("1, [GPU is lost], x", "GPU is lost"),
        ("1, x, GPU requires reset", "GPU requires reset"),
        ("1, x, [gpu IS LOST]", "gpu IS LOST"),
        ("1, [Unknown Error], GPU-1", "Unknown Error"),
        ("1, x, [Unknown Error]", "Unknown Error"),
        ("1, [N/A], GPU-1", None),
        ("1, N/A, GPU-1", None),
        ("1, [Not Supported], GPU-1", None),
        ("1, Not Supported, GPU-1", None),
        ("1, a GPU is lost, GPU-1", None),
        ("x, [GPU is lost], GPU-1", None),
        ("1234567890, [GPU is lost], GPU-1", None),
    ],
)
def test_a_card_that_is_gone(row: str, why: str | None) -> None:
    found = read([row, "exit 0"], ("index", "name", "uuid"))
    assert dict(found.lost) == ({1: why} if why else {})


def test_trouble_with_the_cards_that_are_wanted() -> None:
    found = Smi((CARD,), None, {2: "GPU is lost", 1: "GPU requires reset"})
    assert found.trouble([0]) is None and found.trouble([]) is None
    assert found.trouble([2, 1, 0]) == failure("GPU 1: GPU requires reset")
    assert found.trouble([2]) == failure("GPU 2: GPU is lost")
    silent = Smi((), failure("x"), {2: "GPU is lost"})
    assert silent.trouble([2]) == failure("x")


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("index", "7", 7), ("name", "", ""), ("uuid", "GPU-1", "GPU-1"),
        ("memory.total", "12", 12), ("memory.total", "[N/A]", None), ("memory.total", "N/A", None),
        ("memory.used", "12", 12), ("driver_version", "590.1", "590.1"),
        ("compute_cap", "12.1", (12, 1)), ("compute_cap", "0", None), ("compute_cap", "[x]", None),
        ("mig.mode.current", "Enabled", True), ("mig.mode.current", "Disabled", False),
        ("persistence_mode", "Enabled", True), ("persistence_mode", "[Not Supported]", None),
        ("utilization.gpu", "34", 34.0), ("temperature.gpu", "61", 61.0),
        ("power.draw", "71.25", 71.25), ("power.limit", "Not Supported", None),
        ("ecc.errors.uncorrected.volatile.total", "2", 2),
        ("clocks_event_reasons.hw_thermal_slowdown", "Active", True),
        ("clocks_throttle_reasons.sw_thermal_slowdown", "Not Active", False),
        ("clocks_event_reasons.hw_power_brake_slowdown", "Active", True),
    ],
)  # fmt: skip
def test_each_value(field: str, text: str, value: Any) -> None:
    attributes = {
        "memory.total": "memory_mib", "memory.used": "memory_used_mib",
        "driver_version": "driver", "compute_cap": "compute_capability",
        "mig.mode.current": "mig", "persistence_mode": "persistence",
        "utilization.gpu": "utilization", "temperature.gpu": "temperature",
        "power.draw": "power", "power.limit": "power_limit",
        "ecc.errors.uncorrected.volatile.total": "ecc_errors",
    }  # fmt: skip
    name = attributes.get(field, field.rpartition("reasons.")[2])
    whole = {"index": 5} | {name: value}
    given = text if field == "index" else f"5, {text}"
    asked = (field,) if field == "index" else ("index", field)
    [card] = read([given, "exit 0"], asked).gpus
    assert card == Gpu(**whole)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("uuid", ""), ("driver_version", ""), ("driver_version", "[N/A]"),
        ("driver_version", "N/A"), ("memory.total", "[12"), ("memory.total", "12]"),
        ("memory.total", "1234567890"), ("memory.total", ""), ("compute_cap", "9.x"),
        ("compute_cap", "9000.1"), ("mig.mode.current", "on"), ("power.draw", "inf"),
        ("power.draw", "nan"), ("power.draw", "x"), ("index", "x"),
    ],
)  # fmt: skip
def test_values_that_are_none_of_its(field: str, text: str) -> None:
    given = text if field == "index" else f"5, {text}"
    asked = (field,) if field == "index" else ("index", field)
    found = read([given, "exit 0"], asked)
    assert found.gpus == () and found.message == given.strip()


def test_a_comma_is_a_name_s_and_no_other_s() -> None:
    [card] = read(["1, A10G, rev. b, c, 12", "exit 0"], CARDS).gpus
    assert card == Gpu(1, "A10G, rev. b, c", memory_mib=12)
    assert read(["1, 2, 3", "exit 0"], ("index", "memory.total")).gpus == ()
    assert read(["1", "exit 0"], CARDS).gpus == ()


UUID = "GPU-1"


def test_programs_on_cards() -> None:
    said = [
        f"466, 5638, {UUID}",
        "466, 7, GPU-2",
        f"484, [N/A], {UUID}",
        f"500, 1234567890, {UUID}",
        f"501, 3, {UUID}",
        f"12345678901, 3, {UUID}",
        f"0, 3, {UUID}",
        f"502, 3, {UUID}, x",
        "503, 3",
        "exit 0",
        "name 466 python3",
        "name 484 a, b c",
        "name 500 ",
        "of 466 ours",
        "of 501 gone",
    ]
    assert nvidia_apps.read(said) == (
        Holder(466, 5638, UUID, "python3", True),
        Holder(466, 7, "GPU-2", "python3", True),
        Holder(484, None, UUID, "a, b c", False),
        Holder(500, None, UUID, "a program", False),
    )
    assert Holder(1, None, "x", "y").ours is False


def test_a_program_s_name_is_shown_safely() -> None:
    [one] = nvidia_apps.read([f"1, 2, {'g' * 900}", "exit 0", f"name 1 {'n' * 900}"])
    sizes = [len(text.removesuffix(" ...")) for text in (one.gpu, one.name)]
    assert sizes == [100, 60]


def test_a_list_of_programs_without_an_end() -> None:
    for said in (["x"], ["exit 1000"], ["y" * 900]):
        with pytest.raises(ValueError, match="^no exit code in '") as caught:
            nvidia_apps.read(said)
    assert str(caught.value).count("y") == 200
    with pytest.raises(ValueError, match="^no exit code in 'a b'$"):
        nvidia_apps.read(["a", "b"])
    assert nvidia_apps.read([]) == ()


def test_what_is_asked_of_programs() -> None:
    words = nvidia_apps.APPS
    assert f"timeout -k 5 {nvidia_smi.PATIENCE} nvidia-smi --format=csv,noheader,nounits" in words
    assert '--query-compute-apps=pid,used_memory,gpu_uuid; echo "exit $?"' in words
    assert "| head -c 200000 |" in words and "| head -n 1000)" in words
