"""Blobs of a repository of an HTTP registry (distribution-spec, "Pulling blobs", "Push", "Deleting Blobs")."""

from __future__ import annotations

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
from registry_adapters.http.downloads import Download
from registry_adapters.http.exchange import Answer, Request
from registry_adapters.http.upload_sessions import OpenUpload, OpenUploads, cancel, chunk_length, location_of
from registry_adapters.http.uploads import Upload
from registry_core.content.source import PIECE, ByteReader, ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import AccessDenied, NotFound, RegistryError, TransportError, Unsupported
from registry_core.ports.blob_store import BlobStore
from registry_core.scope import checkpoint

__all__ = ["HttpBlobs"]

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
        sender: Sender,
        address: Address,
        *,
        chunk_size: int | None = None,
        uploads: OpenUploads | None = None,
    ) -> None:
        self._sender = sender
        self._address = address
        self._chunk_size = chunk_size
        self._uploads = OpenUploads() if uploads is None else uploads

    def stat(self, digest: Digest) -> int:
        """The size of a blob in bytes: by HEAD, and by GET where HEAD says too little (R-205).

        Raises:
            BlobNotFound: It is not in this repository.
        """
        size = self._stat(digest)
        # The mount that was answered by a session instead is not needed any more.
        if (opened := self._uploads.take(self._address, digest)) is not None:
            cancel(self._sender, self._address, opened.location)
        return size

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob as the registry sends it, unverified, from the byte at ``start`` on (R-051).

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
        with deleting("blobs", request.reference):
            self._sender.send(request).close()

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Take a blob over from another repository of this registry (R-077).

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
                opened = OpenUpload(location_of(self._sender.origin, answer), chunk_length(0, answer.headers))
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
            check_identity(answer, reference=self._address.at(digest))
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


def _length(answer: Answer) -> int:
    """How many bytes there were to read; they are thrown away."""
    count = 0
    while data := answer.reader.read(PIECE):
        checkpoint()
        count += len(data)
    return count
