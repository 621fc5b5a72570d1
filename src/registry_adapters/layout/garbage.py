"""Garbage collection of a layout, safe while other processes write to it.

Finding the reachable blobs needs no lock. Blobs are removed under the lock of the index, a few at a time, each time
after following entries that were added to the index meanwhile. A manifest is removed before its blobs and children: if
its lease turns out to be renewed, they can still be kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

from registry_adapters.layout.blobs import open_blob, remove_expired
from registry_adapters.layout.directory import PARTIAL, Directory
from registry_adapters.layout.files import changed_at
from registry_adapters.layout.layout import PARTIAL_FILE_AGE, Layout, blob_dirs
from registry_core.cancellation import checkpoint
from registry_core.content.operating_system import require_file_locks
from registry_core.content.safe_files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from registry_core.content.streams import MANIFEST_LIMIT, read_limited
from registry_core.content.verify import Verifier
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest, digests_in
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import CONTAINERD_NAME, REF_NAME, is_index, is_manifest
from registry_core.domain.reports import PruneReport
from registry_core.errors import (
    IntegrityError,
    InvalidDigest,
    InvalidDocument,
    InvalidValue,
    TooLarge,
    Unsupported,
)

__all__ = ["GRACE", "DescriptorRef", "Reachability", "prune_layout", "references_in"]

GRACE: Final = 3600.0

_SHORTEST_GRACE: Final = 2.0

# Blobs removed in a row while the index is locked.
_BATCH_SIZE: Final = 64

_NAME_ANNOTATIONS: Final = frozenset({REF_NAME, CONTAINERD_NAME})


class DescriptorRef(NamedTuple):
    """A reference to a blob in a document.

    Attributes:
        digest: Digest of the blob.
        media_type: Media type of the blob; empty if it is unknown.
        is_document: Whether the blob may have references itself. Configurations and layers have none.
        data: Content of the blob, if it is embedded in its descriptor.
    """

    digest: Digest
    media_type: str
    is_document: bool
    data: bytes | None = None


class Reachability:
    """The digests that can be reached from entries of the index.

    A manifest does not need its subject, which may be absent (image-spec manifest.md). A document of an unknown media
    type needs everything that it refers to.

    Args:
        directory: Directory of the layout.

    Attributes:
        digests: Digests reached so far.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._followed: set[Digest] = set()
        self.digests: set[Digest] = set()

    def add_entries(self, entries: Iterable[Descriptor]) -> list[Digest]:
        """Add everything that entries of the index lead to.

        Returns:
            Digests that were not reached before.

        Raises:
            IntegrityError: A manifest is corrupt, so its references are unknown.
            TooLarge: A manifest is too large to read.
            LayoutError: A blob is not a regular file.
        """
        return self._add(DescriptorRef(entry.digest, entry.media_type, True, entry.data) for entry in entries)

    def add_blob(self, digest: Digest) -> None:
        """Add a blob that nothing refers to, and its references if it is a document."""
        self.digests.add(digest)
        self._followed.add(digest)
        self._add(self.references_of(digest))

    def references_of(self, digest: Digest) -> list[DescriptorRef]:
        """Return the references in a blob; none if it is corrupt or not a JSON document."""
        try:
            content = self._read_document(digest, None)
        except IntegrityError:
            return []
        return [] if content is None else references_in(content, "")

    def subject_of(self, entry: Descriptor) -> Digest | None:
        """Return the digest of a manifest's subject; ``None`` without a subject or if the blob is not a manifest.

        Raises:
            IntegrityError: The manifest is corrupt, so its subject is unknown.
            TooLarge: The manifest is too large to read.
        """
        try:
            content = self._read_document(entry.digest, entry.media_type)
            manifest = None if content is None else RawManifest.of(content, expected=entry.media_type)
            subject = None if manifest is None else manifest.subject
        except (InvalidDocument, Unsupported):
            return None
        return None if subject is None else subject.digest

    def _add(self, references: Iterable[DescriptorRef]) -> list[Digest]:
        new: list[Digest] = []
        pending = list(references)
        while pending:
            checkpoint()
            reference = pending.pop()
            if reference.digest not in self.digests:
                self.digests.add(reference.digest)
                new.append(reference.digest)
            if not reference.is_document or reference.digest in self._followed:
                continue
            self._followed.add(reference.digest)
            content = self._read_document(reference.digest, reference.media_type)
            if content is None:
                content = reference.data
            if content is not None:
                pending.extend(references_in(content, reference.media_type))
        return new

    def _read_document(self, digest: Digest, media_type: str | None) -> bytes | None:
        file = open_blob(self._directory, digest)
        if file is None:
            return None
        with file:
            if file.status().st_size > MANIFEST_LIMIT:
                if media_type is not None and is_manifest(media_type):
                    raise TooLarge(f"manifest {digest}: too large to read its references")
                return None
            if media_type is None or not is_manifest(media_type):
                # A JSON document starts with a brace, perhaps after whitespace; most other blobs do not.
                first = file.read(1)
                file.seek(0)
                if first not in (b"{", b" ", b"\n", b"\t", b"\r"):
                    return None
            content = read_limited(file, MANIFEST_LIMIT, what="a manifest")
        verifier = Verifier(digest, None)
        verifier.update(content)
        verifier.finish()
        return content


