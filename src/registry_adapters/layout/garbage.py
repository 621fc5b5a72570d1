"""Garbage collection: what nothing in a layout refers to goes, while others write to it.

Marking reads without a lock. Removing happens under the lock of the index, a few blobs at a time, after a look at what
has been added to the index since. Manifests go before what they name, so that one that somebody
counts on after all can still keep its parts.

What a layout needs: everything that its entries lead to. Only digests are kept.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Final, NamedTuple

from registry_adapters.layout.blobs import changed_at, open_blob, remove_expired
from registry_adapters.layout.directory import PARTIAL, Directory
from registry_adapters.layout.index import IndexFile
from registry_adapters.layout.layout import BLOBS, Layout
from registry_core.cancellation import checkpoint
from registry_core.content.safe_files import TEMPORARY_PREFIX, TEMPORARY_SUFFIX
from registry_core.content.streams import MANIFEST_LIMIT, read_limited
from registry_core.content.verify import Verifier
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import CONTAINERD_NAME, REF_NAME, is_index, is_manifest
from registry_core.domain.reports import PruneReport
from registry_core.errors import (
    IntegrityError,
    InvalidDigest,
    InvalidDocument,
    InvalidValue,
    RepositoryNotFound,
    TooLarge,
    Unsupported,
)

__all__ = ["GRACE", "DescriptorRef", "Reachability", "blob_dirs", "links_in", "prune_layout"]


class DescriptorRef(NamedTuple):
    """One digest that a document names.

    ``is_document`` tells whether what it names may name others; configurations and layers never do.
    """

    digest: Digest
    media_type: str
    is_document: bool
    data: bytes | None = None


class Reachability:
    """The digests that are needed, found from roots.

    The subject of a manifest is not needed by it: that is a weak association, and it may be absent (image-spec
    manifest.md). Documents of types that nobody knows need whatever they name.

    Args:
        directory: Of the layout.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._read: set[Digest] = set()
        self.kept: set[Digest] = set()

    def add(self, roots: Iterable[Descriptor]) -> list[Digest]:
        """Mark what entries of an index lead to.

        Returns:
            What was not marked before.

        Raises:
            IntegrityError: A manifest is corrupt, so that nobody can tell what it needs.
            TooLarge: One is too large to be read.
            LayoutError: Something else than a file stands where one should be.
        """
        return self._follow(DescriptorRef(root.digest, root.media_type, True, root.data) for root in roots)

    def keep(self, digest: Digest) -> None:
        """Mark a blob that nothing refers to so far, and what it names, if it is a document."""
        self.kept.add(digest)
        self._read.add(digest)
        self._follow(self.links_of(digest))

    def links_of(self, digest: Digest) -> list[DescriptorRef]:
        """What a blob names, if it is a sound document of any kind."""
        try:
            content = self._content(digest, None)
        except IntegrityError:
            return []
        return [] if content is None else links_in(content, "")

    def subject_of(self, entry: Descriptor) -> Digest | None:
        """What a manifest refers to, if it is one.

        Raises:
            IntegrityError: It is corrupt, so that nobody can tell.
            TooLarge: It is too large to be read.
        """
        try:
            content = self._content(entry.digest, entry.media_type)
            manifest = None if content is None else RawManifest.of(content, expected=entry.media_type)
            subject = None if manifest is None else manifest.subject
        except (InvalidDocument, Unsupported):
            return None
        return None if subject is None else subject.digest

    def _follow(self, links: Iterable[DescriptorRef]) -> list[Digest]:
        new: list[Digest] = []
        waiting = list(links)
        while waiting:
            checkpoint()
            link = waiting.pop()
            if link.digest not in self.kept:
                self.kept.add(link.digest)
                new.append(link.digest)
            if not link.is_document or link.digest in self._read:
                continue
            self._read.add(link.digest)
            content = self._content(link.digest, link.media_type)
            if content is None and link.data is not None:
                content = link.data
            if content is not None:
                waiting.extend(links_in(content, link.media_type))
        return new

    def _content(self, digest: Digest, media_type: str | None) -> bytes | None:
        file = open_blob(self._directory, digest)
        if file is None:
            return None
        with file:
            if file.status().st_size > MANIFEST_LIMIT:
                if media_type is not None and is_manifest(media_type):
                    raise TooLarge(f"{digest} is too large to tell what it needs")
                return None
            if media_type is None or not is_manifest(media_type):
                # A document begins with a brace; most of what is no document is told apart by that.
                first = file.read(1)
                file.seek(0)
                if first not in (b"{", b" ", b"\n", b"\t", b"\r"):
                    return None
            content = read_limited(file, MANIFEST_LIMIT, what="a manifest")
        verifier = Verifier(digest, None)
        verifier.update(content)
        verifier.finish()
        return content


