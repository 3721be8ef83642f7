"""Images that agents used before: which are kept, which may go, and that nothing else ever goes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from vllm_hosts.agents.images import Row, State, gigabytes, judged, next_record, old_ones
from vllm_hosts.errors import HostError
from vllm_hosts.facts.base import END
from vllm_hosts.facts.vllm_images import Image, ImagesFound, ImagesThere, ImageUse, Used
from vllm_hosts.host.containers import Container
from vllm_hosts.host.paths import PROJECT

REPOSITORY = "vllm/vllm-openai"
WANTED = f"{REPOSITORY}:v0.33.0"


def identifier(letter: str) -> str:
    return "sha256:" + letter * 64


def image(letter: str, *names: str, digests: tuple[str, ...] = ()) -> Image:
    return Image(identifier(letter), names, digests, 9_800_000_000)


def user(name: str, letter: str, project: str = "") -> Container:
    return Container(name, "running", image_id=identifier(letter), project=project)


def used(letter: str, name: str) -> Used:
    return Used(identifier(letter), name)


def states(rows: list[Row]) -> dict[str, State]:
    return {row.image.id[7]: row.state for row in rows}


def v(minor: int) -> str:
    return f"{REPOSITORY}:v0.{minor}.0"


class TestJudging:
    FOUND = ImagesFound(
        images=(
            image("a", v(30)),
            image("b", v(31)),
            image("c", v(32)),
            image("d", WANTED),
            image("e", f"{REPOSITORY}:nightly-mine"),
            image("f", "postgres:18"),
        ),
        users=(user("one", "d", PROJECT), user("db", "f")),
        record=(used("a", v(30)), used("b", v(31)), used("c", v(32)), used("d", WANTED)),
    )

    def test_the_last_one_before_is_kept_and_older_ones_may_go(self) -> None:
        rows = judged(self.FOUND, WANTED, keep=1)
        assert states(rows) == {
            "d": State.IN_USE,
            "c": State.PREVIOUS,
            "b": State.OLD,
            "a": State.OLD,
            "e": State.FOREIGN,
        }
        assert rows[0].used_by == ("one",)
        assert [row.image.id[7] for row in rows] == ["d", "c", "b", "a", "e"]

    @pytest.mark.parametrize(("keep", "old"), [(0, "abc"), (2, "a"), (9, "")])
    def test_how_many_are_kept(self, keep: int, old: str) -> None:
        found = states(judged(self.FOUND, WANTED, keep))
        assert {letter for letter, state in found.items() if state is State.OLD} == set(old)

    def test_what_a_rollback_needs_is_kept_too(self) -> None:
        """After a deploy that was taken back, the last one before is another image."""
        found = replace(self.FOUND, way_back=frozenset({identifier("d"), identifier("b")}))
        one = states(judged(found, WANTED, keep=1))
        assert (one["c"], one["b"], one["a"]) == (State.PREVIOUS, State.PREVIOUS, State.OLD)
        none = states(judged(found, WANTED, keep=0))
        assert (none["c"], none["b"], none["a"]) == (State.OLD, State.OLD, State.OLD)

    def test_the_order_is_that_of_use_and_not_of_versions(self) -> None:
        record = (used("c", v(32)), used("d", WANTED), used("a", v(30)), used("b", v(31)))
        users = (user("one", "b", PROJECT),)
        found = ImagesFound(self.FOUND.images, users, record)
        assert states(judged(found, v(31), 1)) == {
            "b": State.IN_USE,
            "a": State.PREVIOUS,
            "d": State.OLD,
            "c": State.OLD,
            "e": State.FOREIGN,
        }

    def test_a_stopped_container_uses_its_image_whoever_it_is_of(self) -> None:
        """Docker lists them like the others."""
        users = (*self.FOUND.users, user("test-of-somebody", "a"))
        found = ImagesFound(self.FOUND.images, users, self.FOUND.record)
        rows = judged(found, WANTED, keep=0)
        assert states(rows)["a"] is State.IN_USE
        assert [row.used_by for row in rows if row.image.id[7] == "a"] == [("test-of-somebody",)]

    def test_an_image_that_the_settings_name_stays(self) -> None:
        """Pulled by a deploy that failed before an agent was recreated."""
        users = (user("one", "c", PROJECT),)
        found = ImagesFound(self.FOUND.images, users, self.FOUND.record)
        assert states(judged(found, WANTED, keep=0))["d"] is State.SETTINGS

    @pytest.mark.parametrize(
        ("names", "digests", "wanted", "state"),
        [
            ([WANTED], (), f"docker.io/{WANTED}", State.SETTINGS),
            ([], (f"{REPOSITORY}@sha256:{'1' * 64}",), f"{WANTED}@sha256:{'1' * 64}",
             State.SETTINGS),
            ([], (f"{REPOSITORY}@sha256:{'1' * 64}",), f"{REPOSITORY}@sha256:{'1' * 64}",
             State.SETTINGS),
            ([WANTED], (), f"{WANTED}@sha256:{'2' * 64}", State.FOREIGN),
            (["registry.example.com:5000/vllm:v1"], (), "registry.example.com:5000/vllm:v1",
             State.SETTINGS),
            (["registry.example.com:5000/vllm:v2"], (), "registry.example.com:5000/vllm:v1",
             State.FOREIGN),
        ],
    )  # fmt: skip
    def test_names_of_one_image(
        self, names: list[str], digests: tuple[str, ...], wanted: str, state: State
    ) -> None:
        found = ImagesFound((image("a", *names, digests=digests),), (), ())
        assert [row.state for row in judged(found, wanted, 0)] == [state]

    def test_a_name_of_somebody_else_s_keeps_an_image(self) -> None:
        kept = image("a", v(30), "their/own:name")
        found = ImagesFound((kept,), (), (used("a", v(30)),))
        assert states(judged(found, WANTED, 0)) == {"a": State.FOREIGN}

    def test_an_image_whose_tag_went_to_another_one_is_ours_still(self) -> None:
        found = ImagesFound((image("a"),), (), (used("a", v(30)),))
        [row] = judged(found, WANTED, 0)
        assert (row.state, row.name) == (State.OLD, v(30))

    def test_an_image_that_no_agent_used_is_never_old(self) -> None:
        found = ImagesFound(self.FOUND.images, (), ())
        assert State.OLD not in states(judged(found, WANTED, 0)).values()

    def test_what_a_prune_removes(self) -> None:
        rows = judged(self.FOUND, WANTED, keep=1)
        assert [row.image.id[7] for row in old_ones(rows)] == ["b", "a"]

    def test_an_image_that_was_used_first_comes_before_those_that_never_were(self) -> None:
        found = ImagesFound(self.FOUND.images[:2], (), (used("b", v(31)),))
        assert [row.image.id[7] for row in judged(found, WANTED, 0)] == ["b", "a"]

    def test_docker_s_own_images_have_short_names(self) -> None:
        found = ImagesFound((image("a", "vllm:v1"),), (), ())
        for wanted in ("vllm:v1", "library/vllm:v1", "docker.io/library/vllm:v1"):
            assert states(judged(found, wanted, 0)) == {"a": State.SETTINGS}

    def test_an_image_without_tags_is_related_by_its_digest(self) -> None:
        digests = (f"{REPOSITORY}@sha256:{'1' * 64}",)
        found = ImagesFound((image("a", digests=digests), image("b", "x:1")), (), ())
        assert states(judged(found, WANTED, 0)) == {"a": State.FOREIGN}


@pytest.mark.parametrize(
    ("names", "ours", "digests", "name"),
    [
        (("a:1", "a:2"), ("b:1", "b:2"), ("c@1", "c@2"), "a:1"),
        ((), ("b:1", "b:2"), ("c@1", "c@2"), "b:2"),
        ((), (), ("c@1", "c@2"), "c@1"),
        ((), (), (), identifier("a")),
    ],
)
def test_an_image_is_called_what_people_know_it_by(
    names: tuple[str, ...], ours: tuple[str, ...], digests: tuple[str, ...], name: str
) -> None:
    row = Row(image("a", *names, digests=digests), State.OLD, (), ours)
    assert row.name == name
    with pytest.raises(FrozenInstanceError):
        row.state = State.IN_USE  # type: ignore[misc]


def test_what_becomes_of_images_is_said_in_words() -> None:
    """As `vllm-hosts images` prints them."""
    assert [str(state) for state in State] == [
        "in use",
        "in the settings",
        "used before",
        "old",
        "not ours",
    ]


class TestRecord:
    def test_the_image_in_use_is_the_last_line(self) -> None:
        record = (used("a", v(30)), used("b", v(31)))
        assert next_record(ImageUse((), record), used("c", WANTED)) == (
            *record,
            used("c", WANTED),
        )
        back = ImageUse((), record)
        assert next_record(back, used("a", v(30))) == (record[1], record[0])

    def test_a_second_time_nothing_is_new(self) -> None:
        record = (used("a", v(30)), used("b", v(31)))
        agents = (used("b", v(31)),)
        assert next_record(ImageUse(agents, record), used("b", v(31))) == record

    def test_what_agents_have_on_a_host_without_a_record(self) -> None:
        """The first deploy with a toolkit that keeps one may be the upgrade."""
        use = ImageUse((used("a", v(30)),), ())
        assert next_record(use, used("b", v(31))) == (used("a", v(30)), used("b", v(31)))


def test_an_odd_answer_is_not_an_empty_host() -> None:
    for lines in (
        ["== record", "garbage", "== images", "== containers", "== way back"],
        [
            "== record",
            "== images",
            '{"id":"x","tags":[],"digests":[],"size":1}',
            "== containers",
            "== way back",
        ],
        ["== record", "== images"],
    ):
        with pytest.raises(HostError, match="the container images could not be understood"):
            ImagesThere().process([*lines, END])


def test_sizes() -> None:
    assert (gigabytes(9_800_000_000), gigabytes(12_000_000)) == ("9.8 GB", "12 MB")
    assert (gigabytes(10**9), gigabytes(10**9 - 1)) == ("1.0 GB", "1000 MB")
    assert (gigabytes(1_050_000_000), gigabytes(1_500_000)) == ("1.1 GB", "2 MB")
