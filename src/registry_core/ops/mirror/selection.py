"""Selection of tags and repositories: names, shell patterns, regular expressions and ranges of versions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from fnmatch import translate
from typing import TYPE_CHECKING, Final

import msgspec

from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.reference import parse_tag_and_digest
from registry_core.errors import InvalidDigest, InvalidValue
from registry_core.ops.mirror.versions import VersionRange, version_of
from registry_core.ops.transfer.options import as_tuple

__all__ = [
    "FLOATING_NAMES",
    "TagPatterns",
    "TagSelection",
    "has_wildcard",
    "is_of_digest",
    "matching_names",
]

_WILDCARD: Final = re.compile(r"[*?\[]")
# A tag with the list of referrers of a registry without a referrers API, or one that cosign names after it.
_REFERRERS_TAG: Final = re.compile(r"sha(?:256-[0-9a-f]{64}|512-[0-9a-f]{64}(?:[0-9a-f]{64})?)")
_DIGEST_TAG: Final = re.compile(rf"{_REFERRERS_TAG.pattern}(?:[._-].*)?")
# Names that publishers move from image to image, alone or with flavours, such as latest-alpine and arm64v8-latest.
FLOATING_NAMES: Final = (
    "alpha", "beta", "canary", "current", "daily", "default", "dev", "devel", "develop", "development", "edge",
    "experimental", "head", "insiders", "latest", "lts", "main", "mainline", "master", "next", "nightly", "oldstable",
    "preview", "prod", "production", "rc", "release", "rolling", "snapshot", "stable", "staging", "testing", "tip",
    "trunk", "unstable", "weekly",
)  # fmt: skip
_ARCHITECTURE: Final = (
    r"amd64|x86[._-]64|i[36]86|arm64(?:[._-]?v8)?|aarch64|arm(?:32)?[._-]?v[5-8]|arm|ppc64(?:le|el)?|s390x|riscv64"
    r"|mips64(?:le|el)?|loong(?:arch)?64"
)
# A flavour is a word without digits, an architecture, or a system with its version, as alpine3.18.
_FLAVOUR: Final = rf"(?:{_ARCHITECTURE}|[a-z]+|[a-z]{{2,}}[0-9]+(?:\.[0-9]+)+)"
_FLOATING_TAG: Final = re.compile(
    rf"(?:(?:{_ARCHITECTURE})[._-])?(?:{'|'.join(FLOATING_NAMES)})(?:[._-]{_FLAVOUR})*", re.IGNORECASE
)


class TagPatterns(msgspec.Struct, frozen=True, kw_only=True):
    """Tags by name or by pattern; a tag matches if any part matches.

    Args:
        names: Names of tags. A digest, ``sha256:…``, selects the manifest without a tag; ``v1@sha256:…`` selects it in
            place of the manifest that the tag of the source names.
        globs: Shell patterns for the whole tag: ``1.*``, ``*-alpine``.
        regexes: Regular expressions for the whole tag.
        semver: Range of versions: ``>=1.2, <2``; see ``VersionRange``.

    Raises:
        InvalidName: A name is not a tag.
        InvalidDigest: A digest is malformed, or its algorithm is unknown.
        InvalidValue: A plain string is given for a list, a tag is listed with several digests, or a regular expression
            or the range is malformed.
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
        names = {name: parse_tag_and_digest(name) for name in as_tuple("names", self.names)}
        for name, (_, digest) in names.items():
            if digest is not None and not digest.verifiable:
                raise InvalidDigest(
                    f"not a tag, and not a digest that can be verified: {name!r:.200}; use v1, sha256:… or v1@sha256:…"
                )
        for tag, count in Counter(tag for tag, _ in names.values() if tag is not None).items():
            if count > 1:
                raise InvalidValue(f"the tag {tag} is listed with several digests, or with and without one")
        msgspec.structs.force_setattr(self, "names", tuple(names))
        if not isinstance(self.semver, str):
            raise InvalidValue(f"semver must be a string, not {self.semver!r:.200}")
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

    @property
    def tags(self) -> list[Tag]:
        """The names that are tags without a digest."""
        return [tag for tag, digest in map(parse_tag_and_digest, self.names) if tag is not None and digest is None]

    @property
    def digests(self) -> list[tuple[Digest, Tag | None]]:
        """The digests among the names, each with its tag if it has one."""
        return [(digest, tag) for tag, digest in map(parse_tag_and_digest, self.names) if digest is not None]

    def matching(self, tags: Iterable[str]) -> set[str]:
        """Return the tags that match; tags with a digest do not count."""
        names, patterns, versions = set(self.names), *self._compile()
        return {
            tag
            for tag in tags
            if tag in names
            or any(pattern.fullmatch(tag) for pattern in patterns)
            or (versions is not None and (version := version_of(tag)) is not None and version in versions)
        }

    def __str__(self) -> str:
        """Describe the names and patterns."""
        listed = {"names": self.names, "globs": self.globs, "regexes": self.regexes}
        parts = [f"{field} {', '.join(map(repr, values)):.300}" for field, values in listed.items() if values]
        return " or ".join([*parts, f"semver {self.semver!r}"] if self.semver else parts) or "all"

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
        include: Tags to select; all if empty. Digests among them are always selected.
        exclude: Tags to leave out.
        latest: Number of tags with the highest versions to select of the rest; tags that are not versions are left out.

    Raises:
        InvalidValue: ``latest`` is less than 1, ``include`` or ``exclude`` is not ``TagPatterns``, or ``exclude`` lists
            digests.
    """

    include: TagPatterns = TagPatterns()
    exclude: TagPatterns = TagPatterns()
    latest: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for field in ("include", "exclude"):
            if not isinstance(getattr(self, field), TagPatterns):
                raise InvalidValue(f"{field} must be TagPatterns, not {getattr(self, field)!r:.200}")
        if self.exclude.digests:
            raise InvalidValue("exclude takes tags and patterns, not digests")
        if self.latest is not None and (type(self.latest) is not int or self.latest < 1):
            raise InvalidValue(f"latest must be a number of at least 1, not {self.latest!r:.50}")

    @property
    def is_exact(self) -> bool:
        """Whether the selected tags are known without a list of all tags."""
        return not self.include.is_empty and self.include.is_exact

    @property
    def is_everything(self) -> bool:
        """Whether all tags are selected."""
        return self.include.is_empty and self.exclude.is_empty and self.latest is None

    def __str__(self) -> str:
        """Describe the selection."""
        excluded = "" if self.exclude.is_empty else f" except {self.exclude}"
        return f"{self.include}{excluded}" + ("" if self.latest is None else f" (latest {self.latest})")

    def in_scope(self, tags: Iterable[str]) -> set[str]:
        """Return the tags that the patterns match, without regard to ``latest``; tags with a digest do not count.

        A tag with a registry's list of referrers is not an image, and is only selected by its name.
        """
        pinned = {tag for _, tag in self.include.digests}
        candidates = {
            tag
            for tag in tags
            if tag not in pinned and (tag in self.include.names or not _REFERRERS_TAG.fullmatch(tag))
        }
        included = candidates if self.include.is_empty else self.include.matching(candidates)
        return included - self.exclude.matching(candidates)

    def removable(self, tags: Iterable[str]) -> set[str]:
        """Return the tags that a mirror may remove from its target if it does not select them.

        These are the tags that the selection can judge. ``latest`` judges versions only. A floating name, such as
        ``latest`` or ``stable``, has to match a name, shell pattern or regular expression of ``include``; a pattern of
        wildcards only, such as ``*``, does not count.
        """
        named = TagPatterns(
            names=self.include.names,
            globs=[glob for glob in self.include.globs if glob.strip("*?")],
            regexes=[regex for regex in self.include.regexes if regex.strip(".*+?()^$")],
        )
        scope = self.in_scope(tags)
        floating = {tag for tag in scope if _FLOATING_TAG.fullmatch(tag)}
        return {
            tag
            for tag in scope - (floating - named.matching(floating))
            if self.latest is None or version_of(tag) is not None
        }

    def select(self, tags: Iterable[str]) -> list[Tag]:
        """Return the selected tags in ASCII order, without those that are listed with a digest."""
        selected: Collection[str] = self.in_scope(tags)
        if self.latest is not None:
            versions = [(version, tag) for tag in selected if (version := version_of(tag)) is not None]
            # Two tags of one version, such as 1.2 and v1.2.0, count as two; their text decides which is the newer one.
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
