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
    """The blobs of one repository.

    Args:
        state: The catalog's.
        name: The repository's.
    """

    def __init__(self, state: State, name: RepositoryName) -> None:
        self._state = state
        self._name = name

    def stat(self, digest: Digest) -> int:
        """The size of a blob in bytes.

        Raises:
            BlobNotFound: It is not in this repository.
        """
        return len(self._find(digest))

    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob from the byte at ``start`` on; it outlives the blob's removal.

        Raises:
            BlobNotFound: It is not in this repository.
        """
        return BytesSource(self._find(digest)).open(start)

    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob, once all of it has come and has been verified.

        Raises:
            DigestMismatch: The content hashes to something else; nothing is left behind.
            SizeMismatch: It is shorter or longer than ``size``; nothing is left behind.
            Unsupported: The digest's algorithm cannot be verified.
        """
        checkpoint()
        with error_reference(self._state.at(self._name, digest)):
            if self._peek(digest) is not None:
                return
            content = b"".join(verified_chunks(source, digest, size))
        with self._state.lock:
            self._state.make(self._name).blobs.setdefault(digest, content)

    def delete(self, digest: Digest) -> None:
        """Remove a blob from this repository; other repositories keep theirs.

        Raises:
            BlobNotFound: It is not in this repository.
        """
        checkpoint()
        with self._state.lock:
            self._find(digest)
            self._state.make(self._name).blobs.pop(digest)
            self._state.sweep(self._name)

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Share a blob with another repository of this catalog.

        Returns:
            Whether the blob is in this repository now.
        """
        checkpoint()
        with self._state.lock:
            if self._peek(digest) is not None:
                return True
            there = self._state.find(origin)
            if there is None or digest not in there.blobs:
                return False
            self._state.make(self._name).blobs[digest] = there.blobs[digest]
            return True

    def _find(self, digest: Digest) -> bytes:
        checkpoint()
        content = self._peek(digest)
        if content is None:
            raise BlobNotFound("no such blob", reference=self._state.at(self._name, digest))
        return content

    def _peek(self, digest: Digest) -> bytes | None:
        with self._state.lock:
            contents = self._state.find(self._name)
            return None if contents is None else contents.blobs.get(digest)
