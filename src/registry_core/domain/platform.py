"""Platforms: parsing, normalization and selection (image-spec image-index.md, "platform")."""

from __future__ import annotations

import platform as _host
import re
from collections.abc import Iterable
from typing import Self, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from registry_core.errors import InvalidName

__all__ = ["Platform", "best_match"]

_PART = re.compile(r"(?:[A-Za-z0-9_.~-]|%[0-9A-Fa-f]{2})+")
# How an operating system or an architecture that is not named is written.
_UNKNOWN = "unknown"
_OPTIONS = frozenset({"osver", "osfeatures"})
_OS = {"macos": "darwin"}
_ARCHITECTURE = {
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "loongarch64": ("loong64", ""),
    "armv8l": ("arm", "v8"),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv5tejl": ("arm", "v5"),
}
# The variant implied by an architecture without a variant, and how the implied variant is written.
_BASELINE = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
_WRITTEN = {"amd64": "", "arm64": "", "arm": "v7"}


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An operating system on an architecture.

    Args:
        os: Operating system as in Go's ``GOOS``: ``linux``, ``windows``, ``darwin`` …
        architecture: Architecture as in Go's ``GOARCH``: ``amd64``, ``arm64`` …
        variant: Variant of the architecture: ``v7``, ``v8`` …
        os_version: ``os.version``, for Windows.
        os_features: ``os.features``, for Windows.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``os/architecture[/variant][,osver=VERSION][,osfeatures=NAME+NAME]``; an architecture means Linux.

        Other characters than letters, digits, ``_``, ``.``, ``~`` and ``-`` are percent-encoded.

        Raises:
            InvalidName: The text is not a platform.
        """
        try:
            names, *options = text.strip().split(",")
            parts = [_decoded(part) for part in names.split("/")]
            values = dict(map(_option, options))
        except (AttributeError, ValueError):
            raise _malformed(text) from None
        if len(parts) > 3 or len(values) < len(options) or len(values.get("osver", ("",))) > 1:
            raise _malformed(text)
        if len(parts) == 1:
            parts.insert(0, "linux")
        return cls(
            os=parts[0],
            architecture=parts[1],
            variant=parts[2] if len(parts) == 3 else "",
            os_version=values.get("osver", ("",))[0],
            os_features=values.get("osfeatures", ()),
        ).normalised()

    @classmethod
    def of_document(cls, value: object) -> Self | None:
        """Return the platform that a decoded document states; ``None`` if it does not state one.

        A document without an operating system or without an architecture states none, and neither does one with a field
        of the wrong type.

        Args:
            value: The decoded JSON, of any type.
        """
        try:
            platform = msgspec.convert(_without_nulls(value), cls)
        except msgspec.ValidationError:
            return None
        return platform if platform.os.strip() and platform.architecture.strip() else None

    @classmethod
    def host(cls) -> Self:
        """Return the platform of containers on this machine: Linux with the host's architecture and variant."""
        return cls(os="linux", architecture=_host.machine()).normalised()

    def normalised(self) -> Self:
        """Return the platform under its canonical names: ``x86_64`` is ``amd64``, ``arm64/v8`` is ``arm64``."""
        system = self.os.strip().lower() or _UNKNOWN
        architecture = self.architecture.strip().lower() or _UNKNOWN
        architecture, implied = _ARCHITECTURE.get(architecture, (architecture, ""))
        variant = self.variant.strip().lower() or implied
        if variant.replace(".", "").isdigit():
            variant = f"v{variant}"
        if variant in ("", _BASELINE.get(architecture)):
            variant = _WRITTEN.get(architecture, variant)
        return msgspec.structs.replace(
            self,
            os=_OS.get(system, system),
            architecture=architecture,
            variant=variant,
            os_features=tuple(feature for feature in self.os_features if feature),
        )

    @property
    def is_unknown(self) -> bool:
        """Whether the platform is unknown; build attestations have ``unknown/unknown``."""
        return _UNKNOWN in (self.os, self.architecture) or not (self.os and self.architecture)

    def __str__(self) -> str:
        """``os/architecture[/variant][,osver=VERSION][,osfeatures=NAME+NAME]``, which ``parse`` reads."""
        parts = [self.os or _UNKNOWN, self.architecture or _UNKNOWN, *([self.variant] if self.variant else [])]
        text = "/".join(map(_encoded, parts))
        if self.os_version:
            text += f",osver={_encoded(self.os_version)}"
        features = [_encoded(feature) for feature in self.os_features if feature]
        return f"{text},osfeatures={'+'.join(features)}" if features else text

    def runs(self, target: Platform) -> bool:
        """Return whether an image for ``target`` runs on this platform.

        Operating system and architecture must be equal, and the variant of the target not higher. On Windows the
        first three parts of the version must be equal, if this platform names a version. Features that this platform
        names must be among those of the target.
        """
        host, image = self.normalised(), target.normalised()
        if image.is_unknown or (host.os, host.architecture) != (image.os, image.architecture):
            return False
        if not set(host.os_features) <= set(image.os_features):
            return False
        if not _variant_runs(host, image):
            return False
        if host.os == "windows":
            return not host.os_version or _numbers(host.os_version)[:3] == _numbers(image.os_version)[:3]
        return host.os in ("linux", "freebsd", "darwin") or host.os_version in ("", image.os_version)


