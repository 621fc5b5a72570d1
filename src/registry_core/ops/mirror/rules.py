"""What a mirror is to keep alike."""

from __future__ import annotations

import msgspec

from registry_core.domain.names import RepositoryName
from registry_core.errors import InvalidValue
from registry_core.ops.mirror.selection import TagSelection, has_wildcard
from registry_core.ops.transfer.choices import CopyChoices
from registry_core.ports.catalog import Catalog

__all__ = ["MirrorRule"]


class MirrorRule(msgspec.Struct, frozen=True, kw_only=True):
    """Some repositories of one backend, kept in another under the same names, below a path of their own.

    Args:
        source: The backend to read.
        target: The backend to write.
        source_path: The names of the repositories are relative to this in the source,
        target_path: and to this in the target.
        repositories: Names, or shell patterns, for which the source is asked for a list; ``*`` goes across slashes.
            Without any, the repository at the path itself.
        tags: Which tags of each.
        choices: What of each image.
        prune: Whether tags are removed from the target that the selection is about, but that the source does not have
            any more, or that are not among the latest any more.

    Raises:
        InvalidName: A name is malformed.
        InvalidValue: The repositories are one text, or repositories are to be pruned by what they have themselves.
    """

    source: Catalog
    target: Catalog
    source_path: RepositoryName = RepositoryName("")
    target_path: RepositoryName = RepositoryName("")
    repositories: tuple[str, ...] = ()
    tags: TagSelection = TagSelection()
    choices: CopyChoices = CopyChoices()
    prune: bool = False

    def __post_init__(self) -> None:
        """Refuse malformed names before anything is asked for."""
        if isinstance(self.repositories, str):
            raise InvalidValue(f"repositories are a list, not one text: {self.repositories!r:.200}")
        msgspec.structs.force_setattr(self, "source_path", RepositoryName(self.source_path))
        msgspec.structs.force_setattr(self, "target_path", RepositoryName(self.target_path))
        if self.prune and self.source is self.target and self.source_path == self.target_path:
            raise InvalidValue("a mirror onto itself would remove what it does not select from its source")
        for name in self.repositories:
            if not has_wildcard(name):
                RepositoryName(name)
