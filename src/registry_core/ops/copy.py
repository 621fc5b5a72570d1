"""One copy for everything: pull, push, mirror, import and export move a graph from repository to repository."""

from __future__ import annotations

from collections.abc import Callable, Collection

from registry_core.content.source import ByteReader, ByteSource, BytesSource, OpenerSource, Reader
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_nondistributable
from registry_core.domain.names import Tag
from registry_core.domain.reference import locator
from registry_core.errors import (
    BlobNotFound,
    Forbidden,
    ImageNotFound,
    IntegrityError,
    InvalidValue,
    ProtocolError,
    Unsupported,
    during,
)
from registry_core.ops.graph import fetch, is_child_manifest, walk
from registry_core.ops.progress import ProgressSource
from registry_core.ops.workers import Workers
from registry_core.ports.observer import BlobCopied, BlobMounted, BlobSkipped, Event, Observer
from registry_core.ports.repository import Repository
from registry_core.scope import CancelScope, checkpoint

__all__ = ["copy", "move_graph"]

# asking is an optimisation; whoever may not ask, or gets an odd answer, stores without asking.
_UNKNOWN = (BlobNotFound, ImageNotFound, Forbidden, Unsupported, ProtocolError)


def copy(
    source: Repository,
    target: Repository,
    reference: Tag | Digest | RawManifest | str,
    *,
    tags: Collection[Tag] = (),
    observer: Observer | None = None,
    jobs: int = 4,
) -> Descriptor:
    """Move a manifest and all it is made of from one repository to another, byte for byte (R-026).

    A tag is resolved once and never asked for again (R-012). What the target has is not moved, and what
    lies beside it in the same registry is mounted. Parts come before wholes and tags last (R-070), so that an
    interrupted copy is never visible as an image. Layers that may not be distributed are left out (R-032). The
    subject of a manifest and its referrers are not parts of it.

    Args:
        source: Where to read.
        target: Where to write.
        reference: The manifest by tag or digest, or the manifest itself if it is at hand.
        tags: Tags to point at it in the target; with none it is stored by its digest alone.
        observer: Told of each blob that is moved, mounted or skipped, and how far it has come, from the threads that
            do it. What it raises ends the copy.
        jobs: How many blobs move at a time.

    Returns:
        The descriptor of what was copied.

    Raises:
        ImageNotFound: The source has no such manifest.
        NotFound: A part of it is missing in the source.
        IntegrityError: The source sent something else than what was asked for; the target keeps none of it.
        AccessDenied: One side refused.
        TransportError: One side failed.
        Unsupported: The target cannot be written.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    with during("copy", str(source)):
        if isinstance(reference, RawManifest):
            root = reference
        else:
            named = reference if isinstance(reference, Tag | Digest) else locator(reference)
            checkpoint()
            with during("", source.at(named)):
                root = fetch(source, named)
        return move_graph(source, target, root, tags=tags, observer=observer, jobs=jobs)


def move_graph(
    source: Repository,
    target: Repository,
    root: RawManifest,
    *,
    tags: Collection[Tag] = (),
    observer: Observer | None = None,
    jobs: int = 4,
    operation: str = "copy",
) -> Descriptor:
    """As ``copy``, of a manifest at hand, for operations that have a name of their own.

    Raises:
        InvalidValue: There are no jobs to do it with, or a tag is malformed.
        RegistryError: One side failed.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"a copy needs at least one job, not {jobs!r:.50}")
    if isinstance(tags, str):
        # Taken as a collection, it would be one tag for each letter.
        raise InvalidValue(f"tags are a list of tags, not one text: {tags!r:.200}")
    tags = tuple(Tag(tag) for tag in tags)
    checkpoint()
    with CancelScope() as scope, Workers(jobs, scope) as workers:
        return _Copy(source, target, observer, workers, operation).run(root, tags)


