"""Performance targets: ratios of medians of one run, and absolute limits."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["LIMITS", "TARGETS", "Limit", "Target"]


class Target(NamedTuple):
    """The maximum cost relative to another implementation.

    Attributes:
        case: Name of the case.
        ours: Our implementation.
        other: The implementation to compare with.
        measure: ``wall`` or ``cpu``.
        most: Maximum ratio.
    """

    case: str
    ours: str
    other: str
    measure: str
    most: float


class Limit(NamedTuple):
    """The absolute maximum: CPU seconds per GiB, or peak MiB."""

    case: str
    ours: str
    measure: str
    most: float


TARGETS: Final = (
    Target("pull big", "ociport", "crane", "wall", 1.0),
    Target("pull big", "ociport", "skopeo", "wall", 1.0),
    Target("pull big", "ociport", "crane", "cpu", 1.0),
    Target("pull big", "ociport", "oras-py", "cpu", 0.5),
    Target("pull many", "ociport, in process", "crane", "wall", 1.2),
    Target("push big", "ociport", "crane", "wall", 1.15),
    Target("push big", "ociport", "skopeo", "wall", 0.6),
    Target("copy big", "ociport", "crane", "wall", 1.0),
    Target("copy big", "ociport", "skopeo", "wall", 0.7),
    Target("extract tar", "ociport isal", "crane", "wall", 0.6),
    Target("extract tar", "ociport zlib", "crane", "wall", 0.8),
    Target("extract directory", "ociport layout", "umoci", "wall", 0.4),
    Target("extract directory", "ociport registry", "crane", "wall", 0.8),
    Target("tags", "ociport", "curl", "wall", 1.5),
    Target("lookups", "ociport, in process", "baseline: urllib3, in process", "wall", 1.3),
)

_EVERYWHERE: Final = 64
LIMITS: Final = (
    Limit("push big", "ociport", "cpu", 0.6),
    Limit("push big", "ociport", "memory", 35),
    Limit("pull big", "ociport", "memory", _EVERYWHERE),
    Limit("pull many", "ociport", "memory", _EVERYWHERE),
    Limit("push many", "ociport", "memory", _EVERYWHERE),
    Limit("copy big", "ociport", "memory", _EVERYWHERE),
    Limit("copy many", "ociport", "memory", _EVERYWHERE),
    Limit("extract tar", "ociport isal", "memory", _EVERYWHERE),
    Limit("extract tar", "ociport zlib", "memory", _EVERYWHERE),
    Limit("extract directory", "ociport layout", "memory", _EVERYWHERE),
    Limit("extract directory", "ociport registry", "memory", _EVERYWHERE),
    Limit("import big", "ociport", "memory", _EVERYWHERE),
    Limit("import many", "ociport", "memory", _EVERYWHERE),
    Limit("tags", "ociport", "memory", _EVERYWHERE),
    Limit("lookups", "ociport", "memory", _EVERYWHERE),
    Limit("wide", "pull", "memory", 96),
    Limit("wide", "push", "memory", 96),
    Limit("wide", "copy", "memory", 96),
)
