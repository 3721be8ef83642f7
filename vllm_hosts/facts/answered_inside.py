"""What an agent of a machine that is both answers to the machine itself, as to any gateway."""

from __future__ import annotations

from vllm_hosts.facts.base import HostFact, ending, sections
from vllm_hosts.host import inside
from vllm_hosts.host.probe import Response


class AnsweredInside(HostFact[Response | OSError]):
    """The answer, or why there is none: ``ConnectionRefusedError`` where nobody listens yet."""

    what = "the machine's own answer to gateways"
    seconds = inside.PATIENCE + 30

    def command(self, agent: str, port: int, path: str, body: str, client: str) -> str:
        """As ``inside.script``."""
        return ending(inside.script(agent, port, path, body, client))

    def parse(self, lines: list[str]) -> Response | OSError:
        try:
            return inside.answer(sections(lines))
        except OSError as error:
            return error
