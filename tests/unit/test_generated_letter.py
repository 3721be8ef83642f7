"""A site's generated settings, line by line: what is the owner's stays, and nothing is lost."""

from __future__ import annotations

import ast
from textwrap import dedent

import pytest
from pydantic import BaseModel, Field

from vllm_hosts.errors import SettingsError
from vllm_hosts.settings import generated
from vllm_hosts.settings.generated import fresh, upgraded

HEAD = (
    "#: Every setting with its default, for all hosts. To set one, take its #: away and edit it.\n"
    "#: Lines with #: are the toolkit's: `vllm-hosts init --upgrade` writes them anew, and no"
    " others.\n"
    "#: What a host needs besides is `agents`, in gpu_hosts.py. With types: vllm-hosts settings\n"
)
ONE = """\
#: The first.
one = {
    #: How many
    #: "a": 1,
    #: "b": "x",
}
"""
TWO = """\
#: The second.
two = {
    #: "c": 3,
}
"""
LOST = (
    "group_data/all.py is written in a way that cannot be upgraded without a loss; put each setting"
    " of a section into a line of its own"
)


class One(BaseModel):
    """The first."""

    a: int = Field(1, description="How many")
    b: str = "x"


class Two(BaseModel):
    """The second."""

    c: int = 3


@pytest.fixture(autouse=True)
def two_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generated, "sections", lambda: [("one", One), ("two", Two)])


def new(text: str) -> str:
    """The file as it comes out, without what every file begins with; once more it is the same."""
    found = upgraded(dedent(text))
    assert upgraded(found) == found
    assert found.startswith(HEAD)
    return found.removeprefix(HEAD)


def test_a_new_one() -> None:
    assert fresh() == f"{HEAD}\n{ONE}\n{TWO}"


@pytest.mark.parametrize(("length", "lines"), [(46, 1), (47, 2)])
def test_a_line_is_at_most_so_long(
    monkeypatch: pytest.MonkeyPatch, length: int, lines: int
) -> None:
    words = f"{'x' * 45} {'y' * length}"

    class Long(BaseModel):
        """A long one."""

        a: int = Field(1, description=words)

    monkeypatch.setattr(generated, "sections", lambda: [("long", Long)])
    assert fresh().count("    #: ") == 1 + lines
    assert max(map(len, fresh().partition("long = {")[2].splitlines())) <= 7 + 92


class TestSections:
    """Each in the ways that people write them."""

    def test_settings_stay_in_the_place_of_their_defaults(self) -> None:
        assert new(
            """\
            import os
            #: an old heading
            one = {
                # mine

                "b": "é"  # why
                # the end
            }
            after = 1
            """
        ) == (
            'import os\n#: The first.\none = {\n    #: How many\n    #: "a": 1,\n'
            '    # mine\n    "b": "é",  # why\n    # the end\n}\nafter = 1\n\n' + TWO
        )

    def test_two_on_a_line_stay_together(self) -> None:
        assert new(
            """\
            #: x
            one = {
                "a": 2, "b": "y",  # both
            }
            two = {
                "c": [
                    4
                ], "d": 5,
                "e": 6
            }
            """
        ) == (
            '#: The first.\none = {\n    #: How many\n    "a": 2, "b": "y",  # both\n}\n'
            '#: The second.\ntwo = {\n    "c": [\n        4\n    ], "d": 5,\n    "e": 6,\n}\n'
        )

    def test_parentheses_belong_to_what_they_are_around(self) -> None:
        """Also where another setting stands before it in our order."""
        assert new(
            """\
            #: x
            one = {
                "b": (
                    "é"
                    # within
                ),
                "a": (2)  # two
            }
            two = {
                "c": (
                    (3
                    )  # of one
                ), "d": 4
            }
            """
        ) == (
            "#: The first.\none = {\n    #: How many\n"
            '    "a": (2),  # two\n    "b": (\n        "é"\n        # within\n    ),\n}\n'
            '#: The second.\ntwo = {\n    "c": (\n        (3\n        )  # of one\n'
            '    ), "d": 4,\n}\n'
        )

    def test_two_that_hang_together(self) -> None:
        found = new('#: x\none = {\n    "b": (\n        "y"\n    ), "a": (\n        2\n    ),\n}\n')
        whole = '    "b": (\n        "y"\n    ), "a": (\n        2\n    ),\n}\n'
        assert found == f"#: The first.\none = {{\n    #: How many\n{whole}\n{TWO}"

    @pytest.mark.parametrize(
        "text",
        [
            'one = {"a": 2}',
            "one = {}",
            'one = {\n    "a": 2}',
            'one = {\n    "a": (\n        2\n    )}',
            'one = {"a": 2,\n    "b": "y",\n}',
            'one = {**{"a": 2},\n    "b": "y",\n}',
            'one = other = {\n    "a": 2,\n}',
            'one = {\n    "a": 2,\n}\none = {\n    "a": 3,\n}',
            'one = {\n    "a": 2,\n}\none |= {"b": "y"}',
            'one: dict = {\n    "a": 2,\n}',
            "one = dict(a=2)",
        ],
    )
    def test_what_is_written_in_another_way_stays_as_it_is(self, text: str) -> None:
        assert new(f"#: x\n{text}\n") == f"{text}\n\n{TWO}"

    @pytest.mark.parametrize(
        "text", ['other = {\n    "a": 2,\n}', 'x = y\nx.one = {\n    "a": 2,\n}']
    )
    def test_what_is_no_section_of_ours(self, text: str) -> None:
        assert new(f"#: x\n{text}\n") == f"{text}\n\n{ONE}\n{TWO}"

    def test_what_is_unpacked_counts_as_the_owner_s(self) -> None:
        found = new('#: x\nbase = {"a": 2}\none = {\n    **base,\n    "b": "y",\n}\n')
        assert found.startswith('base = {"a": 2}\n#: The first.\none = {\n')
        assert '    "b": "y",\n    **base,\n}' in found


