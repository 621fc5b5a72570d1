"""Compression of layers: detection by media type and by first bytes, decompression, and compression.

Compressing the same bytes gives the same bytes, wherever the version of the compressor is the same.
"""

from __future__ import annotations

import sys
import zlib
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any, Final, Protocol, Self

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, reader_remark
from registry_core.domain.media_types import (
    DOCKER_FOREIGN_LAYER,
    DOCKER_FOREIGN_LAYER_GZIP,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    OCI_LAYER,
    OCI_NONDISTRIBUTABLE_LAYER,
)
from registry_core.errors import IntegrityError, InvalidValue, Unsupported

__all__ = [
    "GZIP",
    "PLAIN",
    "Compression",
    "DecompressingReader",
    "Encoder",
    "compression_for",
    "decompress",
    "detect_compression",
]


_COMPRESSIONS: Final = {
    **{
        f"{kind}{suffix}": name
        for kind in (OCI_LAYER, OCI_NONDISTRIBUTABLE_LAYER)
        for suffix, name in (("", ""), ("+gzip", "gzip"), ("+zstd", "zstd"))
    },
    DOCKER_LAYER: "",
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_LAYER_ZSTD: "zstd",
    DOCKER_FOREIGN_LAYER: "",
    DOCKER_FOREIGN_LAYER_GZIP: "gzip",
}

# A decoder copies the input that it has not used at each step. With large inputs, small reads or many small members
# would take quadratic time.
_INPUT_SIZE: Final = 1 << 16

_TAR_HEADER_SIZE: Final = 512

_GZIP_MAGIC: Final = b"\x1f\x8b"

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"

# A zstd frame may ask for a window of gigabytes; 128 MiB is what the zstd program accepts by default.
_WINDOW_LOG: Final = 27


def compression_for(media_type: str) -> str:
    """Return the compression that a layer's media type names: ``gzip``, ``zstd``, or ``""`` for none.

    Raises:
        Unsupported: The media type is not one of a layer.
    """
    try:
        return _COMPRESSIONS[media_type]
    except KeyError:
        raise Unsupported(f"unknown media type of a layer: {media_type!r:.200}") from None


def detect_compression(first: bytes) -> str:
    """Return the compression of a stream by its first four bytes: ``gzip``, ``zstd``, or ``""`` for neither."""
    if first.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if first.startswith(_ZSTD_MAGIC) or _is_skippable_frame(first) else ""


def decompress(reader: ByteReader, media_type: str, *, reference: str = "") -> ByteReader:
    """Return a reader over a layer's tar; closing it closes ``reader``.

    The layer's first bytes decide between gzip, zstd and no compression, because builders that changed the compression
    have kept the old media type. If the first bytes show none of these, the media type decides. A layer of no bytes is
    an empty tar, whatever its media type: old versions of Docker have stored such layers.

    Args:
        reader: Stored bytes of the layer.
        media_type: Media type of the layer.
        reference: Layer that errors name.

    Raises:
        Unsupported: The media type is not one of a layer, or zstd is not installed.
    """
    return _LayerReader(reader, compression_for(media_type), reference)


