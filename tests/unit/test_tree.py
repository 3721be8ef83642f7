"""Files as values: what counts as a difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from tests.unit.projects import ROOT
from vllm_hosts.host.files import (
    NOTHING,
    Absent,
    Cause,
    Entry,
    File,
    Folder,
    Found,
    Kept,
    cause,
    difference,
    differing,
)

FILE = File("/etc/a", b"text")
SAME = Found("f", 0o644, ("root", "0"), ("root", "0"), FILE.sha256)


def test_a_file_that_is_as_it_should_be_is_no_difference() -> None:
    assert differing([FILE], {"/etc/a": SAME}) == []


@pytest.mark.parametrize(
    "found",
    [
        NOTHING,
        Found("f", 0o600, SAME.owner, SAME.group, SAME.sha256),
        Found("f", 0o644, ("alice", "1000"), SAME.group, SAME.sha256),
        Found("f", 0o644, SAME.owner, ("staff", "50"), SAME.sha256),
        Found("f", 0o644, SAME.owner, SAME.group, "0" * 64),
        Found("l", 0o644, SAME.owner, SAME.group),
        Found("d", 0o644, SAME.owner, SAME.group),
    ],
)
def test_anything_else_at_a_file_s_path_is_a_difference(found: Found) -> None:
    assert differing([FILE], {"/etc/a": found}) == [FILE]


def test_owner_may_be_given_as_a_number() -> None:
    folder = Folder("/srv/cache", 0o750, "64101", "64101")
    found = Found("d", 0o750, ("UNKNOWN", "64101"), ("UNKNOWN", "64101"))
    assert differing([folder], {"/srv/cache": found}) == []


def test_absent_is_a_difference_while_anything_is_there() -> None:
    link = Absent("/etc/link")
    assert differing([link], {"/etc/link": Found("l", 0o777, SAME.owner, SAME.group)}) == [link]
    assert differing([link], {"/etc/link": NOTHING}) == []


def test_a_path_that_was_not_looked_at_is_an_error() -> None:
    with pytest.raises(KeyError):
        differing([FILE], {})


def test_a_secret_file_cannot_be_described_as_readable_by_others() -> None:
    with pytest.raises(ValueError, match="too wide"):
        File("/opt/vllm/.env", b"KEY=1", mode=0o640, secret=True)


def test_content_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(File("/a", b"hunter2", mode=0o600, secret=True))


@pytest.mark.parametrize(
    "path", ["relative", "/a b", "/a;b", "/a/../b", "/a/..", "/a$b", "/a\nb", "/"]
)
@pytest.mark.parametrize("kind", [partial(File, content=b""), Folder, Kept, Absent])
def test_paths_that_a_shell_could_take_apart_are_refused(
    kind: Callable[[str], Entry], path: str
) -> None:
    with pytest.raises(ValueError) as refused:
        kind(path)
    assert str(refused.value).startswith(f"{path!r} is not an absolute path")


@pytest.mark.parametrize("name", ["", "a b", "root;id", "$(id)", "-R", "a\nb", "Root"])
@pytest.mark.parametrize("kind", [partial(File, content=b""), Folder, Kept])
@pytest.mark.parametrize("whose", ["owner", "group"])
def test_names_that_a_shell_could_take_apart_are_refused(
    kind: Callable[..., Entry], whose: str, name: str
) -> None:
    with pytest.raises(ValueError) as refused:
        kind("/a", **{whose: name})
    assert str(refused.value).startswith(f"{name!r} is not the name or number of a user")


def test_without_a_word_others_read_and_only_root_writes() -> None:
    for entry in (FILE, Folder("/etc/x"), Kept("/etc/x")):
        assert (entry.owner, entry.group) == ("root", "root")
    modes = [f"{entry.mode:o}" for entry in (FILE, Folder("/etc/x"), Kept("/etc/x"))]
    assert modes == ["644", "755", "644"]


def test_an_entry_is_a_value_that_nobody_changes_under_those_who_have_it() -> None:
    for entry in (FILE, Folder("/etc/x"), Kept("/etc/x"), Absent("/etc/x"), SAME):
        assert {entry: 1}[replace(entry)] == 1


FOLDER = Folder("/etc/x", 0o750, "root", "www-data")
OTHERS = Found("d", 0o755, ("root", "0"), ("root", "0"))


@pytest.mark.parametrize(
    ("entry", "found", "words"),
    [
        (Absent("/etc/x"), SAME, "should not be there"),
        (FILE, NOTHING, "is missing"),
        (FOLDER, NOTHING, "is missing"),
        (FILE, OTHERS, "is not a regular file"),
        (Kept("/etc/x"), OTHERS, "is not a regular file"),
        (FOLDER, SAME, "is not a folder"),
        (FILE, replace(SAME, sha256="0" * 64), "has different content"),
        (FILE, replace(SAME, mode=0o4755), "has mode 4755, not 0644"),
        (FILE, replace(SAME, mode=0o20), "has mode 0020, not 0644"),
        (Kept("/etc/x"), replace(SAME, mode=0o600), "has mode 0600, not 0644"),
        (
            FILE,
            replace(SAME, sha256="0" * 64, mode=0o600, owner=("alice", "1000")),
            "has different content and has mode 0600, not 0644"
            " and belongs to alice:root, not root:root",
        ),
        (
            FOLDER,
            OTHERS,
            "has mode 0755, not 0750 and belongs to root:root, not root:www-data",
        ),
        (FILE, SAME, "has not been loaded by its service"),
    ],
)
def test_a_difference_in_words(entry: Entry, found: Found, words: str) -> None:
    assert difference(entry, found) == words


def test_a_kept_file_is_judged_by_mode_and_owner_only() -> None:
    kept = Kept("/etc/a", 0o600)
    narrow = Found("f", 0o600, SAME.owner, SAME.group, "1" * 64)
    assert differing([kept], {"/etc/a": narrow}) == []
    assert differing([kept], {"/etc/a": SAME}) == [kept]
    assert differing([kept], {"/etc/a": NOTHING}) == [kept]


A, B, C = "a" * 64, "b" * 64, FILE.sha256


@pytest.mark.parametrize(
    ("there", "deployed", "expected"),
    [
        (A, (A,), Cause.SETTINGS),
        (A, (C,), Cause.HOST),
        (A, (B,), Cause.BOTH),
        (None, (C,), Cause.HOST),
        (None, (A,), Cause.BOTH),
        # What no deploy was about yet: a file that the settings or the toolkit want since.
        (None, (), Cause.SETTINGS),
        (A, (), Cause.UNKNOWN),
        (A, None, Cause.UNKNOWN),
        (None, None, Cause.UNKNOWN),
        # Cut off between the note and the file.
        (A, (A, C), Cause.UNFINISHED),
        (None, ("", C), Cause.UNFINISHED),
        # Cut off, and then the settings went on, or somebody changed the file.
        (A, (A, B), Cause.SETTINGS),
        (A, (B, C), Cause.HOST),
        # A deploy had taken it away, and the settings want it again; or somebody put it there.
        (None, ("",), Cause.SETTINGS),
        (A, ("",), Cause.BOTH),
        (C, (C,), None),
        (C, None, None),
    ],
)
def test_who_changed_a_file(
    there: str | None, deployed: tuple[str, ...] | None, expected: Cause | None
) -> None:
    found = replace(SAME if there else NOTHING, sha256=there or "", deployed=deployed)
    assert cause(FILE, found) is expected


def test_causes_are_called_as_the_document_says() -> None:
    """Scripts read them from `drift --json`."""
    documented = (ROOT / "docs/operations.md").read_text().partition("has `cause` (")[2]
    words = documented.partition("or null")[0].split(", ")
    assert [f"`{cause}`" for cause in Cause] == [word for word in words if word]


def test_who_put_something_where_nothing_should_be() -> None:
    absent = Absent("/etc/gone")
    assert cause(absent, replace(SAME, sha256=A, deployed=("",))) is Cause.HOST
    assert cause(absent, replace(SAME, sha256=A, deployed=(A,))) is Cause.SETTINGS
    assert cause(absent, replace(SAME, sha256=A, deployed=(B,))) is Cause.BOTH
    assert cause(absent, replace(SAME, sha256=A, deployed=())) is Cause.UNKNOWN
    assert cause(absent, Found("l", deployed=("",))) is Cause.HOST
    assert cause(FILE, replace(NOTHING, deployed=("",))) is Cause.SETTINGS


def test_a_link_in_the_place_of_a_file_is_a_change_of_the_host() -> None:
    assert cause(FILE, Found("l", deployed=(C,))) is Cause.HOST


def test_another_mode_is_no_other_content() -> None:
    assert cause(FILE, replace(SAME, mode=0o600, deployed=(C,))) is None
    assert cause(Folder("/etc/x"), replace(NOTHING, deployed=(A,))) is None


def test_of_a_file_that_is_partly_ours_the_rest_is_the_hosts() -> None:
    merged = replace(FILE, partly=True)
    assert cause(merged, replace(SAME, sha256=A, deployed=(B,))) is Cause.HOST
    assert cause(merged, replace(SAME, sha256=A, deployed=(A,))) is Cause.SETTINGS