def links_in(content: bytes, media_type: str) -> list[DescriptorRef]:
    """What a document names, by its type if that is known, or else whatever looks like a descriptor in it.

    Args:
        content: The document; what is no JSON names nothing.
        media_type: What it is said to be; empty where nothing is said.
    """
    try:
        if not media_type or is_manifest(media_type):
            manifest = RawManifest.of(content, expected=media_type)
            if is_index(manifest.media_type):
                return [DescriptorRef(part.digest, part.media_type, True, part.data) for part in manifest.children]
            if is_manifest(manifest.media_type):
                return [DescriptorRef(part.digest, part.media_type, False) for part in manifest.children]
    except (InvalidDocument, Unsupported):
        # Nobody can use it as what it says it is; what it names is kept all the same.
        media_type = ""
    try:
        return list(_described(strict_json.decode(content)))
    except InvalidDocument:
        return []


def _described(mapping: dict[str, Any]) -> Iterator[DescriptorRef]:
    waiting: list[Any] = [mapping]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            kind = value.get("mediaType")
            try:
                yield DescriptorRef(Digest(value["digest"]), kind if isinstance(kind, str) else "", True)
            except (KeyError, InvalidDigest):
                continue


GRACE: Final = 3600.0

# What can be continued is worth keeping for longer.
_PARTIAL_GRACE: Final = 7 * 24 * 3600.0

_SHORTEST: Final = 2.0

_BATCH: Final = 64

_NAMES: Final = frozenset({REF_NAME, CONTAINERD_NAME})


def prune_layout(
    place: Layout,
    *,
    grace: float = GRACE,
    untagged: bool = False,
    is_dry_run: bool = False,
    clock: Callable[[], float] | None = None,
) -> PruneReport:
    """Remove what nothing in a layout refers to, and what killed writers have left.

    Args:
        place: Of the layout.
        grace: How old, in seconds, anything must be to go: longer than any push takes from its first blob to its last
            manifest.
        untagged: Whether manifests without a tag go too, unless something that stays needs or is their subject.
        is_dry_run: Whether to only say what would go.
        clock: Tells the time as files have it. If none is given, a file is made to see what time it gets: the clock of
            a network file system need not be ours. A dry run makes none, and goes by ours.

    Raises:
        RepositoryNotFound: No such layout.
        InvalidValue: The grace period is too short for anybody to count on it.
        IntegrityError: A manifest is corrupt, so that nobody can tell what is needed; no blob is removed.
        Unsupported: The system does not lock files.
    """
    if not grace >= _SHORTEST:
        raise InvalidValue(f"a grace period of less than {_SHORTEST:g} seconds: {grace!r:.50}")
    with place.open() as directory:
        if directory is None:
            raise RepositoryNotFound("no image layout there")
        now = (clock or time.time)()
        if clock is None and not is_dry_run:
            # Of two clocks, the one by which everything is younger.
            now = min(now, directory.probe().st_mtime)
        return _Collection(place, directory, now, grace, is_dry_run=is_dry_run).run(untagged=untagged)


@contextmanager
def blob_dirs(directory: Directory) -> Iterator[dict[str, Directory]]:
    """The directories of a layout's blobs, by algorithm, open."""
    with ExitStack() as stack:
        found: dict[str, Directory] = {}
        blobs = directory.child(BLOBS)
        if blobs is not None:
            stack.enter_context(blobs)
            for algorithm in sorted(blobs.directories()):
                shelf = blobs.child(algorithm)
                if shelf is not None:
                    found[algorithm] = stack.enter_context(shelf)
        yield found


