"""Registries that fail on demand, and their pytest fixtures, for tests of applications (extra ``ociport[testing]``).

Each name is imported on first use: pytest loads the plugin in every run, also where no test uses it.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from registry_adapters.testing import faults
    from registry_adapters.testing.faults import Fault
    from registry_adapters.testing.request_log import Entry, RequestLog
    from registry_adapters.testing.server import FaultyApp, FaultyRegistry, faulty_registry

__all__ = ["Entry", "Fault", "FaultyApp", "FaultyRegistry", "RequestLog", "faults", "faulty_registry"]

_EXPORTS: Final = MappingProxyType(
    {
        "Entry": "registry_adapters.testing.request_log",
        "Fault": "registry_adapters.testing.faults",
        "FaultyApp": "registry_adapters.testing.server",
        "FaultyRegistry": "registry_adapters.testing.server",
        "RequestLog": "registry_adapters.testing.request_log",
        "faulty_registry": "registry_adapters.testing.server",
    }
)


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any name

    def __getattr__(name: str) -> object:
        if name == "faults":
            return import_module("registry_adapters.testing.faults")
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
