"""What is done to the target: really, or only asked for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from registry_core.cancellation import checkpoint
from registry_core.content.streams import BaseReader, ByteReader, ByteSource, BytesSource, CallableSource
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_nondistributable
from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import BlobNotFound, Forbidden, ImageNotFound, ProtocolError, SizeMismatch, Unsupported
from registry_core.ops.blobs import ProgressSource, open_blob_or_foreign
from registry_core.ops.manifests import fetch_manifest, is_child_manifest, walk
from registry_core.ops.transfer.report import Action, ErrorAttribution, SourceAndTarget
from registry_core.ports.observer import BlobCopied, BlobMounted, BlobSkipped, Event, Observer

__all__ = ["CopyTarget", "DryRunTarget", "WritingTarget"]

# asking is an optimisation; whoever may not ask, or gets an odd answer, stores without asking.
_UNKNOWN: Final = (BlobNotFound, ImageNotFound, Forbidden, Unsupported, ProtocolError)


class CopyTarget(Protocol):
    """Touches the target. Every method may be called from many threads at once."""

    @property
    def asks_tags(self) -> bool:
        """Whether to look up what a tag stands for, even though it will be moved in any case."""
        ...

    def has_manifest(self, pair: SourceAndTarget, descriptor: Descriptor) -> bool:
        """Whether the target has a manifest, and so all below it."""
        ...

    def blob(self, pair: SourceAndTarget, part: Descriptor, mount_candidate: RepositoryName | None) -> Action:
        """See to it that the target has a blob.

        Args:
            pair: From where, and where to.
            part: The blob.
            mount_candidate: A repository of the target's registry that has it, if one is known.
        """
        ...

    def manifest(
        self, pair: SourceAndTarget, raw: RawManifest, parts: Collection[Descriptor], tags: Collection[Tag]
    ) -> None:
        """Store a manifest whose parts the target has, and point tags at it."""
        ...

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        ...


class DryRunTarget(CopyTarget):
    """Finds out what would have to be done, and does none of it."""

    def __init__(self, blame: ErrorAttribution, observer: Observer | None = None) -> None:
        self._blame = blame
        self._observer = observer

    @property
    def asks_tags(self) -> bool:
        """Yes: a plan says what will change."""
        return True

    def has_manifest(self, pair: SourceAndTarget, descriptor: Descriptor) -> bool:
        """Whether the target has a manifest, and so all below it."""
        checkpoint()
        try:
            with self._blame.target(pair.target.at(descriptor.digest)):
                found = pair.target.manifests.resolve(descriptor.digest)
        except _UNKNOWN:
            return False
        return found.digest == descriptor.digest

    def has_blob(self, pair: SourceAndTarget, part: Descriptor) -> bool:
        """Whether the target has a blob.

        Raises:
            SizeMismatch: It has, and the source has, but neither is as long as it is said to be.
        """
        checkpoint()
        try:
            with self._blame.target(pair.target.at(part.digest)):
                found = pair.target.blobs.stat(part.digest)
        except _UNKNOWN:
            return False
        if found != part.size:
            self._check_claim(pair, part)
        return found == part.size

    def _check_claim(self, pair: SourceAndTarget, part: Descriptor) -> None:
        """Somebody is wrong about a size. A store that has the blob takes it for stored, whatever is said of it."""
        with self._blame.source(pair.source.at(part.digest)):
            embedded = part.embedded()
            actual = pair.source.blobs.stat(part.digest) if embedded is None else len(embedded)
            if actual != part.size:
                message = f"{actual} bytes instead of the promised {part.size}"
                raise SizeMismatch(message, expected=part.size, actual=actual)

    def blob(self, pair: SourceAndTarget, part: Descriptor, mount_candidate: RepositoryName | None) -> Action:
        """What would have to be done to a blob."""
        if self.has_blob(pair, part):
            return Action.SKIP
        return Action.MOVE if mount_candidate is None else Action.MOUNT

    def manifest(
        self, pair: SourceAndTarget, raw: RawManifest, parts: Collection[Descriptor], tags: Collection[Tag]
    ) -> None:
        """Nothing: nobody asks whether a manifest could be stored."""

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self._observer is not None:
            self._observer.on(event)


class WritingTarget(DryRunTarget):
    """Does it.

    Args:
        blame: Who names errors.
        observer: Told of each blob.
        foreign_layers: Whether layers that may not be distributed are stored as well, where a target misses parts.
    """

    def __init__(
        self, blame: ErrorAttribution, observer: Observer | None = None, *, foreign_layers: bool = False
    ) -> None:
        super().__init__(blame, observer)
        self._foreign_layers = foreign_layers

    @property
    def asks_tags(self) -> bool:
        """No: setting it again costs no more than asking."""
        return False

    def has_manifest(self, pair: SourceAndTarget, descriptor: Descriptor) -> bool:
        """Whether the target has a manifest, and so all below it."""
        if not super().has_manifest(pair, descriptor):
            return False
        self.tell(BlobSkipped(digest=descriptor.digest, size=descriptor.size))
        return True

    def blob(self, pair: SourceAndTarget, part: Descriptor, mount_candidate: RepositoryName | None) -> Action:
        """Mount a blob, skip it or move it, whichever is the least that does."""
        checkpoint()
        target = pair.target
        with self._blame.target(target.at(part.digest)):
            if mount_candidate is not None and target.blobs.mount(part.digest, mount_candidate):
                self.tell(BlobMounted(digest=part.digest, size=part.size))
                return Action.MOUNT
            if self.has_blob(pair, part):
                self.tell(BlobSkipped(digest=part.digest, size=part.size))
                return Action.SKIP
            self._store(pair, part)
            return Action.MOVE

    def manifest(
        self, pair: SourceAndTarget, raw: RawManifest, parts: Collection[Descriptor], tags: Collection[Tag]
    ) -> None:
        """Store a manifest, and point tags at it.

        Raises:
            RegistryError: The target refuses it, also after all its parts were stored once more.
        """
        try:
            self._put(pair, raw, tags)
        except BlobNotFound as error:
            if error.code != "MANIFEST_BLOB_UNKNOWN":
                raise
        else:
            return
        # The target said it had a part and now says it has not: store all of them without asking, once.
        for part in parts:
            if is_child_manifest(raw, part):
                self._store_below(pair, part)
        self._store_parts(pair, raw, parts)
        self._put(pair, raw, tags)

    def _store_below(self, pair: SourceAndTarget, part: Descriptor) -> None:
        try:
            with self._blame.source(pair.source.at(part.digest)):
                nodes = list(walk(pair.source, fetch_manifest(pair.source, part.digest)))
        except ImageNotFound:
            # An index that was rewritten on the way: the source never had it, and the target was just given it.
            return
        for node in nodes:
            self._store_parts(pair, node, node.children)
            self._put(pair, node, ())

    def _store_parts(self, pair: SourceAndTarget, raw: RawManifest, parts: Collection[Descriptor]) -> None:
        for part in parts:
            if is_child_manifest(raw, part) or (is_nondistributable(part.media_type) and not self._foreign_layers):
                continue
            self._store(pair, part)

    def _put(self, pair: SourceAndTarget, raw: RawManifest, tags: Collection[Tag]) -> None:
        checkpoint()
        with self._blame.target(pair.target.at(raw.digest)):
            pair.target.manifests.put(raw, tags=tags)

    def _store(self, pair: SourceAndTarget, part: Descriptor) -> None:
        checkpoint()
        origin = pair.source.at(part.digest)
        with self._blame.source(origin):
            # What nobody can verify is carried as far as it need not be read.
            part.digest.hasher()
            embedded = part.embedded()
        content: ByteSource = (
            CallableSource(lambda start: self._open(pair, part, origin, start))
            if embedded is None
            else BytesSource(embedded)
        )
        progress = None
        if self._observer is not None:
            content = progress = ProgressSource(content, part.digest, part.size, self._observer)
        with self._blame.target(pair.target.at(part.digest)), self._blame.storing(origin):
            pair.target.blobs.put(part.digest, part.size, content)
        if progress is not None:
            progress.finish()
        self.tell(BlobCopied(digest=part.digest, size=part.size))

    def _open(self, pair: SourceAndTarget, part: Descriptor, origin: str, start: int) -> ByteReader:
        with self._blame.source(origin):
            if is_nondistributable(part.media_type):
                reader = open_blob_or_foreign(pair.source, part, start=start)
            else:
                reader = pair.source.blobs.open(part.digest, start=start)
            return _SourceReader(reader, self._blame, origin)


class _SourceReader(BaseReader):
    """A reader whose errors name the side that is read."""

    def __init__(self, reader: ByteReader, blame: ErrorAttribution, origin: str) -> None:
        self._reader = reader
        self._blame = blame
        self._origin = origin

    def read(self, size: int = -1, /) -> bytes:
        with self._blame.source(self._origin):
            return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()
