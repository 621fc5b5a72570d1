"""Blobs of a repository of an HTTP registry (distribution-spec, "Pulling blobs", "Push", "Deleting Blobs").

A blob's bytes over as many connections as it takes.

What breaks off goes on with ``Range``, asked of the registry again: its redirect and its token may be new ones. Who
verifies what comes out has hashed the bytes before the break already, so different content never passes for the same.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

from registry_adapters.http.endpoint import (
    HEAD_REFUSED,
    RegistryRequester,
    RepositoryEndpoint,
    Requester,
    check_digest_header,
    check_not_encoded,
    content_length,
    map_delete_errors,
    status_of,
)
from registry_adapters.http.messages import Request, Response
from registry_adapters.http.retry import error_summary
from registry_adapters.http.upload_sessions import PendingUpload, PendingUploads, cancel, chunk_length, upload_location
from registry_adapters.http.uploads import Upload
from registry_core.cancellation import checkpoint, remaining, sleep
from registry_core.content.streams import CHUNK_SIZE, BaseReader, ByteReader, ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin, redact_url
from registry_core.errors import (
    AccessDenied,
    NotFound,
    ProtocolError,
    RegistryError,
    TransportError,
    Unavailable,
    Unsupported,
)
from registry_core.ports.blob_store import BlobStore
from registry_core.ports.observer import RequestRetried, TransferResumed

__all__ = ["Download", "HttpBlobs", "content_range", "strong_tag"]


_CONTENT_RANGE: Final = re.compile(r"bytes (?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})/(?P<size>[0-9]{1,18}|\*)")

_UNSATISFIED: Final = re.compile(r"bytes \*/(?P<size>[0-9]{1,18})")

_STRONG_TAG: Final = re.compile(r'"[!#-~]{0,256}"')

# as much as a connection has to bring to count as progress; of a small blob, a part, and after skipping, more.
_PROGRESS: Final = 64 << 10

_PART: Final = 64

_SKIPPED_PART: Final = 16

# A read that a reset breaks loses what it had: after a break reads begin small and grow again.
_CAUTIOUS: Final = 64 << 10


def content_range(text: str) -> tuple[int, int, int | None] | None:
    """First byte, last byte and size that a ``Content-Range`` tells; ``None`` where it is none, or cannot be.

    Args:
        text: The header's value.
    """
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    first, last = int(match["first"]), int(match["last"])
    size = None if match["size"] == "*" else int(match["size"])
    return (first, last, size) if first <= last and (size is None or last < size) else None


def strong_tag(text: str) -> str:
    """An ``ETag`` that says of content that it is the same byte for byte; empty where it does not (RFC 9110 8.8.1)."""
    return text if _STRONG_TAG.fullmatch(text) else ""


class Download(BaseReader):
    """A reader over a blob, unverified, that goes on after a break.

    It has one connection at a time. It gives up after as many breaks in a row as the sender's policy has retries,
    with less than 64 KiB between them; of a blob below 4 MiB a sixty-fourth part is enough.

    Args:
        sender: Who carries the requests.
        address: The repository.
        digest: Of the blob.
        start: The first byte.
        length: Asks how long the blob is, where a registry does not say by itself.

    Raises:
        BlobNotFound: It is not in this repository.
        ProtocolError: The registry encodes it, or has nothing from ``start`` on although it is longer.
    """

    def __init__(
        self, sender: Requester, address: RepositoryEndpoint, digest: Digest, *, start: int, length: Callable[[], int]
    ) -> None:
        self._sender = sender
        self._target = address.path("blobs", digest)
        self._url = redact_url(f"{sender.origin}{self._target}")
        self._scopes = address.scopes("pull")
        self._reference = address.at(digest)
        self._length = length
        self._position = self._mark = start
        self._skip = self._skipped = 0
        self._size: int | None = None
        self._tag = ""
        self._piece = CHUNK_SIZE
        self._failures = 0
        self._closed = False
        self._answer: Response | None = None
        self._open()

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, all that is left if negative.

        Raises:
            Unavailable: It broke off again and again.
            ProtocolError: What came is another content, or makes no sense.
        """
        if size < 0:
            return self._rest()
        if self._closed:
            raise ValueError("read of a closed reader")
        if size == 0:
            return b""
        while self._size is None or self._position < self._size:
            if self._answer is None:
                self._open()
                continue
            try:
                return self._read(self._answer, size)
            except Unavailable as error:
                self._let_go()
                self._wait(error)
            except BaseException:
                # Where it stands on the wire, nobody knows now.
                self._let_go()
                raise
            self._open()
            if self._position:
                self._sender.tell(TransferResumed(method="GET", url=self._url, offset=self._position))
        return b""

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        self._closed = True
        self._let_go()

    def _read(self, answer: Response, size: int) -> bytes:
        while self._skip:
            checkpoint()
            skipped = len(answer.reader.read(min(self._skip, self._piece)))
            if not skipped:
                return self._ended()
            self._skip -= skipped
            self._piece = min(CHUNK_SIZE, self._piece * 2)
        data = answer.reader.read(min(size, self._piece))
        if not data:
            return self._ended()
        self._position += len(data)
        self._piece = min(CHUNK_SIZE, self._piece * 2)
        return data

    def _ended(self) -> bytes:
        """The end, where nothing says that there is more."""
        if self._size is not None:
            raise Unavailable(f"GET {self._url}: the answer broke off", method="GET", url=self._url)
        self._size = self._position
        return b""

    def _open(self) -> None:
        """The bytes from the position on, or from the first one, and skip."""
        start = self._position
        answer = self._send(start)
        try:
            if answer.status == 206 and not self._fits(answer, start):
                answer.close()
                answer = self._send(0)
            if answer.status == 416:
                answer.close()
                self._end(answer, start)
                return
            self._skip = self._skipped = 0 if answer.status == 206 else start
            if answer.status == 200:
                self._learn(answer)
        except BaseException:
            answer.close()
            raise
        if Origin.of_url(answer.url) == self._sender.origin:
            self._url = redact_url(answer.url)
            self._tag = self._tag or strong_tag(answer.headers.get("ETag"))
        self._answer = answer

    def _send(self, start: int) -> Response:
        headers = {}
        if start:
            headers["Range"] = f"bytes={start}-"
            # Known only where the registry itself answered: another host's tag would make it send everything again.
            if self._tag:
                headers["If-Range"] = self._tag
        request = Request(
            method="GET",
            target=self._target,
            success=(200, 206, 416) if start else (200,),
            scopes=self._scopes,
            headers=headers,
            reference=self._reference,
            missing="blob",
        )
        answer = self._sender.send(request)
        check_not_encoded(answer, reference=self._reference)
        return answer

    def _fits(self, answer: Response, start: int) -> bool:
        """Whether a 206 is what was asked for, of the content that was begun; its word on the size is kept."""
        told = content_range(answer.headers.get("Content-Range"))
        if told is None:
            return False
        first, last, size = told
        length = None if answer.headers.get("Transfer-Encoding") else content_length(answer.headers)
        tag = strong_tag(answer.headers.get("ETag")) if Origin.of_url(answer.url) == self._sender.origin else ""
        known = self._size if size is None else size
        if (
            first != start
            or (known is not None and last + 1 != known)
            or (self._size is not None and known != self._size)
            or (length is not None and length != last + 1 - first)
            or (self._tag and tag and tag != self._tag)
        ):
            return False
        self._size = known
        return True

    def _learn(self, answer: Response) -> None:
        """The size, from an answer that has everything."""
        length = None if answer.headers.get("Transfer-Encoding") else content_length(answer.headers)
        if length is not None and self._size is not None and length != self._size:
            raise ProtocolError(
                f"a blob of {self._size} bytes has {length} after a break", status=200, reference=self._reference
            )
        self._size = self._size if length is None else length

    def _end(self, answer: Response, start: int) -> None:
        """Believe that there is nothing from a byte on, if that is the end (R-051)."""
        match = _UNSATISFIED.fullmatch(answer.headers.get("Content-Range"))
        if self._size is None:
            self._size = int(match["size"]) if match else self._length()
        if start < self._size:
            raise ProtocolError(
                f"the registry refuses to read from byte {start} on", status=416, reference=self._reference
            )

    def _let_go(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()

    def _wait(self, error: Unavailable) -> None:
        policy = self._sender.policy
        least = _PROGRESS if self._size is None else min(_PROGRESS, max(1, self._size // _PART))
        if self._position - self._mark >= max(least, self._skipped // _SKIPPED_PART):
            self._failures = 0
            self._mark = self._position
        self._failures += 1
        self._piece = _CAUTIOUS
        seconds, left = policy.pause(self._failures, error, random.random()), remaining()
        if self._failures > policy.retries or (left is not None and seconds >= left):
            so_far = f"{self._position} bytes" if self._size is None else f"{self._position} of {self._size} bytes"
            raise Unavailable(
                f"{error.message}, after {so_far}", method="GET", url=self._url, reference=self._reference
            ) from error
        self._sender.tell(
            RequestRetried(
                method="GET", url=self._url, attempt=self._failures, pause=seconds, reason=error_summary(error)
            )
        )
        sleep(seconds)


_MOUNT_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 501})


class HttpBlobs(BlobStore):
    """Content by digest, in one repository of a registry.

    Args:
        sender: Who carries the requests.
        address: The repository.
        chunk_size: How long the chunks of an upload are, in bytes; ``None`` for all in one, as long as that works.
        uploads: The sessions that registries opened in place of a mount; ``None`` for none yet.
    """

    def __init__(
        self,
        sender: RegistryRequester,
        address: RepositoryEndpoint,
        *,
        chunk_size: int | None = None,
        uploads: PendingUploads | None = None,
    ) -> None:
        self._sender = sender
        self._address = address
        self._chunk_size = chunk_size
        self._uploads = PendingUploads() if uploads is None else uploads

    def stat(self, digest: Digest) -> int:
        """The size of a blob in bytes: by HEAD, and by GET where HEAD says too little.

        Raises:
            BlobNotFound: It is not in this repository.
        """
        size = self._stat(digest)
        # The mount that was answered by a session instead is not needed any more.
        if (opened := self._uploads.take(self._address, digest)) is not None:
            cancel(self._sender, self._address, opened.location)
        return size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob as the registry sends it, unverified, from the byte at ``start`` on.

        What breaks off is continued where it stopped.

        Raises:
            BlobNotFound: It is not in this repository.
            ProtocolError: The registry sends another stretch, or encodes it.
        """
        return Download(self._sender, self._address, digest, start=start, length=lambda: self._stat(digest))

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob, verified as it is sent.

        Raises:
            DigestMismatch: The content hashes to something else; nothing is left behind.
            SizeMismatch: It is shorter or longer than ``size``; nothing is left behind.
            Unsupported: The digest's algorithm cannot be verified, or the repository cannot be written.
        """
        upload = Upload(
            self._sender,
            self._address,
            digest,
            size,
            source,
            chunk_size=self._chunk_size,
            present=lambda: self._has(digest, size),
            opened=self._uploads.take(self._address, digest),
        )
        upload.run()

    def delete(self, digest: Digest) -> None:
        """Remove a blob from this repository.

        Raises:
            BlobNotFound: It is not in this repository.
            Unsupported: The registry does not delete blobs.
        """
        request = Request(
            method="DELETE",
            target=self._address.path("blobs", digest),
            success=(200, 202, 204),
            scopes=self._address.scopes("pull", "delete"),
            reference=self._address.at(digest),
            missing="blob",
        )
        with map_delete_errors("blobs", request.reference):
            self._sender.send(request).close()

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Take a blob over from another repository of this registry.

        Returns:
            Whether the registry did it. A session that it opened instead is kept for the ``put`` that follows.
        """
        if not origin:
            return False
        request = Request(
            method="POST",
            target=self._address.path("blobs", "uploads", "", query=(("mount", digest), ("from", origin))),
            success=(201, 202),
            scopes=(
                *self._address.scopes("pull", "push"),
                *RepositoryEndpoint(self._address.registry, origin).scopes("pull"),
            ),
            reference=self._address.at(digest),
            missing="blob",
            repeatable=False,
        )
        try:
            with self._sender.send(request) as answer:
                if answer.status == 201:
                    check_digest_header(answer.headers, digest, reference=request.reference)
                    return True
                opened = PendingUpload(upload_location(self._sender.origin, answer), chunk_length(0, answer.headers))
        except RegistryError as error:
            if isinstance(error, AccessDenied) or status_of(error) in _MOUNT_REFUSED:
                return False
            raise
        if digest.algorithm == "sha256":
            self._uploads.keep(self._sender, self._address, digest, opened)
        else:
            # The session may have been opened for the usual algorithm.
            cancel(self._sender, self._address, opened.location)
        return False

    def _stat(self, digest: Digest) -> int:
        try:
            with self._sender.send(self._request("HEAD", digest)) as answer:
                size = content_length(answer.headers)
                if size is not None and not answer.headers.get("Content-Encoding"):
                    return size
        except RegistryError as error:
            if status_of(error) not in HEAD_REFUSED:
                raise
        with self._sender.send(self._request("GET", digest)) as answer:
            check_not_encoded(answer, reference=self._address.at(digest))
            size = content_length(answer.headers)
            return _length(answer) if size is None else size

    def _request(self, method: str, digest: Digest) -> Request:
        return Request(
            method=method,
            target=self._address.path("blobs", digest),
            success=(200,),
            scopes=self._address.scopes("pull"),
            reference=self._address.at(digest),
            missing="blob",
        )

    def _has(self, digest: Digest, size: int) -> bool:
        try:
            return self._stat(digest) == size
        except (NotFound, AccessDenied, Unsupported, TransportError):
            return False


def _length(answer: Response) -> int:
    """How many bytes there were to read; they are thrown away."""
    count = 0
    while data := answer.reader.read(CHUNK_SIZE):
        checkpoint()
        count += len(data)
    return count
