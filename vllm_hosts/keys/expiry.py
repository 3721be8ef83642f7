"""How long a certificate is still valid, and whether that is long enough."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from vllm_hosts.settings import HostSettings

#: Less than this breaks the promise: over holidays, nobody may notice for so long.
_MONTH = timedelta(days=30)


@dataclass(frozen=True)
class TimeLeft:
    """The time that a host's certificate has left.

    With less than ``due`` it should be renewed, and somebody should be told. With less than
    ``short`` the promise is broken. ``short`` is always less than ``due``: a warning comes first.
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
        """Whether it may expire before anybody notices."""
        return self.left <= self.short

    @property
    def words(self) -> str:
        """For people."""
        if self.left <= timedelta():
            return f"it expired on {self.ends:%Y-%m-%d %H:%M} UTC"
        if self.left < timedelta(days=2):
            left = f"{int(self.left.total_seconds() // 3600)} hours"
        else:
            left = f"{self.left.days} days"
        return f"it has {left} left, until {self.ends:%Y-%m-%d %H:%M} UTC"


def left(certificate: x509.Certificate, settings: HostSettings, now: datetime) -> TimeLeft:
    """Judge a certificate by its own lifetime: some are valid for years, some for six days.

    One from the local CA is due as soon as a deploy would renew it. A user's own is due in the last
    third of its lifetime, when an ACME client should have renewed it, but at most two months before
    its end.
    """
    ends = certificate.not_valid_after_utc
    life = ends - certificate.not_valid_before_utc
    short = min(_MONTH, life / 6)
    if settings.tls.mode == "local-ca":
        due = timedelta(days=settings.tls.renew_before_days)
        short = min(short, due / 2)
    else:
        due = min(2 * _MONTH, life / 3)
    return TimeLeft(ends, ends - now, due, short)


def to_do(settings: HostSettings, inventory: str = "INVENTORY") -> str:
    """How to renew a host's certificate."""
    deploy = f"pyinfra {inventory} deploy.py --limit {settings.name}"
    if settings.tls.mode == "local-ca":
        return f"a deploy renews it: {deploy}"
    return (
        "it is your own: put a new one at tls.certificate"
        f" {settings.tls.certificate} and its key at tls.key {settings.tls.key} on this machine,"
        f" then deploy: {deploy}"
    )
