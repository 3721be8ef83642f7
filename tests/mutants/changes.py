"""The small changes that can be made to a module, one at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
}
#: What stands there for the type checker or other people, and decides nothing.
_LEFT_ALONE = (ast.Assert, ast.Import, ast.ImportFrom)
_NOT_VALUES = {"annotation", "returns", "format_spec", "type_params"}
_Step = tuple[str, int | None]


@dataclass(frozen=True)
class Change:
    """One change: where it stands in the source, and what it is, in the words of the report."""

    line: int
    text: str
    within: str
    what: str
    path: tuple[_Step, ...] = field(repr=False)
    new: ast.AST = field(repr=False)

    def made(self, tree: ast.Module) -> ast.Module:
        """The module with this change."""
        changed = copy.deepcopy(tree)
        node: Any = changed
        for name, index in self.path[:-1]:
            node = getattr(node, name) if index is None else getattr(node, name)[index]
        name, index = self.path[-1]
        if index is None:
            setattr(node, name, self.new)
        else:
            getattr(node, name)[index] = self.new
        return ast.fix_missing_locations(changed)


def changes(source: str) -> list[Change]:
    """All changes to a module, in the order of its lines."""
    lines = source.splitlines()
    tree = ast.parse(source)
    found = []
    for node, path, within in _walk(tree, (), ()):
        for new, what, offset in _replacements(node, tree, path):
            ast.copy_location(new, node)
            line = node.lineno + (offset if _triple(lines, node) else 0)
            text = lines[line - 1].strip()
            found.append(Change(line, text, ".".join(within), what, path, new))
    return sorted(found, key=lambda change: change.line)


def _walk(
    node: ast.AST, path: tuple[_Step, ...], within: tuple[str, ...]
) -> Iterator[tuple[Any, tuple[_Step, ...], tuple[str, ...]]]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        within = (*within, node.name)
    if isinstance(node, ast.expr | ast.stmt):
        yield node, path, within
    for name, value in ast.iter_fields(node):
        if name in _NOT_VALUES:
            continue
        children = value if isinstance(value, list) else [value]
        for index, child in enumerate(children):
            step = (name, index if isinstance(value, list) else None)
            if not isinstance(child, ast.AST) or isinstance(child, _LEFT_ALONE) or _words(child):
                continue
            # The words between the values of an f-string go with the whole of it.
            if isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant):
                continue
            yield from _walk(child, (*path, step), within)


def _words(node: ast.AST) -> bool:
    """A docstring."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _triple(lines: list[str], node: ast.expr | ast.stmt) -> bool:
    """Whether the lines of a text are lines of the source."""
    return '"""' in lines[node.lineno - 1][node.col_offset : node.col_offset + 6]


def _replacements(
    node: Any, tree: ast.Module, path: tuple[_Step, ...]
) -> Iterator[tuple[ast.AST, str, int]]:
    """What may stand in a node's place, how that is called, and how many lines below its start."""
    if isinstance(node, ast.stmt):
        for new, what in _other_statements(node, tree, path):
            yield new, what, 0
    else:
        for value in _other_values(node):
            yield value, f"{_short(node)} -> {_short(value)}", 0
        yield from _without_lines(node)
    if isinstance(node, ast.If | ast.While | ast.IfExp) and _plain(node.test):
        other = copy.copy(node)
        other.test = ast.UnaryOp(ast.Not(), node.test)
        yield other, f"if {_short(node.test)} -> if not", 0
    for index, part in enumerate(getattr(node, "generators", [])):
        for number, test in enumerate(part.ifs):
            if _plain(test):
                other = copy.deepcopy(node)
                other.generators[index].ifs[number] = ast.UnaryOp(ast.Not(), test)
                yield other, f"if {_short(test)} -> if not", 0


def _plain(test: ast.expr) -> bool:
    """A condition without an operator that could be another one."""
    return isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.NamedExpr | ast.Subscript)


def _other_values(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare():
            for index, operator in enumerate(node.ops):
                new = copy.copy(node)
                new.ops = [*node.ops]
                new.ops[index] = _COMPARED[type(operator)]()
                yield new
        case ast.BoolOp():
            yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _COMPUTED and not _joined(node):
            yield ast.BinOp(node.left, _COMPUTED[type(node.op)](), node.right)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str() as value):
            yield ast.Constant("" if value else "x")
        case ast.Constant(value=bytes() as value):
            yield ast.Constant(b"" if value else b"x")
        case ast.JoinedStr():
            yield ast.Constant("")


