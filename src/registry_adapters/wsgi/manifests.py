"""Manifests by tag and by digest (distribution-spec, "Pulling manifests", "Pushing Manifests")."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from registry_adapters.wsgi.messages import Headers, Request, Response
from registry_adapters.wsgi.problems import Refusal
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.errors import BlobNotFound
from registry_core.ports.repository import Repository

__all__ = ["delete", "head", "pull", "push", "reference"]

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
        raise Refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "TAG_INVALID", f"more than {_TAG_LIMIT} tags at once")
    if isinstance(wanted, Digest) and not wanted.verifiable:
        raise Refusal(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", f"{wanted.algorithm} cannot be verified")
    content = request.body.read_all(limit)
    algorithm = wanted.algorithm if isinstance(wanted, Digest) else "sha256"
    if isinstance(wanted, Digest) and Digest.of(content, algorithm) != wanted:
        raise Refusal(HTTPStatus.BAD_REQUEST, "DIGEST_INVALID", "the manifest hashes to another digest")
    manifest = RawManifest.of(content, claimed=request.header("Content-Type"), algorithm=algorithm)
    tags = extra if isinstance(wanted, Digest) else [wanted, *extra]
    try:
        repository.manifests.put(manifest, tags=tuple(dict.fromkeys(tags)))
    except BlobNotFound:
        raise Refusal(
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
