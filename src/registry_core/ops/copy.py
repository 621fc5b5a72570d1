"""One copy for everything: pull, push, mirror, import and export move a graph from repository to repository."""

from __future__ import annotations

from collections.abc import Collection

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.domain.reference import locator
from registry_core.errors import during
from registry_core.ops.graph import fetch
from registry_core.ops.transfer.choices import CopyChoices
from registry_core.ops.transfer.plan import move
from registry_core.ops.transfer.tasks import CopyTask
from registry_core.ports.observer import Observer
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["copy", "move_graph"]


def copy(
    source: Repository,
    target: Repository,
    reference: Tag | Digest | RawManifest | str,
    *,
    tags: Collection[Tag] = (),
    choices: CopyChoices | None = None,
    observer: Observer | None = None,
    jobs: int = 4,
) -> Descriptor:
    """Move a manifest and all it is made of from one repository to another, byte for byte (R-026).

    A tag is resolved once and never asked for again (R-012). What the target has is not moved, and what
    lies beside it in the same registry is mounted. Parts come before wholes and tags last (R-070), so that an
    interrupted copy is never visible as an image. The subject of a manifest and its referrers are not parts of it, and
    layers that may not be distributed are left out (R-032): ``choices`` asks for them, or for some platforms only.

    Args:
        source: Where to read.
        target: Where to write.
        reference: The manifest by tag or digest, or the manifest itself if it is at hand.
        tags: Tags to point at it in the target; with none it is stored by its digest alone.
        choices: What of the graph is copied; by default the whole, and nothing that merely refers to it.
        observer: Told of each blob that is moved, mounted or skipped, and how far it has come, from the threads that
            do it. What it raises ends the copy.
        jobs: How many blobs move at a time.

    Returns:
        The descriptor of what was copied: of the new index, if one was rewritten.

    Raises:
        ImageNotFound: The source has no such manifest.
        NotFound: A part of it is missing in the source.
        PlatformNotFound: Nothing there is for any of the platforms.
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
        return move_graph(source, target, root, tags=tags, choices=choices, observer=observer, jobs=jobs)


def move_graph(
    source: Repository,
    target: Repository,
    root: RawManifest,
    *,
    tags: Collection[Tag] = (),
    choices: CopyChoices | None = None,
    observer: Observer | None = None,
    jobs: int = 4,
    operation: str = "copy",
) -> Descriptor:
    """As ``copy``, of a manifest at hand, for operations that have a name of their own.

    Raises:
        InvalidValue: There are no jobs to do it with, or a tag is malformed.
        RegistryError: One side failed.
    """
    task = CopyTask(source=source, target=target, reference=root, tags=tags)  # type: ignore[arg-type]
    stored: list[Descriptor] = []
    move(
        [task],
        choices or CopyChoices(),
        operation=operation,
        observer=observer,
        jobs=jobs,
        found=lambda task, follower, root, to_do: stored.append(root),
    )
    return stored[0]
