"""The requests for single manifests: HEAD, GET, PUT and DELETE of their exact bytes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from registry_adapters.http.endpoint import (
    ANY_SUCCESS,
    HEAD_REFUSED,
    RepositoryEndpoint,
    check_digest_header,
    coding_remark,
    content_length,
    digest_header,
    is_text,
    status_of,
    unproved_success,
)
from registry_adapters.http.messages import Body, Headers, Request
from registry_adapters.http.session import Session
from registry_core.content.streams import MANIFEST_LIMIT, BytesSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import MANIFESTS, essence, is_manifest
from registry_core.domain.names import Tag
from registry_core.errors import (
    Cancelled,
    DeadlineExceeded,
    DigestMismatch,
    InvalidDocument,
    ProtocolError,
    RegistryError,
    error_reference,
)

__all__ = ["ManifestRequests"]

_ACCEPT_HEADERS: Final = {"Accept": ", ".join(MANIFESTS)}

# The statuses of policies: a response to HEAD has no body, and the one to GET says which policy it is. A 403 is more
# often that of missing permissions, and is the same for GET.
_POLICY_REFUSED: Final = frozenset({402, 409, 412, 422, 423, 451})


class ManifestRequests:
    """Sends requests for manifests of one repository, and verifies the responses.

    Args:
        session: HTTP session that sends the requests.
        endpoint: Repository that holds the manifests.
    """

    def __init__(self, session: Session, endpoint: RepositoryEndpoint) -> None:
        self._session = session
        self._endpoint = endpoint
        self._pull_scopes = endpoint.scopes("pull")

    def head(self, reference: Tag | Digest) -> Descriptor | None:
        """Return the descriptor that HEAD gives; ``None`` if the response lacks a part of it.

        Raises:
            ImageNotFound: The manifest does not exist.
            DigestMismatch: The registry reports another digest than the requested one.
        """
        try:
            with self._session.send(self._request("HEAD", reference)) as response:
                headers = response.headers
        except RegistryError as error:
            if status_of(error) in HEAD_REFUSED | _POLICY_REFUSED:
                return None
            raise
        if isinstance(reference, Digest):
            check_digest_header(headers, reference, reference=self._endpoint.at(reference))
            digest: Digest | None = reference
        else:
            digest = digest_header(headers)
        media_type, size = essence(headers.get("Content-Type")), content_length(headers)
        if digest is None or size is None or not is_manifest(media_type) or headers.get("Content-Encoding"):
            return None
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def get(self, reference: Tag | Digest) -> RawManifest:
        """Return the exact bytes of a manifest, verified against its digest or the one that the registry reports.

        Raises:
            ImageNotFound: The manifest does not exist.
            DigestMismatch: The bytes have another digest than was requested or reported.
            InvalidDocument: The content is not a manifest.
            ProtocolError: The content of a tag has a content coding.
            TooLarge: The content exceeds the limit for manifests.
            Unsupported: Docker schema 1, or a digest whose algorithm cannot be verified.
        """
        name = self._endpoint.at(reference)
        with error_reference(name):
            if isinstance(reference, Digest):
                reference.hasher()
            response = self._session.fetch(self._request("GET", reference), MANIFEST_LIMIT, what="the manifest")
            content, headers = response.content, response.headers
            try:
                if isinstance(reference, Digest):
                    _check_digest(content, reference, reference=name)
                    algorithm = reference.algorithm
                else:
                    algorithm = _verified_algorithm(headers, content, reference=name)
                return RawManifest.of(content, claimed=headers.get("Content-Type"), algorithm=algorithm)
            except (DigestMismatch, InvalidDocument) as error:
                remark = coding_remark(headers)
                error.message += remark
                if remark and isinstance(error, InvalidDocument) and not is_text(content):
                    # The bytes are really encoded, so they say nothing about the manifest.
                    raise ProtocolError(error.message, status=200, reference=name) from error
                raise

    def put(self, manifest: RawManifest, reference: Tag | Digest, *, tags: Collection[Tag] = ()) -> Headers:
        """Store a manifest under a tag or its digest.

        After another success status than 201, the registry is asked whether it has the manifest under that name.

        Args:
            manifest: Manifest to store; its media type is sent without parameters.
            reference: Tag to set, or the digest of the manifest.
            tags: Further tags, for registries that set tags in a PUT by digest; ``OCI-Tag`` lists the tags set.

        Returns:
            The headers of the response.

        Raises:
            DigestMismatch: The registry reports that it stored another digest.
            BlobNotFound: The registry does not have a blob or manifest that this one refers to.
            ProtocolError: The status is another one than 201, and the registry does not have the manifest.
        """
        content = manifest.content
        request = Request(
            method="PUT",
            target=self._endpoint.path("manifests", reference, query=tuple(("tag", str(tag)) for tag in tags)),
            success=ANY_SUCCESS,
            scopes=self._endpoint.scopes("pull", "push"),
            headers={"Content-Type": manifest.media_type},
            body=Body(BytesSource(content), 0, len(content)),
            reference=self._endpoint.at(reference),
        )
        with self._session.send(request) as response:
            stored = digest_header(response.headers)
            if stored is not None and stored.verifiable:
                check_digest_header(response.headers, Digest.of(content, stored.algorithm), reference=request.reference)
        if response.status != 201 and not self._is_stored(content, reference):
            raise unproved_success("PUT", response, "manifest", reference=request.reference)
        return response.headers

    def delete(self, reference: Tag | Digest) -> None:
        """Delete a tag, or a manifest by its digest.

        Raises:
            ImageNotFound: The tag or manifest does not exist.
        """
        request = Request(
            method="DELETE",
            target=self._endpoint.path("manifests", reference),
            success=(200, 202, 204),
            scopes=self._endpoint.scopes("pull", "delete"),
            reference=self._endpoint.at(reference),
        )
        self._session.send(request).close()

    def _is_stored(self, content: bytes, reference: Tag | Digest) -> bool:
        """Return whether the registry has these bytes under a tag or digest; ``False`` if it cannot be asked.

        A tag is asked for as well as a digest: the registry may have had the manifest before, under another tag.
        """
        try:
            claim = self._claimed_digest(reference)
            if claim is not None and claim.verifiable:
                return claim == Digest.of(content, claim.algorithm)
            return self._session.fetch(self._request("GET", reference), MANIFEST_LIMIT).content == content
        except (Cancelled, DeadlineExceeded):
            raise
        except RegistryError:
            return False

    def _claimed_digest(self, reference: Tag | Digest) -> Digest | None:
        try:
            with self._session.send(self._request("HEAD", reference)) as response:
                return digest_header(response.headers)
        except RegistryError as error:
            if status_of(error) in HEAD_REFUSED:
                return None
            raise

    def _request(self, method: str, reference: Tag | Digest) -> Request:
        return Request(
            method=method,
            target=self._endpoint.path("manifests", reference),
            success=(200,),
            scopes=self._pull_scopes,
            headers=_ACCEPT_HEADERS,
            reference=self._endpoint.at(reference),
        )


def _verified_algorithm(headers: Headers, content: bytes, *, reference: str) -> str:
    """Verify the bytes of a tag against ``Docker-Content-Digest``, and return the algorithm of that digest.

    For a tag, this header is the only means to detect damaged bytes.
    """
    reported = digest_header(headers)
    if reported is None or not reported.verifiable:
        return "sha256"
    _check_digest(content, reported, reference=reference)
    return reported.algorithm


def _check_digest(content: bytes, expected: Digest, *, reference: str) -> None:
    actual = Digest.of(content, expected.algorithm)
    if actual != expected:
        raise DigestMismatch(
            f"the content has the digest {actual}, expected {expected}",
            expected=expected,
            actual=actual,
            reference=reference,
        )
