"""vLLM's arguments and variables, by what they let others do.

Some are refused, some have to be accepted as risks. The lists are data
(``vllm_hosts/data/vllm_words.yaml``), and are compared with vLLM itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from vllm_hosts.data import table

_FILE = "vllm_words.yaml"

#: Names of variables that hold secrets. Switches may have such names too.
_SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|API_?KEY|PRIVATE_KEY"
    r"|ACCESS_KEY(_ID)?)$",
    re.IGNORECASE,
)
_OFF = {"", "0", "false", "no", "off"}
_SWITCHES = _OFF | {"1", "true", "yes", "on"}
LOGIN_IN_URL = re.compile(r"[a-z0-9+.-]+://[^/@\s]*:[^/@\s]*@", re.IGNORECASE)
#: How keys of Hugging Face, OpenAI, GitHub, GitLab, Slack and AWS begin.
SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(hf_|sk-|ghp_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{12,}"
)
_INSTEAD = (
    "looks like a secret, which compose.yaml and `docker inspect` would show; take it out: the"
    " Hugging Face token goes into secrets.hf_token_env, and other secrets do not belong in an"
    " agent"
)


@dataclass(frozen=True)
class Words:
    """Names, and the sentences about those that are refused or are a risk.

    ``refused`` says why, with the way out.
    """

    refused: Mapping[str, str]
    accepted: Mapping[str, str]
    neutral: frozenset[str]
    short: Mapping[str, str]

    @property
    def known(self) -> frozenset[str]:
        """Every name in any list."""
        return self.neutral | self.refused.keys() | self.accepted.keys()


@cache
def arguments() -> Words:
    """Arguments of ``vllm serve``."""
    return _read("arguments")


@cache
def variables() -> Words:
    """Variables of vLLM, and of what runs before it."""
    return _read("variables")


def _read(kind: str) -> Words:
    data = table(_FILE)[kind]
    left_out = {name: f"{why}; leave it out" for name, why in data["refused"].items()}
    return Words(
        left_out | data["instead"],
        data["accepted"],
        frozenset(data["neutral"].split()),
        data.get("short", {}),
    )


def meant(argument: str) -> list[str]:
    """The long names that a word of vLLM's command line could stand for; none: it is a value.

    Its parser accepts unambiguous abbreviations, underscores instead of dashes, ``--name=value``,
    ``--name.key value`` for one key of a JSON value, and ``-n2`` for ``-n 2``.
    """
    words = arguments()
    if not argument.startswith("-") or argument == "-":
        return []
    name = argument.partition("=")[0]
    if not name.startswith("--"):
        name = name.partition(".")[0]
        found = [long for short, long in words.short.items() if short.startswith(name)]
        return [words.short[name]] if name in words.short else found or _attached(name)
    name = "--" + name[2:].partition(".")[0].replace("_", "-")
    positive = "--" + name.removeprefix("--no-") if name.startswith("--no-") else name
    if name in words.known or positive in words.known:
        # An abbreviation that is a full name is that name. A --no- form switches nothing on.
        return [name]
    return sorted(word for word in words.known if word.startswith(name)) or [name]


def _attached(name: str) -> list[str]:
    """The value attached to a short name. ``-O`` takes any."""
    return [long for short, long in arguments().short.items() if name[:2] == short]


def refused_argument(argument: str) -> str | None:
    """Why a word of an agent's command line is refused, as a sentence."""
    for name in meant(argument):
        if why := arguments().refused.get(name):
            return f"{argument.partition('=')[0]} is refused: {why}"
    if SECRET_VALUE.search(argument):
        return f"a word of it {_INSTEAD}"
    return None


def refused_variable(name: str, value: str) -> str | None:
    """Why an agent's variable is refused, as a sentence. Never shows the value."""
    if why := variables().refused.get(name):
        return f"{name} is refused: {why}"
    if LOGIN_IN_URL.search(value):
        return (
            f"{name} has a password in its URL, which `docker inspect` and `ps` show; use a proxy"
            " that needs none from this host"
        )
    looks = _SECRET_NAME.search(name) and value.lower() not in _SWITCHES
    if looks or SECRET_VALUE.search(value):
        return f"{name} {_INSTEAD}"
    return None


def risks(extra_args: Sequence[str], env: Mapping[str, str]) -> dict[str, str]:
    """Risks that an agent takes, which have to be accepted: name -> what it lets others do."""
    found = {}
    for argument in extra_args:
        for name in meant(argument):
            if what := arguments().accepted.get(name):
                found[name] = what
    for name, value in env.items():
        if (what := variables().accepted.get(name)) and value.lower() not in _OFF:
            found[name] = what
    return found


def unaccepted(
    agent: str, extra_args: Sequence[str], env: Mapping[str, str], accepted_risks: Sequence[str]
) -> Iterator[str]:
    """A sentence for each risk that is taken but not accepted, and for each that is accepted but
    not taken: whoever takes it later would have it accepted unnoticed."""
    used = risks(extra_args, env)
    for name, what in used.items():
        if name not in accepted_risks:
            yield (
                f"{name} {what}; if you want that, add {name!r} to accepted_risks of agent"
                f" {agent!r}"
            )
    for name in accepted_risks:
        if name not in used:
            why = (
                "the agent does not use it"
                if name in arguments().accepted or name in variables().accepted
                else "nothing of that name needs to be accepted"
            )
            yield f"accepted_risks of agent {agent!r} names {name!r}, and {why}; remove it"
