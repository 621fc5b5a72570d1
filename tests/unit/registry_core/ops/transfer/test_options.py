"""What of a graph is copied, as a value."""

from __future__ import annotations

from typing import Any

import pytest

from registry_core.domain.platform import Platform
from registry_core.errors import InvalidName, InvalidValue
from registry_core.ops.transfer.options import CopyOptions, IndexMode


def test_platforms_are_taken_as_text() -> None:
    given: Any = ["linux/amd64", Platform(os="linux", architecture="arm64")]

    options = CopyOptions(platforms=given, index_mode=IndexMode.SPARSE)

    assert [str(platform) for platform in options.platforms] == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize(
    ("platforms", "form", "error"),
    [
        (["linux/amd64"], None, InvalidValue),
        ([], IndexMode.REWRITTEN, InvalidValue),
        (["/"], IndexMode.SPARSE, InvalidName),
        ("linux/amd64", IndexMode.SPARSE, InvalidValue),
    ],
)
def test_what_an_index_becomes_is_said_with_platforms_and_only_then(
    platforms: Any, form: IndexMode | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        CopyOptions(platforms=platforms, index_mode=form)