def _encoded(part: str) -> str:
    return quote_from_bytes(part.encode("utf-8", "surrogatepass"), safe="")


def _decoded(part: str) -> str:
    if not _PART.fullmatch(part):
        raise ValueError
    return unquote_to_bytes(part).decode("utf-8", "surrogatepass")


def _option(text: str) -> tuple[str, tuple[str, ...]]:
    key, _, value = text.partition("=")
    if key not in _OPTIONS:
        raise ValueError
    return key, tuple(_decoded(item) for item in value.split("+"))


def _malformed(text: object) -> InvalidName:
    return InvalidName(f"not a platform, such as linux/arm64: {text!r:.200}")


def _without_nulls(value: object) -> object:
    # Go writes null for an empty list.
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


_Item = TypeVar("_Item")


def best_match(requested: Platform, offers: Iterable[tuple[Platform | None, _Item]]) -> _Item | None:
    """Return the item whose platform fits best, or ``None`` if none fits.

    Items that demand the fewest features that were not requested come first, then exact matches, then the highest
    variant, then the newest version. Items without a platform, or with an unknown one, are never chosen. Among equals
    the first one wins.

    Args:
        requested: Requested platform.
        offers: Items with their platforms.
    """
    best: _Item | None = None
    best_rank: tuple[object, ...] | None = None
    for platform, item in offers:
        if platform is None or not requested.runs(platform):
            continue
        rank = _rank(requested.normalised(), platform.normalised())
        if best_rank is None or rank > best_rank:
            best, best_rank = item, rank
    return best


def _rank(requested: Platform, offered: Platform) -> tuple[object, ...]:
    return (
        -len(set(offered.os_features) - set(requested.os_features)),
        requested.variant == offered.variant,
        _level(offered) or (),
        requested.os_version == offered.os_version,
        _numbers(offered.os_version),
    )


def _variant_runs(requested: Platform, offered: Platform) -> bool:
    if requested.variant == offered.variant:
        return True
    have, need = _level(requested), _level(offered)
    if have is not None and need is not None:
        return have >= need
    # Variants without a number cannot be compared; they match only if one side names no variant.
    return "" in (requested.variant, offered.variant) and requested.architecture not in _BASELINE


def _level(platform: Platform) -> tuple[int, ...] | None:
    variant = platform.variant or _BASELINE.get(platform.architecture, "")
    match = re.fullmatch(r"v(\d{1,6}(?:\.\d{1,6})*)", variant)
    return None if match is None else _numbers(match[1])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d{1,9}", version))
