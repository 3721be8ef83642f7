"""A site's group_data/all.py: every setting as a comment, and the values that its owner set.

Lines that begin with ``#:`` are the toolkit's, all others the owner's. So a newer version can
rewrite its own lines, and never needs to know what an older one wrote.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from textwrap import wrap

from pydantic import BaseModel

from vllm_hosts.errors import SettingsError
from vllm_hosts.settings.docs import literal, sections

MARK = "#:"
_HEAD = (
    "Every setting with its default, for all hosts. To set one, take its #: away and edit it.",
    "Lines with #: are the toolkit's: `vllm-hosts init --upgrade` writes them anew, and no others.",
    "What a host needs besides is `agents`, in gpu_hosts.py. With types: vllm-hosts settings",
)
_WIDTH = 92


@dataclass
class _Chunk:
    """The owner's lines in a section: settings, with the comments above them."""

    names: set[str]
    lines: list[str]


@dataclass
class _Section:
    """A section in a file. ``first`` and ``last`` are line numbers, from 0."""

    first: int
    last: int
    chunks: list[_Chunk] = field(default_factory=list)
    #: The owner's comments after the last setting.
    rest: list[str] = field(default_factory=list)


def fresh() -> str:
    """The file for a new site, in which nothing is set yet."""
    return upgraded("")


