"""The rules of the architecture, checked against the imports of every module."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "src"
FLOORS = ["testing", "client", "ops", "ports", "content", "domain", "cancellation", "errors"]
SIBLINGS = {"http", "layout", "memory", "wsgi", "auth", "keychains", "telemetry", "archive"}
# One owner for each outside package.
OWNERS = {
    "urllib3": {"registry_adapters.http.transport.failures", "registry_adapters.http.transport.connection"},
    "dependency_injector": {"registry_adapters.container"},
    "json": {"registry_core.domain.strict_json", "registry_core.testing.contract.odd_json"},
    "cheroot": {"registry_adapters.wsgi.cheroot_server"},
    "opentelemetry": {"registry_adapters.telemetry"},
    "pathspec": {"registry_core.ops.builder.patterns"},
    "filelock": {"registry_adapters.layout.layout", "registry_adapters.keychains.json_file"},
    "subprocess": {"registry_adapters.keychains.helper"},
    "ssl": {
        "registry_adapters.http.transport.tls",
        "registry_adapters.http.transport.connection",
        "registry_adapters.http.transport.failures",
        "registry_adapters.http.transport.urllib3_transport",
    },
}
NOT_IN_CORE = {
    "registry_adapters", "urllib3", "dependency_injector", "filelock", "cheroot",
    "ssl", "socket", "http", "subprocess", "asyncio",
}  # fmt: skip


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()
CORE = [module for module in MODULES if module.split(".")[0] == "registry_core"]


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_bytes())


@cache
def _imports(module: str) -> set[str]:
    """Every module that one imports, anywhere in it, for type checkers too."""
    imported: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            base = node.module or ""
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                imported.add(inner if inner in MODULES else base)
    return imported


def _users(package: str) -> set[str]:
    """The modules that import an outside package."""
    return {module for module in MODULES if any(name.split(".")[0] == package for name in _imports(module))}


def test_core_imports_no_adapter_and_nothing_that_opens_sockets() -> None:
    offenders = [
        f"{module} imports {name}"
        for module in CORE
        for name in sorted(_imports(module))
        if name.split(".")[0] in NOT_IN_CORE
    ]

    assert offenders == []


def test_core_layers_import_downwards_only() -> None:
    offenders = [
        f"{module} imports {name}"
        for module in CORE
        if "." in module
        for name in sorted(_imports(module))
        if name.startswith("registry_core.") and FLOORS.index(name.split(".")[1]) < FLOORS.index(module.split(".")[1])
    ]

    assert offenders == []


def test_adapters_do_not_import_their_siblings() -> None:
    offenders = [
        f"{module} imports {name}"
        for module in MODULES
        if module.startswith("registry_adapters.") and module.split(".")[1] in SIBLINGS
        for name in sorted(_imports(module))
        if name.startswith("registry_adapters.") and name.split(".")[1] != module.split(".")[1]
    ]

    assert offenders == []


def test_each_outside_package_has_one_owner() -> None:
    offenders = [
        f"{module} imports {package}"
        for package, owners in OWNERS.items()
        for module in sorted(_users(package) - owners)
    ]

    assert offenders == []


def test_pytest_is_imported_by_the_shipped_suite_only() -> None:
    users = _users("pytest")

    assert users
    assert all(user.startswith("registry_core.testing") or user == "registry_adapters.testing.plugin" for user in users)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {name for name in _imports(module) if name in MODULES and name != module} for module in MODULES}

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' → '.join(error.args[1])}")


def test_no_module_prints_or_sets_up_logging() -> None:
    forbidden = {"print", "input", "sys.exit", "logging.basicConfig", "logging.disable"}

    offenders = [
        f"{module}:{node.lineno} calls {ast.unparse(node.func)}"
        for module in MODULES
        for node in ast.walk(_tree(module))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in forbidden
    ]

    assert offenders == []
