"""The port ``BlobStore``: the blobs of one repository."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, runtime_checkable

from registry_core.content.streams import ByteReader, ByteSource
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName

__all__ = ["BlobStore"]


@runtime_checkable
class BlobStore(Protocol):
    """Stores blobs by digest. Safe for many threads."""

    @abstractmethod
    def stat(self, digest: Digest) -> int:
        """Return the size of a blob in bytes.

        Raises:
            BlobNotFound: The blob is not in this repository.
        """

    @abstractmethod
    def open(self, digest: Digest, *, start: int = 0) -> ByteReader:
        """Open a blob for reading at the byte ``start``. The bytes are not verified.

        Raises:
            BlobNotFound: The blob is not in this repository. Raised here, not by the first read.
        """

    @abstractmethod
    def put(self, digest: Digest, size: int, source: ByteSource) -> None:
        """Store a blob after verifying it. Storing an existing blob again is allowed.

        Args:
            digest: Digest of the content.
            size: Size of the content in bytes.
            source: The content; opened again if the transfer has to be repeated.

        Raises:
            DigestMismatch: The content has another digest; nothing is stored.
            SizeMismatch: The content is shorter or longer than ``size``; nothing is stored.
            Unsupported: The digest algorithm cannot be verified, or the repository is read-only.
        """

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Delete a blob from this repository. Other repositories keep it.

        Raises:
            BlobNotFound: The blob is not in this repository.
            Unsupported: The backend does not delete blobs.
        """

    def mount(self, digest: Digest, from_repository: RepositoryName) -> bool:
        """Mount a blob from another repository of the same backend, without transferring its bytes.

        Args:
            digest: Digest of the blob.
            from_repository: Repository that holds the blob.

        Returns:
            Whether the blob is in this repository now. On ``False`` the caller has to ``put`` it.
        """
        return False
