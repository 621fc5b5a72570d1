"""Tags, repository names and paths made of segments (distribution-spec, "Pulling manifests")."""

from __future__ import annotations

import re
from typing import Self

from registry_core.errors import InvalidName

__all__ = ["PathSegments", "RepositoryName", "Tag"]

_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG_RULE = "use up to 128 letters, digits and . _ - (not . or - first)"
_REPOSITORY_RULE = "use lowercase letters and digits, with single . _ - / between them, and no tag or digest"


class Tag(str):
    """A mutable name for a manifest.

    Raises:
        InvalidName: The text is not a tag.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse the text."""
        if type(text) is cls:
            return text
        if not isinstance(text, str) or not _TAG.fullmatch(text):
            raise InvalidName(f"not a tag: {text!r:.200}; {_TAG_RULE}", code="TAG_INVALID")
        return super().__new__(cls, text)


class RepositoryName(str):
    """The path of a repository inside its registry, such as ``org/app``.

    The empty name is the repository at the root of a layout or of a memory backend; HTTP registries refuse it.

    Raises:
        InvalidName: The text is not a repository name.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        """Parse the text."""
        if type(text) is cls:
            return text
        if not isinstance(text, str) or (text and not _REPOSITORY.fullmatch(text)):
            raise InvalidName(f"not a repository name: {text!r:.300}; {_REPOSITORY_RULE}")
        return super().__new__(cls, text)

    def __truediv__(self, other: str) -> RepositoryName:
        """Return the name of a repository below this one.

        Raises:
            InvalidName: The result is not a repository name.
        """
        return RepositoryName("/".join(part for part in (self, other) if part))

    def below(self, parent: RepositoryName) -> RepositoryName | None:
        """Return this name relative to a parent, or ``None`` if it is not below the parent.

        Every name is below the empty name. No name is below itself.
        """
        if not parent:
            return self if self else None
        return RepositoryName(self[len(parent) + 1 :]) if self.startswith(f"{parent}/") else None


class PathSegments(tuple[str, ...]):
    """An immutable path made of segments, such as ``PathSegments("org", "team/app")``.

    A segment with slashes inside stays one segment; outer slashes are trimmed. A path without segments is the root
    of a registry. Paths are equal if their segments are equal; ``str()`` joins the segments with slashes.

    Raises:
        InvalidName: A segment is empty or cannot be part of a repository name.
    """

    __slots__ = ()

    def __new__(cls, *segments: str) -> Self:
        """Trim and check each segment."""
        return super().__new__(cls, (_segment(segment) for segment in segments))

    def __getnewargs__(self) -> tuple[str, ...]:
        """Return the constructor arguments for pickle and copy."""
        return tuple(self)

    def with_segment(self, *segments: str) -> Self:
        """Return a new path with more segments at the end.

        Raises:
            InvalidName: A segment is empty or cannot be part of a repository name.
        """
        return type(self)(*self, *segments)

    @property
    def repository(self) -> RepositoryName:
        """The repository at this path; the empty name at the root."""
        return RepositoryName("/".join(self))

    def __str__(self) -> str:
        return "/".join(self)

    def __repr__(self) -> str:
        return f"PathSegments({', '.join(map(repr, self))})"


def _segment(text: str) -> str:
    trimmed = text.strip("/") if isinstance(text, str) else ""
    if not trimmed:
        raise InvalidName(f"not a path segment: {text!r:.200}")
    return str(RepositoryName(trimmed))
