"""The contract suite is complete, and every backend of the library runs it."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from registry_core.testing import contract
from registry_core.testing.contract import Contract, ContractSuite

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent


def offered_backends() -> set[str]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["entry-points"]["ociport.backends"])


def backends_with_a_suite() -> set[str]:
    """The schemes in ``BACKENDS`` of test files with a class that inherits the whole suite."""
    found: set[str] = set()
    for path in HERE.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(_is_suite(node) for node in tree.body):
            found |= _claimed(tree)
    return found


def _is_suite(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.ClassDef)
        and node.name.startswith("Test")
        and any(isinstance(base, ast.Name) and base.id == "ContractSuite" for base in node.bases)
    )


def _claimed(tree: ast.Module) -> set[str]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="BACKENDS")], value=value):
                return set(ast.literal_eval(value))
            case ast.AnnAssign(target=ast.Name(id="BACKENDS"), value=ast.expr() as value):
                return set(ast.literal_eval(value))
    return set()


def parts_of_the_suite() -> list[type[Contract]]:
    modules = [
        importlib.import_module(f"{contract.__name__}.{module.name}")
        for module in pkgutil.iter_modules(contract.__path__)
    ]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Contract) and value.__module__ == module.__name__
    ]


@pytest.mark.parametrize("scheme", sorted(offered_backends()))
def test_every_backend_runs_the_suite(scheme: str) -> None:
    assert scheme in backends_with_a_suite()


def test_no_file_names_an_unknown_backend() -> None:
    assert backends_with_a_suite() <= offered_backends()


@pytest.mark.parametrize("part", parts_of_the_suite(), ids=lambda part: part.__name__)
def test_the_suite_has_every_part(part: type[Contract]) -> None:
    assert issubclass(ContractSuite, part)


def test_no_test_hides_another() -> None:
    promises = Counter(name for part in parts_of_the_suite() for name in vars(part) if name.startswith("test_"))

    assert [name for name, count in promises.items() if count > 1] == []


def test_the_suite_never_skips() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in Path(contract.__path__[0]).glob("*.py"))

    assert "pytest.skip" not in source
    assert "skipif" not in source
    assert "xfail" not in source
    assert "importorskip" not in source
