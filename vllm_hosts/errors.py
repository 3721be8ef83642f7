"""The two ways in which things go wrong, and who hears of it."""

from __future__ import annotations


class SettingsError(Exception):
    """Settings that cannot be deployed. Found before anything connects; names every mistake.

    :param problems: one clear sentence each: where, what is wrong, what would be right.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class HostError(Exception):
    """What stops one host. That host fails with this sentence; the others go on."""
