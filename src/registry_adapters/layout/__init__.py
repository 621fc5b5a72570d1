"""Repositories as OCI image layouts in directories (image-spec image-layout.md)."""

from registry_adapters.layout.catalog import LayoutCatalog

__all__ = ["LayoutCatalog"]
