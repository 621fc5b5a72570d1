"""Where credentials come from."""

from registry_adapters.keychains.static import StaticKeychain

__all__ = ["StaticKeychain"]
