"""The two kinds of errors that become sentences for users."""

from __future__ import annotations

from vllm_hosts.text import clean


class SettingsError(Exception):
    """Settings that cannot be deployed. Raised before anything connects; lists every mistake.

    :param problems: one clear sentence each: where, what is wrong, what would be right.
    """

    def __init__(self, problems: list[str]) -> None:
        # Some quote a file or a hub.
        self.problems = [clean(problem) for problem in problems]
        super().__init__("\n".join(self.problems))


class HostError(Exception):
    """Stops one host, which fails with this sentence; the others continue.

    The sentence may quote the host, and is safe to show.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(clean(sentence))


class LostError(HostError):
    """The connection to a host has ended, so nothing more can be done there."""
