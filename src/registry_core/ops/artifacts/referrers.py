"""Referrers of a manifest, and their referrers: signatures, bills of materials, attestations.

A referrers list is not content-addressed, so only the manifests that it lists can be verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.domain.referrers import filter_by_artifact_type
from registry_core.errors import error_context, error_reference
from registry_core.ops.manifests import DEPTH_LIMIT, NODE_LIMIT, GraphLimits, ManifestQueue
from registry_core.ops.references import locate, parse_reference
from registry_core.ports.catalog import Repository

__all__ = ["Referrer", "list_referrers", "walk_referrers"]


class Referrer(msgspec.Struct, frozen=True):
    """A manifest that refers to another.

    Args:
        descriptor: Descriptor of the manifest, with artifact type and annotations as listed by the registry.
        subject: Digest of the manifest that it refers to.
        depth: 1 for referrers of the first subject, 2 for their referrers, and so on.
    """

    descriptor: Descriptor
    subject: Digest
    depth: int


def list_referrers(
    repository: Repository, subject: Descriptor | Tag | Digest | str, *, artifact_type: str = ""
) -> Iterator[Descriptor]:
    """List the referrers of a manifest, each once.

    Args:
        repository: Repository of the manifest.
        subject: Tag, which is resolved, digest or descriptor; the manifest of a digest may be missing.
        artifact_type: Artifact type of the referrers to list; by default all.

    Raises:
        ImageNotFound: The tag does not exist.
        RepositoryNotFound: The layout or archive does not exist.
        InvalidValue: The reference is malformed.
        TooLarge: There are more referrers than the limit allows.
    """
    with error_context("list_referrers", str(repository)):
        limits = GraphLimits(what="referrers")
        for descriptor in _distinct_referrers(repository, _resolve(repository, subject), artifact_type):
            limits.add(1)
            yield descriptor


def walk_referrers(
    repository: Repository,
    subject: Descriptor | Tag | Digest | str,
    *,
    artifact_type: str = "",
    depth: int = DEPTH_LIMIT,
    limit: int = NODE_LIMIT,
) -> Iterator[Referrer]:
    """List the referrers of a manifest, their referrers, and so on, nearest first, each manifest once.

    Args:
        repository: Repository of the manifest.
        subject: Tag, which is resolved, digest or descriptor.
        artifact_type: Artifact type of the referrers to return; those of other types are followed all the same.
        depth: Greatest allowed depth.
        limit: Greatest allowed number of referrers.

    Raises:
        ImageNotFound: The tag does not exist.
        InvalidValue: The reference is malformed.
        TooLarge: A limit is exceeded.
    """
    with error_context("walk_referrers", str(repository)):
        first = _resolve(repository, subject)
        queue = ManifestQueue(limits=GraphLimits(depth=depth, count=limit, what="referrers"))
        for current in chain([first], (descriptor.digest for descriptor in queue)):
            # Listed without the artifact type: a filter would hide referrers that others lead to.
            for descriptor in _distinct_referrers(repository, current, ""):
                if descriptor.digest == first or not queue.add(descriptor):
                    continue
                if not artifact_type or descriptor.artifact_type == artifact_type:
                    yield Referrer(descriptor, current, queue.depth + 1)


def _distinct_referrers(repository: Repository, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
    with error_reference(repository.at(subject)):
        seen: set[Digest] = set()
        listed = repository.manifests.referrers(subject, artifact_type=artifact_type)
        for descriptor in filter_by_artifact_type(listed, artifact_type):
            checkpoint()
            if descriptor.digest not in seen:
                seen.add(descriptor.digest)
                yield descriptor
        if not seen and repository.names is not None:
            # No store raises here for a missing repository, but a layout or archive that does not exist is an error.
            next(repository.names.images(), None)


def _resolve(repository: Repository, subject: Descriptor | Tag | Digest | str) -> Digest:
    if isinstance(subject, Descriptor):
        return subject.digest
    reference = locate(repository, parse_reference(repository, subject))
    return reference if isinstance(reference, Digest) else repository.manifests.resolve(reference).digest
