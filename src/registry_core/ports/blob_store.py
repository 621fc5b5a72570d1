"""The blobs of one repository."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from registry_core.content.streams import ByteReader, ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName

__all__ = ["BlobStore"]


@runtime_checkable
class BlobStore(Protocol):
    """Content by digest. Every method may be called from many threads at once."""

    @abstractmethod
    def stat(self, digest: Digest) -> int:
        """The size of a blob in bytes.

        Raises:
            BlobNotFound: It is not in this repository.
        """

    @abstractmethod
    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """A reader over a blob as the backend has it, unverified, from the byte at ``start`` on.

        Raises:
            BlobNotFound: It is not in this repository; raised by this call, not by the first read.
        """

    @abstractmethod
    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob. Storing what is there already is no error.

        Raises:
            DigestMismatch: The content hashes to something else; nothing is left behind.
            SizeMismatch: It is shorter or longer than ``size``; nothing is left behind.
            Unsupported: The digest's algorithm cannot be verified, or the repository cannot be written.
        """

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Remove a blob from this repository; other repositories keep theirs.

        Raises:
            BlobNotFound: It is not in this repository.
            Unsupported: The backend does not delete blobs.
        """

    def mount(self, digest: Digest, origin: RepositoryName) -> bool:
        """Take a blob over from another repository of the same backend, without moving its bytes.

        Returns:
            Whether the blob is in this repository now. ``False`` is no error: it has to be put.
        """
        return False
