"""Manifests, tags and referrers of a repository of an HTTP registry (distribution-spec, "Endpoints")."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from registry_adapters.http.endpoint import RegistryRequester, RepositoryEndpoint, map_delete_errors, map_store_errors
from registry_adapters.http.manifest_requests import ManifestDocuments
from registry_adapters.http.messages import Headers, Request
from registry_adapters.http.paging import names
from registry_adapters.http.referrers import Referrers, ReferrersSupportCache
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest, identify
from registry_core.domain.names import Tag
from registry_core.domain.referrers import referrer_descriptor
from registry_core.errors import AccessDenied, IntegrityError, InvalidDocument, NotFound, Unsupported, error_reference
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["HttpManifests"]


class HttpManifests(ManifestStore):
    """Manifests by digest and by tag, in one repository of a registry.

    Args:
        sender: Who carries the requests.
        address: The repository.
        memory: What is known about the registry's referrers API.
    """

    def __init__(
        self, sender: RegistryRequester, address: RepositoryEndpoint, *, memory: ReferrersSupportCache
    ) -> None:
        self._sender = sender
        self._address = address
        self._documents = ManifestDocuments(sender, address)
        self._referrers = Referrers(sender, address, self._documents, memory)

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Type, digest and size of a manifest: by HEAD, and by GET where HEAD says too little.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such repository, where the registry says so.
        """
        return self._documents.head(reference) or self._documents.fetch(reference).descriptor

    def get(self, reference: Tag | Digest) -> RawManifest:
        """A manifest's exact bytes, verified against the digest where it was asked for by digest.

        Raises:
            ImageNotFound: No such manifest.
            RepositoryNotFound: No such repository, where the registry says so.
            DigestMismatch: The registry holds other bytes.
            InvalidDocument: What it holds is no manifest.
            TooLarge: It is larger than a manifest may be.
            Unsupported: It is a Docker schema 1 manifest, or its digest cannot be verified.
        """
        return self._documents.fetch(reference)

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and point tags at it; where the registry keeps no lists of referrers, keep them for it.

        Raises:
            BlobNotFound: A part of it is missing, and the registry insists; nothing is stored.
            InvalidDocument: The bytes are no manifest of their media type; nothing was sent.
            Unsupported: The registry does not take that media type or digest algorithm.
            NotAnIndex: What stands where the list of referrers should be is something else.
            TooLarge: That list has no room left; the manifest is stored, but not listed.
        """
        with error_reference(self._address.at(manifest.digest)):
            identify(manifest.content, claimed=manifest.media_type)
            entry = referrer_descriptor(manifest)
        with map_store_errors(manifest.digest, self._address.at(manifest.digest)):
            headers = self._send(manifest, list(dict.fromkeys(tags)))
        if entry is not None and manifest.subject is not None:
            if headers.get("OCI-Subject"):
                self._referrers.note_api()
            else:
                self._referrers.add(manifest.subject.digest, entry)
        return manifest.descriptor

    def untag(self, tag: Tag) -> None:
        """Remove a tag; never more than that, whatever the registry cannot do.

        Raises:
            ImageNotFound: No such tag.
            Unsupported: The registry does not remove tags alone.
        """
        with map_delete_errors("tags", self._address.at(tag)):
            self._documents.remove(tag)

    def delete(self, digest: Digest) -> None:
        """Remove a manifest, and with it every tag on it; and take it off its subject's list.

        Raises:
            ImageNotFound: No such manifest.
            Unsupported: The registry does not delete manifests.
        """
        subject = self._listed_under(digest)
        with map_delete_errors("manifests", self._address.at(digest)):
            self._documents.remove(digest)
        if subject is not None:
            self._referrers.remove(subject, digest)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """All tags: in ASCII order if the registry sends them at once, in the registry's if it sends pages.

        Raises:
            RepositoryNotFound: No such repository.
            ProtocolError: The registry's list is none, or leads elsewhere.
        """
        request = Request(
            method="GET",
            target=self._address.path("tags", "list"),
            success=(200,),
            scopes=self._address.scopes("pull"),
            reference=str(self._address),
            missing="repository",
        )
        return names(self._sender, request, key="tags", kind=Tag, after=after, page_size=page_size)

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """The manifests whose subject is that digest, each once, with artifact type and annotations.

        Raises:
            ProtocolError: The registry's list is none, or leads elsewhere.
        """
        self._address.path()
        return self._referrers.list(subject, artifact_type)

    def _send(self, manifest: RawManifest, tags: list[Tag]) -> Headers:
        if not tags:
            return self._documents.send(manifest, manifest.digest)
        if manifest.algorithm == "sha256":
            headers, rest = self._documents.send(manifest, tags[0]), tags[1:]
        else:
            # Only a PUT by digest says which algorithm is meant; the tags may come with it, if it says so.
            headers = self._documents.send(manifest, manifest.digest, tags=tags)
            taken = {tag.strip() for value in headers.all("OCI-Tag") for tag in value.split(",")}
            rest = [tag for tag in tags if tag not in taken]
        for tag in rest:
            self._documents.send(manifest, tag)
        return headers

    def _listed_under(self, digest: Digest) -> Digest | None:
        """Whose list a manifest has to be taken off; whatever hinders finding out does not hinder deleting it."""
        try:
            if self._referrers.api_available(digest):
                return None
            subject = self._documents.fetch(digest).subject
        except (NotFound, AccessDenied, InvalidDocument, IntegrityError, Unsupported):
            return None
        return None if subject is None else subject.digest
