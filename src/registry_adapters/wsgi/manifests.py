"""Manifests by tag and by digest (distribution-spec, "Pulling manifests", "Pushing Manifests").

Lists, page by page: tags, repositories, referrers (distribution-spec, "Content Discovery").
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

from registry_adapters.wsgi.messages import Headers, HttpError, Request, Response, json_response
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_INDEX
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import BlobNotFound, NotFound
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["delete", "head", "pull", "push", "reference", "referrers", "repositories", "tags"]


# The specification asks for ten at least, and allows 414 beyond what is supported.
_TAG_LIMIT: Final = 256


def reference(text: str) -> Tag | Digest:
    """A tag or a digest, by its colon.

    Raises:
        InvalidName: Not a tag.
        InvalidDigest: Not a digest.
    """
    return Digest(text) if ":" in text else Tag(text)


def head(repository: Repository, wanted: Tag | Digest) -> Response:
    """Type, digest and size of a manifest.

    Raises:
        RegistryError: As ``ManifestStore.resolve``.
    """
    descriptor = repository.manifests.resolve(wanted)
    return Response(HTTPStatus.OK, _headers(descriptor.media_type, descriptor.digest), length=descriptor.size)


def pull(repository: Repository, wanted: Tag | Digest) -> Response:
    """A manifest's exact bytes.

    Raises:
        RegistryError: As ``ManifestStore.get``.
    """
    manifest = repository.manifests.get(wanted)
    digest = wanted if isinstance(wanted, Digest) else manifest.digest
    return Response(HTTPStatus.OK, _headers(manifest.media_type, digest), manifest.content)


def push(
    request: Request, repository: Repository, wanted: Tag | Digest, *, location: str, limit: int, referrers_api: bool
) -> Response:
    """Store a manifest.

    Args:
        request: With the manifest as its body.
        repository: Where it goes.
        wanted: What it shall go by.
        location: Where the repository's manifests are.
        limit: The most bytes that are taken.
        referrers_api: Whether clients may rely on it: ``OCI-Subject`` says so.

    Raises:
        RegistryError: As ``ManifestStore.put``.
        Refusal: Too large, or its digest is another.
    """
    extra = [Tag(text) for text in request.parameters("tag")]
    if len(extra) > _TAG_LIMIT:
        raise HttpError(HTTPStatus.REQUEST_URI_TOO_LONG, "TAG_INVALID", f"more than {_TAG_LIMIT} tags at once")
    if isinstance(wanted, Digest) and not wanted.verifiable:
        raise HttpError(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"{wanted.algorithm} cannot be verified")
    content = request.body.read_all(limit)
    algorithm = wanted.algorithm if isinstance(wanted, Digest) else "sha256"
    if isinstance(wanted, Digest) and Digest.of(content, algorithm) != wanted:
        raise HttpError(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", "the manifest hashes to another digest")
    manifest = RawManifest.of(content, claimed=request.header("Content-Type"), algorithm=algorithm)
    tags = extra if isinstance(wanted, Digest) else [wanted, *extra]
    try:
        repository.manifests.put(manifest, tags=tuple(dict.fromkeys(tags)))
    except BlobNotFound:
        raise HttpError(
            HTTPStatus.NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", "the manifest references what is not in the repository"
        ) from None
    headers: Headers = [("Location", f"{location}/{manifest.digest}"), ("Docker-Content-Digest", manifest.digest)]
    headers += [("OCI-Tag", tag) for tag in extra]
    subject = manifest.subject
    if subject is not None and referrers_api:
        headers.append(("OCI-Subject", subject.digest))
    return Response(HTTPStatus.CREATED, headers)


def delete(repository: Repository, wanted: Tag | Digest) -> Response:
    """Remove a tag, or a manifest with all its tags.

    Raises:
        RegistryError: As ``ManifestStore.untag`` and ``ManifestStore.delete``.
    """
    if isinstance(wanted, Digest):
        repository.manifests.delete(wanted)
    else:
        repository.manifests.untag(wanted)
    return Response(HTTPStatus.ACCEPTED)


def _headers(media_type: str, digest: Digest) -> Headers:
    return [("Content-Type", media_type), ("Docker-Content-Digest", digest), ("ETag", f'"{digest}"')]


T = TypeVar("T")


def tags(request: Request, repository: Repository, name: str, *, page_limit: int | None) -> Response:
    """A page of a repository's tags.

    Raises:
        RegistryError: As ``ManifestStore.tags``.
        Refusal: ``n`` is not a count.
    """
    count = _count(request, page_limit)
    last = request.parameter("last")
    after = Tag(last) if last else None
    found = repository.manifests.tags(after=after, page_size=None if count is None else count + 1)
    page, headers = _page(request, found, count, str)
    return json_response({"name": name, "tags": page}, headers=headers)


def repositories(request: Request, catalog: Catalog, *, root_name: str, page_limit: int | None) -> Response:
    """A page of a registry's repositories; the one with the empty name is listed only if it was given another.

    Raises:
        RegistryError: As ``Catalog.repositories``.
        Refusal: ``n`` is not a count.
    """
    count = _count(request, page_limit)
    last = request.parameter("last")
    after = RepositoryName(last) if last else None
    found = catalog.repositories(after=after, page_size=None if count is None else count + 2)
    names = (name for name in found if name and name != root_name)
    page, headers = _page(request, heapq.merge(_root(catalog, root_name, after), names), count, str)
    return json_response({"repositories": page}, headers=headers)


def referrers(request: Request, repository: Repository, subject: Digest, *, page_limit: int | None) -> Response:
    """An index of what refers to a manifest; an empty one for whatever nobody refers to.

    Raises:
        RegistryError: As ``ManifestStore.referrers``.
    """
    wanted = request.parameter("artifactType") or ""
    try:
        found = list(repository.manifests.referrers(subject, artifact_type=wanted))
    except NotFound:
        found = []
    headers: Headers = [("OCI-Filters-Applied", "artifactType")] if wanted else []
    if page_limit is not None:
        # Pages need an order that outlives changes between them.
        last = request.parameter("last") or ""
        ordered = sorted((entry for entry in found if entry.digest > last), key=lambda entry: entry.digest)
        found, link = _page(request, ordered, page_limit, lambda entry: entry.digest)
        headers += link
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_entry(entry) for entry in found]}
    return json_response(index, headers=headers, kind=OCI_INDEX)


def _root(catalog: Catalog, root_name: str, after: RepositoryName | None) -> Iterator[RepositoryName]:
    if root_name and (after is None or root_name > after):
        first = next(iter(catalog.repositories(page_size=1)), None)
        if first is not None and not first:
            yield RepositoryName(root_name)


def _count(request: Request, page_limit: int | None) -> int | None:
    text = request.parameter("n")
    if text is None:
        return page_limit
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise HttpError(HTTPStatus.BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n is not a count")
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


def _entry(descriptor: Descriptor) -> dict[str, Any]:
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
