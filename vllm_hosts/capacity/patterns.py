"""Modules that a model's files name as not quantised: whole, by a part of their path, or by regular
expressions, which could run for ever."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from vllm_hosts.capacity.fields import UnplannableError

#: Names: the largest lists have one for each module of each layer. Expressions: there are a few.
_NAMES, _EXPRESSIONS = 50_000, 200
#: Quantifiers in one expression: the time of a match grows with the length to this power.
_QUANTIFIERS = 3
#: Seconds for all matches of one model.
_PATIENCE = 5.0
#: A group that is repeated may take time that grows exponentially; a reference back needs one.
_DANGEROUS = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")


class Patterns:
    """The modules of one model that keep 16 bits.

    :raises UnplannableError: there are too many, or an expression that is not evaluated here.
    """

    def __init__(self, patterns: Iterable[object]) -> None:
        given = [str(pattern) for pattern in patterns]
        self._given = tuple(given)
        self._names = frozenset(one for one in given if not one.startswith("re:"))
        expressions = [one[3:] for one in given if one.startswith("re:")]
        if len(given) > _NAMES or len(expressions) > _EXPRESSIONS:
            raise UnplannableError("the config.json names more modules than can be planned")
        self._expressions = [_compiled(one) for one in expressions]
        self._spent = 0.0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Patterns) and self._given == other._given

    def __hash__(self) -> int:
        return hash(self._given)

    def has(self, module: str) -> bool:
        """Whether a module is one of them."""
        if self._names and not self._names.isdisjoint(_paths(module)):
            return True
        if not self._expressions:
            return False
        if self._spent > _PATIENCE:
            raise UnplannableError("the regular expressions in the config.json take too long")
        began = time.monotonic()
        try:
            return any(expression.match(module) for expression in self._expressions)
        finally:
            self._spent += time.monotonic() - began


def _compiled(expression: str) -> re.Pattern[str]:
    quantifiers = len(re.findall(r"(?<!\\)[*+?{]", expression))
    if len(expression) > 200 or quantifiers > _QUANTIFIERS or _DANGEROUS.search(expression):
        raise UnplannableError(
            f"the config.json has the regular expression {expression[:100]!r}, which the plan does"
            " not evaluate"
        )
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError):
        raise UnplannableError(
            f"the config.json has {expression[:100]!r}, which is not a regular expression"
        ) from None


def _paths(module: str) -> list[str]:
    """``a.b.c`` and every part of it: ``a``, ``a.b``, ``b.c`` and so on."""
    parts = module.split(".")
    return [
        ".".join(parts[first:last])
        for first in range(len(parts))
        for last in range(first + 1, len(parts) + 1)
    ]
