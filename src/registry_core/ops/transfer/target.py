"""Operations on the copy target, real or dry-run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import ClassVar, Final, TypeVar

from registry_core.cancellation import checkpoint
from registry_core.content.streams import BaseReader, ByteReader, ByteSource, BytesSource, CallableSource, reader_remark
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.image_names import TagOrName
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_nondistributable
from registry_core.domain.names import RepositoryName
from registry_core.errors import (
    BlobNotFound,
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    ImageNotFound,
    IntegrityError,
    InvalidDocument,
    ProtocolError,
    RateLimited,
    RegistryError,
    ServerError,
    SizeMismatch,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from registry_core.ops.blobs import ProgressSource, open_blob_or_foreign
from registry_core.ops.manifests import fetch_manifest, is_child_manifest, walk
from registry_core.ops.references import store_manifest
from registry_core.ops.transfer.options import CopyTask
from registry_core.ops.transfer.report import Action, ErrorAttribution, NodeKind
from registry_core.ports.catalog import Repository
from registry_core.ports.observer import BlobCopied, BlobMounted, BlobSkipped, Event, Observer

__all__ = ["CopyTarget", "DryRunTarget", "WritingTarget", "is_inconclusive"]

# errors of a look-up that do not tell whether a write would succeed, even without a response of a registry.
_INCONCLUSIVE: Final = (
    BlobNotFound,
    ImageNotFound,
    Forbidden,
    Unsupported,
    ProtocolError,
    IntegrityError,
    InvalidDocument,
)
_FINAL: Final = (Cancelled, DeadlineExceeded, Unauthorized)

# The backend has repeated such a look-up, with pauses.
_FAILED: Final = (ServerError, Unavailable, RateLimited)

# after so many failed look-ups in a row, a run looks up nothing more of that kind in that repository.
_MAX_FAILED: Final = 3

_Found = TypeVar("_Found")


def is_inconclusive(error: RegistryError) -> bool:
    """Return whether a look-up failed in a way that does not prevent a write.

    A look-up before a write only saves work. If a registry refuses it, fails to answer it, or sends a malformed
    response, the content is written without it. A registry that cannot be reached, or that asks for other credentials,
    would treat a write in the same way.

    Args:
        error: Error of the look-up.
    """
    if isinstance(error, _FINAL):
        return False
    has_response = error.transport is not None and error.transport.status > 0
    return has_response or isinstance(error, _INCONCLUSIVE)


class CopyTarget(ABC):
    """Reads and writes of a run in the target repositories. Every method may be called from many threads at once.

    Args:
        attribution: Attributes errors to source and target.
    """

    asks_tags: ClassVar[bool]
    """Whether to look up each tag in the target even if it will be set in any case."""

    def __init__(self, attribution: ErrorAttribution) -> None:
        self.attribution = attribution
        self._failed: dict[tuple[Repository, NodeKind], int] = {}

    def look_up(self, task: CopyTask, kind: NodeKind, reference: str, ask: Callable[[], _Found]) -> _Found | None:
        """Look content up in the target before a write.

        Args:
            task: Task that needs the content.
            kind: Kind of the content.
            reference: Tag, name or digest of the content.
            ask: Function that asks the target.

        Returns:
            The result of ``ask``, or ``None`` if the target does not have the content or does not say whether it has.

        Raises:
            RegistryError: The target would refuse the write as well.
        """
        checkpoint()
        key = (task.target, kind)
        failed = self._failed.get(key, 0)
        if failed >= _MAX_FAILED:
            return None
        try:
            with self.attribution.target(task.target.at(reference)):
                found = ask()
        except RegistryError as error:
            if not is_inconclusive(error):
                raise
            self._failed[key] = failed + 1 if isinstance(error, _FAILED) else 0
            return None
        self._failed[key] = 0
        return found

    def has_manifest(self, task: CopyTask, descriptor: Descriptor) -> bool:
        """Return whether the target has a manifest, and therefore all its children."""
        digest = descriptor.digest
        found = self.look_up(task, NodeKind.MANIFEST, digest, lambda: task.target.manifests.resolve(digest))
        return found is not None and found.digest == digest

    @abstractmethod
    def copy_blob(self, task: CopyTask, blob: Descriptor, mount_candidate: RepositoryName | None) -> Action:
        """Make sure that the target has a blob; return what was done.

        Args:
            task: Task that needs the blob.
            blob: Descriptor of the blob.
            mount_candidate: Repository of the target's registry that has the blob, if one is known.

        Raises:
            RegistryError: One side failed.
        """

    @abstractmethod
    def put_manifest(
        self, task: CopyTask, manifest: RawManifest, children: Collection[Descriptor], tags: Collection[TagOrName]
    ) -> None:
        """Store a manifest whose children the target has, and point tags at it.

        Raises:
            RegistryError: The target failed.
        """

    def _has_blob(self, task: CopyTask, blob: Descriptor) -> bool:
        size = self.look_up(task, NodeKind.BLOB, blob.digest, lambda: task.target.blobs.stat(blob.digest))
        if size is not None and size != blob.size:
            self._check_size(task, blob)
        return size == blob.size

    def _check_size(self, task: CopyTask, blob: Descriptor) -> None:
        # Either the descriptor or the target is wrong. An upload would not show it: the target has the digest already.
        with self.attribution.source(task.source.at(blob.digest)):
            embedded = blob.embedded()
            actual = self._source_size(task, blob) if embedded is None else len(embedded)
            if actual != blob.size:
                message = f"{actual} bytes, expected {blob.size}"
                raise SizeMismatch(message, expected=blob.size, actual=actual)

    def _source_size(self, task: CopyTask, blob: Descriptor) -> int:
        try:
            return task.source.blobs.stat(blob.digest)
        except BlobNotFound:
            raise
        except RegistryError as error:
            if is_inconclusive(error):
                # The upload compares the content with the size.
                return blob.size
            raise


class DryRunTarget(CopyTarget):
    """Determines what a copy would do, and writes nothing."""

    asks_tags = True

    def copy_blob(self, task: CopyTask, blob: Descriptor, mount_candidate: RepositoryName | None) -> Action:
        """Return what would be done with a blob.

        Raises:
            SizeMismatch: The source has the blob in another size than its descriptor says.
        """
        if self._has_blob(task, blob):
            return Action.SKIP
        return Action.MOVE if mount_candidate is None else Action.MOUNT

    def put_manifest(
        self, task: CopyTask, manifest: RawManifest, children: Collection[Descriptor], tags: Collection[TagOrName]
    ) -> None:
        """Do nothing: only a write shows whether a target accepts a manifest."""


class WritingTarget(CopyTarget):
    """Copies blobs and manifests.

    Args:
        attribution: Attributes errors to source and target.
        observer: Receives the events of each blob.
        foreign_layers: Whether to store nondistributable layers too when all children of a manifest are stored again.
    """

    # Setting a tag costs no more than looking it up.
    asks_tags = False

    def __init__(
        self, attribution: ErrorAttribution, observer: Observer | None = None, *, foreign_layers: bool = False
    ) -> None:
        super().__init__(attribution)
        self._observer = observer
        self._foreign_layers = foreign_layers

    def has_manifest(self, task: CopyTask, descriptor: Descriptor) -> bool:
        """Return whether the target has a manifest, and therefore all its children."""
        if not super().has_manifest(task, descriptor):
            return False
        self._emit(BlobSkipped(digest=descriptor.digest, size=descriptor.size))
        return True

    def copy_blob(self, task: CopyTask, blob: Descriptor, mount_candidate: RepositoryName | None) -> Action:
        """Mount a blob, skip it if the target has it, or move it; return what was done.

        Raises:
            RegistryError: One side failed.
        """
        checkpoint()
        target = task.target
        with self.attribution.target(target.at(blob.digest)):
            if mount_candidate is not None and target.blobs.mount(blob.digest, mount_candidate):
                self._emit(BlobMounted(digest=blob.digest, size=blob.size))
                return Action.MOUNT
            if self._has_blob(task, blob):
                self._emit(BlobSkipped(digest=blob.digest, size=blob.size))
                return Action.SKIP
            self._move_blob(task, blob)
            return Action.MOVE

    def put_manifest(
        self, task: CopyTask, manifest: RawManifest, children: Collection[Descriptor], tags: Collection[TagOrName]
    ) -> None:
        """Store a manifest, and point tags at it.

        Raises:
            RegistryError: The target refuses the manifest, even after all its children were stored again.
        """
        try:
            self._put(task, manifest, tags)
        except BlobNotFound as error:
            if error.code != "MANIFEST_BLOB_UNKNOWN":
                raise
        else:
            return
        # The target claimed to have a child and now denies it: store all children without looking, once.
        for child in children:
            if is_child_manifest(manifest, child):
                self._store_graph(task, child)
        self._store_blobs(task, manifest, children)
        self._put(task, manifest, tags)

    def _store_graph(self, task: CopyTask, root: Descriptor) -> None:
        try:
            with self.attribution.source(task.source.at(root.digest)):
                manifests = list(walk(task.source, fetch_manifest(task.source, root.digest)))
        except ImageNotFound:
            # A rewritten index: the source never had it, and the target has just stored it.
            return
        for manifest in manifests:
            self._store_blobs(task, manifest, manifest.children)
            self._put(task, manifest, ())

    def _store_blobs(self, task: CopyTask, manifest: RawManifest, children: Collection[Descriptor]) -> None:
        for child in children:
            if is_child_manifest(manifest, child):
                continue
            if is_nondistributable(child.media_type) and not self._foreign_layers:
                continue
            self._move_blob(task, child)

    def _put(self, task: CopyTask, manifest: RawManifest, tags: Collection[TagOrName]) -> None:
        checkpoint()
        with self.attribution.target(task.target.at(manifest.digest)):
            store_manifest(task.target, manifest, tags)

    def _move_blob(self, task: CopyTask, blob: Descriptor) -> None:
        checkpoint()
        origin = task.source.at(blob.digest)
        with self.attribution.source(origin):
            # Content that cannot be verified is not moved; it may be skipped or mounted.
            blob.digest.hasher()
            embedded = blob.embedded()
        content: ByteSource = (
            CallableSource(lambda start: self._open(task, blob, origin, start))
            if embedded is None
            else BytesSource(embedded)
        )
        progress = None
        if self._observer is not None:
            content = progress = ProgressSource(content, blob.digest, blob.size, self._observer)
        with self.attribution.target(task.target.at(blob.digest)), self.attribution.storing(origin):
            task.target.blobs.put(blob.digest, blob.size, content)
        if progress is not None:
            progress.finish()
        self._emit(BlobCopied(digest=blob.digest, size=blob.size))

    def _open(self, task: CopyTask, blob: Descriptor, origin: str, start: int) -> ByteReader:
        with self.attribution.source(origin):
            if is_nondistributable(blob.media_type):
                reader = open_blob_or_foreign(task.source, blob, start=start)
            else:
                reader = task.source.blobs.open(blob.digest, start=start)
            return _SourceReader(reader, self.attribution, origin)

    def _emit(self, event: Event) -> None:
        if self._observer is not None:
            self._observer.on(event)


class _SourceReader(BaseReader):
    """Reader that attributes its errors to the source."""

    def __init__(self, reader: ByteReader, attribution: ErrorAttribution, origin: str) -> None:
        self._reader = reader
        self._attribution = attribution
        self._origin = origin

    @property
    def remark(self) -> str:
        return reader_remark(self._reader)

    def read(self, size: int = -1, /) -> bytes:
        with self._attribution.source(self._origin):
            return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()
