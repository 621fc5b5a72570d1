"""Ranges of semantic versions."""

from __future__ import annotations

import sys

import pytest

from registry_core.errors import ConfigError, InvalidValue
from registry_core.ops.mirror.selection import VersionRange, version_of


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2, <2", ["1.2", "v1.9.9", "1.2.0"], ["2.0.0", "2.0.0-rc.1", "1.1.9", "1.3.0-rc.1"]),
        (">=1.2 <2", ["1.5.0"], ["2.0.0"]),
        ("^1.2.3", ["1.2.3", "1.9.0"], ["2.0.0", "1.2.2", "2.0.0-rc1"]),
        ("^0.2.3", ["0.2.9"], ["0.3.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("^0", ["0.9.1"], ["1.0.0"]),
        ("^0.0", ["0.0.9"], ["0.1.0"]),
        ("~1.2", ["1.2.9"], ["1.3.0"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("~1", ["1.9.0"], ["2.0.0"]),
        ("1.2.x", ["1.2.0"], ["1.3.0"]),
        ("1.x", ["1.5.5"], ["2.0.0"]),
        ("1.2", ["1.2.7"], ["1.3.0"]),
        ("1.2.3", ["1.2.3"], ["1.2.4"]),
        ("=1.2.3", ["v1.2.3"], ["1.2.4"]),
        ("*", ["1.0.0"], ["1.0.0-rc1"]),
        ("1 || 3", ["1.5.0", "3.0"], ["2.0.0"]),
        (">=2.0.0-rc.1", ["2.0.0-rc.2", "2.0.0", "3.0.0"], ["2.1.0-rc.1", "2.0.0-beta"]),
        ("<2.0.0-rc.2", ["2.0.0-rc.1", "1.0.0"], ["2.0.0-rc.2", "2.0.0"]),
        ("!=1.2.3", ["1.2.4"], ["1.2.3"]),
        ("!=1.2", ["1.3.0"], ["1.2.9"]),
        ("<=1.2", ["1.2.9"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("^1.2.3-beta.2", ["1.2.3-beta.4", "1.2.3", "1.9.0"], ["1.2.4-beta.2", "1.2.3-beta.1", "2.0.0"]),
        ("~1.2.3-beta.2", ["1.2.3-beta.4", "1.2.9"], ["1.2.4-beta.2", "1.3.0"]),
        ("^1.x", ["1.0.0", "1.99.0"], ["2.0.0", "0.9.0"]),
        ("^0.x", ["0.0.0", "0.5.0"], ["1.0.0"]),
        ("~0.2", ["0.2.0"], ["0.3.0"]),
        (">1", ["2.0.0"], ["1.9.9", "2.0.0-rc.1"]),
        (">1.2.x", ["1.3.0"], ["1.2.9"]),
        ("<=1", ["1.9.9", "0.1.0"], ["2.0.0", "2.0.0-rc.1"]),
        ("<1.2", ["1.1.9"], ["1.2.0", "1.2.0-rc.1"]),
        (">=1.x", ["1.0.0", "3.0.0"], ["0.9.9"]),
        ("1.2.3 || >=2 <3", ["1.2.3", "2.5.0"], ["1.2.4", "3.0.0"]),
        ("X", ["1.0.0"], []),
        (">= v1.2.3", ["1.2.3"], ["1.2.2"]),
        (">1.2.3-alpha.3", ["1.2.3-alpha.7", "3.4.5"], ["3.4.5-alpha.9", "1.2.3-alpha.3"]),
        ("1.2.3-rc.1", ["1.2.3-rc.1"], ["1.2.3"]),
        (">=1.0.0-rc.9", ["1.0.0-rc.10"], ["1.0.0-rc.2"]),
    ],
)
def test_a_range_contains_its_versions(text: str, inside: list[str], outside: list[str]) -> None:
    """The ranges have the meaning that npm's semver gives them."""
    found = VersionRange(text)

    versions = [(tag, version_of(tag)) for tag in (*inside, *outside)]
    assert [tag for tag, version in versions if version is not None and version in found] == inside


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ">=",
        "1.2.3.4",
        "a",
        ">=1.2 ||",
        "|| 1",
        "1..2",
        "~>1",
        "1.x.3",
        "^*",
        "1.2-rc",
        "1" * 2000,
        1,
        "<*",
        "1.2.3 - 2.3.4",
        "1.2.3;",
        "१.२.३",
    ],
)
def test_a_malformed_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        VersionRange(text)


@pytest.mark.parametrize("tag", ["latest", "1.2.3.4", "2024-01-01", "vv1", "1.02.3", "sha256-00"])
def test_a_tag_that_is_not_a_version_is_in_no_range(tag: str) -> None:
    assert version_of(tag) is None


def test_the_error_names_the_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "semver", None)

    with pytest.raises(ConfigError, match=r"ociport\[mirror\]"):
        VersionRange("1.x")
