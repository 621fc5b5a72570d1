"""The page of protocol and security rules agrees with the citations in sources, tests and docs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reference/rules.md"

_NUMBER = re.compile(r"\bR-[0-9]+\b")
_ROW = re.compile(r"^\| (?P<number>R-[0-9]{3}) \| (?P<rule>.+) \| (?P<source>.+) \|$", re.MULTILINE)


def _rows() -> list[re.Match[str]]:
    return list(_ROW.finditer(PAGE.read_text()))


def _defined() -> list[str]:
    return [row["number"] for row in _rows()]


def _files(*places: str) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (each for each in found if each.suffix in (".py", ".md") and each != Path(__file__))


def _citations(*places: str) -> dict[str, list[str]]:
    """Cited numbers, and the files and lines that cite them."""
    cited: dict[str, list[str]] = {}
    for path in _files(*places):
        for line, text in enumerate(path.read_text().splitlines(), 1):
            for number in _NUMBER.findall(text):
                cited.setdefault(number, []).append(f"{path.relative_to(ROOT)}:{line}")
    return cited


def test_every_row_has_a_number_a_rule_and_a_source() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| R")]

    malformed = [line[:60] for line in lines if not _ROW.fullmatch(line) and not line.startswith("| Rule |")]

    assert malformed == []
    assert len(_rows()) > 100


def test_no_number_is_defined_twice_and_all_are_in_order() -> None:
    numbers = _defined()

    assert numbers == sorted(set(numbers))


def test_every_cited_number_is_defined() -> None:
    unknown = _citations("src", "tests", "docs", "README.md", "CHANGELOG.md")
    for number in _defined():
        unknown.pop(number, None)

    assert unknown == {}


def test_every_rule_is_cited_by_a_test() -> None:
    cited = _citations("tests", "src/registry_core/testing")

    assert [number for number in _defined() if number not in cited] == []
