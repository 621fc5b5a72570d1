"""Content digests (image-spec descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Protocol, Self

from registry_core.errors import InvalidDigest, Unsupported

__all__ = ["Digest", "Hasher", "digests_in"]

_GRAMMAR = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[a-zA-Z0-9=_-]+)")
# content is verified by these algorithms only, although hashlib offers more.
_REGISTERED = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}
_IN_TEXT = re.compile(r"(?<![a-z0-9])(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})(?![0-9a-f])")
_ENCODED = {"sha256": re.compile(r"[a-f0-9]{64}"), "sha512": re.compile(r"[a-f0-9]{128}")}


class Hasher(Protocol):
    """An incremental hash, as in hashlib."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Add bytes to the hash."""

    def hexdigest(self) -> str:
        """Return the hash of the bytes so far, in lower-case hexadecimal."""
        ...


class Digest(str):
    """A content digest, such as ``sha256:e3b0…``.

    Every algorithm that fits the grammar is accepted; only sha256 and sha512 can be verified.

    Raises:
        InvalidDigest: The text is not a digest.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse the text."""
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidDigest(f"not a digest, such as sha256:e3b0…: {text!r:.200}")
        encoded = _ENCODED.get(match["algorithm"])
        if encoded is not None and not encoded.fullmatch(match["encoded"]):
            size = 2 * _REGISTERED[match["algorithm"]]().digest_size
            raise InvalidDigest(f"not a {match['algorithm']} digest: {text!r:.200}; it has {size} lowercase hex digits")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        """Return the digest of some bytes.

        Args:
            content: Bytes to hash.
            algorithm: ``sha256`` or ``sha512``.

        Raises:
            Unsupported: The algorithm is another one.
        """
        hasher = _hasher(algorithm)
        hasher.update(content)
        return cls(f"{algorithm}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """The part before the colon."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]

    @property
    def verifiable(self) -> bool:
        """Whether content can be verified against this digest."""
        return self.algorithm in _REGISTERED

    def hasher(self) -> Hasher:
        """Return a new hash of this digest's algorithm.

        Raises:
            Unsupported: The algorithm cannot be verified.
        """
        return _hasher(self.algorithm)


def _hasher(algorithm: str) -> Hasher:
    factory = _REGISTERED.get(algorithm)
    if factory is None:
        raise Unsupported(f"digest algorithm {algorithm!r:.64} cannot be verified; supported: sha256, sha512")
    return factory()


def digests_in(value: object) -> Iterator[Digest]:
    """Yield the verifiable digests in the strings of decoded JSON, names of fields included, wherever they are."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            yield from map(Digest, _IN_TEXT.findall(item))
        elif isinstance(item, dict):
            pending += [*item, *item.values()]
        elif isinstance(item, list):
            pending += item
