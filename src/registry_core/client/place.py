"""Where a client works: a path inside a backend."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from registry_core.domain.paths import PathSegments
from registry_core.domain.platform import Platform
from registry_core.ports.catalog import Catalog
from registry_core.ports.repository import Repository

if TYPE_CHECKING:
    from registry_core.ports.observer import Observer

__all__ = ["Place", "platform_of"]


class Place:
    """A path inside a backend, and what calls there fall back to; see ``RegistryClient`` for its arguments."""

    def __init__(
        self,
        catalog: Catalog,
        *segments: str,
        default_platform: Platform | str | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._catalog = catalog
        self._path = PathSegments(*segments)
        self._default_platform = platform_of(default_platform)
        self._observer = observer
        self._repository = catalog.repository(self._path.repository)

    def with_segment(self, *segments: str) -> Self:
        """A client for a path below this one; this one stays as it is, and both share the backend.

        Args:
            *segments: Outer slashes are trimmed; ``"a/b"`` is one segment.

        Raises:
            InvalidName: A segment is empty or malformed.
        """
        path = self._path.with_segment(*segments)
        return type(self)(self._catalog, *path, default_platform=self._default_platform, observer=self._observer)

    @property
    def registry(self) -> str:
        """Backend and path, as ``registry.example.com/org/repo``."""
        return str(self._repository)

    @property
    def path(self) -> PathSegments:
        """The path inside the backend."""
        return self._path

    @property
    def catalog(self) -> Catalog:
        """The backend."""
        return self._catalog

    @property
    def repository(self) -> Repository:
        """The repository at this path, for everything that this facade does not cover."""
        return self._repository

    def close(self) -> None:
        """Close the backend, for every client that shares it. Idempotent.

        A registry's connections are let go; a later call opens new ones. A new archive gets its name. Leaving a
        ``with`` block closes as well, unless it is left by an exception: a new archive is discarded then.
        """
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._catalog.discard()

    def __repr__(self) -> str:
        """Where it works."""
        return f"{type(self).__name__}({self.registry!r})"

    def _at(self, reference: object) -> str:
        text = str(reference)[:200]
        return (
            f"{self.registry}{text}" if text.startswith("@") else f"{self.registry}{'@' if ':' in text else ':'}{text}"
        )

    def _told(self, observer: Observer | None) -> Observer | None:
        return self._observer if observer is None else observer


def platform_of(platform: Platform | str | None) -> Platform | None:
    """A platform that may be given as text.

    Raises:
        InvalidName: The text is no platform.
    """
    return platform if platform is None or isinstance(platform, Platform) else Platform.parse(platform)
