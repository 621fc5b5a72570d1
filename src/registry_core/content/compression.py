"""Compressing layers: the same bytes in give the same bytes out, wherever the compressor is the same."""

from __future__ import annotations

import sys
import zlib
from typing import Any, Final, Protocol, Self

import msgspec

from registry_core.errors import InvalidValue, Unsupported

__all__ = ["GZIP", "PLAIN", "Compression", "Encoder"]

# A header of RFC 1952 without a name, a time, or a word about the system; "best guess" level.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LEVELS: Final = {"": range(1), "gzip": range(10), "zstd": range(1, 20)}
_USUAL: Final = {"": 0, "gzip": 6, "zstd": 3}


class Encoder(Protocol):
    """A stream in the making: what goes in comes out compressed, now or later."""

    def compress(self, data: bytes, /) -> bytes:
        """Take in the next bytes; whatever is ready comes out."""
        ...

    def finish(self) -> bytes:
        """What is left, and the end of the stream."""
        ...


class Compression(msgspec.Struct, frozen=True):
    """How a layer is compressed.

    Args:
        name: ``gzip``, ``zstd``, or ``""`` for not at all.
        level: From 0 to 9 for gzip, from 1 to 19 for zstd; by default 6 and 3.

    Raises:
        InvalidValue: There is no such compression, or no such level of it.
    """

    name: str
    level: int | None = None

    def __post_init__(self) -> None:
        if self.name not in _LEVELS:
            raise InvalidValue(f"not a compression of layers: {self.name!r:.50}")
        if self.level is not None and self.level not in _LEVELS[self.name]:
            raise InvalidValue(f"not a level of {self.name or 'no compression'}: {self.level!r:.50}")

    @classmethod
    def of(cls, choice: Self | str) -> Self:
        """A compression itself, or the one of that name at its usual level.

        Raises:
            InvalidValue: There is no such compression.
        """
        if not isinstance(choice, str | cls):
            raise InvalidValue(f"not a compression of layers: {choice!r:.50}")
        return cls(choice) if isinstance(choice, str) else choice

    def encoder(self) -> Encoder:
        """A fresh stream.

        Raises:
            Unsupported: It is zstd, which is not installed.
        """
        level = _USUAL[self.name] if self.level is None else self.level
        if self.name == "gzip":
            return _Gzip(level)
        return _Zstd(level) if self.name == "zstd" else _Plain()


GZIP: Final = Compression("gzip")
PLAIN: Final = Compression("")


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self, level: int) -> None:
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._header = _GZIP_HEADER
        self._crc = 0
        self._size = 0

    def compress(self, data: bytes, /) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        header, self._header = self._header, b""
        return header + self._deflate.compress(data)

    def finish(self) -> bytes:
        trailer = self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")
        return self._header + self._deflate.flush() + trailer


class _Zstd:
    def __init__(self, level: int) -> None:
        zstd = _zstd_module()
        parameter = zstd.CompressionParameter
        # Threads would cut the stream where it suits them; the checksum is what the program itself adds.
        options = {parameter.compression_level: level, parameter.checksum_flag: 1}
        self._encoder = zstd.ZstdCompressor(options=options)

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._encoder.compress(data))

    def finish(self) -> bytes:
        return bytes(self._encoder.flush())


def _zstd_module() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise Unsupported("zstd is not installed") from None
    return zstd
