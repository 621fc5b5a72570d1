"""Content digests (image-spec descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import Protocol, Self

from registry_core.errors import InvalidDigest, Unsupported

__all__ = ["Digest", "Hasher"]

_GRAMMAR = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[a-zA-Z0-9=_-]+)")
# verification is an allow-list; whatever else hashlib offers does not count.
_REGISTERED = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_ENCODED = {"sha256": re.compile(r"[a-f0-9]{64}"), "sha512": re.compile(r"[a-f0-9]{128}")}


class Hasher(Protocol):
    """A running hash."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take in the next bytes."""

    def hexdigest(self) -> str:
        """The hash so far, in lower-case hexadecimal."""
        ...


class Digest(str):
    """The name of content by its hash, such as ``sha256:e3b0…``.

    Any algorithm that fits the grammar can be named and carried; only sha256 and sha512 can be verified.

    Raises:
        InvalidDigest: The text is not a digest.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse, or raise."""
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidDigest(f"not a digest: {text!r:.200}")
        encoded = _ENCODED.get(match["algorithm"])
        if encoded is not None and not encoded.fullmatch(match["encoded"]):
            raise InvalidDigest(f"not a {match['algorithm']} digest: {text!r:.200}")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        """The digest of some bytes.

        Raises:
            Unsupported: The algorithm is not one that we verify.
        """
        hasher = _hasher(algorithm)
        hasher.update(content)
        return cls(f"{algorithm}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """What stands before the colon."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """What stands after the colon."""
        return self.partition(":")[2]

    @property
    def verifiable(self) -> bool:
        """Whether content can be checked against this digest."""
        return self.algorithm in _REGISTERED

    def hasher(self) -> Hasher:
        """A fresh hash of this digest's algorithm.

        Raises:
            Unsupported: Content under this algorithm cannot be verified.
        """
        return _hasher(self.algorithm)


def _hasher(algorithm: str) -> Hasher:
    factory = _REGISTERED.get(algorithm)
    if factory is None:
        raise Unsupported(f"content under {algorithm!r:.64} digests cannot be verified")
    return factory()
