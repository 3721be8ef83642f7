"""Who holds a host, and what a deploy that is gone left there: every word that is read of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from vllm_hosts.data import DATA
from vllm_hosts.host.marks import Left, Owner, deploy_mark, functions, left_of, owner_of, readable

BOOT = "962bd73d-5bb1"
SAID = {"who": "ada@laptop", "what": "deploy.py of prod.py", "since": "2026-11-26T08:00:00Z"}
BARE = Owner(SAID["who"], SAID["what"], SAID["since"])
ADA = replace(BARE, pid=4711, boot=BOOT, address="192.0.2.7")


def record(pid: str = "4711", boot: str = BOOT, address: str = "192.0.2.7", **said: object) -> str:
    return f"{pid} {boot} {address} {json.dumps(SAID | said)}"


def test_a_mark_is_a_time_that_people_can_read() -> None:
    mark = deploy_mark(datetime(2026, 11, 26, 8, 0, 9, tzinfo=UTC))
    assert mark == "2026-11-26T08:00:09Z"
    assert readable(mark) == "2026-11-26 08:00:09 UTC"


def test_who_holds_a_host() -> None:
    assert owner_of(f" {record()}\n") == ADA
    sentence = "deploy.py of prod.py of ada@laptop{}, since 2026-11-26 08:00:00 UTC"
    assert ADA.sentence == sentence.format(" (192.0.2.7)")
    assert (BARE.pid, BARE.boot, BARE.address) == (0, "", "")
    assert BARE.sentence == replace(BARE, address="-").sentence == sentence.format("")
    for address in ("-", "fe80::1%eth0", "2001:DB8::1"):
        found = owner_of(record(address=address))
        assert found is not None and found.address == address


@pytest.mark.parametrize(
    "line",
    [
        "",
        record(pid="x"),
        record(pid="1" * 11),
        record(boot="G"),
        record(boot="a" * 41),
        record(address="a" * 65),
        record(address="a b"),
        f"x {record()}",
        f"{record()} x",
        f'1 {BOOT} - {{"who": "a", "what": "b"}}',
        f"1 {BOOT} - {{nothing}}",
        f"1 {BOOT} - {{}}",
        record(more="x" * 4000),
    ],
)
def test_what_is_not_ours_or_not_whole_names_nobody(line: str) -> None:
    assert owner_of(line) is None


def test_what_somebody_wrote_there_is_shown_safely() -> None:
    found = owner_of(record(who="a\x1b[2J" + "b" * 900))
    assert found is not None and found.who.isprintable()
    assert len(found.who.removesuffix(" ...")) == 200


LINES = [
    "process 13 2026-11-26T08:00:09Z dpkg",
    "process 12 2026-11-26T08:00:00Z apt-get",
    "undo firewall",
    "undo ssh",
]


def test_what_a_deploy_left() -> None:
    found = left_of(LINES)
    assert found == Left(
        ((13, "2026-11-26T08:00:09Z", "dpkg"), (12, "2026-11-26T08:00:00Z", "apt-get")),
        ("firewall", "ssh"),
    )
    programs = (
        "dpkg (pid 13), apt-get (pid 12), left by a run of 2026-11-26 08:00:00 UTC that was cut off"
    )
    changes = "a change of firewall and ssh that nobody confirmed, which is being rolled back"
    assert found.sentence == f"{programs}; {changes}"
    assert left_of(LINES[:2]).sentence == programs
    assert left_of(LINES[2:]).sentence == changes
    assert [bool(left_of(lines)) for lines in (LINES[:1], LINES[2:], [])] == [True, True, False]
    assert left_of([]) == Left() == Left((), ())


def test_three_programs_are_named() -> None:
    many = left_of([f"process {n} 2026-11-26T08:00:00Z p{n}" for n in range(5)])
    assert many.sentence.startswith("p0 (pid 0), p1 (pid 1), p2 (pid 2), left by")


@pytest.mark.parametrize(
    "line",
    [
        "process x 2026 dpkg", "process 1 2026", "process 1 2026 dpkg more", "other 1 2026 dpkg",
        "undo", "undo a b", "redo ssh", "", "undo a b c",
    ],
)  # fmt: skip
def test_what_is_not_said_by_the_look(line: str) -> None:
    assert not left_of([line])


def test_a_host_s_words_are_shown_safely() -> None:
    long = left_of([f"process 1 {'t' * 90} {'p' * 90}", f"undo {'c' * 90}"])
    [(_, since, name)] = long.programs
    assert [len(text.removesuffix(" ...")) for text in (since, name, *long.changes)] == [32] * 3


def test_the_shell_s_functions_know_where_things_are() -> None:
    assert functions() == (
        "lock=/run/vllm-hosts.lock\nhistory=/var/lib/vllm-hosts/history\n"
        "deployed=/var/lib/vllm-hosts/deployed\nmark=VLLM_HOSTS_DEPLOY\n"
        f"undo=/run/vllm-hosts-undo\n{(DATA / 'deploys.sh').read_text()}"
    )


@pytest.mark.parametrize("number", ["\u00b2", "9" * 5000, "-1", "1x"])
def test_a_process_whose_number_is_none_is_left_out(number: str) -> None:
    assert left_of([f"process {number} s n", "process 17 s n"]).programs == ((17, "s", "n"),)
