"""Layers as tars: what their media types say about compression, and undoing it.

Compressing layers: the same bytes in give the same bytes out, wherever the compressor is the same.
"""

from __future__ import annotations

import sys
import zlib
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.content.streams import CHUNK_SIZE, ByteReader
from registry_core.domain.media_types import DOCKER_FOREIGN_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER
from registry_core.errors import IntegrityError, InvalidValue, Unsupported

__all__ = ["GZIP", "PLAIN", "Compression", "DecompressingReader", "Encoder", "compression_for", "decompress"]


_NONDISTRIBUTABLE: Final = "application/vnd.oci.image.layer.nondistributable.v1.tar"

_DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"

_DOCKER_FOREIGN: Final = "application/vnd.docker.image.rootfs.foreign.diff.tar"

_COMPRESSIONS: Final = {
    **{
        f"{kind}{suffix}": name
        for kind in (OCI_LAYER, _NONDISTRIBUTABLE)
        for suffix, name in (("", ""), ("+gzip", "gzip"), ("+zstd", "zstd"))
    },
    DOCKER_LAYER_GZIP: "gzip",
    DOCKER_FOREIGN_LAYER: "gzip",
    _DOCKER_LAYER: "",
    f"{_DOCKER_LAYER}.zstd": "zstd",
    _DOCKER_FOREIGN: "",
}

# Decoders copy what they were fed and have not used at each step: small reads, or many small members, of a large piece
# would take quadratic time.
_FEED: Final = 1 << 16

_HEADER: Final = 512

_GZIP_MAGIC: Final = b"\x1f\x8b"

_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"

# zstd frames may ask for a window of gigabytes; 128 MiB is what the program itself accepts by default.
_WINDOW_LOG: Final = 27


def compression_for(media_type: str) -> str:
    """How a layer of a type is compressed: ``gzip``, ``zstd``, or ``""`` for not at all.

    Raises:
        Unsupported: Nobody knows layers of that type.
    """
    try:
        return _COMPRESSIONS[media_type]
    except KeyError:
        raise Unsupported(f"not a layer of a known type: {media_type!r:.200}") from None


def decompress(reader: ByteReader, media_type: str, *, reference: str = "") -> ByteReader:
    """A reader over a layer's tar; closing it closes the reader behind it.

    Between gzip, zstd and no compression at all its first bytes decide, because builders that changed from one to the
    other have been known to keep the old type. Where they say nothing, the media type counts.

    Args:
        reader: The layer as it is stored.
        media_type: Of the layer.
        reference: What it is, for errors.

    Raises:
        Unsupported: Nobody knows layers of that type, or zstd is not installed.
    """
    compression = compression_for(media_type)
    return _LayerReader(reader, compression, reference)


