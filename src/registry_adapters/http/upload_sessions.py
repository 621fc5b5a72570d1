"""An upload session as the registry names it: where it goes on, how far it has come, and those left open for later.

What is sent, verified while it is sent: the last byte of wrong content never leaves.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import threading
from typing import Final

import msgspec

from registry_adapters.http.endpoint import RegistryRequester, RepositoryEndpoint
from registry_adapters.http.messages import Headers, Request, Response
from registry_core.cancellation import checkpoint, fail_after
from registry_core.content.streams import BaseReader, ByteReader, ByteSource
from registry_core.content.verify import Verifier
from registry_core.domain.digest import Digest
from registry_core.domain.origin import Origin, redact_url, resolve_url
from registry_core.domain.url_policy import UrlPurpose, check_url
from registry_core.errors import ProtocolError, RegistryError, SizeMismatch

__all__ = [
    "PendingUpload",
    "PendingUploads",
    "VerifyingSource",
    "cancel",
    "chunk_length",
    "closing_target",
    "committed_bytes",
    "upload_location",
]


# a registry may ask for longer chunks, within reason.
_CHUNK_LIMIT: Final = 64 << 20

_CANCEL_SECONDS: Final = 5.0

# Work that is to end at once has no more than that for it: the request is sent, its answer not waited for.
_CANCEL_MOMENT: Final = 0.3

_RANGE: Final = re.compile(r"(?:bytes[= ])?0-(?P<last>[0-9]{1,19})")


class PendingUpload(msgspec.Struct, frozen=True):
    """An upload session that nothing was sent into yet.

    Args:
        location: Where it goes on; the registry's secret.
        least: The shortest chunk that the registry takes, in bytes; 0 for any.
    """

    location: str
    least: int = 0

    def __repr__(self) -> str:
        """Without the query, which may be a signature."""
        return f"PendingUpload({redact_url(self.location)!r}, least={self.least})"


class PendingUploads:
    """Sessions that registries opened in place of a mount, until their blob is put; safe for many threads.

    Args:
        limit: How many are kept; beyond, the oldest is given up.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._kept: dict[tuple[RepositoryEndpoint, Digest], PendingUpload] = {}

    def keep(
        self, sender: RegistryRequester, address: RepositoryEndpoint, digest: Digest, upload: PendingUpload
    ) -> None:
        """Remember a session for a blob; what it displaces is cancelled."""
        displaced = []
        with self._lock:
            key = (address, digest)
            if key in self._kept:
                displaced.append((address, self._kept.pop(key)))
            elif len(self._kept) >= self._limit:
                oldest = next(iter(self._kept))
                displaced.append((oldest[0], self._kept.pop(oldest)))
            self._kept[key] = upload
        for owner, old in displaced:
            cancel(sender, owner, old.location)

    def take(self, address: RepositoryEndpoint, digest: Digest) -> PendingUpload | None:
        """The session that is open for a blob, if there is one; it is the caller's from now on."""
        with self._lock:
            return self._kept.pop((address, digest), None)

    def close(self, sender: RegistryRequester) -> None:
        """Cancel all that nobody came for, within a few seconds in all. Idempotent."""
        with self._lock:
            kept, self._kept = self._kept, {}

        def cancel_all() -> None:
            with fail_after(_CANCEL_SECONDS):
                for (address, _), upload in kept.items():
                    with contextlib.suppress(RegistryError):
                        checkpoint()
                        sender.send(_cancellation(address, upload.location)).close()

        contextvars.Context().run(cancel_all)


