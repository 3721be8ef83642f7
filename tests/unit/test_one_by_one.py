"""Hosts that serve the same model change one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_hosts.errors import HostError
from vllm_hosts.operations import one_by_one
from vllm_hosts.operations.one_by_one import Turn, Turns

M, N = frozenset({"m"}), frozenset({"n"})
NONE: frozenset[str] = frozenset()


class Story:
    """Hosts that take their turns in greenlets, and what was seen of it."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.lines: list[str] = []
        self.down: set[str] = set()
        self.most = 0

    def announce(self, *hosts: tuple[str, frozenset[str], frozenset[str]]) -> list[Turn]:
        return [
            self.turns.announce(name, models, serving, order)
            for order, (name, models, serving) in enumerate(hosts)
        ]

    def take(self, turn: Turn, *, fails: bool = False, everybody: bool = True) -> None:
        def say(sentence: str) -> None:
            self.lines.append(f"{turn.host} {sentence}")

        try:
            with self.turns.taken(turn, everybody=everybody, say=say):
                self.lines.append(f"{turn.host} begins")
                self.down.add(turn.host)
                self.most = max(self.most, len(self.down))
                gevent.sleep(0.01)
                if fails:
                    raise HostError("the image is bad")
                self.down.discard(turn.host)
                self.lines.append(f"{turn.host} ends")
        except HostError as error:
            self.lines.append(f"{turn.host} fails: {error}")

    def run(self, *turns: Turn, fails: str = "", everybody: bool = True) -> list[str]:
        jobs = [
            gevent.spawn(self.take, turn, fails=turn.host == fails, everybody=everybody)
            for turn in turns
        ]
        gevent.joinall(jobs, timeout=20, raise_error=True)
        assert all(job.dead for job in jobs), "somebody waits for ever"
        return self.lines


def test_one_after_the_other_in_the_inventory_s_order() -> None:
    story = Story()
    one, two = story.announce(("gpu1", M, M), ("gpu2", M, M))
    # Who comes first does not matter.
    assert story.run(two, one) == [
        "gpu2 waits until gpu1 serves m again",
        "gpu1 begins",
        "gpu1 ends",
        "gpu2 begins",
        "gpu2 ends",
    ]


def test_other_models_do_not_wait() -> None:
    story = Story()
    story.run(*story.announce(("gpu1", M, M), ("gpu2", N, N)))
    assert story.most == 2


def test_fresh_hosts_do_not_wait() -> None:
    story = Story()
    story.run(*story.announce(("gpu1", M, NONE), ("gpu2", M, NONE)))
    assert story.most == 2


def test_a_host_that_serves_nothing_goes_first() -> None:
    story = Story()
    one, two = story.announce(("gpu1", M, M), ("gpu2", M, NONE))
    lines = story.run(one, two)
    assert [line for line in lines if "begins" in line] == ["gpu2 begins", "gpu1 begins"]
    assert "gpu1 waits until gpu2 serves m" in lines


def test_a_host_that_is_served_by_one_without_changes_waits_as_well() -> None:
    """gpu3 serves it and changes nothing; the others are taken one by one all the same."""
    story = Story()
    *turns, _ = story.announce(("gpu1", M, NONE), ("gpu2", M, NONE), ("gpu3", NONE, M))
    story.run(*turns)
    assert story.most == 1


def test_a_bad_image_takes_one_host() -> None:
    story = Story()
    one, two, three, other = story.announce(
        ("gpu1", M, M), ("gpu2", M, M), ("gpu3", M, M), ("gpu4", N, N)
    )
    lines = story.run(one, two, three, other, fails="gpu1")
    assert {line.split()[0] for line in lines if "begins" in line} == {"gpu1", "gpu4"}
    [sentence] = [line for line in lines if line.startswith("gpu2 fails")]
    assert "left as they are: gpu1 failed while its agents of m were down" in sentence
    assert "Repair gpu1, or take the change back, and deploy again" in sentence
    assert "vllm.change_together = True" in sentence
    # Later in the same run too.
    [again] = story.announce(("gpu3", M, M))
    story.take(again)
    assert story.lines[-1].startswith("gpu3 fails")