class DecompressingReader:
    """What a compressed stream holds: all its gzip members or zstd frames.

    The read that reaches the end has read the compressed stream to its own end, so that a verifying reader behind
    this one has verified everything.

    Args:
        reader: The compressed stream; closed with this one.
        compression: ``gzip`` or ``zstd``.
        reference: What it is, for errors.

    Raises:
        Unsupported: Another compression, or zstd where it is not installed.
    """

    def __init__(self, reader: ByteReader, compression: str, *, reference: str = "") -> None:
        if compression not in ("gzip", "zstd"):
            raise Unsupported(f"no decoder for {compression!r:.50}", reference=reference)
        self._reader = reader
        self._compression = compression
        self._reference = reference
        self._decoder: _Gzip | _Zstd | None = None
        self._pending = b""
        self._members = 0
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left if negative.

        Raises:
            IntegrityError: The stream is cut off or corrupt, or something else stands behind it.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(CHUNK_SIZE), b""))
        if size == 0:
            return b""
        while not self._ended:
            checkpoint()
            if self._decoder is None and not self._next_member():
                break
            data = self._decode(min(size, CHUNK_SIZE))
            if data:
                return data
        return b""

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        """Fill a buffer; raises as ``read`` does."""
        data = self.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the stream behind it."""
        self._reader.close()

    def _next_member(self) -> bool:
        self._fill(len(_ZSTD_MAGIC))
        if self._members and not self._pending.strip(b"\0"):
            # gzip allows zeros behind the last member; whatever they hide is still read and verified.
            self._skip_padding()
        if self._members and not self._pending:
            self._ended = True
            return False
        compression = self._sniffed()
        if not self._members:
            self._compression = compression
        self._members += 1
        self._decoder = _Gzip() if self._compression == "gzip" else _zstd()
        return True

    def _sniffed(self) -> str:
        if self._pending.startswith(_GZIP_MAGIC):
            found = "gzip"
        elif self._pending.startswith(_ZSTD_MAGIC) or _is_skippable(self._pending):
            found = "zstd"
        else:
            found = ""
        if not found or (self._members and found != self._compression):
            what = "an empty stream" if not self._pending else "other content"
            raise self._corrupt(f"{what} where {self._compression} begins")
        return found

    def _skip_padding(self) -> None:
        if self._compression != "gzip":
            return
        while self._pending and not self._pending.strip(b"\0"):
            checkpoint()
            self._pending = self._reader.read(_FEED)
        if self._pending:
            raise self._corrupt("something else stands behind the end of the stream")

    def _fill(self, count: int) -> None:
        while len(self._pending) < count and (data := self._reader.read(_FEED)):
            self._pending += data

    def _decode(self, limit: int) -> bytes:
        decoder = self._decoder
        if decoder is None:
            return b""
        fed, self._pending = self._pending, b""
        starved = not fed and decoder.needs_input
        if starved:
            fed = self._reader.read(_FEED)
        try:
            data = decoder.decode(fed, limit)
        except (zlib.error, ValueError, EOFError) as error:
            raise self._corrupt(str(error)) from None
        except Exception as error:
            if not _is_codec_error(error):
                raise
            raise self._corrupt(str(error)) from None
        if decoder.eof:
            self._pending = decoder.unused_data
            self._decoder = None
        elif starved and not fed and not data:
            raise self._corrupt("cut off")
        return data

    def _corrupt(self, reason: str) -> IntegrityError:
        return IntegrityError(f"not a sound {self._compression} stream: {reason}", reference=self._reference)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LayerReader:
    """Whatever a stored layer turns out to be when it is first read, as a tar."""

    def __init__(self, reader: ByteReader, compression: str, reference: str) -> None:
        self._reader = reader
        self._compression = compression
        self._reference = reference
        self._tar: ByteReader | None = None

    def read(self, size: int = -1, /) -> bytes:
        if self._tar is None:
            self._tar = self._begun()
        return self._tar.read(size)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:
        data = self.read(len(buffer))
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._reader.close()

    def _begun(self) -> ByteReader:
        first = b""
        while len(first) < _HEADER and (data := self._reader.read(_HEADER - len(first))):
            first += data
        found = _compression_of_content(first)
        compression = self._compression if found is None else found
        whole = _Rejoined(first, self._reader)
        return DecompressingReader(whole, compression, reference=self._reference) if compression else whole

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Rejoined(_LayerReader):
    """A stream behind its first bytes, which were read already."""

    def __init__(self, first: bytes, reader: ByteReader) -> None:
        self._first = first
        self._reader = reader

    def read(self, size: int = -1, /) -> bytes:
        if not self._first:
            return self._reader.read(size)
        if size < 0:
            first, self._first = self._first, b""
            return first + self._reader.read()
        first, self._first = self._first[:size], self._first[size:]
        return first


class _Gzip:
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


class _Zstd:
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
    """What undoes gzip: the same interface twice as fast where ``isal`` is installed, else the standard library."""
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
        raise Unsupported("zstd is not installed") from None
    return zstd


def _zstd() -> _Zstd:
    zstd = _zstd_module()
    return _Zstd(zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}))


def _compression_of_content(first: bytes) -> str | None:
    # A tar's first name may begin like anything: its checksum tells it from what it looks like.
    if len(first) == _HEADER and _is_header(first):
        return ""
    if first.startswith(_GZIP_MAGIC):
        return "gzip"
    return "zstd" if first.startswith(_ZSTD_MAGIC) or _is_skippable(first) else None


def _is_header(block: bytes) -> bool:
    digits = block[148:156].strip(b"\0 ")
    checked = sum(block[:148]) + 8 * 0x20 + sum(block[156:])
    return not any(block) or (len(digits) > 2 and not digits.strip(b"01234567") and int(digits, 8) == checked)


def _is_codec_error(error: Exception) -> bool:
    return type(error).__name__ in ("ZstdError", "IsalError")


def _is_skippable(data: bytes) -> bool:
    return len(data) >= 4 and 0x50 <= data[0] <= 0x5F and data[1:4] == b"\x2a\x4d\x18"


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
            return _GzipWriter(level)
        return _ZstdWriter(level) if self.name == "zstd" else _Plain()


GZIP: Final = Compression("gzip")

PLAIN: Final = Compression("")


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _GzipWriter:
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


class _ZstdWriter:
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
