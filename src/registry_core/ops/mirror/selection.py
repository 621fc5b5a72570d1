"""Selection of tags and repositories: names, shell patterns, regular expressions and ranges of semantic versions.

Versions are ordered by the package ``semver`` (extra ``mirror``); the syntax of ranges is defined here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from fnmatch import translate
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

import msgspec

from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ConfigError, InvalidValue
from registry_core.ops.transfer.options import as_tuple

if TYPE_CHECKING:
    from semver import Version

__all__ = [
    "TagPatterns",
    "TagSelection",
    "VersionRange",
    "has_wildcard",
    "is_of_digest",
    "matching_names",
    "version_of",
]

_RANGE_LIMIT: Final = 1000
_VERSION: Final = r"v?(\d{1,9})(?:\.(\d{1,9}|[xX*])(?:\.(\d{1,9}|[xX*]))?)?((?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)"
_TERM: Final = re.compile(rf"(>=|<=|!=|>|<|=|\^|~|)\s*(?:{_VERSION}|([xX*]))", re.ASCII)

_Condition = Callable[["Version"], bool]


class VersionRange:
    """A range of versions: ``>=1.2, <2``, ``^1.2``, ``~1.2.3``, ``1.2.x``, ``*``.

    Comma or space means "and", ``||`` means "or". ``^1.2`` contains the versions before the next incompatible one,
    ``~1.2`` every patch of 1.2. A version with parts left out means all versions that begin with it: ``1.2`` is
    ``1.2.x``. A pre-release such as ``2.0.0-rc.1`` is in the range only if the range names a pre-release of 2.0.0.

    Args:
        text: The range.

    Raises:
        InvalidValue: The range is malformed.
        ConfigError: The extra ``mirror`` is not installed.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip() or len(text) > _RANGE_LIMIT:
            raise _malformed(text)
        self.text = text
        _semver()
        self._alternatives = [_Alternative(alternative, text) for alternative in text.split("||")]

    def __contains__(self, version: Version) -> bool:
        """Return whether a version, as ``version_of`` returns it, is in the range."""
        return any(alternative.contains(version) for alternative in self._alternatives)

    def __repr__(self) -> str:
        """Return the range."""
        return f"VersionRange({self.text!r})"


class _Alternative:
    """Conditions of a range that all have to hold."""

    def __init__(self, text: str, range_text: str) -> None:
        self._range_text = range_text
        self._conditions: list[_Condition] = []
        # Versions of which the range names a pre-release.
        self._with_prereleases: set[tuple[int, int, int]] = set()
        rest = text.strip().strip(",")
        if not rest:
            raise _malformed(range_text)
        while rest:
            match = _TERM.match(rest)
            if match is None or (match.end() < len(rest) and rest[match.end()] not in ", \t"):
                raise _malformed(range_text)
            self._conditions += self._parse(match)
            rest = rest[match.end() :].lstrip(", \t")

    def contains(self, version: Version) -> bool:
        if version.prerelease and (version.major, version.minor, version.patch) not in self._with_prereleases:
            return False
        return all(condition(version) for condition in self._conditions)

    def _parse(self, match: re.Match[str]) -> list[_Condition]:
        operator, major, minor, patch, suffix, wildcard = match.groups()
        if wildcard is not None:
            if operator not in ("", "=", ">=", "<="):
                raise _malformed(self._range_text)
            return []
        numbers = [int(part) for part in (major, minor, patch) if part is not None and part.isdigit()]
        has_wild_part = any(part is not None and not part.isdigit() for part in (minor, patch))
        is_wild_before_number = minor is not None and not minor.isdigit() and patch is not None and patch.isdigit()
        if has_wild_part and (suffix or is_wild_before_number):
            raise _malformed(self._range_text)
        version = _semver().parse(".".join(map(str, (*numbers, 0, 0, 0)[:3])) + (suffix if len(numbers) == 3 else ""))
        if suffix and len(numbers) < 3:
            raise _malformed(self._range_text)
        if version.prerelease:
            self._with_prereleases.add((version.major, version.minor, version.patch))
        return _conditions(operator, version, len(numbers))


def _malformed(text: object) -> InvalidValue:
    return InvalidValue(f"not a range of versions: {text!r:.200}")