def _joined(node: ast.BinOp) -> bool:
    """Texts and lists are put together; nothing else can be done to them."""
    sides = [side for side in ast.walk(node) if isinstance(side, ast.JoinedStr | ast.List)]
    texts = [s for s in ast.walk(node) if isinstance(s, ast.Constant) and isinstance(s.value, str)]
    return isinstance(node.op, ast.Add) and bool(sides or texts)


def _other_statements(
    node: ast.stmt, tree: ast.Module, path: tuple[_Step, ...]
) -> Iterator[tuple[ast.stmt, str]]:
    yes = ast.Constant(True)
    match node:
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(None), f"{_short(node)} -> return"
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue():
            yield ast.Pass(), f"without {_short(node)}"
        case ast.Delete() | ast.For():
            yield ast.Pass(), f"without {_short(node)}"
        case ast.Assign() if _bound_before(node, tree, path):
            yield ast.Pass(), f"without {_short(node)}"
        case ast.With() if all(item.optional_vars is None for item in node.items):
            yield ast.If(yes, node.body, []), f"without {_short(node)}"
        case ast.Try():
            for handler in node.handlers:
                others = [other for other in node.handlers if other is not handler]
                new = ast.Try(node.body, others, node.orelse if others else [], node.finalbody)
                if not others:
                    new.body = [*node.body, *node.orelse]
                kept = new if others or node.finalbody else ast.If(yes, new.body, [])
                of = f" {_short(handler.type)}" if handler.type else ""
                yield kept, f"without except{of}"
            if node.finalbody:
                new = ast.Try(node.body, node.handlers, node.orelse, [])
                kept = new if node.handlers else ast.If(yes, node.body, [])
                yield kept, "without finally"


def _bound_before(node: ast.Assign, tree: ast.Module, path: tuple[_Step, ...]) -> bool:
    """Without it the program would still know the name; others fail at once, and prove nothing."""
    function: ast.AST | None = None
    at: Any = tree
    for name, index in path:
        at = getattr(at, name) if index is None else getattr(at, name)[index]
        if isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef):
            function = at
    if function is None:
        return False
    known = {arg.arg for arg in ast.walk(function) if isinstance(arg, ast.arg)}
    for other in ast.walk(function):
        if isinstance(other, ast.Name) and other.lineno < node.lineno:
            known.add(other.id)
    return all(not isinstance(to, ast.Name) or to.id in known for to in node.targets)


#: From here on characters stand for the values of an f-string.
_VALUE = 0xE000


def _without_lines(node: ast.expr) -> Iterator[tuple[ast.AST, str, int]]:
    """A text of several lines, mostly a script: without one line, or without one command of it."""
    if isinstance(node, ast.JoinedStr):
        values = [value for value in node.values if isinstance(value, ast.FormattedValue)]
        places = iter(range(_VALUE, _VALUE + len(values)))
        text = "".join(
            chr(next(places)) if value in values else value.value  # type: ignore[attr-defined]
            for value in node.values
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        values, text = [], node.value
    else:
        return
    lines = text.split("\n")
    real = [index for index, line in enumerate(lines) if line.strip() and line.strip()[0] != "#"]
    if len(real) < 2:
        return
    for index in real:
        shown = _short_text(_shown(lines[index], values))
        yield _text([*lines[:index], *lines[index + 1 :]], values), f"without line {shown}", index
        parts = lines[index].split("; ")
        for number, part in enumerate(parts if len(parts) > 1 else []):
            rest = "; ".join([*parts[:number], *parts[number + 1 :]])
            new = _text([*lines[:index], rest, *lines[index + 1 :]], values)
            yield new, f"without command {_short_text(_shown(part, values))}", index


def _shown(text: str, values: list[ast.FormattedValue]) -> str:
    for number, value in enumerate(values):
        text = text.replace(chr(_VALUE + number), f"{{{ast.unparse(value.value)}}}")
    return text.strip()


def _text(lines: list[str], values: list[ast.FormattedValue]) -> ast.expr:
    parts: list[ast.expr] = []
    words = ""
    for character in "\n".join(lines):
        if _VALUE <= ord(character) < _VALUE + len(values):
            parts += [ast.Constant(words), values[ord(character) - _VALUE]]
            words = ""
        else:
            words += character
    return ast.JoinedStr([*parts, ast.Constant(words)])


def _short(node: ast.AST) -> str:
    if isinstance(node, ast.With | ast.For):
        head = copy.copy(node)
        head.body, head.orelse = [], []  # type: ignore[union-attr]
        return _short_text(ast.unparse(head))
    return _short_text(ast.unparse(node))


def _short_text(text: str, most: int = 70) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 3]}..."
