"""How many examples of a property are tried: a few for every change, and many by night."""

from __future__ import annotations

from hypothesis import settings

#: By night, for each that is tried for every change.
BY_NIGHT = 30
#: Where a test does not say how many.
USUAL = 30


def register() -> None:
    """Before any test is read. ``--hypothesis-profile nightly`` chooses the other one."""
    # How long one takes says how busy the machine is.
    settings.register_profile("usual", deadline=None, max_examples=USUAL)
    settings.register_profile("nightly", deadline=None, max_examples=USUAL * BY_NIGHT)
    settings.load_profile("usual")


def examples(usual: int) -> int:
    """So many of a test that costs more than others, or needs more to find something."""
    nightly = settings.get_current_profile_name() == "nightly"
    return usual * BY_NIGHT if nightly else usual
