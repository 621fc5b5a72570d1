"""Layers in the making: a tar goes in, and comes out compressed, with the digests of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from registry_core.content.compression import GZIP, Compression
from registry_core.content.source import PIECE, ByteReader, ByteSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
from registry_core.scope import checkpoint

if TYPE_CHECKING:
    from registry_core.content.spool import Spool

__all__ = ["LayerStream", "NewLayer", "compressed"]

_TYPES: Final = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


class NewLayer(msgspec.Struct, frozen=True):
    """A layer that was just made.

    Args:
        descriptor: Of the layer as it is stored.
        diff_id: Of its tar.
        content: The layer as it is stored.
    """

    descriptor: Descriptor
    diff_id: Digest
    content: ByteSource


class LayerStream:
    """Takes in a tar and keeps it compressed.

    Args:
        compression: How.

    Raises:
        Unsupported: It is zstd, which is not installed.
    """

    def __init__(self, compression: Compression = GZIP) -> None:
        from registry_core.content.spool import Spool

        self._spool: Spool = Spool()
        self._hasher = Digest.of(b"").hasher()
        self._encoder = compression.encoder()
        self._media_type = _TYPES[compression.name]

    def write(self, data: bytes) -> None:
        """Take in the next bytes of the tar."""
        self._hasher.update(data)
        self._spool.write(self._encoder.compress(data))

    def finish(self) -> NewLayer:
        """The layer, once the tar is complete."""
        self._spool.write(self._encoder.finish())
        descriptor = Descriptor(media_type=self._media_type, digest=self._spool.digest, size=self._spool.size)
        return NewLayer(descriptor, Digest(f"sha256:{self._hasher.hexdigest()}"), self._spool)


def compressed(tar: ByteReader, compression: Compression = GZIP) -> NewLayer:
    """A layer of a tar that stays as it is, byte for byte.

    Args:
        tar: Read to its end; whoever opened it closes it.
        compression: How it is stored.

    Raises:
        Unsupported: The compression is zstd, which is not installed.
        RegistryError: The tar cannot be read.
    """
    stream = LayerStream(compression)
    while data := tar.read(PIECE):
        checkpoint()
        stream.write(data)
    return stream.finish()
