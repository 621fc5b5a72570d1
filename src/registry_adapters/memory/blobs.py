"""Blobs in memory."""

from __future__ import annotations

from registry_adapters.memory.state import State
from registry_core.cancellation import checkpoint
from registry_core.content.streams import ByteReader, ByteSource, BytesSource
from registry_core.content.verify import verified_chunks
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import BlobNotFound, error_reference
from registry_core.ports.blob_store import BlobStore

__all__ = ["MemoryBlobs"]


class MemoryBlobs(BlobStore):
    """Blobs of one repository in memory.

    Args:
        state: Content of the catalog.
        name: Name of the repository.
    """

    def __init__(self, state: State, name: RepositoryName) -> None:
        self._state = state
        self._name = name

    def stat(self, digest: Digest) -> int:
        """Return the size of a blob in bytes.

        Raises:
            BlobNotFound: The blob is not in this repository.
        """
        return len(self._find(digest))

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """Open a blob for reading at the byte ``start``. The reader works even after the blob is deleted.

        Raises:
            BlobNotFound: The blob is not in this repository.
        """
        return BytesSource(self._find(digest)).open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob after reading and verifying all of it.

        Raises:
            DigestMismatch: The content has another digest; nothing is stored.
            SizeMismatch: The content is shorter or longer than ``size``; nothing is stored.
            Unsupported: The digest algorithm cannot be verified.
        """
        checkpoint()
        with error_reference(self._state.at(self._name, digest)):
            if self._content(digest) is not None:
                return
            content = b"".join(verified_chunks(source, digest, size))
        with self._state.lock:
            self._state.get_or_create(self._name).blobs.setdefault(digest, content)

    def delete(self, digest: Digest) -> None:
        """Delete a blob from this repository. Other repositories keep it.

        Raises:
            BlobNotFound: The blob is not in this repository.
        """
        checkpoint()
        with self._state.lock:
            self._find(digest)
            self._state.get_or_create(self._name).blobs.pop(digest)
            self._state.remove_if_empty(self._name)

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        """Mount a blob from another repository of this catalog. The bytes are shared.

        Returns:
            Whether the blob is in this repository now.
        """
        checkpoint()
        with self._state.lock:
            if self._content(digest) is not None:
                return True
            source = self._state.find(from_repository)
            if source is None or digest not in source.blobs:
                return False
            self._state.get_or_create(self._name).blobs[digest] = source.blobs[digest]
            return True

    def _find(self, digest: Digest) -> bytes:
        checkpoint()
        content = self._content(digest)
        if content is None:
            raise BlobNotFound("no such blob", reference=self._state.at(self._name, digest))
        return content

    def _content(self, digest: Digest) -> bytes | None:
        with self._state.lock:
            contents = self._state.find(self._name)
            return None if contents is None else contents.blobs.get(digest)
