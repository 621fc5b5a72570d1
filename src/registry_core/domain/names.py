"""Names of manifests and of repositories (distribution-spec, "Pulling manifests").

Paths into a registry, grown segment by segment.
"""

from __future__ import annotations

import re
from typing import Self

from registry_core.errors import InvalidName

__all__ = ["PathSegments", "RepositoryName", "Tag"]


_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"

_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")


class Tag(str):
    """A mutable name for a manifest.

    Raises:
        InvalidName: The text is not a tag.
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
        InvalidName: The text is not a repository name.
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


class PathSegments(tuple[str, ...]):
    """An immutable path made of segments, such as ``PathSegments("org", "team/app")``.

    A segment may hold slashes of its own and stays one segment; outer slashes are trimmed. No segments at all are
    the root of a registry. Paths compare by their segments; ``str()`` gives the path they make.

    Raises:
        InvalidName: A segment is empty or not (part of) a repository name.
    """

    __slots__ = ()

    def __new__(cls, *segments: str) -> Self:
        """Trim and check each segment, or raise."""
        return super().__new__(cls, (_segment(segment) for segment in segments))

    def __getnewargs__(self) -> tuple[str, ...]:
        """What pickling and copying hand to the constructor."""
        return tuple(self)

    def with_segment(self, *segments: str) -> Self:
        """A new path with more segments below this one, which stays as it is.

        Raises:
            InvalidName: A segment is empty or not (part of) a repository name.
        """
        return type(self)(*self, *segments)

    @property
    def repository(self) -> RepositoryName:
        """The repository at this path; the empty name at the root."""
        return RepositoryName("/".join(self))

    def __str__(self) -> str:
        """The path, without outer slashes."""
        return "/".join(self)

    def __repr__(self) -> str:
        """As it would be written."""
        return f"PathSegments({', '.join(map(repr, self))})"


def _segment(text: str) -> str:
    trimmed = text.strip("/") if isinstance(text, str) else ""
    if not trimmed:
        raise InvalidName(f"not a path segment: {text!r:.200}")
    return str(RepositoryName(trimmed))
