"""Versions in tags, and ranges of them.

The order is that of Semantic Versioning 2.0.0, for any number of numeric parts, and with leading zeros, which are usual
in tags: ``24.04``, ``2026.02.0``, ``1.2.3.4``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from registry_core.errors import InvalidValue

__all__ = ["TagVersion", "VersionRange", "version_of"]

_RANGE_LIMIT: Final = 1000
# Twenty digits hold a time in nanoseconds; a longer number is an identifier rather than a version.
_NUMBER: Final = r"[0-9]{1,20}"
_IDENTIFIERS: Final = r"[0-9A-Za-z-]{1,128}(?:\.[0-9A-Za-z-]{1,128})*"
# Helm writes `_` for the `+` before build metadata, because a tag cannot contain `+`.
_SUFFIX: Final = rf"(?:-(?P<prerelease>{_IDENTIFIERS}))?(?:[+_](?P<build>{_IDENTIFIERS}))?"
_VERSION: Final = re.compile(rf"[vV]?(?P<numbers>{_NUMBER}(?:\.{_NUMBER})*){_SUFFIX}")
_TERM: Final = re.compile(
    rf"(?P<operator>>=|=>|<=|=<|!=|>|<|=|\^|~>|~|)\s*"
    rf"(?:[vV]?(?P<numbers>{_NUMBER}(?:\.{_NUMBER})*)(?P<wildcards>(?:\.[xX*])*){_SUFFIX}|(?P<any>[xX*](?:\.[xX*])*))"
)
# Spellings that npm or Helm accept for other operators.
_SYNONYMS: Final = {"=>": ">=", "=<": "<=", "~>": "~"}
_BETWEEN: Final = re.compile(r"([^\s,]+)\s+-\s+([^\s,]+)")
# With fewer parts, the text after a hyphen is a flavour or the rest of a date: 18-alpine, 2024-01-01.
_PRERELEASE_PARTS: Final = 3
_BUILD_PARTS: Final = 2

_Identifiers = tuple[tuple[bool, int, str], ...]
_Condition = Callable[["Version"], bool]


class Version(NamedTuple):
    """A version without its build metadata; versions compare by precedence.

    Args:
        numbers: Numeric parts without zeros at the end, so that 1.2 equals 1.2.0.
        is_release: Whether it is no pre-release.
        prerelease: Identifiers of a pre-release, each with its number or its text.
    """

    numbers: tuple[int, ...]
    is_release: bool = True
    prerelease: _Identifiers = ()


class TagVersion(NamedTuple):
    """The version that a tag names; the greater of two is the newer one.

    Args:
        version: The version.
        build: Build metadata, which ranges ignore: identifiers with their numbers or their texts.
    """

    version: Version
    build: _Identifiers = ()


@lru_cache(maxsize=4096)
def version_of(tag: str) -> TagVersion | None:
    """Return the version that a tag names, as ``v1.2.3``, ``24.04``, ``1.2.3.4`` or ``1``; ``None`` for any other tag.

    ``_`` begins build metadata, as Helm writes it for ``+``. A pre-release needs three numeric parts before it, build
    metadata two: ``18-alpine`` and ``2024-01-01`` are not versions.
    """
    match = _VERSION.fullmatch(tag)
    if match is None:
        return None
    numbers = _numbers(match["numbers"])
    if _has_too_few_parts(match, len(numbers)):
        return None
    return TagVersion(_version(numbers, match["prerelease"]), _identifiers(match["build"]))


class VersionRange:
    """A range of versions, as npm and Helm write them: ``>=1.2, <2``, ``^1.2``, ``~1.2.3``, ``1.2 - 2.3``, ``1.2.x``.

    Comma or space means "and", ``||`` means "or". ``^1.2`` contains the versions before the next incompatible one,
    ``~1.2`` every patch of 1.2, and so does ``~>1.2``. ``1.2 - 2.3`` is ``>=1.2 <=2.3``. A version of one or two parts,
    or with wildcards, means all versions that begin with it: ``1.2`` is ``1.2.x``. A pre-release such as
    ``2.0.0-rc.1`` is in the range only if the range names a pre-release of 2.0.0.

    Args:
        text: The range.

    Raises:
        InvalidValue: The range is malformed.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not text.strip() or len(text) > _RANGE_LIMIT:
            raise _malformed(text)
        self.text = text
        self._alternatives = [_Alternative(alternative, text) for alternative in text.split("||")]

    def __contains__(self, version: TagVersion) -> bool:
        """Return whether a version, as ``version_of`` returns it, is in the range."""
        return any(alternative.contains(version.version) for alternative in self._alternatives)

    def __repr__(self) -> str:
        """Return the range."""
        return f"VersionRange({self.text!r})"


