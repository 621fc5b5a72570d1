"""Backends for ``registry_core``: HTTP registries, image layouts, archives and memory.

Each name is imported on first use: a program loads only the backends it uses.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from registry_adapters.archive import ArchiveCatalog, ArchiveForm
    from registry_adapters.backends import open_catalog, open_client
    from registry_adapters.http import HttpCatalog, HttpSettings
    from registry_adapters.layout import LayoutCatalog
    from registry_adapters.memory import MemoryCatalog
    from registry_adapters.mirroring import open_mirror

__all__ = [
    "ArchiveCatalog",
    "ArchiveForm",
    "HttpCatalog",
    "HttpSettings",
    "LayoutCatalog",
    "MemoryCatalog",
    "open_catalog",
    "open_client",
    "open_mirror",
]

_EXPORTS: Final = MappingProxyType(
    {
        "ArchiveCatalog": "registry_adapters.archive",
        "ArchiveForm": "registry_adapters.archive",
        "HttpCatalog": "registry_adapters.http",
        "HttpSettings": "registry_adapters.http",
        "LayoutCatalog": "registry_adapters.layout",
        "MemoryCatalog": "registry_adapters.memory",
        "open_catalog": "registry_adapters.backends",
        "open_client": "registry_adapters.backends",
        "open_mirror": "registry_adapters.mirroring",
    }
)


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any name

    def __getattr__(name: str) -> object:
        if name not in _EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
