"""Blob uploads: whole, in chunks, and what to do when a connection or a session is lost.

The session is the registry's: its location is opaque, and its word on how far it has come counts. A chunk is never sent
again on a guess. What cannot be continued is begun anew, as often as the policy says.

What breaks off is sent on in smaller requests, each on a connection of its own: many proxies cut a connection after
a time or an amount, and some registries (docker-registry 2) forget a session that was cut in the middle of a request.

How an upload is cut into requests, and whether it is getting anywhere: decisions without I/O.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from registry_adapters.http.endpoint import RegistryRequester, RepositoryEndpoint, check_digest_header, status_of
from registry_adapters.http.messages import Body, Request, Response
from registry_adapters.http.retry import REFUSED, error_summary, failure_kind
from registry_adapters.http.upload_sessions import (
    PendingUpload,
    VerifyingSource,
    cancel,
    chunk_length,
    closing_target,
    committed_bytes,
    upload_location,
)
from registry_core.cancellation import checkpoint, remaining, sleep
from registry_core.content.streams import ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.domain.origin import redact_url
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    TransportError,
    Unavailable,
)
from registry_core.ports.observer import RequestRetried, TransferResumed

__all__ = ["ChunkPlan", "Upload"]


# Of a blob that did not arrive whole. Large enough for registries that want parts of 5 MiB, small enough for
# proxies that take 10 MiB.
_CHUNK: Final = 8 << 20

# Some storages take only multiples of this.
_FLOOR: Final = 256 << 10

# A registry that takes less than this part of what it is sent, again and again, is going nowhere.
_LEAST_PART: Final = 16

_STALLS: Final = 4

# Forward and back again is no progress, either.
_SETBACKS: Final = 16


class ChunkPlan:
    """The length of the next request, and the count of what went wrong so far.

    Args:
        size: Of the blob.
        chunk_size: How long chunks are to be; ``None`` for all in one, as long as that works.

    Attributes:
        close_connection: Whether each chunk gets a connection of its own.
        failures: How many requests failed since the last progress.
    """

    def __init__(self, size: int, chunk_size: int | None) -> None:
        self._size = size
        self._length = chunk_size
        self._least = 0
        self._chunks_refused = False
        self._stalls = self._setbacks = 0
        self.close_connection = False
        self.failures = 0

    def begin(self, least: int) -> None:
        """Start from the first byte.

        Args:
            least: The shortest chunk that the registry takes.
        """
        self._least = least
        self._stalls = self._setbacks = 0

    @property
    def whole(self) -> bool:
        """Whether all goes in one request."""
        return self._length is None

    def end(self, offset: int) -> int:
        """Where the request that begins at an offset ends."""
        return self._size if self._length is None else min(offset + max(self._length, self._least), self._size)

    def refuse_chunks(self) -> None:
        """Take all in one from now on: the registry knows no chunks."""
        self._length, self._chunks_refused = None, True

    def split(self) -> bool:
        """Take chunks from now on, where all in one broke off; whether that can help."""
        if self._size <= _CHUNK or self._chunks_refused:
            return False
        self._length = _CHUNK
        return True

    def shrink(self, tried: int) -> bool:
        """Take a quarter at a time from now on; whether that is possible.

        Args:
            tried: How long the request was that was too long.
        """
        length = max(_FLOOR, min(_CHUNK, tried // 4) // _FLOOR * _FLOOR)
        if self._chunks_refused or max(length, self._least) >= tried:
            return False
        self._length = length
        return True

    def is_stuck(self, offset: int, reached: int, end: int, *, failed: bool = False) -> bool:
        """Whether it makes no progress any more, after one more request.

        Args:
            offset: Where the request began.
            reached: How far the registry says it has come.
            end: Where the request ended.
            failed: Whether it failed, which is counted in ``failures``.
        """
        if reached > offset and (reached - offset) * _LEAST_PART >= end - offset:
            self._stalls = self.failures = 0
        elif not failed:
            self._stalls += 1
        self._setbacks += reached < offset
        return self._stalls > _STALLS or self._setbacks > _SETBACKS


_FAULTS: Final = (Unavailable, ServerError, RateLimited)

_PATCH_REFUSED: Final = frozenset({405, 501})


class _Lost(Exception):
    """The upload session is gone, or nobody knows how far it has come: begin anew."""

    def __init__(self, cause: RegistryError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Upload:
    """One blob on its way.

    Args:
        sender: Who carries the requests.
        address: The repository.
        digest: Of the blob.
        size: Of the blob.
        source: Its bytes, verified as they pass.
        chunk_size: How long chunks are to be; ``None`` for all in one, as long as that works.
        present: Whether the registry has the blob: asked when an answer was lost.
        opened: A session to begin with, where there is one.

    Raises:
        Unsupported: The digest cannot be verified.
    """

    def __init__(
        self,
        sender: RegistryRequester,
        address: RepositoryEndpoint,
        digest: Digest,
        size: int,
        source: ByteSource,
        *,
        chunk_size: int | None,
        present: Callable[[], bool],
        opened: PendingUpload | None = None,
    ) -> None:
        self._sender = sender
        self._address = address
        self._digest = digest
        self._size = size
        self._reference = address.at(digest)
        self._source = VerifyingSource(source, digest, size, reference=self._reference)
        self._present = present
        self._opened = opened
        self._location = ""
        self._pace = ChunkPlan(size, chunk_size)

    def run(self) -> None:
        """Bring it there, or leave nothing behind.

        Raises:
            DigestMismatch: The source has other bytes, or the registry says it received others.
            SizeMismatch: The source is shorter or longer.
            RegistryError: The registry refuses, or fails again and again.
        """
        left = self._sender.policy.retries
        try:
            self._source.check_empty()
        except BaseException:
            self._give_up()
            raise
        while True:
            borrowed = self._opened is not None
            try:
                self._attempt()
            except _Lost as lost:
                # A session from a mount may have run out meanwhile, and smaller requests are no repetition.
                if borrowed or status_of(lost.cause) == 413:
                    continue
                if not left:
                    raise lost.cause from None
                left -= 1
            else:
                return

    def _attempt(self) -> None:
        opened, self._opened = self._opened or self._start(), None
        self._location = opened.location
        self._pace.begin(opened.least)
        try:
            offset: int | None = 0
            while offset is not None:
                checkpoint()
                offset = self._step(offset)
        except BaseException:
            cancel(self._sender, self._address, self._location)
            raise

    def _start(self) -> PendingUpload:
        query = () if self._digest.algorithm == "sha256" else (("digest-algorithm", self._digest.algorithm),)
        target = self._address.path("blobs", "uploads", "", query=query)
        with self._send("POST", target, success=(202,)) as answer:
            return PendingUpload(upload_location(self._sender.origin, answer), chunk_length(0, answer.headers))

    def _give_up(self) -> None:
        if self._opened is not None:
            cancel(self._sender, self._address, self._opened.location)

    def _step(self, offset: int) -> int | None:
        """One request's worth from an offset on; where to go on, or ``None`` once the blob is stored."""
        end = self._pace.end(offset)
        closing = self._pace.whole or offset == self._size
        try:
            if closing:
                self._close()
                return None
            reached = self._send_chunk(offset, end)
        except (Cancelled, DeadlineExceeded):
            self._raise_source_failure()
            raise
        except RegistryError as error:
            self._raise_source_failure()
            return self._recover(error, offset, end, closing=closing)
        return self._onward(offset, reached, end)

    def _send_chunk(self, start: int, end: int) -> int | None:
        """How far the registry has come with this chunk; ``None`` if it has closed the upload."""
        headers = {"Content-Range": f"{start}-{end - 1}"}
        if self._pace.close_connection:
            headers["Connection"] = "close"
        with self._send(
            "PATCH",
            self._location,
            success=(201, 202, 204),
            headers=headers,
            body=Body(self._source, start, end - start),
        ) as answer:
            self._location = upload_location(self._sender.origin, answer, current=self._location)
            # Some registries close the upload with the last chunk, and would refuse the PUT.
            if answer.status == 201 and end == self._size:
                check_digest_header(answer.headers, self._digest, reference=self._reference)
                if self._present():
                    return None
            reached = committed_bytes(answer.headers)
        return self._plausible(end if reached is None else reached, end)

    def _close(self) -> None:
        body = Body(self._source, 0, self._size) if self._pace.whole and self._size else None
        target = closing_target(self._location, self._digest)
        with self._send("PUT", target, success=(201, 204), body=body) as answer:
            check_digest_header(answer.headers, self._digest, reference=self._reference)

    def _recover(self, error: RegistryError, offset: int, end: int, *, closing: bool) -> int | None:
        """Where to go on after a request that failed; ``None`` if it has done its work nevertheless."""
        status, pace = status_of(error), self._pace
        if status in _PATCH_REFUSED and not closing and offset == 0:
            pace.refuse_chunks()
            return 0
        if status == 413:
            if offset == self._size or not pace.shrink(end - offset):
                raise error
            return self._ask(end, error)
        if status == 416 and not closing:
            return self._onward(offset, self._ask(end, error), end)
        if status != 404 and not isinstance(error, _FAULTS):
            raise error
        # A refused request without bytes has been repeated by the sender as often as it may be.
        if closing and not (pace.whole and self._size) and failure_kind(error) in REFUSED:
            raise error
        # An upload that an earlier try has closed is not known any more, either.
        if closing and self._present():
            return None
        if status == 404:
            raise _Lost(error)
        self._wait(error, "PUT" if closing else "PATCH")
        return self._resume(error, offset, end)

    def _resume(self, error: RegistryError, offset: int, end: int) -> int | None:
        """Where to go on after a request that may have been carried out in part."""
        pace, cut = self._pace, status_of(error) == 0
        again, pace.close_connection = cut and pace.close_connection, cut or pace.close_connection
        if pace.whole and not pace.split():
            raise _Lost(error)
        try:
            reached = self._ask(end, error)
        except _Lost:
            if again:
                pace.shrink(end - offset)
            raise
        if again and reached <= offset < self._size:
            pace.shrink(end - offset)
        return self._onward(offset, reached, end, failed=True)

    def _onward(self, offset: int, reached: int | None, end: int, *, failed: bool = False) -> int | None:
        if reached is not None and self._pace.is_stuck(offset, reached, end, failed=failed):
            raise _Lost(ProtocolError("an upload that makes no progress", reference=self._reference))
        return reached

    def _ask(self, sent: int, why: RegistryError) -> int:
        """How far the session has come, asked of the registry (R-074)."""
        try:
            with self._send("GET", self._location, success=(200, 202, 204), repeatable=True) as answer:
                self._location = upload_location(self._sender.origin, answer, current=self._location)
                reached = committed_bytes(answer.headers)
        except (Cancelled, DeadlineExceeded):
            raise
        except RegistryError as error:
            raise _Lost(error if status_of(error) in (401, 403) else why) from None
        # 0-0 is one byte, or none.
        if reached is None or reached == 1:
            raise _Lost(why)
        reached = self._plausible(reached, sent)
        self._sender.tell(TransferResumed(method="PATCH", url=redact_url(self._location), offset=reached))
        return reached

    def _plausible(self, reached: int, sent: int) -> int:
        sent = min(sent, self._source.count)
        if reached > sent:
            raise ProtocolError(f"the registry has {reached} bytes, but was sent {sent}", reference=self._reference)
        if reached == 1 and sent > 1:
            raise _Lost(ProtocolError("the registry has one byte, or none", reference=self._reference))
        return reached

    def _wait(self, error: RegistryError, method: str) -> None:
        """Leave a registry that failed some time; too much, or too often, is an error."""
        self._pace.failures += 1
        failures, policy = self._pace.failures, self._sender.policy
        seconds, left = policy.pause(failures, error, random.random()), remaining()
        asked = error.retry_after if isinstance(error, TransportError) else None
        if (
            failures > policy.retries
            or (asked is not None and asked > policy.max_retry_after)
            or (left is not None and seconds >= left)
        ):
            raise error
        self._sender.tell(
            RequestRetried(
                method=method,
                url=redact_url(self._location),
                attempt=failures,
                pause=seconds,
                reason=error_summary(error),
            )
        )
        # What a busy registry asks for, the sender waits for with the next request.
        if asked is None or failure_kind(error) not in REFUSED:
            sleep(seconds)

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
    ) -> Response:
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