def references_in(content: bytes, media_type: str) -> list[DescriptorRef]:
    """Return the references in a document: those of a manifest, otherwise every descriptor and digest in it.

    Args:
        content: The document. Content that is not JSON has no references.
        media_type: Declared media type; empty if it is unknown.
    """
    try:
        if not media_type or is_manifest(media_type):
            manifest = RawManifest.of(content, expected=media_type)
            if is_index(manifest.media_type):
                return [DescriptorRef(child.digest, child.media_type, True, child.data) for child in manifest.children]
            if is_manifest(manifest.media_type):
                return [DescriptorRef(child.digest, child.media_type, False) for child in manifest.children]
    except (InvalidDocument, Unsupported):
        # It cannot be used as a manifest, but what it refers to is kept all the same.
        pass
    try:
        return list(_find_descriptors(strict_json.decode(content)))
    except InvalidDocument:
        return []


def _find_descriptors(mapping: dict[str, Any]) -> Iterator[DescriptorRef]:
    # Digests that are no part of a descriptor are kept too: it is unknown which of them the document needs. They come
    # first, since references are followed from the last one, and those with a media type are followed more strictly.
    yield from (DescriptorRef(digest, "", True) for digest in digests_in(mapping))
    pending: list[Any] = [mapping]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
            media_type = value.get("mediaType")
            try:
                yield DescriptorRef(Digest(value["digest"]), media_type if isinstance(media_type, str) else "", True)
            except (KeyError, InvalidDigest):
                continue


def prune_layout(
    layout: Layout,
    *,
    grace: float = GRACE,
    untagged: bool = False,
    is_dry_run: bool = False,
    clock: Callable[[], float] | None = None,
) -> PruneReport:
    """Remove blobs that nothing in a layout refers to, and temporary files of killed writers.

    Args:
        layout: Layout of the repository.
        grace: Minimum age in seconds of anything that is removed. It must be longer than a push takes from its first
            blob to its last manifest.
        untagged: Whether to remove manifests without a tag, too, unless a manifest that stays refers to them or is
            their subject.
        is_dry_run: Whether to remove nothing.
        clock: Function that returns the time as the file system knows it. By default, a probe file is created to read
            that time, because the clock of a network file system may differ. A dry run uses the local clock.

    Raises:
        RepositoryNotFound: The layout does not exist.
        InvalidValue: The grace period is less than two seconds.
        IntegrityError: A manifest is corrupt, so its references are unknown; no blob is removed.
        Unsupported: The operating system has no ``flock``.
    """
    if not grace >= _SHORTEST_GRACE:
        raise InvalidValue(f"grace must be at least {_SHORTEST_GRACE:g} seconds, not {grace!r:.50}")
    require_file_locks("prune a layout", "which keeps blobs that a writer relies on")
    with layout.open() as directory:
        if directory is None:
            raise layout.not_found()
        now = (clock or time.time)()
        if clock is None and not is_dry_run:
            # The earlier of the two times, by which everything is younger.
            now = min(now, directory.probe().st_mtime)
        return _Pruner(layout, directory, now, grace, is_dry_run=is_dry_run).run(untagged=untagged)


