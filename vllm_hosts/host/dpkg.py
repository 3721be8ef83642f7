"""What dpkg says of packages: one way to ask, one idea of what is installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def query(names: Sequence[str] = (), *, mark: str = "") -> str:
    """Shell: a line for each of these packages that dpkg knows; without names, for all of them.

    :param mark: how each line begins.
    """
    # It fails where one of them is unknown, and that is an answer.
    words = " ".join(["", *names, "2>/dev/null"] if names else [])
    form = "${db:Status-Abbrev}|${Package}|${Version}\\n"
    return f"dpkg-query -W -f '{mark}{form}'{words}"


def installed(lines: Iterable[str]) -> dict[str, str]:
    """Versions by name, of packages that are installed and configured.

    :raises ValueError: a line is not what was asked for.
    """
    found = {}
    for line in lines:
        status, name, version = line.split("|")
        # The second letter is the state; the first one is what somebody wants, such as a hold.
        if status[1:2] == "i":
            found[name] = version
    return found
