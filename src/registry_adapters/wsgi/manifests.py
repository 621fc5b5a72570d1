"""Manifests, and the paginated listings: tags, repositories and referrers.

See distribution-spec, "Pulling manifests", "Pushing Manifests" and "Content Discovery".
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from registry_adapters.wsgi.messages import Headers, HttpError, Request, Response, json_response
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX, essence, may_be_manifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import BlobNotFound, NotFound, RepositoryNotFound, Unsupported
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["delete", "head", "parse_reference", "pull", "push", "referrers", "repositories", "tags"]

T = TypeVar("T")

# The specification requires at least 10, and allows 414 above the limit of the registry.
_TAG_LIMIT: Final = 256


def parse_reference(text: str) -> Tag | Digest:
    """Parse a tag, or a digest, which has a colon.

    Raises:
        InvalidName: The text is not a tag.
        InvalidDigest: The text is not a digest.
    """
    return Digest(text) if ":" in text else Tag(text)


def head(repository: Repository, reference: Tag | Digest) -> Response:
    """Handle HEAD of a manifest.

    Raises:
        RegistryError: See ``ManifestStore.resolve``.
    """
    descriptor = repository.manifests.resolve(reference)
    return Response(HTTPStatus.OK, _headers(descriptor.media_type, descriptor.digest), length=descriptor.size)


def pull(repository: Repository, reference: Tag | Digest) -> Response:
    """Handle GET of a manifest.

    Raises:
        RegistryError: See ``ManifestStore.get``.
    """
    manifest = repository.manifests.get(reference)
    digest = reference if isinstance(reference, Digest) else manifest.digest
    return Response(HTTPStatus.OK, _headers(manifest.media_type, digest), manifest.content)


def push(
    request: Request, repository: Repository, reference: Tag | Digest, *, location: str, limit: int, referrers_api: bool
) -> Response:
    """Handle PUT of a manifest.

    Args:
        request: Request with the manifest as its body.
        repository: Repository to push to.
        reference: Tag or digest in the path.
        location: URL of the repository's manifests.
        limit: Maximum size of the manifest.
        referrers_api: Whether to confirm a subject by ``OCI-Subject``: clients then rely on the referrers API.

    Raises:
        RegistryError: See ``ManifestStore.put``.
        HttpError: The manifest is too large, its media type is not that of a manifest, or its digest is not the one
            in the path.
    """
    extra = [Tag(text) for text in request.parameters("tag")]
    if len(extra) > _TAG_LIMIT:
        raise HttpError(HTTPStatus.REQUEST_URI_TOO_LONG, "TAG_INVALID", f"more than {_TAG_LIMIT} tag parameters")
    if isinstance(reference, Digest) and not reference.verifiable:
        raise HttpError(
            HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"unsupported digest algorithm {reference.algorithm!r:.80}"
        )
    content_type = essence(request.header("Content-Type"))
    if content_type and not may_be_manifest(content_type):
        raise _unsupported_media_type(content_type)
    content = request.body.read_all(limit)
    algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
    if isinstance(reference, Digest) and Digest.of(content, algorithm) != reference:
        raise HttpError(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", "provided digest did not match uploaded content")
    try:
        manifest = RawManifest.of(content, claimed=request.header("Content-Type"), algorithm=algorithm)
    except Unsupported as error:
        raise HttpError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED", error.message) from None
    if not may_be_manifest(manifest.media_type):
        raise _unsupported_media_type(manifest.media_type)
    tags = extra if isinstance(reference, Digest) else [reference, *extra]
    try:
        repository.manifests.put(manifest, tags=tuple(dict.fromkeys(tags)))
    except BlobNotFound:
        raise HttpError(
            HTTPStatus.NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", "manifest references a manifest or blob unknown to registry"
        ) from None
    headers: Headers = [("Location", f"{location}/{manifest.digest}"), ("Docker-Content-Digest", manifest.digest)]
    headers += [("OCI-Tag", tag) for tag in extra]
    subject = manifest.subject
    if subject is not None and referrers_api:
        headers.append(("OCI-Subject", subject.digest))
    return Response(HTTPStatus.CREATED, headers)


def delete(repository: Repository, reference: Tag | Digest) -> Response:
    """Handle DELETE of a tag, or of a manifest with all its tags.

    Raises:
        RegistryError: See ``ManifestStore.untag`` and ``ManifestStore.delete``.
    """
    if isinstance(reference, Digest):
        repository.manifests.delete(reference)
    else:
        repository.manifests.untag(reference)
    return Response(HTTPStatus.ACCEPTED)


def _headers(media_type: str, digest: Digest) -> Headers:
    return [("Content-Type", media_type), ("Docker-Content-Digest", digest), ("ETag", f'"{digest}"')]


def tags(request: Request, repository: Repository, name: str, *, page_limit: int | None) -> Response:
    """Handle GET of the tags of a repository.

    Raises:
        RegistryError: See ``ManifestStore.tags``.
        HttpError: ``n`` is not a number.
    """
    count = _count(request, page_limit)
    last = request.parameter("last")
    after = Tag(last) if last else None
    found = repository.manifests.tags(after=after, page_size=None if count is None else count + 1)
    page, headers = _page(request, found, count, str)
    return json_response({"name": name, "tags": page}, headers=headers)


def repositories(request: Request, catalog: Catalog, *, root_name: str, page_limit: int | None) -> Response:
    """Handle GET of the repositories; the one with the empty name is listed as ``root_name``, if that is set.

    Raises:
        RegistryError: See ``Catalog.repositories``.
        HttpError: ``n`` is not a number.
    """
    count = _count(request, page_limit)
    last = request.parameter("last")
    after = RepositoryName(last) if last else None
    found = _repositories(catalog, after, None if count is None else count + 2)
    names = (name for name in found if name and name != root_name)
    page, headers = _page(request, heapq.merge(_root_repository(catalog, root_name, after), names), count, str)
    return json_response({"repositories": page}, headers=headers)


def referrers(request: Request, repository: Repository, subject: Digest, *, page_limit: int | None) -> Response:
    """Handle GET of the referrers of a manifest: an index, which is empty if there are none.

    Raises:
        RegistryError: See ``ManifestStore.referrers``.
    """
    artifact_type = request.parameter("artifactType") or ""
    try:
        found = list(repository.manifests.referrers(subject, artifact_type=artifact_type))
    except NotFound:
        found = []
    headers: Headers = [("OCI-Filters-Applied", "artifactType")] if artifact_type else []
    if page_limit is not None:
        # Pages need an order that does not change when referrers are added between requests.
        last = request.parameter("last") or ""
        ordered = sorted((entry for entry in found if entry.digest > last), key=lambda entry: entry.digest)
        found, link = _page(request, ordered, page_limit, lambda entry: entry.digest)
        headers += link
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_to_json(entry) for entry in found]}
    return json_response(index, headers=headers, media_type=OCI_INDEX)


def _repositories(catalog: Catalog, after: RepositoryName | None, page_size: int | None) -> Iterator[RepositoryName]:
    # A layout whose directory does not exist yet is an empty registry: the first push creates it.
    with suppress(RepositoryNotFound):
        yield from catalog.repositories(after=after, page_size=page_size)


def _unsupported_media_type(media_type: str) -> HttpError:
    return HttpError(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "MANIFEST_INVALID", f"{media_type!r:.100} is not a media type of a manifest"
    )


def _root_repository(catalog: Catalog, root_name: str, after: RepositoryName | None) -> Iterator[RepositoryName]:
    if root_name and (after is None or root_name > after):
        first = next(_repositories(catalog, None, 1), None)
        if first is not None and not first:
            yield RepositoryName(root_name)


def _count(request: Request, page_limit: int | None) -> int | None:
    text = request.parameter("n")
    if text is None:
        return page_limit
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise HttpError(HTTPStatus.BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n must be a non-negative integer")
    return int(text) if page_limit is None else min(int(text), page_limit)


def _page(request: Request, found: Iterable[T], count: int | None, key: Callable[[T], str]) -> tuple[list[T], Headers]:
    if count is None:
        return list(found), []
    page = list(islice(found, count + 1))
    if len(page) <= count or count == 0:
        return page[:count], []
    page = page[:count]
    query = [pair for pair in request.query if pair[0] not in ("n", "last")]
    query += [("n", str(count)), ("last", key(page[-1]))]
    return page, [("Link", f'<{quote(request.prefix + request.path)}?{urlencode(query)}>; rel="next"')]


def _to_json(descriptor: Descriptor) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }
    if descriptor.artifact_type:
        entry["artifactType"] = descriptor.artifact_type
    if descriptor.annotations:
        entry["annotations"] = descriptor.annotations
    return entry
