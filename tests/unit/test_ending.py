"""How long a certificate is still valid: to the second, and to the word."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.unit.samples import settings
from vllm_hosts.keys.expiry import TimeLeft, to_do

ENDS = datetime(2026, 12, 24, 18, 30, tzinfo=UTC)
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
UNTIL = "2026-12-24 18:30 UTC"


def with_left(time: timedelta) -> TimeLeft:
    return TimeLeft(ENDS, time, due=30 * DAY, short=5 * DAY)


def test_when_it_is_due_and_when_that_is_too_late() -> None:
    assert [with_left(30 * DAY - more).is_due for more in (SECOND, 0 * SECOND)] == [True, False]
    assert [with_left(5 * DAY + more).is_short for more in (SECOND, 0 * SECOND)] == [False, True]


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (-SECOND, f"it expired on {UNTIL}"),
        (0 * SECOND, f"it expired on {UNTIL}"),
        (SECOND, f"it has 0 hours left, until {UNTIL}"),
        (2 * DAY - SECOND, f"it has 47 hours left, until {UNTIL}"),
        (2 * DAY, f"it has 2 days left, until {UNTIL}"),
        (40 * DAY + HOUR, f"it has 40 days left, until {UNTIL}"),
    ],
)
def test_what_people_read(time: timedelta, words: str) -> None:
    assert with_left(time).words == words


def test_what_renews_it() -> None:
    host = settings()
    deploy = f"pyinfra INVENTORY deploy.py --limit {host.name}"
    assert to_do(host) == f"a deploy renews it: {deploy}"
    own = settings(tls={"mode": "files", "certificate": "/c.pem", "key": "/k.pem"})
    assert to_do(own, "inventory/prod.py") == (
        "it is your own: put a new one at tls.certificate /c.pem and its key at tls.key /k.pem on"
        f" this machine, then deploy: {deploy.replace('INVENTORY', 'inventory/prod.py')}"
    )
