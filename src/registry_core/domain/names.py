"""Names of manifests and of repositories (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

import re
from typing import Self

from registry_core.errors import InvalidName

__all__ = ["RepositoryName", "Tag"]

_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


class Tag(str):
    """A mutable name for a manifest.

    Raises:
        InvalidName: The text is not a tag (R-010).
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse, or raise."""
        if not isinstance(text, str) or not _TAG.fullmatch(text):
            raise InvalidName(f"not a tag: {text!r:.200}", code="TAG_INVALID")
        return super().__new__(cls, text)


class RepositoryName(str):
    """The path of a repository inside its registry, such as ``org/app``.

    The empty name is the repository at the root of a layout or of a memory backend; HTTP registries refuse it.

    Raises:
        InvalidName: The text is not a repository name (R-010).
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse, or raise."""
        if not isinstance(text, str) or (text and not _REPOSITORY.fullmatch(text)):
            raise InvalidName(f"not a repository name: {text!r:.300}")
        return super().__new__(cls, text)

    def __truediv__(self, other: str) -> RepositoryName:
        """This path with another below it.

        Raises:
            InvalidName: The result is not a repository name.
        """
        return RepositoryName("/".join(part for part in (self, other) if part))

    def below(self, parent: RepositoryName) -> RepositoryName | None:
        """This name relative to a parent path, or ``None`` if it does not lie below it.

        Everything lies below the empty name. A name does not lie below itself.
        """
        if not parent:
            return self if self else None
        return RepositoryName(self[len(parent) + 1 :]) if self.startswith(f"{parent}/") else None
