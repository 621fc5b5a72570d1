"""What a check has found: everything that is wrong, not just the first of it."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["Finding", "Report", "Severity"]


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
