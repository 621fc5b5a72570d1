"""The report of a run: tables, targets and chart."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.case import Case
from tests.benchmarks.chart import Bar, Group, write_chart
from tests.benchmarks.implementations import Implementation, Kind
from tests.benchmarks.measuring import Samples
from tests.benchmarks.targets import LIMITS, TARGETS, Limit, Target

__all__ = ["Outcome", "figures", "verdicts", "write_report"]

_BEGIN: Final = "<!-- figures -->"
_END: Final = "<!-- end of figures -->"
_UNITS: Final = {"wall": "seconds", "cpu": "CPU", "memory": "MiB"}


class Outcome:
    """The samples and failures of one case, by implementation."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.samples: dict[str, Samples] = {}
        self.failures: dict[str, str] = {}

    def failed(self, kind: Kind) -> bool:
        """Return whether an implementation of this role failed."""
        return any(entry.name in self.failures for entry in self.case.implementations if entry.kind is kind)

    def measured(self, tool: str) -> tuple[Implementation, Samples] | None:
        """The first implementation of a tool, if it ran; if several versions are installed, the newest."""
        for entry in self.case.implementations:
            if entry.tool == tool and entry.name in self.samples and entry.name not in self.failures:
                return entry, self.samples[entry.name]
        return None


def write_report(
    outcomes: list[Outcome], out: Path, *, command: str, runs: int, is_quick: bool, server: str = ""
) -> None:
    """Write ``benchmarks.md`` and ``benchmarks.svg``; the text around the figures is kept."""
    out.mkdir(parents=True, exist_ok=True)
    page = out / "benchmarks.md"
    text = page.read_text() if page.exists() else f"# Benchmarks\n\n{_BEGIN}\n{_END}\n"
    head, _, rest = text.partition(_BEGIN)
    tail = rest.partition(_END)[2]
    body = figures(outcomes, command=command, runs=runs, is_quick=is_quick, server=server)
    page.write_text(f"{head}{_BEGIN}\n\n{body}\n{_END}{tail}")
    write_chart(_groups(outcomes), out / "benchmarks.svg")


def figures(outcomes: list[Outcome], *, command: str, runs: int, is_quick: bool, server: str = "") -> str:
    """The generated part of the page, in Markdown."""
    lines = [
        f"`{command}`: {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} "
        f"{platform.machine()}; server: {server or 'docker-registry'}, in memory; "
        f"{runs} runs of each tool, alternating."
        + (" **Small images: a functional check, not a measurement.**" if is_quick else ""),
        "",
        "![Median seconds](benchmarks.svg)",
        "",
    ]
    # With small images, most of the time is the start of Python, so the targets do not apply.
    lines += (
        []
        if is_quick
        else [
            "## Targets",
            "",
            "| Case | Measure | Compared with | Limit | Measured | Result |",
            "| --- | --- | --- | ---: | ---: | --- |",
            *verdicts({outcome.case.name: outcome for outcome in outcomes}),
            "",
        ]
    )
    for outcome in outcomes:
        lines += _table(outcome)
    return "\n".join(lines)


def verdicts(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """A table row for each target of the cases that were run."""
    for target in TARGETS:
        if (outcome := outcomes.get(target.case)) is not None:
            yield _verdict(outcome, target)
    for limit in LIMITS:
        if (outcome := outcomes.get(limit.case)) is not None:
            yield _kept(outcome, limit)


def _verdict(outcome: Outcome, target: Target) -> str:
    ours, other = outcome.measured(target.ours), outcome.measured(target.other)
    name = target.other if other is None else other[0].name
    row = f"| {target.case} | {target.ours}, {_UNITS[target.measure]} | {name} | {target.most:.2f} x |"
    if ours is None or other is None:
        return f"{row} | not measured |"
    ratio = ours[1].median(target.measure) / other[1].median(target.measure)
    return f"{row} {ratio:.2f} x | {_word(ratio, target.most)} |"


def _kept(outcome: Outcome, limit: Limit) -> str:
    ours = outcome.measured(limit.ours)
    unit = "MiB" if limit.measure == "memory" else "s"
    row = f"| {limit.case} | {limit.ours}, {_UNITS[limit.measure]} | | {limit.most:g} {unit} |"
    if ours is None:
        return f"{row} | not measured |"
    value = ours[1].median(limit.measure)
    return f"{row} {value:.2f} {unit} | {_word(value, limit.most)} |"


def _word(value: float, most: float) -> str:
    return "met" if value <= most else "**missed**"


def _table(outcome: Outcome) -> list[str]:
    lines = [
        f"## {outcome.case.title}",
        "",
        "| Tool | Seconds: median (min-max) | CPU seconds | Peak MiB | ociport / tool |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    own = next((outcome.samples[c.name] for c in outcome.case.implementations if c.name in outcome.samples), None)
    for entry in outcome.case.implementations:
        if entry.name in outcome.failures:
            lines.append(f"| {entry.name} | failed | | | |")
            continue
        samples = outcome.samples[entry.name]
        low, high = samples.span("wall")
        wall, cpu, memory = (samples.median(measure) for measure in ("wall", "cpu", "memory"))
        ratio = "" if own is None or entry.kind is Kind.OURS else f"{own.median('wall') / wall:.2f} x"
        shown = f"**{entry.name}**" if entry.kind is Kind.OURS else entry.name
        lines.append(f"| {shown} | {wall:.2f} ({low:.2f}-{high:.2f}) | {cpu:.2f} | {memory:.0f} | {ratio} |")
    for name, failure in outcome.failures.items():
        lines += ["", f"{name} failed: `{failure}`"]
    return [*lines, ""]


def _groups(outcomes: list[Outcome]) -> list[Group]:
    groups = []
    for outcome in outcomes:
        bars = [
            Bar(entry.name, outcome.samples[entry.name].median("wall"), entry.kind.value)
            for entry in outcome.case.implementations
            if entry.name in outcome.samples and entry.name not in outcome.failures
        ]
        groups.append(Group(outcome.case.title, bars))
    return groups
