"""Layers that are kept outside of registries."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from registry_core.content.source import ByteReader
from registry_core.domain.descriptor import Descriptor

__all__ = ["ForeignLayers"]


@runtime_checkable
class ForeignLayers(Protocol):
    """Content at the URLs of its descriptor. May be called from many threads at once.

    A registry says what these URLs are, so they are gone to without credentials, and nowhere that the registry could
    not have meant (R-032).
    """

    @abstractmethod
    def open(self, layer: Descriptor, *, start: int = 0) -> ByteReader:
        """A reader over the content, from the byte at ``start`` on, and never longer than the descriptor says.

        From the first byte on it is verified; from a later one, it is up to whoever has the bytes before it.

        Raises:
            BlobNotFound: The descriptor has no URLs, or nothing is there; raised by this call, not by the first read.
            ProtocolError: None of them may be gone to.
            RegistryError: None of them answers.
        """
