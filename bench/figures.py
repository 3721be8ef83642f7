"""What was measured, as tables and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import median


@dataclass(frozen=True)
class Measured:
    """The same thing, measured some times: in pairs with others, in that order."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.values)

    def over(self, other: Measured) -> float:
        """How many times another's: the median of ratios pair by pair, so that what the machine
        did meanwhile concerns both."""
        pairs = zip(self.values, other.values, strict=True)
        return median(mine / its for mine, its in pairs)

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"{self.middle:.2f}"
        return f"{self.middle:.2f} ({min(self.values):.2f} to {max(self.values):.2f})"


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [
        list(map(str, heading)),
        ["---"] * len(heading),
        *(list(map(str, row)) for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


#: Sizes of the plot.
_LABEL, _BAR, _WIDE, _GAP = 250, 16, 420, 14


def plot(title: str, unit: str, groups: Mapping[str, Mapping[str, Measured]]) -> str:
    """An SVG with a bar for each, and its spread.

    :param groups: by heading, by what was measured.
    """
    most = max(max(one.values) for bars in groups.values() for one in bars.values()) or 1.0
    scale = _WIDE / most
    parts, y = [], 40
    for heading, bars in groups.items():
        parts.append(f'<text x="8" y="{y + 12}" font-weight="bold">{escape(heading)}</text>')
        y += _BAR + 6
        for name, one in bars.items():
            low, high = (_LABEL + scale * end for end in (min(one.values), max(one.values)))
            middle, at = scale * one.middle, y + _BAR / 2
            parts += [
                f'<text x="{_LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{_LABEL}" y="{y}" width="{middle:.1f}" height="{_BAR}" fill="#4878a8"/>',
                f'<path d="M{low:.1f} {at}H{high:.1f}" stroke="#222" stroke-width="2"/>',
                f'<text x="{high + 6:.1f}" y="{y + 12}">{one.middle:.2f} {escape(unit)}</text>',
            ]
            y += _BAR + 4
        y += _GAP
    wide = _LABEL + _WIDE + 90
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide}" height="{y}"'
        f' font-family="sans-serif" font-size="13">\n'
        f'<rect width="{wide}" height="{y}" fill="#fff"/>\n'
        f'<text x="8" y="20" font-size="16">{escape(title)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
