"""The page of protocol and security rules agrees with the citations in sources, tests and docs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/reference/rules.md"

_NUMBER = re.compile(r"\bR-[0-9]+\b")
_ROW = re.compile(r"^\| (?P<number>R-[0-9]{3}) \| (?P<rule>.+) \| (?P<source>.+) \|$", re.MULTILINE)


def _rows() -> list[re.Match[str]]:
    return list(_ROW.finditer(PAGE.read_text()))


def _defined() -> list[str]:
    return [row["number"] for row in _rows()]


def _files(*places: str, suffixes: Iterable[str] = (".py", ".md")) -> Iterator[Path]:
    for place in places:
        path = ROOT / place
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (each for each in found if each.suffix in suffixes and each != Path(__file__))


def _citations(*places: str) -> dict[str, list[str]]:
    """Cited numbers, and the files and lines that cite them."""
    cited: dict[str, list[str]] = {}
    for path in _files(*places):
        for line, text in enumerate(path.read_text().splitlines(), 1):
            for number in _NUMBER.findall(text):
                cited.setdefault(number, []).append(f"{path.relative_to(ROOT)}:{line}")
    return cited


def _public_literals(tree: ast.Module) -> Iterator[ast.Constant]:
    """String literals that must not cite a rule: all but the docstrings of private names and of tests."""
    exempt = {id(text) for text in _docstrings(tree, private=False)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in exempt:
            yield node


def _docstrings(node: ast.AST, *, private: bool) -> Iterator[ast.Constant]:
    """Docstrings at and below a node whose names are private or those of tests."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_dunder = child.name.startswith("__") and child.name.endswith("__")
            hidden = private or child.name.startswith("test_") or (child.name.startswith("_") and not is_dunder)
            yield from _docstrings(child, private=hidden)
        elif private and isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
            yield child.value


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


@pytest.mark.parametrize(
    ("source", "citing"),
    [
        ('"""R-001."""', 1),
        ('class A:\n    """R-001."""', 1),
        ('class A:\n    b: int = 1\n    """R-001."""', 1),
        ('class A:\n    def b(self):\n        """R-001."""', 1),
        ('class A:\n    def __init__(self):\n        """R-001."""', 1),
        ('def a():\n    raise ValueError("no (R-001)")', 1),
        ('def _a():\n    raise ValueError(f"{1} (R-001)")', 1),
        ('class _A:\n    """R-001."""\n\n    def b(self):\n        """R-001."""', 0),
        ('def _a():\n    """R-001."""', 0),
        ('class ContractA:\n    def test_b(self):\n        """R-001."""', 0),
        ("a = 1  # R-001", 0),
    ],
)
def test_public_docstrings_and_messages_are_distinguished_from_other_text(source: str, citing: int) -> None:
    literals = [node.value for node in _public_literals(ast.parse(source))]

    assert sum("R-001" in str(value) for value in literals) == citing


def test_no_public_docstring_and_no_message_cites_a_number() -> None:
    citing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _files("src", suffixes=(".py",))
        for node in _public_literals(ast.parse(path.read_text()))
        if _NUMBER.search(str(node.value))
    ]

    assert citing == []
