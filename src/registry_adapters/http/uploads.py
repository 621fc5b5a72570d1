"""Blob uploads: in one request or in chunks, resumed or restarted after a failure (distribution-spec, "Push").

The registry owns the session: its location is opaque. A chunk that was sent whole and accepted is followed by the next
one. After a failure, the registry's statement about the bytes that it has decides where the upload goes on: a chunk is
never sent twice on a guess. A session that cannot be resumed is abandoned and the upload restarted, as often as the
retry policy allows.

A pooled connection that the registry has closed is no failure of the registry. The upload asks the session how far it
has come, or restarts, and does not count it as a retry; from then on it uses new connections only.

After a broken connection the rest is sent in smaller requests, each on a new connection. Many proxies limit the time
or the bytes of a connection, and docker-registry 2 forgets a session whose request broke off.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

import msgspec

from registry_adapters.http.endpoint import (
    ANY_SUCCESS,
    RepositoryEndpoint,
    check_digest_header,
    status_of,
    unproved_success,
)
from registry_adapters.http.messages import SINGLE_USE, Body, Request, Response
from registry_adapters.http.retry import REFUSED, StaleConnection, as_unavailable, failure_kind
from registry_adapters.http.session import Session
from registry_adapters.http.upload_sessions import (
    PendingUpload,
    VerifyingSource,
    cancel_upload,
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
    DigestMismatch,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    SizeMismatch,
    TransportError,
    Unavailable,
)
from registry_core.ports.observer import TransferResumed

__all__ = ["ChunkPlan", "Upload"]


# Chunk length after a broken monolithic upload: large enough for storage that wants parts of 5 MiB, small enough for
# proxies with a limit of 10 MiB.
_CHUNK_AFTER_FAILURE: Final = 8 << 20

# Some storage accepts only multiples of this length.
_CHUNK_MULTIPLE: Final = 256 << 10

# a request made progress if the registry kept at least this part of it.
_PROGRESS_PART: Final = 16

# Errors after which a session that went on where the registry said is not trusted: that statement may be wrong.
_CONTENT_REFUSED: Final = (DigestMismatch, SizeMismatch, ProtocolError)

_MAX_STALLS: Final = 4

# a registry that discards bytes again and again makes no progress either.
_MAX_SETBACKS: Final = 16

_TRANSIENT: Final = (Unavailable, ServerError, RateLimited)

# After other success statuses, the headers have to show that the upload session goes on.
_CHUNK_ACCEPTED: Final = frozenset({201, 202, 204})

_PATCH_REFUSED: Final = frozenset({405, 501})

_SESSION_GONE: Final = frozenset({404, 410})


class ChunkPlan:
    """Decides how an upload is split into requests and whether it still makes progress; no I/O.

    Args:
        size: Size of the blob in bytes.
        chunk_size: Preferred chunk length; ``None`` for a monolithic upload while that works.

    Attributes:
        close_connection: Whether each request with content, and the one that closes the session, uses a new connection.
        failures: Number of failed requests since the last progress.
    """

    def __init__(self, size: int, chunk_size: int | None) -> None:
        self._size = size
        self._length = chunk_size
        self._min_chunk = 0
        self._chunks_unsupported = False
        self._stalls = self._setbacks = 0
        self.close_connection = False
        self.failures = 0

    def begin(self, min_chunk: int) -> None:
        """Start at the first byte of a new session.

        Args:
            min_chunk: Shortest chunk that the registry accepts, in bytes.
        """
        self._min_chunk = min_chunk
        self._stalls = self._setbacks = 0

    @property
    def is_monolithic(self) -> bool:
        """Whether the blob is sent in one request."""
        return self._length is None

    def end(self, offset: int) -> int:
        """The end of the request that starts at ``offset``."""
        return self._size if self._length is None else min(offset + max(self._length, self._min_chunk), self._size)

    def disable_chunks(self) -> None:
        """Switch to a monolithic upload for good, because the registry does not support chunks."""
        self._length, self._chunks_unsupported = None, True

    def split(self) -> bool:
        """Switch from a monolithic upload to chunks.

        Returns:
            Whether the blob is longer than one chunk and the registry supports chunks; if not, nothing changes.
        """
        if self._size <= _CHUNK_AFTER_FAILURE or self._chunks_unsupported:
            return False
        self._length = _CHUNK_AFTER_FAILURE
        return True

    def shrink(self, failed_length: int) -> bool:
        """Reduce the chunk length to a quarter of a request that failed.

        Args:
            failed_length: Length of the failed request in bytes.

        Returns:
            Whether the registry accepts shorter chunks; if not, nothing changes.
        """
        length = max(
            _CHUNK_MULTIPLE, min(_CHUNK_AFTER_FAILURE, failed_length // 4) // _CHUNK_MULTIPLE * _CHUNK_MULTIPLE
        )
        if self._chunks_unsupported or max(length, self._min_chunk) >= failed_length:
            return False
        self._length = length
        return True

    def record_progress(self, offset: int, committed: int, end: int, *, failed: bool = False) -> bool:
        """Record the outcome of one request.

        Args:
            offset: Start of the request.
            committed: Number of bytes that the registry has now.
            end: End of the request.
            failed: Whether the request failed; such requests are counted in ``failures``.

        Returns:
            Whether the upload may continue; ``False`` if it makes no progress.
        """
        if committed > offset and (committed - offset) * _PROGRESS_PART >= end - offset:
            self._stalls = self.failures = 0
        elif not failed:
            self._stalls += 1
        self._setbacks += committed < offset
        return self._stalls <= _MAX_STALLS and self._setbacks <= _MAX_SETBACKS


class _SessionLost(Exception):
    """The upload session is gone, or its progress is unknown: restart the upload in a new session."""

    def __init__(self, cause: RegistryError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Upload:
    """The upload of one blob.

    Args:
        session: HTTP session that sends the requests.
        endpoint: Repository to upload to.
        digest: Digest of the blob.
        size: Size of the blob in bytes.
        source: Content of the blob, verified while it is sent.
        chunk_size: Preferred chunk length; ``None`` for a monolithic upload while that works.
        is_stored: Function that asks whether the registry has the blob; called if a response was lost.
        pending: Session to use first, if the registry has opened one already.

    Raises:
        Unsupported: The digest's algorithm cannot be verified.
    """

    def __init__(
        self,
        session: Session,
        endpoint: RepositoryEndpoint,
        digest: Digest,
        size: int,
        source: ByteSource,
        *,
        chunk_size: int | None,
        is_stored: Callable[[], bool],
        pending: PendingUpload | None = None,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._digest = digest
        self._size = size
        self._reference = endpoint.at(digest)
        self._source = VerifyingSource(source, digest, size, reference=self._reference)
        self._is_stored = is_stored
        self._pending = pending
        self._location = ""
        self._plan = ChunkPlan(size, chunk_size)
        self._restarts_left = session.policy.retries
        self._was_resumed = False

    def run(self) -> None:
        """Upload the blob, or cancel the upload session and raise.

        Raises:
            DigestMismatch: The source has other bytes, or the registry reports another digest.
            SizeMismatch: The source is shorter or longer than ``size``.
            RegistryError: The registry refuses the upload, or fails too often.
        """
        try:
            self._source.check_empty()
        except BaseException:
            if self._pending is not None:
                cancel_upload(self._session, self._endpoint, self._pending.location)
            raise
        while True:
            was_pending = self._pending is not None
            try:
                self._attempt()
            except _SessionLost as lost:
                # A pending upload session may have expired by now, and smaller requests after a 413 are no repetition.
                if was_pending or status_of(lost.cause) == 413:
                    continue
                if not self._restarts_left:
                    raise lost.cause from None
                self._restarts_left -= 1
            else:
                return

    def _attempt(self) -> None:
        """Upload the blob in one upload session."""
        upload_session, self._pending = self._pending or self._open_session(), None
        if upload_session is None:
            return
        self._was_resumed = False
        self._location = upload_session.location
        self._plan.begin(upload_session.min_chunk)
        try:
            offset: int | None = 0
            while offset is not None:
                checkpoint()
                offset = self._step(offset)
        except BaseException:
            cancel_upload(self._session, self._endpoint, self._location)
            raise

    def _open_session(self) -> PendingUpload | None:
        """Open an upload session; return ``None`` if the response leads to the blob, which is stored already."""
        query = () if self._digest.algorithm == "sha256" else (("digest-algorithm", self._digest.algorithm),)
        target = self._endpoint.path("blobs", "uploads", "", query=query)
        with self._send("POST", target, success=ANY_SUCCESS) as response:
            pass
        if response.status != 202:
            if self._is_stored():
                return None
            if "Location" not in response.headers:
                raise self._unproved("POST", response)
        return PendingUpload.from_response(self._session, response)

    def _step(self, offset: int) -> int | None:
        """Send one request; return the offset of the next one, or ``None`` if the blob is stored."""
        end = self._plan.end(offset)
        closing = self._plan.is_monolithic or offset == self._size
        try:
            if closing:
                self._close_session()
                return None
            committed = self._send_chunk(offset, end)
        except (Cancelled, DeadlineExceeded):
            self._raise_source_failure()
            raise
        except RegistryError as error:
            self._raise_source_failure()
            return self._recover(error, offset, end, closing=closing)
        return None if committed is None else self._check_progress(offset, committed, end)

    def _send_chunk(self, start: int, end: int) -> int | None:
        """Send one chunk; return the offset of the next one, or ``None`` if the blob is stored already."""
        headers = {"Content-Range": f"{start}-{end - 1}"}
        body = Body(self._source, start, end - start)
        headers |= self._connection_headers()
        with self._send("PATCH", self._location, success=ANY_SUCCESS, headers=headers, body=body) as response:
            pass
        if response.status != 202:
            names_session = "Location" in response.headers or "Range" in response.headers
            goes_on = response.status in _CHUNK_ACCEPTED or names_session
            # some registries close the upload with the last chunk, and would refuse the PUT.
            if end == self._size or not goes_on:
                check_digest_header(response.headers, self._digest, reference=self._reference)
                if self._is_stored():
                    return None
            if not goes_on:
                raise self._unproved("PATCH", response)
        self._location = upload_location(self._session, response, current=self._location)
        if self._source.position < end:
            url = redact_url(self._location)
            raise Unavailable(
                f"PATCH {url}: the response came before the chunk was sent whole", method="PATCH", url=url
            )
        # many registries state a wrong `Range` here, or none.
        return end

    def _close_session(self) -> None:
        """Send the PUT that closes the session; in a monolithic upload it carries the blob."""
        body = Body(self._source, 0, self._size) if self._plan.is_monolithic and self._size else None
        target = closing_target(self._location, self._digest)
        headers = self._connection_headers()
        with self._send("PUT", target, success=ANY_SUCCESS, headers=headers, body=body) as response:
            check_digest_header(response.headers, self._digest, reference=self._reference)
        was_sent = body is None or self._source.position == self._size
        if (response.status != 201 or not was_sent) and not self._is_stored():
            raise self._unproved("PUT", response)

    def _connection_headers(self) -> dict[str, str]:
        return dict(SINGLE_USE) if self._plan.close_connection else {}

    def _unproved(self, method: str, response: Response) -> ProtocolError:
        return unproved_success(method, response, "blob", reference=self._reference)

    def _recover(self, error: RegistryError, offset: int, end: int, *, closing: bool) -> int | None:
        """Decide how to go on after a failed request.

        Returns:
            The offset of the next request, or ``None`` if the blob is stored nevertheless.
        """
        status, plan = status_of(error), self._plan
        is_gone = status in _SESSION_GONE or error.code == "BLOB_UPLOAD_UNKNOWN"
        # A pooled connection was closed; the requests after this one open new ones.
        is_stale = isinstance(error, StaleConnection) and not plan.close_connection
        error = as_unavailable(error)
        if status in _PATCH_REFUSED and not closing and offset == 0:
            plan.disable_chunks()
            return 0
        if status == 413:
            if offset == self._size or not plan.shrink(end - offset):
                raise error
            return self._query_committed(end, error)
        if status == 416 and not (closing and plan.is_monolithic):
            return self._check_progress(offset, self._query_committed(end, error), end)
        if closing and self._was_resumed and isinstance(error, _CONTENT_REFUSED):
            raise _SessionLost(error)
        if not is_gone and not isinstance(error, _TRANSIENT):
            raise error
        # The HTTP session has already repeated a refused request without a body as often as the policy allows.
        if closing and not (plan.is_monolithic and self._size) and failure_kind(error) in REFUSED:
            raise error
        # the session may be gone because an earlier attempt of this PUT closed it.
        if closing and self._is_stored():
            return None
        if is_gone:
            raise _SessionLost(error)
        if is_stale:
            self._restarts_left += 1
        else:
            self._back_off(error, "PUT" if closing else "PATCH")
        return self._resume(error, offset, end, is_stale=is_stale)

    def _resume(self, error: RegistryError, offset: int, end: int, *, is_stale: bool) -> int:
        """Ask for the progress of a request that may have been carried out in part, and go on from there."""
        plan = self._plan
        no_response = status_of(error) == 0
        repeated = no_response and plan.close_connection
        plan.close_connection = no_response or plan.close_connection
        if plan.is_monolithic and (is_stale or not plan.split()):
            raise _SessionLost(error)
        try:
            committed = self._query_committed(end, error)
        except _SessionLost:
            if repeated:
                plan.shrink(end - offset)
            raise
        if repeated and committed <= offset < self._size:
            plan.shrink(end - offset)
        return self._check_progress(offset, committed, end, failed=True)

    def _check_progress(self, offset: int, committed: int, end: int, *, failed: bool = False) -> int:
        if not self._plan.record_progress(offset, committed, end, failed=failed):
            raise _SessionLost(
                ProtocolError(
                    f"upload: no progress: the registry still has {committed} of {self._size} bytes",
                    reference=self._reference,
                )
            )
        return committed

    def _query_committed(self, sent: int, cause: RegistryError) -> int:
        """Ask the registry how many bytes the session has (R-074)."""
        try:
            with self._send("GET", self._location, success=(200, 202, 204), repeatable=True) as response:
                self._location = upload_location(self._session, response, current=self._location)
                committed = committed_bytes(response.headers)
        except (Cancelled, DeadlineExceeded):
            raise
        except RegistryError as error:
            raise _SessionLost(error if status_of(error) in (401, 403) else cause) from None
        # 0-0 means one byte or none.
        if committed is None or committed == 1:
            raise _SessionLost(cause)
        sent = min(sent, self._source.bytes_read)
        if committed > sent:
            message = f"upload: the registry reports {committed} bytes, but was sent {sent}"
            raise _SessionLost(ProtocolError(message, reference=self._reference))
        self._was_resumed = True
        self._session.tell(TransferResumed(method="PATCH", url=redact_url(self._location), offset=committed))
        return committed

    def _back_off(self, error: RegistryError, method: str) -> None:
        """Wait before the next request; raise the error if the policy or the deadline does not allow another."""
        self._plan.failures += 1
        failures, policy = self._plan.failures, self._session.policy
        seconds, time_left = policy.pause(failures, error, random.random()), remaining()
        requested = error.retry_after if isinstance(error, TransportError) else None
        if (
            failures > policy.retries
            or (requested is not None and requested > policy.max_retry_after)
            or (time_left is not None and seconds >= time_left)
        ):
            raise error
        self._session.report_retry(error, method, self._location, attempt=failures, pause=seconds)
        # A pause that the registry asked for is kept by the rate limiter before the next request.
        if requested is None or failure_kind(error) not in REFUSED:
            sleep(seconds)

    def _raise_source_failure(self) -> None:
        """Raise the error of the source, if there is one; the transport may have reported it as its own."""
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
            scopes=self._endpoint.scopes("pull", "push"),
            headers=headers or {},
            body=body,
            reference=self._reference,
            missing="upload",
            repeatable=repeatable,
        )
        if method in ("PATCH", "PUT"):
            request = msgspec.structs.replace(request, headers={"Content-Type": OCTET_STREAM} | request.headers)
        try:
            return self._session.send(request)
        finally:
            self._source.close()
