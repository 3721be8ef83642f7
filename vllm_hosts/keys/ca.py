"""How one local CA replaces another. Nothing here touches a file or a clock.

During a change clients get both, in one file; which of them signs, and which are trusted, follows
from the time alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

from vllm_hosts.errors import SettingsError
from vllm_hosts.keys.pki import LocalCa
from vllm_hosts.keys.store_content import Content, NextCa

#: ``both``: the old CA signs, and clients already trust both. ``after``: the new one signs, and the
#: old one is still trusted, for hosts that were not deployed to yet. ``over``: it no longer is.
Phase = Literal["both", "after", "over"]


def phase(following: NextCa, now: datetime) -> Phase:
    """The phase that a change of CA is in."""
    if now < following.takes_over:
        return "both"
    return "after" if now < following.old_ends else "over"


def trusted(present: str, following: NextCa | None, now: datetime) -> str:
    """Certificates that clients need, in PEM, beginning with the CA that signs.

    :param present: the present CA's.
    """
    if following is None or following.certificate.strip() == present.strip():
        return present
    order: dict[Phase, Sequence[str]] = {
        "both": (present, following.certificate),
        "after": (following.certificate, present),
        "over": (following.certificate,),
    }
    return "".join(f"{one.strip()}\n" for one in order[phase(following, now)])


def begin(content: Content, made: LocalCa, overlap: timedelta, now: datetime) -> Content:
    """Let a new CA take over after ``overlap``; the old one stays trusted for as long again.

    Without an overlap the new one replaces all others at once, for a store that somebody has read.

    :raises SettingsError: a change is under way, and there is an overlap.
    """
    check_begin(content, overlap, now)
    following = NextCa(
        certificate=made.certificate_pem.decode(),
        key=made.key_text(),
        begun=now,
        takes_over=now + overlap,
        old_ends=now + 2 * overlap,
    )
    return content.model_copy(update={"next_ca": following})


def check_begin(content: Content, overlap: timedelta, now: datetime) -> None:
    """:raises SettingsError: as ``begin``."""
    if overlap and content.next_ca is not None and phase(content.next_ca, now) != "over":
        raise SettingsError(
            [
                f"a new CA was already created on {shown(content.next_ca.begun)}, and takes over on"
                f" {shown(content.next_ca.takes_over)}; to have it take over now: vllm-hosts keys"
                " new-ca INVENTORY --finish; to withdraw it: --cancel"
            ]
        )


def finish(content: Content, now: datetime) -> Content:
    """End the present phase now: the new CA takes over or, if it has, the old one is dropped.

    :raises SettingsError: no change is under way.
    """
    following = _following(content, now)
    if phase(following, now) == "both":
        changed = following.model_copy(update={"takes_over": now})
    else:
        changed = following.model_copy(update={"old_ends": now})
    return content.model_copy(update={"next_ca": changed})


def cancel(content: Content, now: datetime) -> Content:
    """Withdraw the new CA.

    :raises SettingsError: there is none, or hosts may have certificates from it.
    """
    following = _following(content, now)
    if phase(following, now) != "both":
        raise SettingsError(
            [
                f"the new CA took over on {shown(following.takes_over)}, and hosts may have"
                " certificates from it; to go back, finish this change (--finish) and create"
                " another"
            ]
        )
    return content.model_copy(update={"next_ca": None})


def _following(content: Content, now: datetime) -> NextCa:
    if content.next_ca is None or phase(content.next_ca, now) == "over":
        raise SettingsError(
            ["no new CA is about to take over; create one with: vllm-hosts keys new-ca INVENTORY"]
        )
    return content.next_ca


def shown(when: datetime) -> str:
    """A time for people."""
    return f"{when:%Y-%m-%d %H:%M} UTC"
