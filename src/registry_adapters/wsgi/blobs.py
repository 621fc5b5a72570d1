"""Blobs: whole and in ranges (distribution-spec, "Pulling blobs")."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from registry_adapters.wsgi.messages import Headers, Request, Response, Stream
from registry_adapters.wsgi.problems import Refusal
from registry_core.domain.digest import Digest
from registry_core.domain.media_types import OCTET_STREAM
from registry_core.ports.repository import Repository

__all__ = ["byte_range", "delete", "head", "pull"]

_RANGE: Final = re.compile(r"bytes=\s*(?P<first>[0-9]{0,19})-(?P<last>[0-9]{0,19})\s*", re.IGNORECASE)


def head(repository: Repository, digest: Digest) -> Response:
    """Size and type of a blob.

    Raises:
        RegistryError: As ``BlobStore.stat``.
    """
    return Response(HTTPStatus.OK, _headers(digest), length=repository.blobs.stat(digest))


def pull(request: Request, repository: Repository, digest: Digest) -> Response:
    """A blob, or the range that was asked for.

    Raises:
        RegistryError: As ``BlobStore.stat`` and ``BlobStore.open``.
        Refusal: Nothing of the range is in the blob (416).
    """
    size = repository.blobs.stat(digest)
    headers = _headers(digest)
    condition = request.header("If-Range")
    wanted = byte_range(request.header("Range"), size) if condition in ("", _etag(digest)) else None
    if wanted is None:
        reader = repository.blobs.open(digest)
        return Response(HTTPStatus.OK, headers, Stream(reader, size), length=size)
    start, stop = wanted
    reader = repository.blobs.open(digest, start=start)
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    return Response(HTTPStatus.PARTIAL_CONTENT, headers, Stream(reader, stop - start), length=stop - start)


def delete(repository: Repository, digest: Digest) -> Response:
    """Remove a blob.

    Raises:
        RegistryError: As ``BlobStore.delete``.
    """
    repository.blobs.delete(digest)
    return Response(HTTPStatus.ACCEPTED)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes that a ``Range`` header asks for, as start and stop, or ``None`` for all (RFC 9110, section 14.2).

    A header that is not understood, or that asks for several ranges, is as good as none.

    Args:
        header: Its value; empty for none.
        size: Of the whole.

    Raises:
        Refusal: The range is understood, but empty (416).
    """
    match = _RANGE.fullmatch(header)
    if match is None or not (match["first"] or match["last"]):
        return None
    if match["first"]:
        start = int(match["first"])
        if match["last"] and int(match["last"]) < start:
            return None
        stop = min(size, int(match["last"]) + 1) if match["last"] else size
    else:
        start, stop = max(0, size - int(match["last"])), size
    if start >= stop:
        raise Refusal(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "RANGE_INVALID",
            f"the blob has {size} bytes",
            headers=(("Content-Range", f"bytes */{size}"),),
        )
    return start, stop


def _headers(digest: Digest) -> Headers:
    return [
        ("Content-Type", OCTET_STREAM),
        ("Docker-Content-Digest", digest),
        ("ETag", _etag(digest)),
        ("Accept-Ranges", "bytes"),
    ]


def _etag(digest: Digest) -> str:
    return f'"{digest}"'
