"""The modules that an import loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "socket",
    "ssl",
    "http",
    "urllib3",
    "asyncio",
    "subprocess",
    "dependency_injector",
    "filelock",
    "registry_adapters",
)
# The core without a backend has no use for these until it builds, saves or copies something.
LATER = ("tarfile", "tempfile", "logging", "concurrent.futures", "backports.zstd")


def loaded(statement: str, names: tuple[str, ...]) -> str:
    program = f"import sys\n{statement}\nprint(*sorted(set({names!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import registry_core",
        "from registry_core import RegistryClient",
        "import registry_core; [getattr(registry_core, name) for name in registry_core.__all__]",
    ],
)
def test_the_core_loads_no_network_modules(statement: str) -> None:
    assert loaded(statement, HEAVY) == ""


def test_the_facade_loads_only_modules_that_it_needs() -> None:
    assert loaded("from registry_core import RegistryClient", LATER) == ""


def test_the_package_alone_loads_nothing_else() -> None:
    statement = "import registry_core"

    assert loaded(statement, ("msgspec", "registry_core.client", "registry_core.errors")) == ""


def test_every_name_is_found_and_no_other() -> None:
    program = (
        "import registry_core\n"
        "assert set(registry_core.__all__) <= set(dir(registry_core))\n"
        "assert all(getattr(registry_core, name) is getattr(registry_core, name) for name in registry_core.__all__)\n"
        "assert not hasattr(registry_core, 'nothing_like_this')\n"
    )

    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
