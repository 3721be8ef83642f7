"""sshd's effective configuration, whatever its files say."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections

#: Settings by which a password gets somebody in, and the value that refuses it.
_WAYS = ("passwordauthentication", "kbdinteractiveauthentication")


class PasswordLogins(HostFact[tuple[str, ...]]):
    """Ways in which sshd takes passwords, by the names of its settings."""

    what = "sshd's effective configuration"
    steady = True

    def command(self) -> str:
        return ending("mkdir -p /run/sshd; echo '== effective'; sshd -T")

    def parse(self, lines: list[str]) -> tuple[str, ...]:
        effective = dict(line.split(" ", 1) for line in sections(lines)["effective"] if " " in line)
        return tuple(way for way in _WAYS if effective[way] != "no")
