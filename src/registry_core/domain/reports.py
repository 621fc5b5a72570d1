"""What a check has found: everything that is wrong, not just the first of it.

What a garbage collection removed, or would remove.
"""

from __future__ import annotations

import enum

import msgspec

from registry_core.domain.digest import Digest

__all__ = ["Finding", "PruneReport", "Report", "Severity"]


class Severity(enum.Enum):
    """How bad something is."""

    ERROR = "error"
    WARNING = "warning"


class Finding(msgspec.Struct, frozen=True):
    """One thing that is not as it should be.

    Args:
        severity: An error is content that cannot be used; a warning is content that can, though something is odd.
        where: What it is about: a manifest's reference and the place in it, or a file of a layout.
        what: What is wrong there.
    """

    severity: Severity
    where: str
    what: str

    def __str__(self) -> str:
        """As one line."""
        return f"{self.severity.value}: {self.where}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """What was checked, and what was found.

    Args:
        findings: In the order in which things were looked at.
        manifests: How many manifests were read, each once.
        blobs: How many other blobs were read, each once.
        bytes: How many bytes were read in all.
    """

    findings: tuple[Finding, ...]
    manifests: int
    blobs: int
    bytes: int

    @property
    def is_clean(self) -> bool:
        """Whether there are no errors; warnings there may be."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """What makes content unusable."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What is merely odd."""
        return tuple(finding for finding in self.findings if finding.severity is Severity.WARNING)

    def __str__(self) -> str:
        """A summary, and a line for each finding."""
        summary = f"{self.manifests} manifests and {self.blobs} blobs checked, {self.bytes} bytes"
        return "\n".join((summary, *map(str, self.findings)))


class PruneReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed, or would have been if it had not been a dry run.

    Args:
        blobs: What nothing refers to, by digest, in the order in which it went.
        untagged: Manifests without a tag that lost their entry; their blobs are among ``blobs``.
        stale_files: How many files that killed writers had left behind.
        bytes: How many bytes that freed: what has another name elsewhere still takes its space.
        kept: How many blobs something refers to.
        kept_young: How many nothing refers to, but are too young, or were being renewed.
        is_dry_run: Whether everything is still there.
    """

    blobs: tuple[Digest, ...] = ()
    untagged: tuple[Digest, ...] = ()
    stale_files: int = 0
    bytes: int = 0
    kept: int = 0
    kept_young: int = 0
    is_dry_run: bool = False

    def __str__(self) -> str:
        """As one line."""
        verb = "would remove" if self.is_dry_run else "removed"
        what = f"{len(self.blobs)} blobs, {len(self.untagged)} entries and {self.stale_files} leftovers"
        return f"{verb} {what}, {self.bytes} bytes; kept {self.kept} blobs, spared {self.kept_young}"