class _Collection:
    def __init__(self, place: Layout, directory: Directory, now: float, grace: float, *, is_dry_run: bool) -> None:
        self._place = place
        self._directory = directory
        self._moment = now - grace
        self._leftover_moment = now - max(grace, GRACE)
        self._partial_moment = now - max(grace, _PARTIAL_GRACE)
        self._is_dry_run = is_dry_run
        self._marks = Reachability(directory)
        self._known = b""
        self._removed: list[Digest] = []
        self._entries: list[Digest] = []
        self._bytes = 0
        self._leftovers = 0

    def run(self, *, untagged: bool) -> PruneReport:
        with blob_dirs(self._directory) as found:
            if untagged:
                with self._locked():
                    self._forget_untagged(found)
            self._mark_entries()
            orphans, count = self._orphans(found)
            ordered = self._parents_first(orphans)
            self._sweep(found, ordered)
            for directory in (self._directory, *found.values()):
                self._remove_leftovers(directory)
        return PruneReport(
            blobs=tuple(self._removed),
            untagged=tuple(self._entries),
            stale_files=self._leftovers,
            bytes=self._bytes,
            kept=count - len(orphans),
            kept_young=len(orphans) - len(self._removed),
            is_dry_run=self._is_dry_run,
        )

    def _locked(self) -> AbstractContextManager[None]:
        return nullcontext() if self._is_dry_run else self._place.locked(self._directory)

    def _mark_entries(self) -> None:
        index = self._place.index(self._directory)
        content = index.encode()
        if content != self._known:
            dropped = set(self._entries) if self._is_dry_run else set()
            self._marks.add(entry for entry in index.entries if entry.digest not in dropped)
            self._known = content

    def _forget_untagged(self, found: dict[str, Directory]) -> None:
        index = self._place.index(self._directory)
        wanted = {entry.digest for entry in index.entries if _is_wanted(entry)}
        nameless = [entry for entry in index.entries if entry.digest not in wanted]
        roots = [entry for entry in index.entries if entry.digest in wanted]
        roots += [entry for entry in nameless if not self._is_old(found, entry.digest)]
        about: dict[Digest, list[Descriptor]] = {}
        for entry in nameless:
            subject = self._marks.subject_of(entry)
            if subject is not None:
                about.setdefault(subject, []).append(entry)
        waiting = deque(self._marks.add(roots))
        while waiting:
            checkpoint()
            waiting.extend(self._marks.add(about.pop(waiting.popleft(), ())))
        self._entries = sorted({entry.digest for entry in nameless} - self._marks.kept)
        if self._entries and not self._is_dry_run:
            self._place.write_index(self._directory, _without(index, self._entries))

    def _is_old(self, found: dict[str, Directory], digest: Digest) -> bool:
        shelf = found.get(digest.algorithm)
        try:
            return shelf is not None and changed_at(shelf.status(digest.encoded)) < self._moment
        except OSError:
            # What is not here is not ours to judge.
            return False

    def _orphans(self, found: dict[str, Directory]) -> tuple[set[Digest], int]:
        orphans: set[Digest] = set()
        young: list[Digest] = []
        count = 0
        for algorithm, shelf in found.items():
            for name, status in shelf.files():
                digest = _named(algorithm, name)
                if digest is None:
                    continue
                count += 1
                if digest not in self._marks.kept:
                    orphans.add(digest)
                    if changed_at(status) >= self._moment:
                        young.append(digest)
        for digest in young:
            self._marks.keep(digest)
        return orphans, count

    def _parents_first(self, orphans: set[Digest]) -> list[Digest]:
        """Those that may go, none before what names it."""
        candidates = orphans - self._marks.kept
        parts: dict[Digest, list[Digest]] = {}
        pending: dict[Digest, int] = {}
        for digest in candidates:
            checkpoint()
            inner = sorted({link.digest for link in self._marks.links_of(digest)} & candidates - {digest})
            if inner:
                parts[digest] = inner
                for part in inner:
                    pending[part] = pending.get(part, 0) + 1
        ready = deque(sorted(digest for digest in candidates if digest not in pending))
        ordered: list[Digest] = []
        while ready:
            digest = ready.popleft()
            ordered.append(digest)
            for part in parts.get(digest, ()):
                pending[part] -= 1
                if not pending[part]:
                    ready.append(part)
        return ordered

    def _sweep(self, found: dict[str, Directory], ordered: list[Digest]) -> None:
        for start in range(0, len(ordered), _BATCH):
            checkpoint()
            with self._locked():
                self._mark_entries()
                for digest in ordered[start : start + _BATCH]:
                    if digest not in self._marks.kept:
                        self._remove(found[digest.algorithm], digest)

    def _remove(self, shelf: Directory, digest: Digest) -> None:
        status = remove_expired(shelf, digest.encoded, self._moment, is_dry_run=self._is_dry_run)
        if status is None:
            self._marks.keep(digest)
            return
        self._removed.append(digest)
        if status.st_nlink == 1:
            self._bytes += status.st_size

    def _expiry(self, name: str) -> float | None:
        if not name.startswith(TEMPORARY_PREFIX):
            return None
        if name.endswith(PARTIAL):
            return self._partial_moment
        return self._leftover_moment if name.endswith(TEMPORARY_SUFFIX) else None

    def _remove_leftovers(self, directory: Directory) -> None:
        for name, status in list(directory.files()):
            moment = self._expiry(name)
            if moment is None or changed_at(status) >= moment:
                continue
            # Whoever goes on with a partial file has a lock on it.
            if remove_expired(directory, name, moment, is_dry_run=self._is_dry_run) is not None:
                self._leftovers += 1
                self._bytes += status.st_size


def _is_wanted(entry: Descriptor) -> bool:
    """Whether an entry is more than a manifest without a name: what nobody knows is none of our business (R-305)."""
    return not _NAMES.isdisjoint(entry.annotations) or not is_manifest(entry.media_type)


def _named(algorithm: str, name: str) -> Digest | None:
    try:
        digest = Digest(f"{algorithm}:{name}")
    except InvalidDigest:
        return None
    return digest if digest.verifiable else None


def _without(index: IndexFile, digests: list[Digest]) -> IndexFile:
    for digest in digests:
        index = index.without_manifest(digest)
    return index
