"""A registry in memory: for tests, for staging, and as the simplest example of a backend."""

from registry_adapters.memory.catalog import MemoryCatalog

__all__ = ["MemoryCatalog"]
