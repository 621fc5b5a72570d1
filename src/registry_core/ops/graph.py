"""Graphs of manifests: an index, what it lists, and so on down (R-024)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import is_manifest, is_schema1
from registry_core.domain.names import Tag
from registry_core.errors import DigestMismatch, SizeMismatch, TooLarge, during
from registry_core.ports.repository import Repository
from registry_core.scope import checkpoint

__all__ = ["DEPTH_LIMIT", "NODE_LIMIT", "child", "fetch", "is_child_manifest", "walk"]

DEPTH_LIMIT = 16
NODE_LIMIT = 10_000


def fetch(repository: Repository, reference: Tag | Digest) -> RawManifest:
    """A manifest by tag or digest; by digest, its bytes are checked whatever the backend did (R-003).

    Raises:
        ImageNotFound: No such manifest.
        DigestMismatch: The backend holds other bytes.
        InvalidDocument: What it holds is no manifest.
        Unsupported: Its digest cannot be verified.
    """
    checkpoint()
    if isinstance(reference, Digest) and not reference.verifiable:
        # Not even asked for: nobody could tell what comes.
        with during("", repository.at(reference)):
            reference.hasher()
    raw = repository.manifests.get(reference)
    if isinstance(reference, Digest):
        actual = Digest.of(raw.content, reference.algorithm)
        if actual != reference:
            raise DigestMismatch(
                f"hashes to {actual} instead of {reference}",
                expected=reference,
                actual=actual,
                reference=repository.at(reference),
            )
        if raw.algorithm != reference.algorithm:
            raw = RawManifest(raw.media_type, raw.content, reference.algorithm)
    return raw


def child(repository: Repository, descriptor: Descriptor) -> RawManifest:
    """The manifest that a descriptor points at: embedded or fetched, checked against it in either case.

    Raises:
        ImageNotFound: No such manifest.
        SizeMismatch: It is shorter or longer than the descriptor says.
        DigestMismatch: It hashes to something else.
        InvalidDocument: It is not of the type that the descriptor says (R-020).
        Unsupported: Its digest cannot be verified, or it is a Docker schema 1 manifest.
    """
    reference = repository.at(descriptor.digest)
    with during("", reference):
        content = descriptor.embedded()
        claimed = ""
        if content is None:
            raw = fetch(repository, descriptor.digest)
            content, claimed = raw.content, raw.media_type
        if len(content) != descriptor.size:
            raise SizeMismatch(
                f"{len(content)} bytes instead of the promised {descriptor.size}",
                expected=descriptor.size,
                actual=len(content),
            )
        return RawManifest.of(
            content, claimed=claimed, expected=descriptor.media_type, algorithm=descriptor.digest.algorithm
        )


def is_child_manifest(parent: RawManifest, descriptor: Descriptor) -> bool:
    """Whether a part of a manifest is a manifest of a known kind, rather than a blob."""
    return parent.is_index and (is_manifest(descriptor.media_type) or is_schema1(descriptor.media_type))


def walk(
    repository: Repository, root: RawManifest, *, skip: Callable[[Descriptor], bool] = lambda _: False
) -> Iterator[RawManifest]:
    """All manifests of a graph, each once, children before parents and the root last.

    Only the path from the root to where the walk stands is held in memory.

    Args:
        repository: Where the children are.
        root: Where to start.
        skip: Asked once for each child; one that is skipped is not fetched, and neither is what lies below it.

    Raises:
        TooLarge: It is deeper, or has more manifests, than any honest graph.
        NotFound: A child is missing.
        IntegrityError: A child is not what its parent says.
        InvalidDocument: A manifest is malformed.
    """
    seen: set[str] = {root.digest}
    path: list[tuple[RawManifest, Iterator[Descriptor]]] = [(root, _manifests(root))]
    while path:
        checkpoint()
        manifest, children = path[-1]
        descriptor = next(children, None)
        if descriptor is None:
            path.pop()
            yield manifest
            continue
        if descriptor.digest in seen:
            continue
        seen.add(descriptor.digest)
        if len(seen) > NODE_LIMIT:
            raise TooLarge(f"more than {NODE_LIMIT} manifests", reference=repository.at(root.digest))
        if len(path) >= DEPTH_LIMIT:
            raise TooLarge(f"nested more than {DEPTH_LIMIT} deep", reference=repository.at(root.digest))
        if skip(descriptor):
            continue
        found = child(repository, descriptor)
        path.append((found, _manifests(found)))


def _manifests(manifest: RawManifest) -> Iterator[Descriptor]:
    return (part for part in manifest.children if is_child_manifest(manifest, part))
