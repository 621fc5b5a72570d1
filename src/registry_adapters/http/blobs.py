"""Blobs of a repository of an HTTP registry (distribution-spec, "Pulling blobs", "Push", "Deleting Blobs")."""

from __future__ import annotations

import re
from typing import Final

from registry_adapters.http.addresses import Address, Sender
from registry_adapters.http.answers import (
    HEAD_REFUSED,
    check_identity,
    check_promise,
    content_length,
    deleting,
    status_of,
)
from registry_adapters.http.exchange import Answer, Request
from registry_adapters.http.uploads import Upload, cancel, location_of
from registry_core.content.source import PIECE, ByteReader, ByteSource, BytesSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import AccessDenied, NotFound, ProtocolError, RegistryError, TransportError, Unsupported
from registry_core.ports.blob_store import BlobStore
from registry_core.scope import checkpoint

__all__ = ["HttpBlobs"]

_CONTENT_RANGE: Final = re.compile(r"bytes (?P<first>[0-9]{1,19})-(?P<last>[0-9]{1,19})/(?:(?P<size>[0-9]{1,19})|\*)")
_MOUNT_REFUSED: Final = frozenset({400, 401, 403, 404, 405, 501})


class HttpBlobs(BlobStore):
    """Content by digest, in one repository of a registry.

    Args:
        sender: Who carries the requests.
        address: The repository.
        chunk_size: How long the chunks of an upload are, in bytes; ``None`` for all in one.
    """

    def __init__(self, sender: Sender, address: Address, *, chunk_size: int | None = None) -> None:
        self._sender = sender
        self._address = address
        self._chunk_size = chunk_size

    def stat(self, digest: Digest) -> int:
        """The size of a blob in bytes: by HEAD, and by GET where HEAD says too little (R-205).

        Raises:
            BlobNotFound: It is not in this repository.
        """
        try:
            with self._sender.send(self._request("HEAD", digest)) as answer:
                size = content_length(answer.headers)
                if size is not None and not answer.headers.get("Content-Encoding"):
                    return size
        except RegistryError as error:
            if status_of(error) not in HEAD_REFUSED:
                raise
        with self._read(self._request("GET", digest), digest) as answer:
            size = content_length(answer.headers)
            return _length(answer.reader) if size is None else size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob as the registry sends it, unverified, from the byte at ``start`` on (R-051).

        Raises:
            BlobNotFound: It is not in this repository.
            ProtocolError: The registry sends another stretch, or encodes it.
        """
        if start == 0:
            return self._read(self._request("GET", digest), digest).reader
        answer = self._read(self._request("GET", digest, start=start), digest)
        try:
            if answer.status == 206:
                _check_range(answer, start, self._address.at(digest))
            elif answer.status == 416:
                answer.close()
                return self._nothing(digest, start)
            else:
                _length(answer.reader, start)
        except BaseException:
            answer.close()
            raise
        return answer.reader

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
        with deleting("blobs", request.reference):
            self._sender.send(request).close()

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Take a blob over from another repository of this registry (R-077).

        Returns:
            Whether the registry did it.
        """
        if not origin:
            return False
        request = Request(
            method="POST",
            target=self._address.path("blobs", "uploads", "", query=(("mount", digest), ("from", origin))),
            success=(201, 202),
            scopes=(
                *self._address.scopes("pull", "push"),
                *Address(self._address.registry, origin).scopes("pull"),
            ),
            reference=self._address.at(digest),
            missing="blob",
            repeatable=False,
        )
        try:
            with self._sender.send(request) as answer:
                if answer.status == 201:
                    check_promise(answer.headers, digest, reference=request.reference)
                    return True
                location = location_of(self._sender.origin, answer)
        except RegistryError as error:
            if isinstance(error, AccessDenied) or status_of(error) in _MOUNT_REFUSED:
                return False
            raise
        cancel(self._sender, self._address, location)
        return False

    def _request(self, method: str, digest: Digest, *, start: int = 0) -> Request:
        return Request(
            method=method,
            target=self._address.path("blobs", digest),
            success=(200, 206, 416) if start else (200,),
            scopes=self._address.scopes("pull"),
            headers={"Range": f"bytes={start}-"} if start else {},
            reference=self._address.at(digest),
            missing="blob",
        )

    def _read(self, request: Request, digest: Digest) -> Answer:
        answer = self._sender.send(request)
        check_identity(answer, reference=self._address.at(digest))
        return answer

    def _nothing(self, digest: Digest, start: int) -> ByteReader:
        if start < self.stat(digest):
            raise ProtocolError(
                f"the registry refuses to read from byte {start} on", status=416, reference=self._address.at(digest)
            )
        return BytesSource(b"").open()

    def _has(self, digest: Digest, size: int) -> bool:
        try:
            return self.stat(digest) == size
        except (NotFound, AccessDenied, Unsupported, TransportError):
            return False


def _check_range(answer: Answer, start: int, reference: str) -> None:
    text = answer.headers.get("Content-Range")
    match = _CONTENT_RANGE.fullmatch(text)
    if (
        match is None
        or int(match["first"]) != start
        or (match["size"] and int(match["last"]) + 1 != int(match["size"]))
    ):
        raise ProtocolError(f"asked for bytes {start}-, but got {text!r:.80}", status=206, reference=reference)


def _length(reader: ByteReader, limit: int | None = None) -> int:
    """How many bytes there were to read, up to a limit; they are thrown away."""
    count = 0
    while limit is None or count < limit:
        checkpoint()
        data = reader.read(PIECE if limit is None else min(PIECE, limit - count))
        if not data:
            break
        count += len(data)
    return count
