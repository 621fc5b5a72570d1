"""The house plan, proved from the imports themselves."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "src"
FLOORS = ["testing", "client", "ops", "ports", "content", "domain", "cancellation", "errors"]
SIBLINGS = {"http", "layout", "memory", "wsgi", "auth", "keychains", "telemetry", "archive"}
# One owner for each outside package.
OWNERS = {
    "urllib3": {"registry_adapters.http.transport.urllib3_transport", "registry_adapters.http.transport.connection"},
    "dependency_injector": {"registry_adapters.container"},
    "json": {"registry_core.domain.strict_json", "registry_core.testing.contract.odd_json"},
    "cheroot": {"registry_adapters.wsgi.cheroot_server"},
    "opentelemetry": {"registry_adapters.telemetry"},
    "filelock": {"registry_adapters.layout.layout", "registry_adapters.keychains.json_file"},
    "subprocess": {"registry_adapters.keychains.helper"},
    "semver": {"registry_core.ops.mirror.selection"},
    "tenacity": {"registry_adapters.http.session"},
    "ssl": {
        "registry_adapters.http.transport.tls",
        "registry_adapters.http.transport.sockets",
        "registry_adapters.http.transport.urllib3_transport",
    },
}
NOT_IN_CORE = {
    "registry_adapters", "urllib3", "dependency_injector", "tenacity", "filelock", "cheroot",
    "ssl", "socket", "http", "subprocess", "asyncio",
}  # fmt: skip


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(module: str, *, typing_only: bool = True) -> Iterator[str]:
    """Every module that one imports, anywhere in it; optionally without what stands under TYPE_CHECKING."""
    tree = ast.parse(MODULES[module].read_text())
    skipped: set[ast.AST] = set()
    if not typing_only:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
                skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in MODULES else base


def _core() -> list[str]:
    return [module for module in MODULES if module.split(".")[0] == "registry_core"]


@pytest.mark.parametrize("module", _core())
def test_core_imports_no_adapter_and_nothing_that_opens_sockets(module: str) -> None:
    roots = {imported.split(".")[0] for imported in _imports(module)}

    assert roots & NOT_IN_CORE == set()


@pytest.mark.parametrize("module", _core())
def test_core_floors_import_downwards_only(module: str) -> None:
    parts = module.split(".")
    if len(parts) == 1:
        return
    floor = FLOORS.index(parts[1])

    above = [
        imported
        for imported in _imports(module)
        if imported.startswith("registry_core.") and FLOORS.index(imported.split(".")[1]) < floor
    ]

    assert above == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("registry_adapters.")])
def test_adapters_do_not_import_their_siblings(module: str) -> None:
    room = module.split(".")[1]
    if room not in SIBLINGS:
        return

    others = {imported.split(".")[1] for imported in _imports(module) if imported.startswith("registry_adapters.")}

    assert others <= {room}


@pytest.mark.parametrize("package", sorted(OWNERS))
def test_each_outside_package_has_one_owner(package: str) -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == package for name in _imports(module))}

    assert users <= OWNERS[package]


def test_pytest_is_imported_by_the_shipped_suite_only() -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == "pytest" for name in _imports(module))}

    assert users
    assert all(user.startswith("registry_core.testing") or user == "registry_adapters.testing.plugin" for user in users)


def test_there_are_no_circles() -> None:
    graph = {
        module: {name for name in _imports(module, typing_only=False) if name in MODULES and name != module}
        for module in MODULES
    }

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' → '.join(error.args[1])}")


def test_no_module_prints_or_sets_up_logging() -> None:
    offenders = [
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "input", "sys.exit", "logging.basicConfig", "logging.disable"}
    ]

    assert offenders == []
