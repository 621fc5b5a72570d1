"""Everything about an image checked again, with a report of all that is wrong. Nothing is changed anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry_core.domain.digest import Digest
from registry_core.domain.findings import Report
from registry_core.domain.names import Tag
from registry_core.domain.reference import locator
from registry_core.errors import InvalidValue, during
from registry_core.ops.tar.members import ExtractLimits
from registry_core.ops.upkeep.validation import Validation
from registry_core.ports.repository import Repository

if TYPE_CHECKING:
    from registry_core.ops.document import Located

__all__ = ["validate"]


def validate(
    target: Located | Repository,
    reference: Tag | Digest | str | None = None,
    *,
    referrers: bool = False,
    sparse: bool = False,
    limits: ExtractLimits | None = None,
    jobs: int = 4,
) -> Report:
    """A report on all that an image or index consists of, down to the uncompressed layers; nothing is changed.

    Every digest, size and media type is checked, embedded data, each layer's diff_id, the configuration against the
    layers, the platforms against what indexes say, subjects against what refers to them, and that everything is there.

    Args:
        target: An ``Image``, an ``Index``, or a repository.
        reference: What to check in a repository: a tag or digest; all tags if not given.
        referrers: Whether what refers to any of it is checked as well, and what refers to that: signatures, bills of
            materials, attestations.
        sparse: Whether what an index lists may be absent, as after a copy of some of its platforms: that is only a
            warning then.
        limits: How much layers may become when they are unpacked for their diff_id; nothing is kept of them.
        jobs: How many blobs are read at a time.

    Raises:
        RepositoryNotFound: No such repository.
        InvalidValue: The reference is malformed, or there are no jobs.
        AccessDenied: The registry refused.
        TransportError: The registry could not be asked.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise InvalidValue(f"a check needs at least one job, not {jobs!r:.50}")
    if not isinstance(target, Repository):
        if reference is not None:
            raise InvalidValue("a reference says what to check in a repository, and this is an image already")
        validation = Validation(target.repository, limits=limits, sparse=sparse)
        with during("validate", str(target.repository)):
            validation.manifest(target.document)
    else:
        validation = Validation(target, limits=limits, sparse=sparse)
        with during("validate", str(target)):
            wanted = target.manifests.tags() if reference is None else iter((reference,))
            for each in wanted:
                validation.reference(each if isinstance(each, Tag | Digest) else locator(each))
    with during("validate", str(validation.repository)):
        if referrers:
            validation.referrers()
        return validation.report(jobs=jobs)