def _conditions(operator: str, low: Version, count: int) -> list[_Condition]:
    """Return the conditions for an operator before a version of which ``count`` parts were given."""
    match operator:
        case ">=":
            return [lambda version: version >= low]
        case "<":
            # The pre-releases of an excluded version are excluded too.
            return [lambda version: version < _lowest(low)] if not low.prerelease else [lambda version: version < low]
        case ">":
            end = _next(low, count)
            return [lambda version: version >= end] if count < 3 else [lambda version: version > low]
        case "<=":
            end = _next(low, count)
            return [lambda version: version < _lowest(end)] if count < 3 else [lambda version: version <= low]
        case "^":
            end = _next(low, _compatible_parts(low, count))
        case "~":
            end = _next(low, min(count, 2))
        case _:
            if count == 3:
                return [lambda version: (version == low) is (operator != "!=")]
            end = _next(low, count)
            if operator == "!=":
                return [lambda version: not low <= version < _lowest(end)]
    return [lambda version: low <= version < _lowest(end)]


def _compatible_parts(low: Version, count: int) -> int:
    """Return how many leading parts compatible versions have in common: all up to the first that is not zero."""
    for position, part in enumerate((low.major, low.minor, low.patch)[:count], 1):
        if part:
            return position
    return count


def _next(low: Version, count: int) -> Version:
    """Return the first version after all that begin with the first ``count`` parts of a version."""
    parts = [low.major, low.minor, low.patch][:count]
    parts[-1] += 1
    return _semver()(*parts)


def _lowest(version: Version) -> Version:
    """Return the lowest pre-release of a version."""
    return version.replace(prerelease="0", build=None)


@lru_cache(maxsize=4096)
def version_of(tag: str) -> Version | None:
    """Return the version that a tag names, as ``v1.2.3``, ``1.2`` or ``1``; ``None`` for any other tag.

    Raises:
        ConfigError: The extra ``mirror`` is not installed.
    """
    version_type = _semver()
    text = tag.removeprefix("v")
    try:
        # In tags with fewer parts, the text after a hyphen is a date or a flavour rather than a pre-release.
        return version_type.parse(text, optional_minor_and_patch="-" not in text and "+" not in text)
    except ValueError:
        return None


def _semver() -> type[Version]:
    try:
        version_type: type[Version] = import_module("semver").Version
    except ModuleNotFoundError:
        raise ConfigError("ranges of versions need an extra: pip install 'ociport[mirror]'") from None
    return version_type


_WILDCARD: Final = re.compile(r"[*?\[]")
# A tag with the list of referrers of a registry without a referrers API, or one that cosign names after it.
_REFERRERS_TAG: Final = re.compile(r"sha(?:256-[0-9a-f]{64}|512-[0-9a-f]{64}(?:[0-9a-f]{64})?)")
_DIGEST_TAG: Final = re.compile(rf"{_REFERRERS_TAG.pattern}(?:[._-].*)?")


