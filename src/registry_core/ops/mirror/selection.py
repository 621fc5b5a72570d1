"""Which tags, and which repositories.

Semantic versions among tags, and ranges of them.

The order is that of the package ``semver`` (extra ``mirror``); what a range may look like is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import translate
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

import msgspec

from registry_core.domain.names import RepositoryName, Tag
from registry_core.errors import ConfigError, InvalidValue

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


_LONGEST: Final = 1000

_VERSION: Final = r"v?(\d{1,9})(?:\.(\d{1,9}|[xX*])(?:\.(\d{1,9}|[xX*]))?)?((?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?)"

_TERM: Final = re.compile(rf"(>=|<=|!=|>|<|=|\^|~|)\s*(?:{_VERSION}|([xX*]))", re.ASCII)

_Test = Callable[["Version"], bool]


class VersionRange:
    """Versions that satisfy a range: ``>=1.2, <2``, ``^1.2``, ``~1.2.3``, ``1.2.x``, ``*``; ``||`` stands for "or".

    Comma or space means "and". ``^1.2`` is everything up to the next version that may break something, ``~1.2`` every
    patch of 1.2. A version that leaves parts out means all that begin so: ``1.2`` is ``1.2.x``. Pre-releases such as
    ``2.0.0-rc.1`` are meant only where the range names a pre-release of the same version.

    Args:
        text: The range.

    Raises:
        InvalidValue: It is malformed.
        ConfigError: The extra ``mirror`` is not installed.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip() or len(text) > _LONGEST:
            raise InvalidValue(f"not a range of versions: {text!r:.200}")
        self.text = text
        _semver()
        self._options = [_Option(option, text) for option in text.split("||")]

    def __contains__(self, version: object) -> bool:
        """Whether a version, as ``version_of`` has it, satisfies the range."""
        return any(option.holds(version) for option in self._options)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        """The range."""
        return f"VersionRange({self.text!r})"


class _Option:
    """Terms that must all hold."""

    def __init__(self, text: str, whole: str) -> None:
        self._tests: list[_Test] = []
        # The versions whose pre-releases somebody asked for.
        self._named: set[tuple[int, int, int]] = set()
        rest = text.strip().strip(",")
        if not rest:
            raise InvalidValue(f"not a range of versions: {whole!r:.200}")
        while rest:
            match = _TERM.match(rest)
            if match is None or (match.end() < len(rest) and rest[match.end()] not in ", \t"):
                raise InvalidValue(f"not a range of versions: {whole!r:.200}")
            self._tests += self._term(match, whole)
            rest = rest[match.end() :].lstrip(", \t")

    def holds(self, version: Version) -> bool:
        if version.prerelease and (version.major, version.minor, version.patch) not in self._named:
            return False
        return all(test(version) for test in self._tests)

    def _term(self, match: re.Match[str], whole: str) -> list[_Test]:
        sign, major, minor, patch, more, anything = match.groups()
        if anything is not None:
            if sign not in ("", "=", ">=", "<="):
                raise InvalidValue(f"not a range of versions: {whole!r:.200}")
            return []
        numbers = [int(part) for part in (major, minor, patch) if part is not None and part.isdigit()]
        wild = any(part is not None and not part.isdigit() for part in (minor, patch))
        if wild and (more or (minor is not None and not minor.isdigit() and patch is not None and patch.isdigit())):
            raise InvalidValue(f"not a range of versions: {whole!r:.200}")
        low = _semver().parse(".".join(map(str, (*numbers, 0, 0, 0)[:3])) + (more if len(numbers) == 3 else ""))
        if more and len(numbers) < 3:
            raise InvalidValue(f"not a range of versions: {whole!r:.200}")
        if low.prerelease:
            self._named.add((low.major, low.minor, low.patch))
        return _tests(sign, low, len(numbers))


def _tests(sign: str, low: Version, given: int) -> list[_Test]:
    """What a sign before a version means, of which so many parts were given."""
    match sign:
        case ">=":
            return [lambda version: version >= low]
        case "<":
            # The pre-releases of what is excluded are excluded with it.
            return [lambda version: version < _floor(low)] if not low.prerelease else [lambda version: version < low]
        case ">":
            end = _after(low, given)
            return [lambda version: version >= end] if given < 3 else [lambda version: version > low]
        case "<=":
            end = _after(low, given)
            return [lambda version: version < _floor(end)] if given < 3 else [lambda version: version <= low]
        case "^":
            end = _after(low, _breaking(low, given))
        case "~":
            end = _after(low, min(given, 2))
        case _:
            if given == 3:
                return [lambda version: (version == low) is (sign != "!=")]
            end = _after(low, given)
            if sign == "!=":
                return [lambda version: not low <= version < _floor(end)]
    return [lambda version: low <= version < _floor(end)]


def _breaking(low: Version, given: int) -> int:
    """How many leading parts of a version stay as long as nothing may break: all up to the first that is not zero."""
    for kept, part in enumerate((low.major, low.minor, low.patch)[:given], 1):
        if part:
            return kept
    return given


def _after(low: Version, kept: int) -> Version:
    """The first version that does not begin with so many parts of one."""
    parts = [low.major, low.minor, low.patch][:kept]
    parts[-1] += 1
    return _semver()(*parts)


def _floor(version: Version) -> Version:
    """Below every pre-release of a version."""
    return version.replace(prerelease="0", build=None)


@lru_cache(maxsize=4096)
def version_of(tag: str) -> Version | None:
    """The version that a tag names: ``v1.2.3``, ``1.2`` and ``1`` as well; ``None`` for any other tag.

    Raises:
        ConfigError: The extra ``mirror`` is not installed.
    """
    kind = _semver()
    text = tag.removeprefix("v")
    try:
        # With parts left out, what follows a hyphen is a date, or a flavour, rather than a pre-release.
        return kind.parse(text, optional_minor_and_patch="-" not in text and "+" not in text)
    except ValueError:
        return None


def _semver() -> type[Version]:
    try:
        found: type[Version] = import_module("semver").Version
    except ModuleNotFoundError:
        raise ConfigError("ranges of versions need the extra: pip install 'ociport[mirror]'") from None
    return found


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

    names: Sequence[str] = ()
    globs: Sequence[str] = ()
    regexes: Sequence[str] = ()
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

    def in_scope(self, tags: Iterable[str]) -> set[str]:
        """Those of some tags that the patterns are about, however many of them are wanted.

        Where a registry keeps a list of referrers is no image, and meant only by its name.
        """
        there = {tag for tag in tags if tag in self.include.names or not _LIST.fullmatch(tag)}
        return (there if self.include.is_empty else self.include.fitting(there)) - self.exclude.fitting(there)

    def select(self, tags: Iterable[str]) -> list[Tag]:
        """Those of some tags that are wanted, in ASCII order."""
        found: Collection[str] = self.in_scope(tags)
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