class _Pruner:
    def __init__(self, layout: Layout, directory: Directory, now: float, grace: float, *, is_dry_run: bool) -> None:
        self._layout = layout
        self._directory = directory
        self._expiry = now - grace
        self._temporary_expiry = now - max(grace, GRACE)
        self._partial_expiry = now - max(grace, PARTIAL_FILE_AGE)
        self._is_dry_run = is_dry_run
        self._reachability = Reachability(directory)
        self._followed_index = b""
        self._removed_blobs: list[Digest] = []
        self._removed_entries: list[Digest] = []
        self._removed_bytes = 0
        self._stale_files = 0

    def run(self, *, untagged: bool) -> PruneReport:
        with blob_dirs(self._directory) as dirs:
            if untagged:
                with self._locked_index():
                    self._remove_untagged_entries(dirs)
            self._follow_index()
            unreferenced, count = self._find_unreferenced(dirs)
            self._remove_unreachable(dirs, self._parents_first(unreferenced))
            for directory in (self._directory, *dirs.values()):
                self._remove_stale_files(directory)
        return PruneReport(
            blobs=tuple(self._removed_blobs),
            untagged=tuple(self._removed_entries),
            stale_files=self._stale_files,
            bytes=self._removed_bytes,
            kept=count - len(unreferenced),
            kept_young=len(unreferenced) - len(self._removed_blobs),
            is_dry_run=self._is_dry_run,
        )

    def _locked_index(self) -> AbstractContextManager[None]:
        return nullcontext() if self._is_dry_run else self._layout.locked(self._directory)

    def _follow_index(self) -> None:
        index = self._layout.index(self._directory)
        content = index.encode()
        if content != self._followed_index:
            # A dry run leaves these entries in the file. Otherwise, an entry that is there again was added since.
            removed = set(self._removed_entries) if self._is_dry_run else set()
            self._reachability.add_entries(entry for entry in index.entries if entry.digest not in removed)
            self._followed_index = content

    def _remove_untagged_entries(self, dirs: dict[str, Directory]) -> None:
        index = self._layout.index(self._directory)
        named = {entry.digest for entry in index.entries if _is_named(entry)}
        untagged = [entry for entry in index.entries if entry.digest not in named]
        roots = [entry for entry in index.entries if entry.digest in named]
        roots += [entry for entry in untagged if not self._is_expired(dirs, entry.digest)]
        referrers: dict[Digest, list[Descriptor]] = {}
        for entry in untagged:
            subject = self._reachability.subject_of(entry)
            if subject is not None:
                referrers.setdefault(subject, []).append(entry)
        pending = deque(self._reachability.add_entries(roots))
        while pending:
            checkpoint()
            pending.extend(self._reachability.add_entries(referrers.pop(pending.popleft(), ())))
        self._removed_entries = sorted({entry.digest for entry in untagged} - self._reachability.digests)
        if self._removed_entries and not self._is_dry_run:
            for digest in self._removed_entries:
                index = index.without_manifest(digest)
            self._layout.write_index(self._directory, index)

    def _is_expired(self, dirs: dict[str, Directory], digest: Digest) -> bool:
        blob_dir = dirs.get(digest.algorithm)
        try:
            return blob_dir is not None and changed_at(blob_dir.status(digest.encoded)) < self._expiry
        except OSError:
            # The manifest is not in the layout, so its age is unknown.
            return False

    def _find_unreferenced(self, dirs: dict[str, Directory]) -> tuple[set[Digest], int]:
        unreferenced: set[Digest] = set()
        young: list[Digest] = []
        count = 0
        for algorithm, blob_dir in dirs.items():
            for name, status in blob_dir.files():
                digest = _blob_digest(algorithm, name)
                if digest is None:
                    continue
                count += 1
                if digest not in self._reachability.digests:
                    unreferenced.add(digest)
                    if changed_at(status) >= self._expiry:
                        young.append(digest)
        for digest in young:
            self._reachability.add_blob(digest)
        return unreferenced, count

    def _parents_first(self, unreferenced: set[Digest]) -> list[Digest]:
        """Return the blobs to remove, each after all blobs that refer to it. Blobs in a cycle are left out."""
        candidates = unreferenced - self._reachability.digests
        children: dict[Digest, list[Digest]] = {}
        parent_count: dict[Digest, int] = {}
        for digest in candidates:
            checkpoint()
            references = {reference.digest for reference in self._reachability.references_of(digest)}
            found = sorted(references & candidates - {digest})
            if found:
                children[digest] = found
                for child in found:
                    parent_count[child] = parent_count.get(child, 0) + 1
        ready = deque(sorted(digest for digest in candidates if digest not in parent_count))
        ordered: list[Digest] = []
        while ready:
            digest = ready.popleft()
            ordered.append(digest)
            for child in children.get(digest, ()):
                parent_count[child] -= 1
                if not parent_count[child]:
                    ready.append(child)
        return ordered

    def _remove_unreachable(self, dirs: dict[str, Directory], ordered: list[Digest]) -> None:
        for start in range(0, len(ordered), _BATCH_SIZE):
            checkpoint()
            with self._locked_index():
                self._follow_index()
                for digest in ordered[start : start + _BATCH_SIZE]:
                    if digest not in self._reachability.digests:
                        self._remove_blob(dirs[digest.algorithm], digest)

    def _remove_blob(self, blob_dir: Directory, digest: Digest) -> None:
        status = remove_expired(blob_dir, digest.encoded, self._expiry, is_dry_run=self._is_dry_run)
        if status is None:
            self._reachability.add_blob(digest)
            return
        self._removed_blobs.append(digest)
        if status.st_nlink == 1:
            self._removed_bytes += status.st_size

    def _remove_stale_files(self, directory: Directory) -> None:
        for name, status in list(directory.files()):
            expiry = self._expiry_of(name)
            if expiry is None or changed_at(status) >= expiry:
                continue
            # A writer that continues a partial file holds a lock on it, so the file stays.
            if remove_expired(directory, name, expiry, is_dry_run=self._is_dry_run) is not None:
                self._stale_files += 1
                self._removed_bytes += status.st_size

    def _expiry_of(self, name: str) -> float | None:
        if not name.startswith(TEMPORARY_PREFIX):
            return None
        if name.endswith(PARTIAL):
            return self._partial_expiry
        return self._temporary_expiry if name.endswith(TEMPORARY_SUFFIX) else None


def _is_named(entry: Descriptor) -> bool:
    # entries of unknown media types are kept like named ones.
    return not _NAME_ANNOTATIONS.isdisjoint(entry.annotations) or not is_manifest(entry.media_type)


def _blob_digest(algorithm: str, name: str) -> Digest | None:
    try:
        digest = Digest(f"{algorithm}:{name}")
    except InvalidDigest:
        return None
    return digest if digest.verifiable else None
