"""What refers to a manifest, and what refers to that: signatures, bills of materials, attestations.

Registries make these lists up as they answer, so nothing about them can be verified but the manifests themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

import msgspec

from registry_core.cancellation import checkpoint
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.domain.reference import parse_tag_or_digest
from registry_core.domain.referrers import filter_by_artifact_type
from registry_core.errors import error_context, error_reference
from registry_core.ops.manifests import DEPTH_LIMIT, NODE_LIMIT, GraphLimits, ManifestQueue
from registry_core.ports.catalog import Repository

__all__ = ["Referrer", "list_referrers", "walk_referrers"]

_OPERATION: Final = "walk_referrers"


class Referrer(msgspec.Struct, frozen=True):
    """One manifest that refers to another.

    Args:
        descriptor: Of the manifest, with its artifact type and annotations as the registry lists them.
        subject: What it refers to.
        depth: 1 for what refers to the very first subject, 2 for what refers to that, and so on.
    """

    descriptor: Descriptor
    subject: Digest
    depth: int


def list_referrers(
    repository: Repository, subject: Descriptor | Tag | Digest | str, *, artifact_type: str = ""
) -> Iterator[Descriptor]:
    """The manifests that refer to one, each once.

    Args:
        repository: Where to look.
        subject: A tag, which is resolved, a digest or a descriptor; a digest need not be here.
        artifact_type: Only those of this type.

    Raises:
        ImageNotFound: There is no such tag.
        InvalidValue: The reference is malformed.
        TooLarge: There are more than any honest registry lists.
    """
    with error_context("list_referrers", str(repository)):
        found = _listed(repository, _digest(repository, subject), artifact_type)
        limits = GraphLimits(what="referrers")
        for entry in found:
            limits.add(1)
            yield entry


def walk_referrers(
    repository: Repository,
    subject: Descriptor | Tag | Digest | str,
    *,
    artifact_type: str = "",
    depth: int = DEPTH_LIMIT,
    limit: int = NODE_LIMIT,
) -> Iterator[Referrer]:
    """What refers to a manifest, directly or through others, nearest first, each manifest once.

    Args:
        repository: Where to look.
        subject: A tag, which is resolved, a digest or a descriptor.
        artifact_type: Only those of this type are handed out; the way to them may lead through others.
        depth: How far from the subject anything may be.
        limit: How many there may be in all.

    Raises:
        ImageNotFound: There is no such tag.
        InvalidValue: The reference is malformed.
        TooLarge: They are deeper, or more, than the limits.
    """
    with error_context(_OPERATION, str(repository)):
        first = _digest(repository, subject)
        queue = ManifestQueue(limits=GraphLimits(depth=depth, count=limit, what="referrers"))
        for about in chain([first], (referrer.digest for referrer in queue)):
            # Listed without the artifact type: a filter would hide referrers that others lead to.
            for entry in _listed(repository, about, ""):
                if entry.digest == first or not queue.add(entry):
                    continue
                if not artifact_type or entry.artifact_type == artifact_type:
                    yield Referrer(entry, about, queue.depth + 1)


def _listed(repository: Repository, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
    with error_reference(repository.at(subject)):
        seen: set[Digest] = set()
        for entry in filter_by_artifact_type(
            repository.manifests.referrers(subject, artifact_type=artifact_type), artifact_type
        ):
            checkpoint()
            if entry.digest not in seen:
                seen.add(entry.digest)
                yield entry


def _digest(repository: Repository, subject: Descriptor | Tag | Digest | str) -> Digest:
    if isinstance(subject, Descriptor):
        return subject.digest
    named = subject if isinstance(subject, Tag | Digest) else parse_tag_or_digest(subject)
    return named if isinstance(named, Digest) else repository.manifests.resolve(named).digest
