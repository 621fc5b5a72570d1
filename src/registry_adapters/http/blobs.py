"""Blobs of a repository of an HTTP registry (distribution-spec, "Pulling blobs", "Push", "Deleting Blobs")."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from registry_adapters.http.endpoint import (
    ANY_SUCCESS,
    HEAD_REFUSED,
    RepositoryEndpoint,
    coding_remark,
    content_length,
    digest_header,
    map_delete_errors,
    status_of,
)
from registry_adapters.http.messages import Headers, Request, Response
from registry_adapters.http.session import Session
from registry_adapters.http.upload_sessions import PendingUpload, PendingUploads, cancel_upload
from registry_adapters.http.uploads import Upload
from registry_core.cancellation import checkpoint, remaining, sleep
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, ByteSource
from registry_core.content.verify import VerifyingReader
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import essence
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    Unavailable,
)
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.observer import TransferResumed

__all__ = ["Download", "HttpBlobs", "content_range", "strong_etag"]


_CONTENT_RANGE: Final = re.compile(r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?P<size>[0-9]{1,18}|\*)")

_UNSATISFIED_RANGE: Final = re.compile(r"bytes \*/(?P<size>[0-9]{1,18})")

_STRONG_ETAG: Final = re.compile(r'"[!#-~]{0,256}"')

# a connection made progress if it brought this many bytes, or this part of a small blob. If bytes had to be
# skipped first because the registry ignores Range, it must bring at least this part of them.
_PROGRESS_BYTES: Final = 64 << 10

_PROGRESS_PART: Final = 64

_PROGRESS_PART_OF_SKIPPED: Final = 16

# A connection reset discards a partial read. Reads are therefore small after a failure, and grow again.
_FIRST_READ_AFTER_FAILURE: Final = 64 << 10

# The media types of web pages, such as those that ask for a login.
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})


def content_range(text: str) -> tuple[int, int, int | None] | None:
    """Parse ``Content-Range`` into first byte, last byte and size; ``None`` if it is malformed or contradictory.

    Args:
        text: Value of the header.
    """
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = int(match["first"]), int(match["last"])
    size = None if match["size"] == "*" else int(match["size"])
    return (first, last, size) if first <= last and (size is None or last < size) else None


def strong_etag(text: str) -> str:
    """An ``ETag`` value if it is a strong validator (RFC 9110, section 8.8.1), otherwise an empty string."""
    return text if _STRONG_ETAG.fullmatch(text) else ""


class Download(BaseReader):
    """Reader over the unverified bytes of a blob, which resumes with ``Range`` after a broken connection.

    A resumed request goes to the registry again, because its redirect and its token may have changed. Different
    content cannot go unnoticed: the caller's verifier has already hashed the bytes before the break.

    It gives up after as many failures in a row as the retry policy allows. A failure does not count as "in a row"
    if 64 KiB arrived before it, or 1/64 of a blob below 4 MiB.

    Args:
        session: HTTP session that sends the requests.
        endpoint: Repository that holds the blob.
        digest: Digest of the blob.
        start: Offset of the first byte.
        fetch_size: Function that asks for the blob's size; called if no response states it.

    Raises:
        BlobNotFound: The repository does not have the blob.
        ProtocolError: The registry refuses to read from ``start`` although the blob is longer.
    """

    def __init__(
        self,
        session: Session,
        endpoint: RepositoryEndpoint,
        digest: Digest,
        *,
        start: int,
        fetch_size: Callable[[], int],
    ) -> None:
        self._session = session
        self._target = endpoint.path("blobs", digest)
        url = session.url_of(self._target)
        self._origin = Origin.of_url(url)
        self._url = redact_url(url)
        self._scopes = endpoint.scopes("pull")
        self._reference = endpoint.at(digest)
        self._fetch_size = fetch_size
        self._position = self._last_progress = start
        self._to_skip = self._skipped = 0
        self._size: int | None = None
        self._etag = ""
        self._read_size = CHUNK_SIZE
        self._failures = 0
        self._closed = False
        self._response: Response | None = None
        self._remark = ""
        self._open()

    @property
    def remark(self) -> str:
        """The ``Content-Encoding`` of the responses, if one had any."""
        return self._remark

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes, or all remaining bytes if it is negative.

        Raises:
            Unavailable: The connection broke too often without progress.
            ProtocolError: The response to a resumed request contradicts what came before.
        """
        if size < 0:
            return self._rest()
        if self._closed:
            raise ValueError("read of a closed reader")
        if size == 0:
            return b""
        while self._size is None or self._position < self._size:
            if self._response is None:
                self._open()
                continue
            try:
                return self._read(self._response, size)
            except Unavailable as error:
                self._close_response()
                self._back_off(error)
            except BaseException:
                # The position within the response body is unknown now.
                self._close_response()
                raise
            self._open()
            if self._position:
                self._session.tell(TransferResumed(method="GET", url=self._url, offset=self._position))
        return b""

    def close(self) -> None:
        """Release the connection. Idempotent."""
        self._closed = True
        self._close_response()

    def _read(self, response: Response, size: int) -> bytes:
        while self._to_skip:
            checkpoint()
            skipped = len(response.reader.read(min(self._to_skip, self._read_size)))
            if not skipped:
                return self._end_of_body()
            self._to_skip -= skipped
            self._read_size = min(CHUNK_SIZE, self._read_size * 2)
        data = response.reader.read(min(size, self._read_size))
        if not data:
            return self._end_of_body()
        self._position += len(data)
        self._read_size = min(CHUNK_SIZE, self._read_size * 2)
        return data

    def _end_of_body(self) -> bytes:
        """Accept the end of the body if the size is unknown; otherwise the body is short."""
        if self._size is not None:
            raise Unavailable(f"GET {self._url}: response body ended early", method="GET", url=self._url)
        self._size = self._position
        return b""

    def _open(self) -> None:
        """Request the bytes from the current position, or all bytes and skip the first ones."""
        start = self._position
        response = self._send(start)
        try:
            if response.status == 206 and not self._accept_range(response, start):
                response.close()
                response = self._send(0)
            if response.status == 416:
                response.close()
                self._check_end(response, start)
                return
            self._to_skip = self._skipped = 0 if response.status == 206 else start
            if response.status == 200:
                self._accept_size(response)
        except BaseException:
            response.close()
            raise
        if Origin.of_url(response.url) == self._origin:
            self._url = redact_url(response.url)
            self._etag = self._etag or strong_etag(response.headers.get("ETag"))
        self._response = response
        self._remark = coding_remark(response.headers) or self._remark

    def _send(self, start: int) -> Response:
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            # The ETag is only kept from the registry itself. A storage host behind a redirect has another one, and
            # would send the whole blob again.
            if self._etag:
                headers["If-Range"] = self._etag
        request = Request(
            method="GET",
            target=self._target,
            success=(200, 206, 416) if start else (200,),
            scopes=self._scopes,
            headers=headers,
            reference=self._reference,
            missing="blob",
        )
        return self._session.send(request)

    def _accept_range(self, response: Response, start: int) -> bool:
        """Check that a 206 holds the requested bytes of the same content, and keep the size that it states."""
        parsed = content_range(response.headers.get("Content-Range"))
        if parsed is None:
            return False
        first, last, total = parsed
        length = None if response.headers.get("Transfer-Encoding") else content_length(response.headers)
        is_registry = Origin.of_url(response.url) == self._origin
        etag = strong_etag(response.headers.get("ETag")) if is_registry else ""
        size = self._size if total is None else total
        if (
            first != start
            or (size is not None and last + 1 != size)
            or (self._size is not None and size != self._size)
            or (length is not None and length != last + 1 - first)
            or (self._etag and etag and etag != self._etag)
        ):
            return False
        self._size = size
        return True

    def _accept_size(self, response: Response) -> None:
        """Keep the size that a 200 states, which must not differ from an earlier one."""
        length = None if response.headers.get("Transfer-Encoding") else content_length(response.headers)
        if length is not None and self._size is not None and length != self._size:
            raise ProtocolError(
                f"resume download: the blob had {self._size} bytes before, and has {length} now"
                f"{coding_remark(response.headers)}",
                status=200,
                reference=self._reference,
            )
        self._size = self._size if length is None else length

    def _check_end(self, response: Response, start: int) -> None:
        """Accept a 416 if the blob ends at ``start`` (R-051)."""
        match = _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range"))
        if self._size is None:
            self._size = int(match["size"]) if match else self._fetch_size()
        if start < self._size:
            raise ProtocolError(
                f"read from byte {start}: the registry answered 416, but the blob has {self._size} bytes",
                status=416,
                reference=self._reference,
            )

    def _close_response(self) -> None:
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def _back_off(self, error: Unavailable) -> None:
        """Wait before the next attempt, or raise if there have been too many without progress."""
        policy = self._session.policy
        needed = _PROGRESS_BYTES if self._size is None else min(_PROGRESS_BYTES, max(1, self._size // _PROGRESS_PART))
        if self._position - self._last_progress >= max(needed, self._skipped // _PROGRESS_PART_OF_SKIPPED):
            self._failures = 0
            self._last_progress = self._position
        self._failures += 1
        self._read_size = _FIRST_READ_AFTER_FAILURE
        seconds, time_left = policy.pause(self._failures, error, random.random()), remaining()
        if self._failures > policy.retries or (time_left is not None and seconds >= time_left):
            received = f"{self._position} bytes" if self._size is None else f"{self._position} of {self._size} bytes"
            raise Unavailable(
                f"{error.message} (received {received}; attempt {self._failures} without progress)",
                method="GET",
                url=self._url,
                reference=self._reference,
            ) from error
        self._session.report_retry(error, "GET", self._url, attempt=self._failures, pause=seconds)
        sleep(seconds)


class HttpBlobs(BlobStore):
    """Blobs of one repository of a registry.

    Args:
        session: HTTP session that sends the requests.
        endpoint: Repository that holds the blobs.
        chunk_size: Bytes per chunk of an upload; ``None`` to send each blob in one request while that works.
        pending_uploads: Upload sessions that the registry opened instead of mounting a blob.
    """

    def __init__(
        self,
        session: Session,
        endpoint: RepositoryEndpoint,
        *,
        chunk_size: int | None = None,
        pending_uploads: PendingUploads | None = None,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._chunk_size = chunk_size
        self._pending_uploads = PendingUploads() if pending_uploads is None else pending_uploads
        self._mounts_fail = False

    def stat(self, digest: Digest) -> int:
        """Return the size of a blob in bytes: from HEAD, or from GET if HEAD does not state it.

        Raises:
            BlobNotFound: The repository does not have the blob.
        """
        size = self._stat(digest)
        # The blob exists, so the upload session that was opened instead of a mount is not needed.
        if (pending := self._pending_uploads.take(self._endpoint, digest)) is not None:
            cancel_upload(self._session, self._endpoint, pending.location)
        return size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """Open a blob, unverified, from the byte at ``start``; broken connections are resumed.

        Raises:
            BlobNotFound: The repository does not have the blob.
            ProtocolError: The response has other bytes than were requested.
        """
        return Download(self._session, self._endpoint, digest, start=start, fetch_size=lambda: self._stat(digest))

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob, verified while it is sent.

        Raises:
            DigestMismatch: The content hashes to another digest; nothing is stored.
            SizeMismatch: The content is shorter or longer than ``size``; nothing is stored.
            Unsupported: The digest's algorithm cannot be verified, or the repository is read-only.
        """
        upload = Upload(
            self._session,
            self._endpoint,
            digest,
            size,
            source,
            chunk_size=self._chunk_size,
            is_stored=lambda: self._has(digest, size),
            pending=self._pending_uploads.take(self._endpoint, digest),
        )
        upload.run()

    def delete(self, digest: Digest) -> None:
        """Delete a blob from this repository.

        Raises:
            BlobNotFound: The repository does not have the blob.
            Unsupported: The registry does not delete blobs.
        """
        request = Request(
            method="DELETE",
            target=self._endpoint.path("blobs", digest),
            success=(200, 202, 204),
            scopes=self._endpoint.scopes("pull", "delete"),
            reference=self._endpoint.at(digest),
            missing="blob",
        )
        with map_delete_errors("blobs", request.reference):
            self._session.send(request).close()

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        """Mount a blob from another repository of this registry.

        A mount only saves the upload: a registry that does not carry it out gets the blob by ``put``.

        Returns:
            Whether the registry answered that it mounted this blob. If it opened an upload session instead, the next
            ``put`` of the blob uses it.
        """
        if not from_repository:
            return False
        request = Request(
            method="POST",
            target=self._endpoint.path("blobs", "uploads", "", query=(("mount", digest), ("from", from_repository))),
            success=ANY_SUCCESS,
            scopes=(
                *self._endpoint.scopes("pull", "push"),
                *RepositoryEndpoint(self._endpoint.registry, from_repository).scopes("pull"),
            ),
            reference=self._endpoint.at(digest),
            missing="blob",
            repeatable=False,
            is_retried=not self._mounts_fail,
        )
        try:
            with self._session.send(request) as response:
                self._mounts_fail = False
                if response.status != 202:
                    return response.status == 201 and _names_no_other(response.headers, digest)
                pending = PendingUpload.from_response(self._session, response)
        except (Cancelled, DeadlineExceeded):
            raise
        except RegistryError as error:
            # A registry that fails at each mount must not cost the pauses of the retries for each blob.
            self._mounts_fail = isinstance(error, Unavailable | ServerError | RateLimited)
            return False
        if digest.algorithm == "sha256":
            self._pending_uploads.add(self._session, self._endpoint, digest, pending)
        else:
            # The registry may have opened the upload session for sha256.
            cancel_upload(self._session, self._endpoint, pending.location)
        return False

    def _stat(self, digest: Digest) -> int:
        """The size of a blob; it is read and verified where the headers do not state it, or may be those of a page."""
        try:
            with self._session.send(self._request("HEAD", digest)) as response:
                size = _stated_size(response.headers, digest)
                if size is not None and not response.headers.get("Content-Encoding"):
                    return size
        except RegistryError as error:
            if status_of(error) not in HEAD_REFUSED:
                raise
        with self._session.send(self._request("GET", digest)) as response:
            size = _stated_size(response.headers, digest)
            return self._verified_size(response, digest) if size is None else size

    def _verified_size(self, response: Response, digest: Digest) -> int:
        reader = VerifyingReader(response.reader, digest, None, reference=self._endpoint.at(digest))
        size = 0
        while data := reader.read(CHUNK_SIZE):
            checkpoint()
            size += len(data)
        return size

    def _request(self, method: str, digest: Digest) -> Request:
        return Request(
            method=method,
            target=self._endpoint.path("blobs", digest),
            success=(200,),
            scopes=self._endpoint.scopes("pull"),
            reference=self._endpoint.at(digest),
            missing="blob",
        )

    def _has(self, digest: Digest, size: int) -> bool:
        """Return whether the registry has a blob; ``False`` if it cannot be asked."""
        try:
            return self._stat(digest) == size
        except (Cancelled, DeadlineExceeded):
            raise
        except RegistryError:
            return False


def _names_no_other(headers: Headers, digest: Digest) -> bool:
    """Return whether the headers of a response name no other digest than this one."""
    location = unquote(headers.get("Location").partition("?")[0].rpartition("/")[2])
    claims = [claim.strip() for claim in headers.all("Docker-Content-Digest")]
    return all(claim == digest for claim in [*claims, *([location] if ":" in location else [])])


def _stated_size(headers: Headers, digest: Digest) -> int | None:
    """The size of a blob from the headers of a response; ``None`` if the response may have other content.

    That of a login page, for example: it has status 200 and a length as well.
    """
    claim = digest_header(headers)
    if claim is not None and claim.algorithm == digest.algorithm:
        is_doubtful = claim != digest
    else:
        is_doubtful = essence(headers.get("Content-Type")) in _PAGES
    return None if is_doubtful else content_length(headers)
