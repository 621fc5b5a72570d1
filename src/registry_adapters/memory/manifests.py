"""Manifests, tags and referrers in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from registry_adapters.memory.state import RepositoryContents, State
from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import filter_by_artifact_type, referrer_descriptor
from registry_core.errors import DigestMismatch, ImageNotFound, RepositoryNotFound, error_reference
from registry_core.ports.manifest_store import ManifestStore

__all__ = ["MemoryManifests"]


class MemoryManifests(ManifestStore):
    """Manifests, tags and referrers of one repository in memory.

    Args:
        state: Content of the catalog.
        name: Name of the repository.
    """

    def __init__(self, state: State, name: RepositoryName) -> None:
        self._state = state
        self._name = name

    def resolve(self, reference: Tag | Digest) -> Descriptor:
        """Return media type, digest and size of a manifest.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist.
        """
        return self._find(reference)[1].descriptor

    def get(self, reference: Tag | Digest) -> RawManifest:
        """Return the exact bytes of a manifest, verified.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist.
            DigestMismatch: The bytes were changed after they were stored.
        """
        digest, stored = self._find(reference)
        # A new object for each caller: it caches decoded views, which the caller may change.
        manifest = RawManifest(stored.media_type, stored.content, stored.algorithm)
        if manifest.digest != digest:
            raise DigestMismatch(
                f"the stored bytes hash to {manifest.digest}",
                expected=str(digest),
                actual=str(manifest.digest),
                reference=self._state.at(self._name, digest),
            )
        return manifest

    def put(self, manifest: RawManifest, *, tags: Collection[Tag] = ()) -> Descriptor:
        """Store a manifest and point tags to it. Its blobs and children need not exist.

        Raises:
            InvalidDocument: The bytes are not a manifest of the media type; nothing is stored.
            Unsupported: It is a Docker schema 1 manifest, or the digest algorithm cannot be verified.
        """
        checkpoint()
        with error_reference(self._state.at(self._name)):
            checked = manifest.checked()
            # Without the decoded views, which would stay in memory.
            stored = RawManifest(checked.media_type, bytes(manifest.content), manifest.algorithm)
            descriptor, subject = stored.descriptor, checked.subject
        with self._state.lock:
            contents = self._state.get_or_create(self._name)
            contents.manifests[descriptor.digest] = stored
            contents.tags.update((tag, descriptor.digest) for tag in tags)
            if subject is not None:
                contents.referrers.setdefault(subject.digest, set()).add(descriptor.digest)
        return descriptor

    def untag(self, tag: Tag) -> None:
        """Delete a tag. The manifest and its other tags stay.

        Raises:
            ImageNotFound: The tag does not exist.
            RepositoryNotFound: The repository does not exist.
        """
        checkpoint()
        with self._state.lock:
            if self._contents(tag).tags.pop(tag, None) is None:
                raise self._not_found(tag)

    def delete(self, digest: Digest) -> None:
        """Delete a manifest and every tag that points to it.

        Raises:
            ImageNotFound: The manifest does not exist.
            RepositoryNotFound: The repository does not exist.
        """
        checkpoint()
        with self._state.lock:
            contents = self._contents(digest)
            removed = contents.manifests.pop(digest, None)
            if removed is None:
                raise self._not_found(digest)
            contents.tags = {tag: target for tag, target in contents.tags.items() if target != digest}
            if removed.subject is not None:
                contents.referrers[removed.subject.digest].discard(digest)
            self._state.remove_if_empty(self._name)

    def tags(self, *, after: Tag | None = None, page_size: int | None = None) -> Iterator[Tag]:
        """Iterate over all tags in ASCII order, as of the first step.

        Raises:
            RepositoryNotFound: The repository does not exist.
        """
        checkpoint()
        with self._state.lock:
            tags = sorted(self._contents().tags)
        for tag in tags:
            if after is None or tag > after:
                checkpoint()
                yield tag

    def referrers(self, subject: Digest, *, artifact_type: str = "") -> Iterator[Descriptor]:
        """Iterate over the descriptors of the manifests that refer to a subject, ordered by digest."""
        checkpoint()
        with self._state.lock:
            contents = self._state.find(self._name)
            digests = contents.referrers.get(subject, ()) if contents else ()
            manifests = [contents.manifests[digest] for digest in sorted(digests)] if contents else []
        # Decoded again from the bytes for each caller, who may change the annotations.
        found = (referrer_descriptor(RawManifest(each.media_type, each.content, each.algorithm)) for each in manifests)
        for entry in filter_by_artifact_type((entry for entry in found if entry is not None), artifact_type):
            checkpoint()
            yield entry

    def _find(self, reference: Tag | Digest) -> tuple[Digest, RawManifest]:
        checkpoint()
        with self._state.lock:
            contents = self._contents(reference)
            digest = reference if isinstance(reference, Digest) else contents.tags.get(reference)
            manifest = None if digest is None else contents.manifests.get(digest)
        if digest is None or manifest is None:
            raise self._not_found(reference)
        return digest, manifest

    def _contents(self, reference: str = "") -> RepositoryContents:
        contents = self._state.find(self._name)
        if contents is None:
            raise RepositoryNotFound("no such repository", reference=self._state.at(self._name, reference))
        return contents

    def _not_found(self, reference: str) -> ImageNotFound:
        return ImageNotFound("no such manifest", reference=self._state.at(self._name, reference))
