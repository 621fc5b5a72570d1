"""Blob uploads: sessions, chunks, and what to do when one is lost (R-033, R-070 to R-076).

The session is the registry's: its location is opaque, and its word on how far it has come counts.
A chunk is never sent again on a guess. What cannot be continued is begun anew, a few times.
"""

from __future__ import annotations

import contextlib
import contextvars
import random
import re
from collections.abc import Callable
from typing import Final

import msgspec

from registry_adapters.http.addresses import Address, Sender
from registry_adapters.http.answers import check_promise, status_of
from registry_adapters.http.exchange import Answer, Body, Headers, Request
from registry_adapters.http.retry import REFUSED, RetryPolicy
from registry_adapters.http.source_check import CheckedSource
from registry_core.content.source import ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.domain.origin import Origin, redacted, resolve
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    Unavailable,
)
from registry_core.scope import checkpoint, fail_after, pause

__all__ = ["Upload", "cancel", "chunk_length", "closing_target", "location_of", "received"]

_ATTEMPTS: Final = 3
_STALLS: Final = 4
# Forward and back again is no progress, either.
_SETBACKS: Final = 16
_PATIENCE: Final = RetryPolicy()
_CHUNK_LIMIT: Final = 64 << 20
_CANCEL_SECONDS: Final = 5.0
_RANGE = re.compile(r"(?:bytes[= ])?0-(?P<last>[0-9]{1,19})")
_PATCH_REFUSED: Final = frozenset({405, 501})


