"""A chunked request body (RFC 9112, section 7.1), parsed strictly and in bounded memory.

cheroot's own parser accepts signs, underscores and ``0x`` in a chunk size, takes a negative size for the end, and
allocates the announced size at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, Protocol

__all__ = ["ChunkedBody"]

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_MAX_SIZE: Final = (1 << 63) - 1
_MAX_LINE: Final = 4 << 10
_MAX_TRAILERS: Final = 64 << 10


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes: ...

    def readline(self, size: int, /) -> bytes: ...


class ChunkedBody:
    """Reads the chunks of a body as they come.

    Args:
        stream: Connection, at the size of the first chunk.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._left = 0
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        """Read ``size`` bytes, or fewer at the end of the body; all that are left if negative.

        Raises:
            ValueError: A chunk size is malformed or beyond 2^63 - 1, or the connection ended within the body.
        """
        parts: list[bytes] = []
        wanted = size
        while wanted and not self._ended:
            if not self._left and not self._begin_chunk():
                break
            data = self._stream.read(min(self._left, 64 << 10 if wanted < 0 else wanted))
            if not data:
                raise ValueError("the connection ended within a chunk")
            parts.append(data)
            self._left -= len(data)
            wanted -= len(data) if wanted > 0 else 0
            if not self._left and self._stream.read(2) != b"\r\n":
                raise ValueError("a chunk does not end with CRLF")
        return b"".join(parts)

    def read_trailer_lines(self) -> Iterator[bytes]:
        """Read the trailers behind the last chunk.

        Raises:
            ValueError: The body was not read to its end, or the trailers are malformed or too long.
        """
        if not self._ended:
            raise ValueError("the body was not read to its end")
        left = _MAX_TRAILERS
        while (line := self._stream.readline(left)) != b"\r\n":
            left -= len(line)
            if not line.endswith(b"\r\n") or left <= 0:
                raise ValueError("malformed or too long trailers")
            yield line

    def _begin_chunk(self) -> bool:
        """Read the size of the next chunk, and return whether it has bytes."""
        match = _SIZE.fullmatch(self._stream.readline(_MAX_LINE))
        size = -1 if match is None else int(match[1], 16)
        if not 0 <= size <= _MAX_SIZE:
            raise ValueError("malformed chunk size")
        self._left = size
        self._ended = size == 0
        return not self._ended
