"""Which tags, and which repositories."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import translate
from typing import Final

import msgspec

from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import InvalidValue
from registry_core.ops.mirror.versions import VersionRange, version_of

__all__ = ["TagPatterns", "TagSelection", "has_wildcard", "is_of_digest", "matching_names"]

_WILD: Final = re.compile(r"[*?\[]")

# Where a registry without a referrers API keeps a list of them, and what others keep beside that.
_LIST: Final = re.compile(r"sha(?:256-[0-9a-f]{64}|512-[0-9a-f]{64}(?:[0-9a-f]{64})?)")
_OF_DIGEST: Final = re.compile(rf"{_LIST.pattern}(?:[._-].*)?")


class TagPatterns(msgspec.Struct, frozen=True, kw_only=True):
    """Tags by name or by pattern; one that any of them fits is meant.

    Args:
        names: Tags as they are.
        globs: Shell patterns for the whole tag: ``1.*``, ``*-alpine``.
        regexes: Regular expressions for the whole tag.
        semver: A range of semantic versions: ``>=1.2, <2``; see ``VersionRange``.

    Raises:
        InvalidName: A name is no tag.
        InvalidValue: A regular expression or a range is malformed.
        ConfigError: The range needs an extra that is not installed.
    """

    names: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    regexes: tuple[str, ...] = ()
    semver: str = ""

    def __post_init__(self) -> None:
        """Refuse what is malformed before anything is asked for."""
        for field in ("names", "globs", "regexes"):
            if isinstance(getattr(self, field), str):
                raise InvalidValue(f"{field} are a list, not one text: {getattr(self, field)!r:.200}")
        for name in self.names:
            Tag(name)
        self._compiled()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was named at all."""
        return not (self.names or self.globs or self.regexes or self.semver)

    @property
    def is_exact(self) -> bool:
        """Whether the tags meant are known without a list of those that there are."""
        return not (self.globs or self.regexes or self.semver)

    def fitting(self, tags: Iterable[str]) -> set[str]:
        """Those of some tags that are meant."""
        names, patterns, versions = set(self.names), *self._compiled()
        return {
            tag
            for tag in tags
            if tag in names
            or any(pattern.fullmatch(tag) for pattern in patterns)
            or (versions is not None and (version := version_of(tag)) is not None and version in versions)
        }

    def _compiled(self) -> tuple[list[re.Pattern[str]], VersionRange | None]:
        patterns = [re.compile(translate(glob)) for glob in self.globs]
        for regex in self.regexes:
            try:
                patterns.append(re.compile(regex))
            except (re.error, RecursionError, OverflowError) as error:
                raise InvalidValue(f"not a regular expression: {regex!r:.200}: {error}") from None
        return patterns, VersionRange(self.semver) if self.semver else None


class TagSelection(msgspec.Struct, frozen=True, kw_only=True):
    """Some of a repository's tags; all of them where nothing is said.

    Args:
        include: Which; all if empty.
        exclude: Which not.
        latest: Of what is left, only so many with the highest versions; what is no version is left out then.

    Raises:
        InvalidValue: The number is not positive.
        ConfigError: Versions need an extra that is not installed.
    """

    include: TagPatterns = TagPatterns()
    exclude: TagPatterns = TagPatterns()
    latest: int | None = None

    def __post_init__(self) -> None:
        """Refuse a number that selects nothing."""
        if self.latest is not None and (not isinstance(self.latest, int) or self.latest < 1):
            raise InvalidValue(f"not a number of tags: {self.latest!r:.50}")
        if self.latest is not None:
            version_of("1")

    @property
    def is_exact(self) -> bool:
        """Whether the tags are known without a list of those that there are."""
        return not self.include.is_empty and self.include.is_exact

    def meant(self, tags: Iterable[str]) -> set[str]:
        """Those of some tags that the patterns are about, however many of them are wanted.

        Where a registry keeps a list of referrers is no image, and meant only by its name.
        """
        there = {tag for tag in tags if tag in self.include.names or not _LIST.fullmatch(tag)}
        return (there if self.include.is_empty else self.include.fitting(there)) - self.exclude.fitting(there)

    def select(self, tags: Iterable[str]) -> list[Tag]:
        """Those of some tags that are wanted, in ASCII order."""
        found: Collection[str] = self.meant(tags)
        if self.latest is not None:
            versions = [(version, tag) for tag in found if (version := version_of(tag)) is not None]
            # Two tags of one version, such as 1.2 and v1.2.0, count as one each.
            found = [tag for _, tag in sorted(versions, reverse=True)[: self.latest]]
        return [Tag(tag) for tag in sorted(found)]


def is_of_digest(tag: str) -> bool:
    """Whether a tag belongs to a manifest by its name, as lists of referrers and cosign's signatures do."""
    return _OF_DIGEST.fullmatch(tag) is not None


def has_wildcard(pattern: str) -> bool:
    """Whether a name of a repository is a shell pattern."""
    return _WILD.search(pattern) is not None


def matching_names(patterns: Iterable[str], names: Iterable[RepositoryName]) -> list[RepositoryName]:
    """Those of some repositories that fit any of some shell patterns; ``*`` goes across slashes."""
    compiled = [re.compile(translate(pattern)) for pattern in patterns]
    return [name for name in names if any(pattern.fullmatch(name) for pattern in compiled)]
