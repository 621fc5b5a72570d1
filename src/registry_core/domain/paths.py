"""Paths into a registry, grown segment by segment."""

from __future__ import annotations

from typing import Self

from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidName

__all__ = ["PathSegments"]


class PathSegments(tuple[str, ...]):
    """An immutable path made of segments, such as ``PathSegments("org", "team/app")``.

    A segment may hold slashes of its own and stays one segment; outer slashes are trimmed. No segments at all are
    the root of a registry. Paths compare by their segments; ``str()`` gives the path they make.

    Raises:
        InvalidName: A segment is empty or not (part of) a repository name (R-010).
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
