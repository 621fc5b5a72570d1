"""Manifests, tags and referrers of a repository of an HTTP registry (distribution-spec, "Endpoints")."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from registry_adapters.http.endpoint import RepositoryEndpoint, map_delete_errors, map_store_errors
from registry_adapters.http.manifest_requests import ManifestRequests
from registry_adapters.http.messages import Headers, Request
from registry_adapters.http.paging import list_names
from registry_adapters.http.referrers import Referrers, ReferrersSupportCache
from registry_adapters.http.session import Session
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.domain.referrers import referrer_descriptor
from registry_core.errors import AccessDenied, IntegrityError, InvalidDocument, NotFound, Unsupported, error_reference
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["HttpManifests"]


class HttpManifests(ManifestStore):
    """Manifests of one repository of a registry, by digest and by tag.

    Args:
        session: HTTP session that sends the requests.
        endpoint: Repository that holds the manifests.
        support_cache: Cache of which repositories of the registry have a referrers API.
    """

    def __init__(self, session: Session, endpoint: RepositoryEndpoint, *, support_cache: ReferrersSupportCache) -> None:
        self._session = session
        self._endpoint = endpoint
        self._requests = ManifestRequests(session, endpoint)
        self._referrers = Referrers(session, endpoint, self._requests, support_cache)

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Return media type, digest and size of a manifest: from HEAD, or from GET if HEAD lacks one of them.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The registry says that the repository does not exist.
        """
        return self._requests.head(reference) or self._requests.get(reference).descriptor

    def get(self, reference: Tag | Digest) -> RawManifest:
        """Return the exact bytes of a manifest, verified if it is requested by digest.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The registry says that the repository does not exist.
            DigestMismatch: The registry sent other bytes.
            InvalidDocument: The content is not a manifest.
            TooLarge: The content exceeds the limit for manifests.
            Unsupported: Docker schema 1, or a digest whose algorithm cannot be verified.
        """
        return self._requests.get(reference)

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and set its tags.

        If the registry has no referrers API, the manifest is also added to the referrers list of its subject.

        Raises:
            BlobNotFound: The registry requires the blobs and manifests that this one refers to, and lacks one.
            InvalidDocument: The bytes are not a manifest of the given media type; nothing was sent.
            Unsupported: The registry does not accept the media type or the digest algorithm.
            NotAnIndex: The tag of the referrers list points to something else.
            TooLarge: The referrers list is full; the manifest is stored, but not listed.
        """
        reference = self._endpoint.at(manifest.digest)
        with error_reference(reference):
            manifest = manifest.checked()
            entry = referrer_descriptor(manifest)
        with map_store_errors(manifest.digest, reference):
            headers = self._put(manifest, list(dict.fromkeys(tags)))
        if entry is not None and manifest.subject is not None:
            if headers.get("OCI-Subject"):
                self._referrers.mark_api_available()
            else:
                self._referrers.add(manifest.subject.digest, entry)
        return manifest.descriptor

    def untag(self, tag: Tag) -> None:
        """Delete a tag, and never the manifest instead.

        Raises:
            ImageNotFound: The tag does not exist.
            Unsupported: The registry does not delete tags.
        """
        with map_delete_errors("tags", self._endpoint.at(tag)):
            self._requests.delete(tag)

    def delete(self, digest: Digest) -> None:
        """Delete a manifest with all its tags, and its entry in the referrers list of its subject.

        Raises:
            ImageNotFound: The manifest does not exist.
            Unsupported: The registry does not delete manifests.
        """
        subject = self._subject_with_list(digest)
        with map_delete_errors("manifests", self._endpoint.at(digest)):
            self._requests.delete(digest)
        if subject is not None:
            self._referrers.remove(subject, digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """Iterate over all tags: in ASCII order if they come in one page, otherwise in the registry's order.

        Raises:
            RepositoryNotFound: The repository does not exist.
            ProtocolError: The response is not a list of tags, or its pagination is broken.
        """
        request = Request(
            method="GET",
            target=self._endpoint.path("tags", "list"),
            success=(200,),
            scopes=self._endpoint.scopes("pull"),
            reference=str(self._endpoint),
            missing="repository",
        )
        return list_names(self._session, request, key="tags", kind=Tag, after=after, page_size=page_size)

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """Iterate over the referrers of a subject, each once, with artifact type and annotations.

        Raises:
            ProtocolError: The response is not a list of referrers, or its pagination is broken.
        """
        # Refuses a repository without a name here, not at the first step of the iterator.
        self._endpoint.path()
        return self._referrers.list(subject, artifact_type)

    def _put(self, manifest: RawManifest, tags: list[Tag]) -> Headers:
        if not tags:
            return self._requests.put(manifest, manifest.digest)
        if manifest.algorithm == "sha256":
            headers, remaining = self._requests.put(manifest, tags[0]), tags[1:]
        else:
            # only a PUT by digest names another algorithm. It may set tags too; OCI-Tag lists those that it set.
            headers = self._requests.put(manifest, manifest.digest, tags=tags)
            tagged = {tag.strip() for value in headers.all("OCI-Tag") for tag in value.split(",")}
            remaining = [tag for tag in tags if tag not in tagged]
        for tag in remaining:
            self._requests.put(manifest, tag)
        return headers

    def _subject_with_list(self, digest: Digest) -> Digest | None:
        """The subject whose referrers list may name a manifest; ``None`` if the manifest cannot be read."""
        try:
            if self._referrers.has_api(digest):
                return None
            subject = self._requests.get(digest).subject
        except (NotFound, AccessDenied, InvalidDocument, IntegrityError, Unsupported):
            return None
        return None if subject is None else subject.digest
