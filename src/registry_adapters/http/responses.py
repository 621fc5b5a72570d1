"""Answers read strictly: what is ambiguous, cut or without end is none."""

from __future__ import annotations

import http.client
import io
import re
import socket
from typing import Any, BinaryIO, Final, cast

from registry_adapters.http.sockets import Guard

__all__ = ["FinalResponse"]

_INTERIM: Final = 16
_VERSION: Final = b"HTTP/"
# A length, and extensions that nobody looks at; more of them than this are no chunk.
_CHUNK_HEAD: Final = 4096
_CHUNK_SIZE: Final = re.compile(rb"(?P<size>[0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")


class _HeadLines:
    """The lines of a head; an error if they end before it does.

    The base takes the end of the connection for the end of the head: a success without half of its headers, and
    without a body, would be made of an answer that was cut (R-050).
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._is_first = True

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        # What begins otherwise is no HTTP, and nothing at all is no answer: the base says so.
        is_strange = self._is_first and (not line or not _VERSION.startswith(line[: len(_VERSION)]))
        if not is_strange and not line.endswith(b"\n") and len(line) < limit:
            raise http.client.IncompleteRead(line)
        self._is_first = False
        return line

    def close(self) -> None:
        self._file.close()


class FinalResponse(http.client.HTTPResponse):
    """A response that is read strictly: past all interim ones, not only 100 (R-059), whole, and not a byte further.

    The base takes more for HTTP than is good: chunks of negative length, which it reads to the end of the connection
    at once, trailers without end, and codings that it does not undo (R-057, R-058).
    """

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._sock = sock

    def begin(self) -> None:
        """Read the head."""
        file = self.fp
        self.fp = cast("io.BufferedReader", _HeadLines(file))
        try:
            super().begin()
        finally:
            # The base gives up its file when it gives up.
            if self.fp is not None:
                self.fp = file
        codings = ",".join(self.headers.get_all("transfer-encoding", [])).strip().lower()
        if codings not in ("", "identity") and not (self.chunked and codings == "chunked"):
            raise http.client.HTTPException("a transfer coding that was not asked for")
        # Whoever is in between may have taken the other one for the length.
        self.will_close = self.will_close or (self.chunked and "content-length" in self.headers)

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]  # not in the stubs
            if not 100 <= status < 200:
                return version, status, reason
            if status == 101:
                raise http.client.HTTPException("a switch of protocols that was not asked for")
            http.client.parse_headers(self.fp)  # bounded in lines and in length
        raise http.client.HTTPException("too many interim responses")

    def _read_next_chunk_size(self) -> int:
        line = self.fp.readline(_CHUNK_HEAD + 1)
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise ValueError("not the head of a chunk")
        return int(match["size"], 16)

    def _read_and_discard_trailer(self) -> None:
        http.client.parse_headers(self.fp)  # bounded in lines and in length

    def _close_conn(self) -> None:
        # What comes after the end would be taken for the answer to the next request.
        if isinstance(self._sock, Guard) and isinstance(self.fp, io.BufferedReader) and self._sock.has_more(self.fp):
            self._sock.wake()
        super()._close_conn()  # type: ignore[misc]  # not in the stubs
