"""What a run begins with: what references stand for, and what becomes of their tags."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.domain.referrers import digest_tags
from registry_core.errors import ImageNotFound
from registry_core.ops.graph import fetch
from registry_core.ops.transfer.choices import CopyChoices
from registry_core.ops.transfer.hands import Hands
from registry_core.ops.transfer.ledger import Job
from registry_core.ops.transfer.nodes import Action
from registry_core.ops.transfer.shelf import Shelf
from registry_core.ops.transfer.sides import Blame
from registry_core.ops.transfer.subset import subset
from registry_core.ops.transfer.tasks import CopyTask, Follower
from registry_core.ops.transfer.telling import Teller
from registry_core.scope import checkpoint

__all__ = ["Found", "Root", "Roots"]

Found = Callable[[CopyTask, Follower, Descriptor, bool], None]


class Root(msgspec.Struct, frozen=True):
    """A manifest with nothing above it, and the tags that have to be pointed at it."""

    raw: RawManifest
    tags: tuple[Tag, ...]


class Roots:
    """Finds what there is to do, by asking both sides as little as possible.

    Args:
        hands: What touches the target.
        blame: Who names errors.
        choices: What of each graph is copied.
        shelf: Manifests that are at hand, and where to leave them for later.
        teller: Told what becomes of tags that need not be set.
        found: Told what a task's reference stands for and which tags will be set, and then the same of each of its
            followers; with what the target gets, and whether there is anything to do.
    """

    def __init__(
        self,
        hands: Hands,
        blame: Blame,
        choices: CopyChoices,
        shelf: Shelf,
        teller: Teller,
        found: Found,
    ) -> None:
        self._hands = hands
        self._blame = blame
        self._choices = choices
        self._shelf = shelf
        self._teller = teller
        self._found = found

    def open(self, job: Job) -> Root | None:
        """The manifest that a task is about; ``None`` if nothing has to be done about it.

        Raises:
            RegistryError: One side failed.
        """
        task, reference = job.task, job.task.reference
        standing: dict[Tag, Digest | None] | None = None
        if isinstance(reference, Tag) and task.tags:
            # Most of what a mirror looks at is there: that is seen without reading anything.
            with self._blame.source(task.source.at(reference)):
                checkpoint()
                known = task.source.manifests.resolve(reference)
            reference, standing = known.digest, self._standing(job, task.tags)
            if self._is_known(known, standing):
                self._wanted(job, known, task.tags, standing)
                self._found(task, Follower(known), known, False)
                return None
        elif task.tags and self._asks:
            standing = self._standing(job, task.tags)
        named = reference.digest if isinstance(reference, RawManifest) else reference
        with self._blame.source(task.source.at(named)):
            raw = reference if isinstance(reference, RawManifest) else self._fetched(job, reference)
            job.subset = subset(task.source, raw, self._choices)
        self._shelf.put(raw)
        root = job.subset.root
        tags = self._wanted(job, root.descriptor, task.tags, standing)
        # If all of its tags are somebody else's there, it is not wanted.
        is_wanted = bool(tags) or not task.tags or root.digest in (standing or {}).values()
        self._found(task, Follower(raw.descriptor, tags), root.descriptor, is_wanted)
        return Root(root, tags) if is_wanted else None

    def following(self, job: Job, subject: Digest) -> Iterator[Follower]:
        """What the source has that refers to a manifest, as far as it is asked for.

        Raises:
            RegistryError: The source failed.
        """
        source = job.pair.source
        if self._choices.referrers:
            with self._blame.source(source.at(subject)):
                for entry in source.manifests.referrers(subject):
                    checkpoint()
                    yield Follower(entry)
        if self._choices.digest_tags:
            for tag in digest_tags(subject):
                try:
                    with self._blame.source(source.at(tag)):
                        checkpoint()
                        entry = source.manifests.resolve(tag)
                except ImageNotFound:
                    continue
                yield Follower(entry, (tag,))

    def wanted(self, job: Job, follower: Follower) -> Follower | None:
        """A follower with the tags that have to be set; ``None`` if all of its tags are somebody else's there.

        Raises:
            RegistryError: The target failed.
        """
        entry, tags = follower.descriptor, follower.tags
        standing = self._standing(job, tags) if tags and self._asks else None
        wanted = self._wanted(job, entry, tags, standing)
        if tags and not wanted and entry.digest not in (standing or {}).values():
            return None
        left = Follower(entry, wanted)
        self._found(job.task, left, entry, True)
        return left

    @property
    def _asks(self) -> bool:
        return self._hands.asks_tags or not self._choices.overwrite

    def _is_known(self, known: Descriptor, standing: dict[Tag, Digest | None]) -> bool:
        """Whether nothing has to be read to see that nothing has to be done."""
        choices = self._choices
        if choices.referrers or choices.digest_tags or choices.platforms or choices.repair:
            return False
        there = all(digest == known.digest for digest in standing.values())
        return there or (not choices.overwrite and None not in standing.values())

    def _standing(self, job: Job, tags: tuple[Tag, ...]) -> dict[Tag, Digest | None]:
        """What some tags stand for in the target just now."""
        target = job.pair.target
        found: dict[Tag, Digest | None] = {}
        for tag in tags:
            try:
                with self._blame.target(target.at(tag)):
                    checkpoint()
                    found[tag] = target.manifests.resolve(tag).digest
            except ImageNotFound:
                found[tag] = None
        return found

    def _wanted(
        self, job: Job, root: Descriptor, tags: tuple[Tag, ...], standing: dict[Tag, Digest | None] | None
    ) -> tuple[Tag, ...]:
        """The tags that have to be set; what becomes of the others is told."""
        if standing is None:
            return tags
        wanted = []
        for tag in tags:
            held = standing[tag]
            if held == root.digest:
                self._teller.tag(job, root, tag, Action.SKIP)
            elif held is not None and not self._choices.overwrite:
                self._teller.tag(job, root, tag, Action.KEEP)
            else:
                wanted.append(tag)
        return tuple(wanted)

    def _fetched(self, job: Job, reference: Tag | Digest) -> RawManifest:
        held = None if isinstance(reference, Tag) else self._shelf.get(reference)
        return held or fetch(job.pair.source, reference)