class DecompressingReader(BaseReader):
    """The content of a compressed stream: of all its gzip members or zstd frames.

    The read that reaches the end has read the compressed stream to its end, so a ``VerifyingReader`` as ``reader`` has
    verified all of it.

    Args:
        reader: Compressed stream; closed with this reader.
        compression: ``gzip`` or ``zstd``.
        reference: Stream that errors name.

    Raises:
        Unsupported: The compression is another one, or zstd is not installed.
    """

    def __init__(self, reader: ByteReader, compression: str, *, reference: str = "") -> None:
        if compression not in ("gzip", "zstd"):
            raise Unsupported(f"unknown compression: {compression!r:.50}", reference=reference)
        self._reader = reader
        self._compression = compression
        self._reference = reference
        self._decoder: _GzipDecoder | _ZstdDecoder | None = None
        self._input = b""
        self._members = 0
        self._ended = False

    @property
    def remark(self) -> str:
        """The remark of the compressed stream."""
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all that are left if negative.

        Raises:
            IntegrityError: The stream is truncated or corrupt, or is followed by other content.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        if size < 0:
            return self._rest()
        if size == 0:
            return b""
        while not self._ended:
            checkpoint()
            if self._decoder is None and not self._begin_member():
                break
            data = self._decode(min(size, CHUNK_SIZE))
            if data:
                return data
        return b""

    def close(self) -> None:
        """Close the compressed stream."""
        self._reader.close()

    def _begin_member(self) -> bool:
        self._fill(len(_ZSTD_MAGIC))
        if self._members and not self._input.strip(b"\0"):
            # gzip allows zeros after the last member; all of them are read and verified.
            self._skip_padding()
        if self._members and not self._input:
            self._ended = True
            return False
        compression = self._detect()
        if not self._members:
            self._compression = compression
        self._members += 1
        self._decoder = _GzipDecoder() if self._compression == "gzip" else _zstd_decoder()
        return True

    def _detect(self) -> str:
        found = detect_compression(self._input)
        if not found or (self._members and found != self._compression):
            where = f"after part {self._members}" if self._members else "at its start"
            raise self._corrupt(f"no {self._compression} header {where}" if self._input else "no content")
        return found

    def _skip_padding(self) -> None:
        if self._compression != "gzip":
            return
        while self._input and not self._input.strip(b"\0"):
            checkpoint()
            self._input = self._reader.read(_INPUT_SIZE)
        if self._input:
            raise self._corrupt("other content after its end")

    def _fill(self, count: int) -> None:
        while len(self._input) < count and (data := self._reader.read(_INPUT_SIZE)):
            self._input += data

    def _decode(self, limit: int) -> bytes:
        decoder = self._decoder
        if decoder is None:
            return b""
        data, self._input = self._input, b""
        at_end = False
        if not data and decoder.needs_input:
            data = self._reader.read(_INPUT_SIZE)
            at_end = not data
        try:
            decoded = decoder.decode(data, limit)
        except (zlib.error, ValueError, EOFError) as error:
            raise self._corrupt(str(error)) from None
        except Exception as error:
            if not _is_codec_error(error):
                raise
            raise self._corrupt(str(error)) from None
        if decoder.eof:
            self._input = decoder.unused_data
            self._decoder = None
        elif at_end and not decoded:
            raise self._corrupt("truncated")
        return decoded

    def _corrupt(self, reason: str) -> IntegrityError:
        return IntegrityError(f"corrupt {self._compression} stream: {reason}{self.remark}", reference=self._reference)


class _LayerReader(BaseReader):
    """The tar of a stored layer; the first read finds out how the layer is compressed."""

    def __init__(self, reader: ByteReader, compression: str, reference: str) -> None:
        self._reader = reader
        self._compression = compression
        self._reference = reference
        self._tar: ByteReader | None = None

    @property
    def remark(self) -> str:
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        if self._tar is None:
            self._tar = self._open_tar()
        return self._tar.read(size)

    def close(self) -> None:
        self._reader.close()

    def _open_tar(self) -> ByteReader:
        first = b""
        while len(first) < _TAR_HEADER_SIZE and (data := self._reader.read(_TAR_HEADER_SIZE - len(first))):
            first += data
        # The first name in a tar may begin like a compressed stream: the checksum of its header decides.
        is_tar = not first or _is_tar_header(first)
        compression = "" if is_tar else detect_compression(first) or self._compression
        stored = _PrefixedReader(first, self._reader)
        return DecompressingReader(stored, compression, reference=self._reference) if compression else stored


class _PrefixedReader(BaseReader):
    """A stream whose first bytes were read already."""

    def __init__(self, first: bytes, reader: ByteReader) -> None:
        self._first = first
        self._reader = reader

    @property
    def remark(self) -> str:
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        if not self._first:
            return self._reader.read(size)
        if size < 0:
            first, self._first = self._first, b""
            return first + self._reader.read()
        first, self._first = self._first[:size], self._first[size:]
        return first

    def close(self) -> None:
        self._reader.close()


class _GzipDecoder:
    def __init__(self) -> None:
        self._decoder = _inflater().decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def needs_input(self) -> bool:
        return not self._decoder.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)

    def decode(self, data: bytes, limit: int) -> bytes:
        return bytes(self._decoder.decompress(self._decoder.unconsumed_tail + data, limit))


