"""What a path asks for (distribution-spec, "Endpoints"). Pure."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

import msgspec

__all__ = ["Kind", "Route", "route"]


class Kind(Enum):
    """The sorts of things that have a path."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"


class Route(msgspec.Struct, frozen=True):
    """One parsed path.

    Args:
        kind: What it names.
        name: The repository as it was written, unchecked.
        reference: The last segment where it names one thing: a tag, a digest or an upload; unchecked.
    """

    kind: Kind
    name: str = ""
    reference: str = ""


# A name may itself contain "blobs" or "manifests", so it takes as much of the path as it can.
_PATTERNS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (Kind.BASE, r"/v2/?"),
        (Kind.CATALOG, r"/v2/_catalog"),
        (Kind.UPLOADS, r"/v2/(?P<name>.+)/blobs/uploads/?"),
        (Kind.UPLOAD, r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)"),
        (Kind.TAGS, r"/v2/(?P<name>.+)/tags/list"),
        (Kind.MANIFEST, r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"),
        (Kind.BLOB, r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)"),
        (Kind.REFERRERS, r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)"),
    )
)


def route(path: str) -> Route | None:
    """What a decoded path names, or ``None`` where the specification knows no such path.

    Args:
        path: From ``/v2/`` on, without the query.
    """
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is not None:
            return Route(kind, **match.groupdict())
    return None