def test_fresh_hosts_fail_alone() -> None:
    story = Story()
    lines = story.run(*story.announce(("gpu1", M, NONE), ("gpu2", M, NONE)), fails="gpu1")
    assert "gpu2 ends" in lines


def test_hosts_one_by_one_protect_those_that_serve() -> None:
    """As with --serial: the second host is not known of when the first one fails."""
    story = Story()
    [one] = story.announce(("gpu1", M, NONE))
    story.run(one, fails="gpu1")
    [two] = story.announce(("gpu2", M, M))
    assert story.run(two)[-1].startswith("gpu2 fails")


def test_who_cannot_come_yet_is_not_waited_for() -> None:
    """pyinfra works on one host at a time: the first in the inventory comes last."""
    story = Story()
    one, two = story.announce(("gpu1", M, M), ("gpu2", M, M))
    story.run(two, everybody=False)
    story.run(one, everybody=False)
    assert [line for line in story.lines if "begins" in line] == ["gpu2 begins", "gpu1 begins"]


def test_a_generator_that_pyinfra_closes_ends_its_turn() -> None:
    """As it does when a command failed."""
    story = Story()
    one, two = story.announce(("gpu1", M, M), ("gpu2", M, M))

    def commands() -> Iterator[str]:
        with story.turns.taken(one, everybody=True, say=story.lines.append):
            yield "recreate"
            yield "never"

    for command in commands():
        assert command == "recreate"
        break
    assert one.state == "failed"
    assert story.run(two)[-1].startswith("gpu2 fails")


def test_a_host_that_fails_outside_of_its_turn_holds_up_nobody() -> None:
    story = Story()
    one, two = story.announce(("gpu1", M, M), ("gpu2", M, M))
    waiting = gevent.spawn(story.take, two)
    gevent.sleep(0.01)
    assert story.lines == ["gpu2 waits until gpu1 serves m again"]
    story.turns.abandon("gpu1")
    waiting.join(timeout=5)
    assert story.lines[-1] == "gpu2 ends"
    assert one.state == "done"


def test_who_waits_says_so_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_by_one, "_SAY_EVERY", 0.001)
    story = Story()
    used: list[str] = []
    one, two = story.announce(("gpu1", M, M), ("gpu2", M, M))

    def take() -> None:
        with story.turns.taken(
            two, everybody=True, say=story.lines.append, meanwhile=lambda: used.append("x")
        ):
            pass

    jobs = [gevent.spawn(take), gevent.spawn(story.take, one)]
    gevent.joinall(jobs, timeout=5, raise_error=True)
    assert "still waits until gpu1 serves m again" in story.lines
    assert used, "the connection was not used meanwhile"


MODELS = st.frozensets(st.sampled_from("mno"), max_size=3)


@settings(deadline=None)
@given(
    st.lists(st.tuples(MODELS, MODELS), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
    st.booleans(),
    st.integers(-1, 4),
)
def test_nobody_waits_for_ever_and_no_model_is_down_twice(
    hosts: list[tuple[frozenset[str], frozenset[str]]], random: object, everybody: bool, bad: int
) -> None:
    story = Story()
    turns = story.announce(*((f"gpu{n}", *host) for n, host in enumerate(hosts)))
    served = {model for _, serving in hosts for model in serving}
    away: list[str] = []

    def take(turn: Turn) -> None:
        try:
            with story.turns.taken(turn, everybody=everybody, say=lambda sentence: None):
                guarded = sorted(turn.models & served)
                assert not set(guarded) & set(away)
                away.extend(guarded)
                gevent.sleep(0)
                if turn.host == f"gpu{bad}":
                    raise HostError("bad")
                for model in guarded:
                    away.remove(model)
        except HostError:
            pass

    random.shuffle(turns)  # type: ignore[attr-defined]
    jobs = [gevent.spawn(take, turn) for turn in turns]
    gevent.joinall(jobs, timeout=20, raise_error=True)
    assert all(job.dead for job in jobs), "somebody waits for ever"
