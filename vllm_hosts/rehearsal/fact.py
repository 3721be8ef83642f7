"""Asking the vLLM of a host's image about agents, before they are touched."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from vllm_hosts.facts.base import HostFact, ending
from vllm_hosts.rehearsal.answer import Answer, read
from vllm_hosts.rehearsal.command import Rehearsed, Request, shell


class Rehearsals(HostFact[dict[str, Answer]]):
    """By agent: what its own vLLM said. One after the other, in containers that end with it."""

    what = "what vLLM says of its agents"

    def command(self, agents: Sequence[Rehearsed], request: Request) -> str:
        self.asked = {agent.agent for agent in agents}
        self.mark = request.mark
        return ending("\n".join(shell(agent, request) for agent in agents))

    def parse(self, lines: list[str]) -> dict[str, Answer]:
        found = {}
        for line in lines:
            if line:
                agent, code, output = line.split(" ")
                found[agent] = read(base64.b64decode(output), self.mark, int(code))
        if found.keys() != self.asked:
            raise ValueError("not every agent has an answer")
        return found