class _ZstdDecoder:
    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder

    @property
    def eof(self) -> bool:
        return bool(self._decoder.eof)

    @property
    def needs_input(self) -> bool:
        return bool(self._decoder.needs_input)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._decoder.unused_data)

    def decode(self, data: bytes, limit: int) -> bytes:
        return bytes(self._decoder.decompress(data, max_length=limit))


@cache
def _inflater() -> Any:
    """The module that decodes gzip: ``isal`` where it is installed, which is twice as fast, else ``zlib``."""
    with suppress(ImportError):
        return import_module("isal.isal_zlib")
    return zlib


def _zstd_module() -> Any:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        raise Unsupported("zstd is not installed: install backports.zstd") from None
    return zstd


def _zstd_decoder() -> _ZstdDecoder:
    zstd = _zstd_module()
    return _ZstdDecoder(zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}))


def _is_tar_header(block: bytes) -> bool:
    if len(block) != _TAR_HEADER_SIZE:
        return False
    digits = block[148:156].strip(b"\0 ")
    checksum = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    return not any(block) or (len(digits) > 2 and not digits.strip(b"01234567") and int(digits, 8) == checksum)


def _is_codec_error(error: Exception) -> bool:
    # By name: neither module need be installed.
    return type(error).__name__ in ("ZstdError", "IsalError")


def _is_skippable_frame(data: bytes) -> bool:
    return len(data) >= 4 and 0x50 <= data[0] <= 0x5F and data[1:4] == b"\x2a\x4d\x18"


# A gzip header (RFC 1952) without file name and time, and with an unknown operating system.
_GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

_LEVELS: Final = {"": range(1), "gzip": range(10), "zstd": range(1, 20)}

_DEFAULT_LEVELS: Final = {"": 0, "gzip": 6, "zstd": 3}


class Encoder(Protocol):
    """A compressor of one stream."""

    def compress(self, data: bytes, /) -> bytes:
        """Take the next bytes; return the compressed bytes that are ready."""
        ...

    def finish(self) -> bytes:
        """Return the rest of the compressed stream."""
        ...


class Compression(msgspec.Struct, frozen=True):
    """A compression of layers and its level.

    Args:
        name: ``gzip``, ``zstd``, or ``""`` for no compression.
        level: Level from 0 to 9 for gzip, from 1 to 19 for zstd; by default 6 and 3.

    Raises:
        InvalidValue: There is no such compression, or it has no such level.
    """

    name: str
    level: int | None = None

    def __post_init__(self) -> None:
        if self.name not in _LEVELS:
            raise InvalidValue(f"unknown compression of a layer: {self.name!r:.50}; use 'gzip', 'zstd' or ''")
        levels = _LEVELS[self.name]
        if self.level is not None and self.level not in levels:
            raise InvalidValue(
                f"unknown level of {self.name or 'no compression'}: {self.level!r:.50}; use {levels[0]} to {levels[-1]}"
            )

    @classmethod
    def of(cls, choice: Self | str) -> Self:
        """Return a compression as given, or the one of that name at its default level.

        Raises:
            InvalidValue: There is no such compression.
        """
        if not isinstance(choice, str | cls):
            raise InvalidValue(f"not a compression: {choice!r:.50}; give a name or a Compression")
        return cls(choice) if isinstance(choice, str) else choice

    def encoder(self) -> Encoder:
        """Start to compress a stream.

        Raises:
            Unsupported: zstd is not installed.
        """
        level = _DEFAULT_LEVELS[self.name] if self.level is None else self.level
        if self.name == "gzip":
            return _GzipEncoder(level)
        return _ZstdEncoder(level) if self.name == "zstd" else _PlainEncoder()


GZIP: Final = Compression("gzip")

PLAIN: Final = Compression("")


class _PlainEncoder:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _GzipEncoder:
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


class _ZstdEncoder:
    def __init__(self, level: int) -> None:
        zstd = _zstd_module()
        parameter = zstd.CompressionParameter
        # One thread, because several cut the stream at varying places; the zstd program adds the checksum too.
        options = {parameter.compression_level: level, parameter.checksum_flag: 1}
        self._encoder = zstd.ZstdCompressor(options=options)

    def compress(self, data: bytes, /) -> bytes:
        return bytes(self._encoder.compress(data))

    def finish(self) -> bytes:
        return bytes(self._encoder.flush())