def closing_target(location: str, digest: Digest) -> str:
    """A location with the digest appended; what stands in its query stays as it is."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest.replace('+', '%2B').replace('=', '%3D')}"


def chunk_length(wanted: int, headers: Headers) -> int:
    """How long chunks are: as wanted, but no shorter than the registry asks for, within reason."""
    text = headers.get("OCI-Chunk-Min-Length")
    least = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return max(wanted, min(least, _CHUNK_LIMIT))


def committed_bytes(headers: Headers) -> int | None:
    """How many bytes the registry says it has, or ``None`` where it does not say intelligibly.

    ``0-0`` means one byte, or in some registries nothing; whoever asks has to know.
    """
    match = _RANGE.fullmatch(headers.get("Range"))
    return int(match["last"]) + 1 if match else None


def upload_location(origin: Origin, answer: Response, *, current: str = "") -> str:
    """Where an upload goes on.

    Args:
        origin: The registry's; uploads never leave it.
        answer: What it said last.
        current: Where it went so far, if an answer need not say it again.

    Raises:
        ProtocolError: The registry named no place, or one elsewhere.
    """
    text = answer.headers.get("Location")
    if not text and current:
        return current
    location = resolve_url(answer.url, text)
    try:
        check_url(UrlPurpose.UPLOAD, origin, location)
    except ProtocolError as error:
        error.status = answer.status
        raise
    return location


def cancel(sender: RegistryRequester, address: RepositoryEndpoint, location: str) -> None:
    """Give an upload session up, whatever the registry says to it, and even if the caller's time is up."""
    try:
        checkpoint()
        seconds = _CANCEL_SECONDS
    except RegistryError:
        seconds = _CANCEL_MOMENT

    def attempt() -> None:
        with contextlib.suppress(RegistryError), fail_after(seconds):
            sender.send(_cancellation(address, location)).close()

    contextvars.Context().run(attempt)


def _cancellation(address: RepositoryEndpoint, location: str) -> Request:
    return Request(
        method="DELETE",
        target=location,
        success=(200, 202, 204, 404),
        scopes=address.scopes("pull", "push"),
        reference=str(address),
        missing="upload",
        repeatable=False,
    )


class VerifyingSource:
    """A source whose readers raise instead of giving out the last piece of something wrong.

    Stretches are opened in order, as chunks are; one that was hashed before may be opened again. Opening at 0
    starts the check anew. What went wrong is kept in ``failure``, as a transport may report it as its own.

    Args:
        source: The bytes.
        digest: What all of them must hash to.
        size: How many there must be.
        reference: What they are, for errors.

    Raises:
        Unsupported: The digest cannot be verified.
    """

    def __init__(self, source: ByteSource, digest: Digest, size: int, *, reference: str) -> None:
        self._source = source
        self._digest = digest
        self._size = size
        self._reference = reference
        self._verifier = Verifier(digest, size, reference=reference)
        self.failure: BaseException | None = None
        self._reader: ByteReader | None = None

    @property
    def count(self) -> int:
        """How many bytes were read so far, from the first one on: nobody can have received more."""
        return self._verifier.count

    def open(self, start: int = 0) -> ByteReader:
        """A reader from ``start`` on.

        Raises:
            SizeMismatch: From its reads: the source is too short or too long.
            DigestMismatch: From its reads: the source has other bytes.
        """
        self.failure = None
        if start == 0:
            self._verifier = Verifier(self._digest, self._size, reference=self._reference)
        try:
            self._reader = self._source.open(start)
        except BaseException as error:
            self.failure = error
            raise
        return _CheckedReader(self, self._reader, start)

    def close(self) -> None:
        """Close what was opened last: whoever read it may have been interrupted."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def check_empty(self) -> None:
        """Verify a source that has to be empty, of which nothing is sent; do nothing for any other.

        Raises:
            SizeMismatch: It is not empty.
            DigestMismatch: The digest is not that of nothing.
        """
        if self._size == 0:
            with self._source.open() as reader:
                self._verifier.update(reader.read(1))
            self._verifier.finish()

    def account(self, data: bytes | memoryview, position: int, reader: ByteReader) -> None:
        """Take in what stands at a position; at the end, see that there is nothing behind it.

        Raises:
            SizeMismatch: The source is too short or too long.
            DigestMismatch: It has other bytes.
        """
        known = self._verifier.count - position
        if len(data) > known:
            fresh = memoryview(data)[max(known, 0) :]
            if self._verifier.count + len(fresh) == self._size and reader.read(1):
                raise SizeMismatch(
                    f"longer than the promised {self._size} bytes",
                    expected=self._size,
                    actual=self._size + 1,
                    reference=self._reference,
                )
            self._verifier.update(fresh)
            if self._verifier.count == self._size:
                self._verifier.finish()
        elif not len(data) and position < self._size:
            self._verifier.finish()


class _CheckedReader(BaseReader):
    def __init__(self, check: VerifyingSource, reader: ByteReader, position: int) -> None:
        self._check = check
        self._reader = reader
        self._position = position

    def read(self, size: int = -1, /) -> bytes:
        try:
            checkpoint()
            data = self._reader.read(size)
            if size:
                self._check.account(data, self._position, self._reader)
        except BaseException as error:
            self._check.failure = error
            raise
        self._position += len(data)
        return data

    def close(self) -> None:
        self._reader.close()
