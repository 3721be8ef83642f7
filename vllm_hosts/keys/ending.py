"""How long a certificate has left, and what that asks for: nothing, a deploy, or haste."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from vllm_hosts.settings import HostSettings

#: One that ends within this is broken: nobody may notice for so long, also over holidays.
_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Left:
    """What a host's certificate has left.

    ``due``: below this it is to be renewed, and somebody should be told. ``short``: below this the
    promise is broken. Short is always less than due, so that a warning comes first.
    """

    ends: datetime
    left: timedelta
    due: timedelta
    short: timedelta

    @property
    def is_due(self) -> bool:
        """Whether it is time to renew it."""
        return self.left < self.due

    @property
    def is_short(self) -> bool:
        """Whether it may end while nobody looks."""
        return self.left <= self.short

    @property
    def words(self) -> str:
        """For people."""
        if self.left <= timedelta():
            return f"it ended on {self.ends:%Y-%m-%d %H:%M} UTC"
        if self.left < timedelta(days=2):
            left = f"{int(self.left.total_seconds() // 3600)} hours"
        else:
            left = f"{self.left.days} days"
        return f"it has {left} left, until {self.ends:%Y-%m-%d %H:%M} UTC"


def left(certificate: x509.Certificate, settings: HostSettings, now: datetime) -> Left:
    """Judge a certificate by its own life: some live for years, some for six days.

    One of the local CA is due as soon as a deploy would renew it. A user's own is due in the last
    third of its life, when ACME clients have renewed it, but not before its last two months.
    """
    ends = certificate.not_valid_after_utc
    life = ends - certificate.not_valid_before_utc
    short = min(_MONTH, life / 6)
    if settings.tls.mode == "local-ca":
        due = timedelta(days=settings.tls.renew_before_days)
        short = min(short, due / 2)
    else:
        due = min(2 * _MONTH, life / 3)
    return Left(ends, ends - now, due, short)


def to_do(settings: HostSettings, inventory: str = "INVENTORY") -> str:
    """What renews a host's certificate."""
    deploy = f"pyinfra {inventory} deploy.py --limit {settings.name}"
    if settings.tls.mode == "local-ca":
        return f"a deploy renews it: {deploy}"
    return (
        "it is your own: put a new one at tls.certificate"
        f" {settings.tls.certificate} and its key at tls.key {settings.tls.key} on this machine,"
        f" then deploy: {deploy}"
    )