def upgraded(text: str) -> str:
    """The file as this version writes it. Whatever the owner set or wrote stays.

    :raises SettingsError: it is not Python, or was not created by ``init``.
    """
    lines = text.splitlines()
    try:
        tree = ast.parse(text)
        marked = _marked(text)
    except (SyntaxError, tokenize.TokenError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise SettingsError([f"group_data/all.py{where}: {error.args[0]}; correct it"]) from error
    if text.strip() and not marked:
        raise SettingsError(
            [
                "group_data/all.py has no lines that vllm-hosts init wrote (they begin with #:);"
                " in a checkout git upgrades it; in a site, move it aside, have a new one written"
                " with --upgrade --write, and set there what yours sets"
            ]
        )
    found = {name: _section(node, lines, marked) for name, node in _dictionaries(tree, lines)}
    given = dict(sections())
    inside = {number: name for name, one in found.items() for number in _range(one)}
    gone = set(_gone(tree, lines, marked))
    new = [f"{MARK} {line}" for line in _HEAD]
    for number, line in enumerate(lines):
        name = inside.get(number)
        if name is None:
            new += [] if number in marked | gone else [line]
        elif number == found[name].first:
            new += _written(name, given[name], found[name])
    for name, section in given.items():
        if name not in found and name not in _assigned(tree):
            new += ["", *_written(name, section, _Section(0, 0))]
    result = "\n".join(new) + "\n"
    tree.body = [node for node in tree.body if node.lineno - 1 not in gone]
    _require_same(tree, result)
    return result


def _marked(text: str) -> set[int]:
    """The toolkit's comment lines; a line that looks like one inside a string is not."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0] - 1
        for token in tokens
        if token.type == tokenize.COMMENT
        and token.string.startswith(MARK)
        and not token.line[: token.start[1]].strip()
    }


def _dictionaries(tree: ast.Module, lines: list[str]) -> Iterator[tuple[str, ast.Dict]]:
    """Sections written as dictionaries over several lines; others are left alone."""
    names = dict(sections())
    seen = [target for node in tree.body for target in _targets(node)]
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        [name, *others] = _targets(node) or [""]
        if name not in names or others or seen.count(name) > 1:
            continue
        value = node.value
        begins = [key.lineno if key else item.lineno for key, item in _items(value)]
        ends = [_end(item, lines)[0] for _, item in _items(value)]
        if value.lineno not in begins and value.end_lineno not in [*ends, value.lineno]:
            yield name, value


def _gone(tree: ast.Module, lines: list[str], marked: set[int]) -> Iterator[int]:
    """Lines of unused sections that an older version wrote and this one no longer has."""
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Dict):
            continue
        numbers = range(node.lineno - 1, node.end_lineno or node.lineno)
        untouched = not node.value.keys and not _owner_s(lines, numbers[1:-1], marked)
        known = set(_targets(node)) & dict(sections()).keys()
        if untouched and not known and node.lineno - 2 in marked:
            yield from numbers
            above = numbers[0] - 1
            while above in marked:
                above -= 1
            # The blank line before it.
            yield from (above,) if above >= 0 and not lines[above].strip() else ()


def _items(value: ast.Dict) -> list[tuple[ast.expr | None, ast.expr]]:
    return list(zip(value.keys, value.values, strict=True))


def _end(item: ast.expr, lines: list[str]) -> tuple[int, int]:
    """The line, from 1, and the character behind an item with the parentheses that it stands in."""
    number = item.end_lineno or item.lineno
    column = len(lines[number - 1].encode()[: item.end_col_offset].decode())
    found = number, column
    while True:
        rest = lines[number - 1][column:]
        if (left := rest.lstrip()).startswith(")"):
            found = number, column + len(rest) - len(left) + 1
            _, column = found
        elif left and not left.startswith("#"):
            # A comma, or the end of the dictionary.
            return found
        else:
            number, column = number + 1, 0


def _targets(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign | ast.AugAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _assigned(tree: ast.Module) -> set[str]:
    return {name for node in tree.body for name in _targets(node)}


def _section(value: ast.Dict, lines: list[str], marked: set[int]) -> _Section:
    end = value.end_lineno or value.lineno
    found = _Section(value.lineno - 1, end - 1)
    before, end_of_last = value.lineno, value.lineno
    for key, item in _items(value):
        first = (key.lineno if key else item.lineno) - 1
        last, _ = _end(item, lines)
        name = key.value if isinstance(key, ast.Constant) else ""
        if first < end_of_last and found.chunks:
            # Two settings on one line stay together.
            chunk = found.chunks[-1]
            chunk.names.add(str(name))
            chunk.lines += lines[end_of_last:last]
        else:
            kept = [*_owner_s(lines, range(before, first), marked), *lines[first:last]]
            found.chunks.append(_Chunk({str(name)}, kept))
        before = end_of_last = max(last, end_of_last)
    found.rest = _owner_s(lines, range(before, end - 1), marked)
    if found.chunks and not _ends_with_comma(found.chunks[-1].lines):
        _add_comma(value, lines, found.chunks[-1])
    return found


def _owner_s(lines: list[str], numbers: Iterable[int], marked: set[int]) -> list[str]:
    return [lines[n] for n in numbers if n not in marked and lines[n].strip()]


def _ends_with_comma(lines: list[str]) -> bool:
    last = [
        token.string
        for token in tokenize.generate_tokens(
            io.StringIO("{\n" + "\n".join(lines) + "\n}").readline
        )
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER)
    ]
    return len(last) > 1 and last[-2] == ","


def _add_comma(value: ast.Dict, lines: list[str], chunk: _Chunk) -> None:
    """So that another setting can follow the last one."""
    last, cut = _end(value.values[-1], lines)
    whole = lines[last - 1]
    chunk.lines[-1] = f"{whole[:cut]},{whole[cut:]}"


def _range(section: _Section) -> range:
    return range(section.first, section.last + 1)


def _written(name: str, section: type[BaseModel], owner: _Section) -> Iterator[str]:
    yield f"{MARK} {section.__doc__}"
    yield f"{name} = {{"
    left = list(owner.chunks)
    for key, setting in section.model_fields.items():
        for line in wrap(setting.description or "", _WIDTH):
            yield f"    {MARK} {line}"
        own = [chunk for chunk in left if key in chunk.names]
        if not own and not any(key in chunk.names for chunk in owner.chunks):
            yield f'    {MARK} "{key}": {literal(setting)},'
        for chunk in own:
            left.remove(chunk)
            yield from chunk.lines
    for chunk in left:
        yield from chunk.lines
    yield from owner.rest
    yield "}"


def _require_same(before: ast.Module, text: str) -> None:
    """Check that everything the owner set is still there, in case of a mistake in this module.

    :raises SettingsError: it is not.
    """
    with suppress(SyntaxError):
        after = ast.parse(text)
        if _values(before, set()) == _values(after, _assigned(after) - _assigned(before)):
            return
    raise SettingsError(
        [
            "group_data/all.py is written in a way that cannot be upgraded without a loss; put"
            " each setting of a section into a line of its own"
        ]
    )


def _values(tree: ast.Module, without: set[str]) -> list[str]:
    """Each statement, with dictionaries regardless of their order."""
    found = []
    for node in tree.body:
        if set(_targets(node)) & without:
            continue
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            items = [
                (ast.dump(key) if key else "", ast.dump(item)) for key, item in _items(node.value)
            ]
            found.append(f"{_targets(node)} {sorted(items)}")
        else:
            found.append(ast.dump(node))
    return found