class TestGone:
    """Sections that an older version had."""

    OLD = '#: Old.\n#: Older.\nold = {\n    #: "x": 1,\n}\n'

    def test_one_that_nobody_used_goes_with_the_line_before_it(self) -> None:
        assert new(f"a = 1\n\n{self.OLD}b = 2\n") == f"a = 1\nb = 2\n\n{ONE}\n{TWO}"
        assert new(f"a = 1\n{self.OLD}b = 2\n") == f"a = 1\nb = 2\n\n{ONE}\n{TWO}"
        assert new(f"\n{self.OLD}b = 2\n") == f"b = 2\n\n{ONE}\n{TWO}"
        assert new(f"{self.OLD}b = 2\n") == f"b = 2\n\n{ONE}\n{TWO}"

    @pytest.mark.parametrize(
        "text",
        [
            "#: Old.\nold = {\n    # mine\n}\n",
            '#: Old.\nold = {\n    "x": 1,\n}\n',
            "#: Old.\nold = {  # mine\n    # too\n}\n",
        ],
    )
    def test_one_with_anything_of_the_owner_s_stays(self, text: str) -> None:
        assert new(text) == text.partition("\n")[2] + f"\n{ONE}\n{TWO}"

    def test_one_without_our_heading_is_the_owner_s(self) -> None:
        assert new("#: x\n\nold = {\n}\n") == f"\nold = {{\n}}\n\n{ONE}\n{TWO}"


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("one = {", "group_data/all.py, line 1: '{' was never closed; correct it"),
            (
                "one = 1\n",
                "group_data/all.py has no lines that vllm-hosts init wrote (they begin with #:); in"
                " a checkout git upgrades it; in a site, move it aside, have a new one written with"
                " --upgrade --write, and set there what yours sets",
            ),
        ],
    )
    def test_what_is_not_ours_to_write(self, text: str, sentence: str) -> None:
        with pytest.raises(SettingsError) as refused:
            upgraded(text)
        assert refused.value.problems == [sentence]

    def test_a_mark_within_a_text_is_none(self) -> None:
        with pytest.raises(SettingsError):
            upgraded('a = """\n#: x\n"""\n')
        with pytest.raises(SettingsError):
            upgraded("a = 1  #: x\n")

    def test_a_mistake_of_ours_writes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(generated, "_owner_s", lambda *_: [])
        monkeypatch.setattr(generated, "_written", lambda name, *_: [f"{name} = {{}}"])
        with pytest.raises(SettingsError) as refused:
            upgraded('#: x\none = {\n    "a": 2,\n}\n')
        assert refused.value.problems == [LOST]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("one = {'a': 1}", "one = {}"),
            ("one = {'a': 1}", "one = {'a': 2}"),
            ("one = {'a': 1}", "one = {'b': 1}"),
            ("one = {'a': 1}", "two = {'a': 1}"),
            ("one = {**x}", "one = {**y}"),
            ("one = {'a': 1}\none = {'b': 1}", "one = {'b': 1}\none = {'a': 1}"),
            ("f()", ""),
            ("a = 1", "a = 2"),
            ("a = 1\nf(a)", "f(a)\na = 1"),
            ("a = 1", "a = 1)"),
        ],
    )
    def test_what_would_be_a_loss(self, before: str, after: str) -> None:
        with pytest.raises(SettingsError) as refused:
            generated._require_same(ast.parse(before), after)
        assert refused.value.problems == [LOST]

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ("one = {'a': 1, **x}", "one = {**x, 'a': 1}"),
            ("a = 1", "a = 1\nnew = {}"),
            ("a: int = 1", "new: int = 1\na: int = 1"),
        ],
    )
    def test_what_is_none(self, before: str, after: str) -> None:
        generated._require_same(ast.parse(before), after)
