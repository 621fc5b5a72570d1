"""Reports of validation and of garbage collection."""

from __future__ import annotations

import enum

import msgspec

from registry_core.domain.digest import Digest

__all__ = ["Finding", "PruneReport", "Report", "Severity"]


class Severity(enum.Enum):
    """Severity of a finding."""

    ERROR = "error"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True):
    """One problem found by a check.

    Args:
        severity: ``ERROR`` if the content cannot be used; ``WARNING`` if it can be used but violates a rule.
        where: Reference of a manifest and place in it, or file of a layout.
        what: Description of the problem.
    """

    severity: Severity
    where: str
    what: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.severity.value}: {self.where}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """Result of a validation.

    Args:
        findings: All problems, in the order of the checks.
        manifests: Number of manifests read; each is read once.
        blobs: Number of other blobs read; each is read once.
        bytes: Total number of bytes read.
    """

    findings: tuple[Finding, ...]
    manifests: int
    blobs: int
    bytes: int

    @property
    def is_clean(self) -> bool:
        """Whether there are no errors. There may be warnings."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings with severity ``ERROR``."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings with severity ``WARNING``."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)

    def __str__(self) -> str:
        """Return a summary and one line for each finding."""
        summary = f"{self.manifests} manifests and {self.blobs} blobs checked, {self.bytes} bytes"
        return "\n".join((summary, *map(str, self.findings)))


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """Result of a garbage collection, or of its dry run.

    Args:
        blobs: Digests of the removed blobs, which nothing refers to, in the order of removal.
        untagged: Digests of manifests without a tag whose index entries were removed; their blobs are in ``blobs``.
        stale_files: Number of removed temporary files of killed writers.
        bytes: Size of the removed files; a file with another hard link still uses its space.
        kept: Number of blobs that are referred to.
        kept_young: Number of blobs that nothing refers to, but that are too young to remove or were renewed.
        is_dry_run: Whether nothing was removed.
    """

    blobs: tuple[Digest, ...] = ()
    untagged: tuple[Digest, ...] = ()
    stale_files: int = 0
    bytes: int = 0
    kept: int = 0
    kept_young: int = 0
    is_dry_run: bool = False

    def __str__(self) -> str:
        """Return one line."""
        verb = "would remove" if self.is_dry_run else "removed"
        what = f"{len(self.blobs)} blobs, {len(self.untagged)} untagged manifests and {self.stale_files} stale files"
        return f"{verb} {what}, {self.bytes} bytes; kept {self.kept} blobs in use and {self.kept_young} young ones"