class _Copy:
    def __init__(
        self,
        source: Repository,
        target: Repository,
        observer: Observer | None,
        workers: Workers,
        operation: str,
    ) -> None:
        self._operation = operation
        self._source = source
        self._target = target
        self._observer = observer
        self._workers = workers
        self._settled: set[str] = set()
        self._mounts = bool(source.registry) and source.registry == target.registry and source.name != target.name

    def run(self, root: RawManifest, tags: Collection[Tag]) -> Descriptor:
        if self._has_manifest(root.descriptor):
            if not tags:
                return root.descriptor
        else:
            self._move_below(root)
        self._put(root, tags)
        return root.descriptor

    def _move_below(self, root: RawManifest) -> None:
        with during(self._operation, self._source.at(root.digest)):
            for manifest in walk(self._source, root, skip=self._has_manifest):
                self._move_parts(manifest, self._move)
                if manifest.digest != root.digest:
                    self._put(manifest)

    def _put(self, manifest: RawManifest, tags: Collection[Tag] = ()) -> None:
        try:
            self._put_once(manifest, tags)
        except BlobNotFound as error:
            if error.code != "MANIFEST_BLOB_UNKNOWN":
                raise
        else:
            return
        # The target said it had a part and now says it has not: store all of them without asking, once.
        for node in walk(self._source, manifest):
            self._settled.difference_update(part.digest for part in node.children)
            self._move_parts(node, self._store)
            if node.digest != manifest.digest:
                self._put_once(node)
        self._put_once(manifest, tags)

    def _put_once(self, manifest: RawManifest, tags: Collection[Tag] = ()) -> None:
        with during(self._operation, self._target.at(manifest.digest)):
            self._target.manifests.put(manifest, tags=tags)

    def _move_parts(self, manifest: RawManifest, move: Callable[[Descriptor], None]) -> None:
        parts: dict[str, Descriptor] = {}
        for part in manifest.children:
            if part.digest in self._settled or is_child_manifest(manifest, part):
                continue
            if not is_nondistributable(part.media_type):
                parts.setdefault(part.digest, part)
        if manifest.is_index:
            parts = {digest: part for digest, part in parts.items() if not self._moved_as_manifest(part)}
        self._workers.each(move, sorted(parts.values(), key=lambda part: part.size, reverse=True))
        self._settled.update(parts)

    def _moved_as_manifest(self, part: Descriptor) -> bool:
        # An index may list what nobody knows; what the source has no manifest of is a blob to us.
        try:
            with during(self._operation, self._source.at(part.digest)):
                found = fetch(self._source, part.digest)
        except ImageNotFound:
            return False
        self._put_once(RawManifest(part.media_type, found.content, found.algorithm))
        return True

    def _has_manifest(self, descriptor: Descriptor) -> bool:
        try:
            with during(self._operation, self._target.at(descriptor.digest)):
                found = self._target.manifests.resolve(descriptor.digest)
        except _UNKNOWN:
            return False
        if found.digest != descriptor.digest:
            return False
        self._tell(BlobSkipped(digest=descriptor.digest, size=descriptor.size))
        return True

    def _move(self, part: Descriptor) -> None:
        checkpoint()
        with during(self._operation, self._target.at(part.digest)):
            if self._mounts and self._target.blobs.mount(part.digest, self._source.name):
                self._tell(BlobMounted(digest=part.digest, size=part.size))
            elif self._has_blob(part):
                self._tell(BlobSkipped(digest=part.digest, size=part.size))
            else:
                self._store(part)

    def _has_blob(self, part: Descriptor) -> bool:
        try:
            return self._target.blobs.stat(part.digest) == part.size
        except _UNKNOWN:
            return False

    def _store(self, part: Descriptor) -> None:
        checkpoint()
        origin = self._source.at(part.digest)
        with during(self._operation, origin):
            embedded = part.embedded()
        content: ByteSource = (
            OpenerSource(lambda start: self._open(part, origin, start)) if embedded is None else BytesSource(embedded)
        )
        progress = None
        if self._observer is not None:
            content = progress = ProgressSource(content, part.digest, part.size, self._observer)
        with during(self._operation, self._target.at(part.digest)):
            try:
                self._target.blobs.put(part.digest, part.size, content)
            except IntegrityError as error:
                # What a store refuses as wrong is what the source sent; what a server refuses may be its own fault.
                if error.transport is None:
                    error.reference, error.operation = origin, self._operation
                raise
        if progress is not None:
            progress.finish()
        self._tell(BlobCopied(digest=part.digest, size=part.size))

    def _open(self, part: Descriptor, origin: str, start: int) -> ByteReader:
        with during(self._operation, origin):
            return _SourceReader(self._source.blobs.open(part.digest, start=start), self._operation, origin)

    def _tell(self, event: Event) -> None:
        if self._observer is not None:
            self._observer.on(event)


class _SourceReader(Reader):
    """A reader whose errors name the side that is read."""

    def __init__(self, reader: ByteReader, operation: str, origin: str) -> None:
        self._reader = reader
        self._operation = operation
        self._origin = origin

    def read(self, size: int = -1, /) -> bytes:
        with during(self._operation, self._origin):
            return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()
