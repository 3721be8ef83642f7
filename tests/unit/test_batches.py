"""How many hosts that serve the same model change at once."""

from __future__ import annotations

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.unit.examples import examples
from tests.unit.samples import settings as host_settings
from tests.unit.test_one_by_one import NONE, M, N, Story
from vllm_hosts.operations.foreseen import Changing
from vllm_hosts.operations.one_by_one import Turn, Turns, in_turn
from vllm_hosts.project.outlook import waits
from vllm_hosts.settings.rolling import Rolling


@pytest.mark.parametrize(
    ("batch", "hosts"),
    [
        # By how many hosts serve it: 1, 2, 3, 4, 8, 10, 50.
        (1, [1, 1, 1, 1, 1, 1, 1]),
        (3, [1, 1, 2, 3, 3, 3, 3]),
        (100, [1, 1, 2, 3, 7, 9, 49]),
        ("25%", [1, 1, 1, 1, 2, 2, 12]),
        ("1%", [1, 1, 1, 1, 1, 1, 1]),
        ("100%", [1, 1, 2, 3, 7, 9, 49]),
        (100_000, [1, 1, 2, 3, 7, 9, 49]),
    ],
)
def test_at_least_one_and_never_all(batch: int | str, hosts: list[int]) -> None:
    rolling = Rolling(batch=batch)
    assert [rolling.hosts(serving) for serving in (1, 2, 3, 4, 8, 10, 50)] == hosts


def test_without_the_setting_it_is_one_host() -> None:
    assert host_settings().rolling == Rolling(batch=1)


@pytest.mark.parametrize(
    "batch", [0, -1, 100_001, True, 1.5, "25", "0%", "101%", "25 %", "", None, [1]]
)
def test_what_is_no_number_of_hosts_is_refused(batch: object) -> None:
    with pytest.raises(ValidationError) as raised:
        Rolling(batch=batch)  # type: ignore[arg-type]
    [problem] = raised.value.errors()
    assert "is no number of hosts; write 1 or more, or a share such as '25%'" in problem["msg"]


class Batches(Story):
    """Turns that may come a few at a time."""

    def batches(
        self, at_once: int, *hosts: tuple[str, frozenset[str], frozenset[str]]
    ) -> list[Turn]:
        return [
            self.turns.announce(name, models, serving, order, {"m": at_once, "n": at_once})
            for order, (name, models, serving) in enumerate(hosts)
        ]


def test_some_hosts_change_at_once_and_no_more() -> None:
    story = Batches()
    turns = story.batches(2, *((f"gpu{n}", M, M) for n in range(6)))
    lines = story.run(*reversed(turns))
    assert story.most == 2
    assert lines.count("gpu5 ends") == 1
    begun = [line.split()[0] for line in lines if "begins" in line]
    assert set(begun[:2]) == {"gpu0", "gpu1"}


def test_the_most_careful_host_counts() -> None:
    story = Batches()
    turns = [story.turns.announce(f"gpu{n}", M, M, n, {"m": 3} if n else None) for n in range(4)]
    story.run(*turns)
    assert story.most == 1


def test_never_all_that_serve_it_now() -> None:
    """Of three hosts that may change two at once, only two serve it: one at a time."""
    story = Batches()
    *turns, _ = story.batches(2, ("gpu1", M, M), ("gpu2", M, M), ("gpu3", NONE, NONE))
    story.run(*turns)
    assert story.most == 1


def test_a_bad_image_takes_a_batch_and_no_more() -> None:
    story = Batches()
    turns = story.batches(2, *((f"gpu{n}", M, M) for n in range(6)))
    lines = story.run(*turns, fails="gpu0")
    assert {line.split()[0] for line in lines if "begins" in line} == {"gpu0", "gpu1"}
    assert sum("left as they are: gpu0 failed" in line for line in lines) == 4


def test_what_is_foreseen_is_what_happens() -> None:
    hosts = {f"gpu{n}": (M, M) for n in range(4)}
    at_once = {name: {"m": 2} for name in hosts}
    before = in_turn(hosts, {"m"}, at_once)
    assert before == {"gpu2": ["gpu0", "gpu1"], "gpu3": ["gpu0", "gpu1", "gpu2"]}
    changing = {name: Changing(M, M, False, {"m": 2}) for name in hosts}
    assert waits(changing) == before
    # Two hosts that serve it never change together, whatever is asked for.
    two = {name: hosts[name] for name in ("gpu0", "gpu1")}
    assert in_turn(two, {"m"}, at_once) == {"gpu1": ["gpu0"]}


@settings(max_examples=examples(25), deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([M, N, M | N]),
            st.sampled_from([NONE, M, N, M | N]),
            st.sampled_from([{}, {"m": 1}, {"m": 2, "n": 3}, {"m": 9}]),
        ),
        max_size=7,
    )
)
def test_nobody_waits_for_ever_and_somebody_always_serves(
    hosts: list[tuple[frozenset[str], frozenset[str], dict[str, int]]],
) -> None:
    turns = Turns()
    announced = [
        turns.announce(f"gpu{n}", models, serving, n, at_once)
        for n, (models, serving, at_once) in enumerate(hosts)
    ]
    serving = {model: {t.host for t in announced if model in t.serving} for model in "mn"}
    down: set[str] = set()

    def one(turn: Turn) -> None:
        with turns.taken(turn, everybody=True, say=lambda _: None):
            down.add(turn.host)
            for model in turns.guarded(turn):
                mine = {t.host for t in announced if model in t.models and t.host in down}
                assert len(mine) <= turns.most_of(model)
                assert len(serving[model]) < 2 or serving[model] - mine
            gevent.sleep(0)
            down.discard(turn.host)

    jobs = [gevent.spawn(one, turn) for turn in announced]
    gevent.joinall(jobs, timeout=20, raise_error=True)
    assert all(turn.state == "done" for turn in announced)