class _Alternative:
    """Conditions of a range that all have to hold."""

    def __init__(self, text: str, range_text: str) -> None:
        self._range_text = range_text
        self._conditions: list[_Condition] = []
        # Numbers of the versions of which the range names a pre-release.
        self._with_prereleases: set[tuple[int, ...]] = set()
        rest = _BETWEEN.sub(r">=\1 <=\2", text.strip().strip(","))
        if not rest:
            raise _malformed(range_text)
        while rest:
            match = _TERM.match(rest)
            if match is None or (match.end() < len(rest) and rest[match.end()] not in ", \t"):
                raise _malformed(range_text)
            self._conditions += self._parse(match)
            rest = rest[match.end() :].lstrip(", \t")

    def contains(self, version: Version) -> bool:
        if not version.is_release and version.numbers not in self._with_prereleases:
            return False
        return all(condition(version) for condition in self._conditions)

    def _parse(self, match: re.Match[str]) -> list[_Condition]:
        operator = _SYNONYMS.get(match["operator"], match["operator"])
        if match["any"] is not None:
            if operator not in ("", "=", ">=", "<="):
                raise _malformed(self._range_text)
            return []
        numbers = _numbers(match["numbers"])
        has_suffix = match["prerelease"] is not None or match["build"] is not None
        if has_suffix and (match["wildcards"] or _has_too_few_parts(match, len(numbers))):
            raise _malformed(self._range_text)
        version = _version(numbers, match["prerelease"])
        if not version.is_release:
            self._with_prereleases.add(version.numbers)
        # A version of three parts or more is complete, unless wildcards follow.
        return _conditions(operator, version, numbers, is_prefix=len(numbers) < 3 or bool(match["wildcards"]))


def _malformed(text: object) -> InvalidValue:
    return InvalidValue(
        f"not a range of versions: {text!r:.200}; write for example '>=1.2 <2', '^1.2', '~1.2.3', '1.2 - 2.3' or '1.x'"
    )


def _conditions(operator: str, low: Version, numbers: tuple[int, ...], *, is_prefix: bool) -> list[_Condition]:
    """Return the conditions for an operator before a version.

    Args:
        operator: Operator, empty for equality.
        low: The version.
        numbers: Its numeric parts as given.
        is_prefix: Whether the numeric parts mean all versions that begin with them.
    """
    match operator:
        case ">=":
            return [lambda version: version >= low]
        case "<":
            # All that begins with the numeric parts is excluded, and so are pre-releases of it.
            end = _before(low) if is_prefix else low
            return [lambda version: version < end]
        case ">":
            end = _next(numbers)
            return [lambda version: version >= end] if is_prefix else [lambda version: version > low]
        case "<=":
            end = _before(_next(numbers))
            return [lambda version: version < end] if is_prefix else [lambda version: version <= low]
        case "^":
            end = _before(_next(numbers[: _compatible_parts(numbers)]))
        case "~":
            end = _before(_next(numbers[:2]))
        case _:
            if not is_prefix:
                return [lambda version: (version == low) is (operator != "!=")]
            end = _before(_next(numbers))
            if operator == "!=":
                return [lambda version: not low <= version < end]
    return [lambda version: low <= version < end]


def _compatible_parts(numbers: tuple[int, ...]) -> int:
    """Return how many leading parts compatible versions have in common: all up to the first that is not zero."""
    return next((position for position, part in enumerate(numbers, 1) if part), len(numbers))


def _next(numbers: tuple[int, ...]) -> Version:
    """Return the first version after all that begin with numeric parts."""
    return Version((*numbers[:-1], numbers[-1] + 1))


def _before(version: Version) -> Version:
    """Return a bound below all pre-releases of a version, and above all lower versions."""
    return Version(version.numbers, is_release=False)


def _has_too_few_parts(match: re.Match[str], count: int) -> bool:
    if match["prerelease"] is not None:
        return count < _PRERELEASE_PARTS
    return match["build"] is not None and count < _BUILD_PARTS


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _version(numbers: tuple[int, ...], prerelease: str | None) -> Version:
    count = len(numbers)
    while count and not numbers[count - 1]:
        count -= 1
    return Version(numbers[:count], is_release=prerelease is None, prerelease=_identifiers(prerelease))


def _identifiers(text: str | None) -> _Identifiers:
    """Return identifiers in a form that compares by their precedence: numbers by value, and before texts."""
    if text is None:
        return ()
    return tuple((False, int(each), "") if each.isdigit() else (True, 0, each) for each in text.split("."))
