"""For applications' own tests: registries that fail on demand, and pytest fixtures for them (extra ``testing``).

Each name is imported when it is first used, so that a test run that uses none of them does not pay.
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

_HOMES: Final = MappingProxyType(
    {
        "Entry": "registry_adapters.testing.request_log",
        "Fault": "registry_adapters.testing.faults",
        "FaultyApp": "registry_adapters.testing.server",
        "FaultyRegistry": "registry_adapters.testing.server",
        "RequestLog": "registry_adapters.testing.request_log",
        "faulty_registry": "registry_adapters.testing.server",
    }
)


def __getattr__(name: str) -> object:
    if name == "faults":
        return import_module("registry_adapters.testing.faults")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
