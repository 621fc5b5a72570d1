"""Manifests on the wire: one fetched or sent, as its exact bytes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from registry_adapters.http.endpoint import (
    HEAD_REFUSED,
    RegistryRequester,
    RepositoryEndpoint,
    content_length,
    digest_header,
    status_of,
)
from registry_adapters.http.messages import Body, Headers, Request
from registry_core.content.streams import MANIFEST_LIMIT, BytesSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import MANIFESTS, essence, is_manifest
from registry_core.domain.names import Tag
from registry_core.errors import DigestMismatch, RegistryError, error_reference

__all__ = ["ManifestDocuments"]

_ACCEPT: Final = ", ".join(MANIFESTS)


class ManifestDocuments:
    """The manifests of one repository, one exchange at a time.

    Args:
        sender: Who carries the requests.
        address: The repository.
    """

    def __init__(self, sender: RegistryRequester, address: RepositoryEndpoint) -> None:
        self._sender = sender
        self._address = address

    def head(self, reference: Tag | Digest) -> Descriptor | None:
        """What HEAD says about a manifest, or ``None`` where it says too little.

        Raises:
            ImageNotFound: No such manifest.
            DigestMismatch: Asked for one digest, the registry speaks of another.
        """
        try:
            with self._sender.send(self._request("HEAD", reference)) as answer:
                headers = answer.headers
        except RegistryError as error:
            if status_of(error) in HEAD_REFUSED:
                return None
            raise
        media_type, size = essence(headers.get("Content-Type")), content_length(headers)
        claim = digest_header(headers)
        if isinstance(reference, Digest):
            if claim is not None and claim.algorithm == reference.algorithm and claim != reference:
                raise _mismatch(reference, claim, self._address.at(reference))
            claim = reference
        if claim is None or size is None or not is_manifest(media_type) or headers.get("Content-Encoding"):
            return None
        return Descriptor(media_type=media_type, digest=claim, size=size)

    def fetch(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's exact bytes; their digest is theirs, and the registry must not say otherwise.

        Raises:
            ImageNotFound: No such manifest.
            DigestMismatch: The registry has other bytes than were asked for, or than it says it has.
            InvalidDocument: It is no manifest.
            TooLarge: It is larger than a manifest may be.
            Unsupported: It is a Docker schema 1 manifest, or its digest cannot be verified.
        """
        where = self._address.at(reference)
        with error_reference(where):
            if isinstance(reference, Digest):
                reference.hasher()
            document = self._sender.fetch(self._request("GET", reference), MANIFEST_LIMIT, what="the manifest")
            content, headers = document.content, document.headers
            if isinstance(reference, Digest):
                actual = Digest.of(content, reference.algorithm)
                if actual != reference:
                    raise _mismatch(reference, actual, where)
                algorithm = reference.algorithm
            else:
                algorithm = _algorithm(headers, content, where)
            return RawManifest.of(content, claimed=headers.get("Content-Type"), algorithm=algorithm)

    def send(self, manifest: RawManifest, reference: Tag | Digest, *, tags: Collection[Tag] = ()) -> Headers:
        """Store a manifest under a tag or its digest.

        Args:
            manifest: Its media type is sent as it is, without parameters.
            reference: A tag, or its digest.
            tags: Further tags, for registries that take them with a digest; ``OCI-Tag`` says which were taken.

        Returns:
            The headers of the answer.

        Raises:
            DigestMismatch: The registry says that it stored something else.
            BlobNotFound: It misses a part of it.
        """
        content = manifest.content
        request = Request(
            method="PUT",
            target=self._address.path("manifests", reference, query=tuple(("tag", str(tag)) for tag in tags)),
            success=(201,),
            scopes=self._address.scopes("pull", "push"),
            headers={"Content-Type": manifest.media_type},
            body=Body(BytesSource(content), 0, len(content)),
            reference=self._address.at(reference),
        )
        with self._sender.send(request) as answer:
            claim = digest_header(answer.headers)
            if claim is not None and claim.verifiable:
                actual = Digest.of(content, claim.algorithm)
                if claim != actual:
                    raise _mismatch(actual, claim, request.reference)
            return answer.headers

    def remove(self, reference: Tag | Digest) -> None:
        """Delete a tag, or by digest a manifest; what the registry makes of it is its business.

        Raises:
            ImageNotFound: No such tag or manifest.
        """
        request = Request(
            method="DELETE",
            target=self._address.path("manifests", reference),
            success=(200, 202, 204),
            scopes=self._address.scopes("pull", "delete"),
            reference=self._address.at(reference),
        )
        self._sender.send(request).close()

    def _request(self, method: str, reference: Tag | Digest) -> Request:
        return Request(
            method=method,
            target=self._address.path("manifests", reference),
            success=(200,),
            scopes=self._address.scopes("pull"),
            headers={"Accept": _ACCEPT},
            reference=self._address.at(reference),
        )


def _algorithm(headers: Headers, content: bytes, reference: str) -> str:
    """The algorithm of a tagged manifest's digest: the registry's, which is the only witness against broken bytes."""
    claim = digest_header(headers)
    if claim is None or not claim.verifiable:
        return "sha256"
    actual = Digest.of(content, claim.algorithm)
    if actual != claim:
        raise _mismatch(claim, actual, reference)
    return claim.algorithm


def _mismatch(expected: Digest, actual: Digest, reference: str) -> DigestMismatch:
    return DigestMismatch(f"got {actual} instead of {expected}", expected=expected, actual=actual, reference=reference)
