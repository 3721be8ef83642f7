"""Facts that raise: what could not be read never becomes a default that changes a host."""

from __future__ import annotations

import sys
import time
from functools import cache
from shlex import quote
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

from pyinfra import logger
from pyinfra.api.facts import FactBase, get_fact
from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from vllm_hosts.errors import HostError, LostError
from vllm_hosts.facts import ahead, touched

T = TypeVar("T")


def _types_once() -> None:
    """pyinfra 3.10 works out the types of all its arguments for each class of facts, to see that no
    argument of its commands has such a name: half of what loading them takes. Another version is
    left alone."""
    facts: Any = sys.modules[FactBase.__module__]
    resolve = getattr(facts, "all_global_arguments", None)
    if resolve is not None and not hasattr(resolve, "cache_info"):
        facts.all_global_arguments = cache(resolve)


_types_once()
_UNREAD: Final = object()
#: Last line of every fact's output: without it, the answer was cut short.
END: Final = "vllm-hosts-end"


class HostFact(FactBase[T], Generic[T]):
    """One query of a host. ``what`` names it in errors; ``script`` and ``parse`` do the work."""

    abstract = True
    what = "the host's state"
    #: In which it has to answer. What hangs on a host (Docker, a network file system) would hold
    #: the run for ever.
    seconds: ClassVar[int] = 300
    #: Whether its answer stays true until somebody changes something: no clock, no health of a
    #: container, nothing that anybody waits for. Such a fact may be asked ahead (``ahead``).
    steady: ClassVar[bool] = False

    @staticmethod
    def default() -> T:
        return cast(T, _UNREAD)

    def process(self, output: list[str]) -> T:
        """Check that the output is whole, then parse it.

        :raises HostError: it is cut short, or not what the programs on the host usually print.
        """
        lines = list(output)
        while lines and not lines[-1]:
            lines.pop()
        if not lines or lines[-1] != END:
            raise HostError(f"{self.what} could not be read: the answer was cut short")
        try:
            return self.parse(lines[:-1])
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise HostError(f"{self.what} could not be understood: {error!r}") from error

    def parse(self, lines: list[str]) -> T:
        """Turn the script's lines into a value. Anything unexpected may raise ``ValueError``."""
        raise NotImplementedError


def ending(script: str) -> str:
    """The script in the C locale, with the last line by which a whole answer is known."""
    return f"export LC_ALL=C\n{script.strip()}\necho\necho {END}"


def as_user(
    user: str, script: str, *, arguments: str = "", given: str = "</dev/null", seconds: int = 60
) -> str:
    """Shell: read paths that a container may have written, with its rights and a time limit.

    Whatever lies there, a link leads nowhere that this user could not go anyway, and a FIFO ends
    the look instead of holding it for ever.

    :param user: ``UID:GID``.
    :param arguments: shell words that the script gets as ``$1`` and so on.
    :param given: redirection of the script's standard input; empty: what comes by a pipe.
    """
    uid, _, gid = user.partition(":")
    rights = f"setpriv --reuid {uid} --regid {gid} --clear-groups --no-new-privs --inh-caps=-all"
    # A login that is not root is told so by preflight, with what it can see.
    return f"""{{
        rights=; [ "$(id -u)" != 0 ] || rights='{rights}'
        timeout -k 5 {seconds} $rights sh -c {quote(script)} look {arguments} {given} || {{
            echo "looking as user {uid} took {seconds} s, or failed" >&2; exit 1
        }}; }}"""


def sections(lines: list[str]) -> dict[str, list[str]]:
    """Split lines at headings such as ``== docker``. Text before the first heading is dropped."""
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("== "):
            found[line[3:]] = []
        elif found and line:
            found[next(reversed(found))].append(line)
    return found


def look(fact: type[HostFact[T]], **arguments: object) -> T:
    """Read a fact of the current host, as it is now: unless nothing was done there since it was
    asked ahead.

    :raises LostError: the connection has ended.
    :raises HostError: it could not be read. pyinfra has shown the host's own message above.
    """
    host = ctx_host.get()
    if (foreseen := ahead.foreseen(host, fact, arguments)) is not None:
        try:
            return cast(T, foreseen())
        except Exception as error:
            # Asked again, it may be understood; if not, that is said as ever.
            logger.debug(f"{host.name}: {fact.__name__} was not understood ahead: {error!r}")
    began = time.monotonic()
    given = {"_timeout": fact.seconds, **arguments}
    try:
        with touched.asking(host):
            value = get_fact(host.state, host, fact, kwargs=given, apply_failed_hosts=False)
    except EOFError as error:
        # pyinfra takes this one of paramiko's for a fault of its own.
        raise LostError(LOST) from error
    if value is _UNREAD:
        if has_ended(host):
            raise LostError(LOST)
        if time.monotonic() - began >= fact.seconds:
            raise HostError(
                f"{fact.what} could not be read within {fact.seconds} s: something on the host"
                " hangs; see what waits there (`ps -eo pid,stat,etime,args`), end it, and run this"
                " again"
            )
        raise HostError(f"{fact.what} could not be read; see the host's output above")
    return cast(T, value)


LOST = (
    "the connection was lost midway; run the command again, and check sshd's journal there"
    " if it happens again"
)


def has_ended(host: Host) -> bool:
    """Whether the SSH connection that was open to a host is open no more."""
    client = getattr(host.connector, "client", None)
    transport = client.get_transport() if client is not None else None
    return client is not None and (transport is None or not transport.is_active())