class TagPatterns(msgspec.Struct, frozen=True, kw_only=True):
    """Tags by name or by pattern; a tag matches if any part matches.

    Args:
        names: Names of tags.
        globs: Shell patterns for the whole tag: ``1.*``, ``*-alpine``.
        regexes: Regular expressions for the whole tag.
        semver: Range of semantic versions: ``>=1.2, <2``; see ``VersionRange``.

    Raises:
        InvalidName: A name is not a tag.
        InvalidValue: A plain string is given for a list, or a regular expression or the range is malformed.
        ConfigError: The range needs an extra that is not installed.
    """

    names: tuple[str, ...] = ()
    globs: tuple[str, ...] = ()
    regexes: tuple[str, ...] = ()
    semver: str = ""

    if TYPE_CHECKING:
        # msgspec derives the constructor from the fields; `__post_init__` accepts more than their types.
        def __init__(
            self,
            *,
            names: Iterable[str] = (),
            globs: Iterable[str] = (),
            regexes: Iterable[str] = (),
            semver: str = "",
        ) -> None: ...

    def __post_init__(self) -> None:
        """Check names and patterns before anything is requested."""
        msgspec.structs.force_setattr(self, "names", tuple(map(Tag, as_tuple("names", self.names))))
        for field in ("globs", "regexes"):
            patterns = as_tuple(field, getattr(self, field))
            for pattern in patterns:
                if not isinstance(pattern, str):
                    raise InvalidValue(f"{field} must be strings, not {pattern!r:.200}")
            msgspec.structs.force_setattr(self, field, patterns)
        self._compile()

    @property
    def is_empty(self) -> bool:
        """Whether there are neither names nor patterns."""
        return not (self.names or self.globs or self.regexes or self.semver)

    @property
    def is_exact(self) -> bool:
        """Whether the matching tags are known without a list of all tags."""
        return not (self.globs or self.regexes or self.semver)

    def matching(self, tags: Iterable[str]) -> set[str]:
        """Return the tags that match."""
        names, patterns, versions = set(self.names), *self._compile()
        return {
            tag
            for tag in tags
            if tag in names
            or any(pattern.fullmatch(tag) for pattern in patterns)
            or (versions is not None and (version := version_of(tag)) is not None and version in versions)
        }

    def _compile(self) -> tuple[list[re.Pattern[str]], VersionRange | None]:
        patterns = [re.compile(translate(glob)) for glob in self.globs]
        for regex in self.regexes:
            try:
                patterns.append(re.compile(regex))
            except (re.error, RecursionError, OverflowError) as error:
                raise InvalidValue(f"not a regular expression: {regex!r:.200}: {error}") from None
        return patterns, VersionRange(self.semver) if self.semver else None


class TagSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A selection among the tags of a repository; all tags by default.

    Args:
        include: Tags to select; all if empty.
        exclude: Tags to leave out.
        latest: Number of tags with the highest versions to select of the rest; tags that are not versions are left out.

    Raises:
        InvalidValue: ``latest`` is less than 1, or ``include`` or ``exclude`` is not ``TagPatterns``.
        ConfigError: ``latest`` needs an extra that is not installed.
    """

    include: TagPatterns = TagPatterns()
    exclude: TagPatterns = TagPatterns()
    latest: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for field in ("include", "exclude"):
            if not isinstance(getattr(self, field), TagPatterns):
                raise InvalidValue(f"{field} must be TagPatterns, not {getattr(self, field)!r:.200}")
        if self.latest is not None and (not isinstance(self.latest, int) or self.latest < 1):
            raise InvalidValue(f"latest must be a number of at least 1, not {self.latest!r:.50}")
        if self.latest is not None:
            _semver()

    @property
    def is_exact(self) -> bool:
        """Whether the selected tags are known without a list of all tags."""
        return not self.include.is_empty and self.include.is_exact

    def in_scope(self, tags: Iterable[str]) -> set[str]:
        """Return the tags that the patterns match, without regard to ``latest``.

        A tag with a registry's list of referrers is not an image, and is only selected by its name.
        """
        candidates = {tag for tag in tags if tag in self.include.names or not _REFERRERS_TAG.fullmatch(tag)}
        included = candidates if self.include.is_empty else self.include.matching(candidates)
        return included - self.exclude.matching(candidates)

    def select(self, tags: Iterable[str]) -> list[Tag]:
        """Return the selected tags in ASCII order."""
        selected: Collection[str] = self.in_scope(tags)
        if self.latest is not None:
            versions = [(version, tag) for tag in selected if (version := version_of(tag)) is not None]
            # Two tags of one version, such as 1.2 and v1.2.0, count as two.
            selected = [tag for _, tag in sorted(versions, reverse=True)[: self.latest]]
        return [Tag(tag) for tag in sorted(selected)]


def is_of_digest(tag: str) -> bool:
    """Return whether a tag is named after a digest, as lists of referrers and cosign's signatures are."""
    return _DIGEST_TAG.fullmatch(tag) is not None


def has_wildcard(pattern: str) -> bool:
    """Return whether the name of a repository is a shell pattern."""
    return _WILDCARD.search(pattern) is not None


def matching_names(patterns: Iterable[str], names: Iterable[RepositoryName]) -> list[RepositoryName]:
    """Return the repositories that match any of the shell patterns; ``*`` also matches slashes."""
    compiled = [re.compile(translate(pattern)) for pattern in patterns]
    return [name for name in names if any(pattern.fullmatch(name) for pattern in compiled)]
