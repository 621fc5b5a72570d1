"""A bar chart of seconds as SVG: one group per case, each with its own scale."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

__all__ = ["Bar", "Group", "chart", "write_chart"]

_WIDTH: Final = 860
_LABEL: Final = 250
_VALUE: Final = 70
_ROW: Final = 20
_COLOURS: Final = {"ours": "#1f6feb", "peer": "#8c959f", "baseline": "#d0d7de"}


class Bar(NamedTuple):
    """One implementation: name, seconds, role."""

    name: str
    seconds: float
    kind: str


class Group(NamedTuple):
    """One case."""

    title: str
    bars: list[Bar]


def write_chart(groups: list[Group], path: Path) -> None:
    """Write the chart to a file."""
    path.write_text(chart(groups))


def chart(groups: list[Group]) -> str:
    """The chart as text."""
    parts: list[str] = []
    top = 10
    for group in groups:
        parts.append(f'<text x="8" y="{top + 14}" class="title">{escape(group.title)}</text>')
        top += 24
        longest = max((bar.seconds for bar in group.bars), default=1.0) or 1.0
        for bar in group.bars:
            length = max(1.0, (_WIDTH - _LABEL - _VALUE) * bar.seconds / longest)
            parts += [
                f'<text x="{_LABEL - 8}" y="{top + 14}" class="name">{escape(bar.name)}</text>',
                f'<rect x="{_LABEL}" y="{top + 3}" width="{length:.1f}" height="14" fill="{_COLOURS[bar.kind]}"/>',
                f'<text x="{_LABEL + length + 6:.1f}" y="{top + 14}">{bar.seconds:.2f} s</text>',
            ]
            top += _ROW
        top += 12
    style = "text{font:12px sans-serif;fill:#24292f}.title{font-weight:bold;font-size:13px}.name{text-anchor:end}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" viewBox="0 0 {_WIDTH} {top}">\n'
        f"<title>Median seconds; ociport in blue</title><style>{style}</style>\n"
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