class _Lost(Exception):
    """The upload session is gone, or nobody knows how far it has come: begin anew."""

    def __init__(self, cause: RegistryError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def closing_target(location: str, digest: Digest) -> str:
    """A location with the digest appended; what stands in its query stays as it is (R-071)."""
    return f"{location}{'&' if '?' in location else '?'}digest={digest.replace('+', '%2B').replace('=', '%3D')}"


def chunk_length(wanted: int, headers: Headers) -> int:
    """How long chunks are: as wanted, but no shorter than the registry asks for, within reason (R-073)."""
    text = headers.get("OCI-Chunk-Min-Length")
    least = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return max(wanted, min(least, _CHUNK_LIMIT))


def received(headers: Headers) -> int | None:
    """How many bytes the registry says it has, or ``None`` where it does not say intelligibly (R-074).

    ``0-0`` means one byte, or in some registries nothing; whoever asks has to know.
    """
    match = _RANGE.fullmatch(headers.get("Range"))
    return int(match["last"]) + 1 if match else None


def location_of(origin: Origin, answer: Answer, *, current: str = "") -> str:
    """Where an upload goes on.

    Args:
        origin: The registry's; uploads never leave it (R-033).
        answer: What it said last.
        current: Where it went so far, if an answer need not say it again.

    Raises:
        ProtocolError: The registry named no place, or one elsewhere.
    """
    text = answer.headers.get("Location")
    if not text and current:
        return current
    location = resolve(answer.url, text)
    if Origin.of_url(location) != origin:
        raise ProtocolError(f"refused to upload to another place: {redacted(location)}", status=answer.status)
    return location


def cancel(sender: Sender, address: Address, location: str) -> None:
    """Give an upload session up, whatever the registry says to it, and even if the caller's time is up (R-236)."""
    request = Request(
        method="DELETE",
        target=location,
        success=(200, 202, 204, 404),
        scopes=address.scopes("pull", "push"),
        reference=str(address),
        missing="upload",
        repeatable=False,
    )

    def attempt() -> None:
        with contextlib.suppress(RegistryError), fail_after(_CANCEL_SECONDS):
            sender.send(request).close()

    contextvars.Context().run(attempt)


class Upload:
    """One blob on its way.

    Args:
        sender: Who carries the requests.
        address: The repository.
        digest: Of the blob.
        size: Of the blob.
        source: Its bytes, verified as they pass.
        chunk_size: How long chunks are to be; ``None`` for all in one.
        present: Whether the registry has the blob: asked when an answer was lost.

    Raises:
        Unsupported: The digest cannot be verified.
    """

    def __init__(
        self,
        sender: Sender,
        address: Address,
        digest: Digest,
        size: int,
        source: ByteSource,
        *,
        chunk_size: int | None,
        present: Callable[[], bool],
    ) -> None:
        self._sender = sender
        self._address = address
        self._digest = digest
        self._size = size
        self._reference = address.at(digest)
        self._source = CheckedSource(source, digest, size, reference=self._reference)
        self._chunk_size = chunk_size
        self._present = present
        self._location = ""
        self._refusals = 0

    def run(self) -> None:
        """Bring it there, or leave nothing behind.

        Raises:
            DigestMismatch: The source has other bytes, or the registry says it received others.
            SizeMismatch: The source is shorter or longer.
            RegistryError: The registry refuses, or fails again and again.
        """
        self._source.check_empty()
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._attempt()
            except _Lost as lost:
                if attempt == _ATTEMPTS:
                    raise lost.cause from None
            else:
                return

    def _attempt(self) -> None:
        query = () if self._digest.algorithm == "sha256" else (("digest-algorithm", self._digest.algorithm),)
        target = self._address.path("blobs", "uploads", "", query=query)
        with self._send("POST", target, success=(202,)) as answer:
            self._location = location_of(self._sender.origin, answer)
            headers = answer.headers
        try:
            if self._chunk_size is not None and self._size:
                self._send_chunks(chunk_length(self._chunk_size, headers))
            else:
                self._close(Body(self._source, 0, self._size))
        except BaseException:
            cancel(self._sender, self._address, self._location)
            raise

    def _send_chunks(self, length: int) -> None:
        offset = stalls = setbacks = 0
        while offset < self._size:
            checkpoint()
            end = min(offset + length, self._size)
            try:
                reached = self._send_chunk(offset, end)
            except RegistryError as error:
                self._raise_source_failure()
                if status_of(error) in _PATCH_REFUSED and offset == 0:
                    self._close(Body(self._source, 0, self._size))
                    return
                reached = self._recover(error, end)
            if reached is None:
                return
            stalls = 0 if reached > offset else stalls + 1
            setbacks += reached < offset
            if stalls > _STALLS or setbacks > _SETBACKS:
                raise _Lost(ProtocolError("an upload that makes no progress", reference=self._reference))
            offset = reached
        self._close(None)

    def _recover(self, error: RegistryError, sent: int) -> int:
        """Where to go on after a chunk that failed."""
        if status_of(error) == 404:
            raise _Lost(error) from None
        if status_of(error) != 416 and not isinstance(error, (Unavailable, ServerError, RateLimited)):
            raise error
        self._wait(error)
        return self._ask(sent, error)

    def _send_chunk(self, start: int, end: int) -> int | None:
        """How far the registry has come with this chunk; ``None`` if it has closed the upload."""
        with self._send(
            "PATCH",
            self._location,
            success=(201, 202, 204),
            headers={"Content-Range": f"{start}-{end - 1}"},
            body=Body(self._source, start, end - start),
        ) as answer:
            self._location = location_of(self._sender.origin, answer, current=self._location)
            # Some registries close the upload with the last chunk, and would refuse the PUT.
            if answer.status == 201 and end == self._size:
                check_promise(answer.headers, self._digest, reference=self._reference)
                if self._present():
                    return None
            reached = received(answer.headers)
        self._refusals = 0
        return end if reached is None else self._plausible(reached, end)

    def _ask(self, sent: int, why: RegistryError) -> int:
        """How far the session has come, asked of the registry."""
        try:
            with self._send("GET", self._location, success=(200, 202, 204), repeatable=True) as answer:
                self._location = location_of(self._sender.origin, answer, current=self._location)
                reached = received(answer.headers)
        except (Cancelled, DeadlineExceeded):
            raise
        except RegistryError as error:
            raise _Lost(error if status_of(error) in (401, 403) else why) from None
        # 0-0 is one byte, or none.
        if reached is None or reached == 1:
            raise _Lost(why)
        return self._plausible(reached, sent)

    def _plausible(self, reached: int, sent: int) -> int:
        if reached > sent:
            raise ProtocolError(f"the registry has {reached} bytes, but was sent {sent}", reference=self._reference)
        if reached == 1 and sent > 1:
            raise _Lost(ProtocolError("the registry has one byte, or none", reference=self._reference))
        return reached

    def _close(self, body: Body | None) -> None:
        target = closing_target(self._location, self._digest)
        try:
            with self._send("PUT", target, success=(201, 204), body=body) as answer:
                check_promise(answer.headers, self._digest, reference=self._reference)
        except (Unavailable, ServerError, RateLimited) as error:
            self._raise_source_failure()
            if not self._present():
                self._wait(error)
                raise _Lost(error) from None
        except RegistryError as error:
            self._raise_source_failure()
            if status_of(error) != 404:
                raise
            # An upload that an earlier try has closed is not known any more, either.
            if not self._present():
                raise _Lost(error) from None

    def _wait(self, error: RegistryError) -> None:
        """Leave a registry that refused for now the time that it asked for; too much, or too often, is an error."""
        if status_of(error) not in REFUSED:
            return
        self._refusals += 1
        if self._refusals > _PATIENCE.retries or not _PATIENCE.is_worthwhile(error, repeatable=True):
            raise error
        pause(_PATIENCE.pause(self._refusals, error, random.random()))

    def _raise_source_failure(self) -> None:
        """What the source raised, however it was reported: that is no failure of the registry."""
        if self._source.failure is not None:
            raise self._source.failure

    def _send(
        self,
        method: str,
        target: str,
        *,
        success: tuple[int, ...],
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        repeatable: bool = False,
    ) -> Answer:
        request = Request(
            method=method,
            target=target,
            success=success,
            scopes=self._address.scopes("pull", "push"),
            headers=headers or {},
            body=body,
            reference=self._reference,
            missing="upload",
            repeatable=repeatable,
        )
        if method in ("PATCH", "PUT"):
            request = msgspec.structs.replace(request, headers={"Content-Type": OCTET_STREAM} | request.headers)
        try:
            return self._sender.send(request)
        finally:
            self._source.close()
