"""What of a graph is copied, as a value."""

from __future__ import annotations

from typing import Any

import pytest

from registry_core.domain.platform import Platform
from registry_core.errors import InvalidName, InvalidValue
from registry_core.ops.transfer.options import CopyChoices, IndexForm


def test_platforms_are_taken_as_text() -> None:
    given: Any = ["linux/amd64", Platform(os="linux", architecture="arm64")]

    choices = CopyChoices(platforms=given, index_form=IndexForm.SPARSE)

    assert [str(platform) for platform in choices.platforms] == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize(
    ("platforms", "form", "error"),
    [
        (["linux/amd64"], None, InvalidValue),
        ([], IndexForm.REWRITTEN, InvalidValue),
        (["/"], IndexForm.SPARSE, InvalidName),
        ("linux/amd64", IndexForm.SPARSE, InvalidValue),
    ],
)
def test_what_an_index_becomes_is_said_with_platforms_and_only_then(
    platforms: Any, form: IndexForm | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        CopyChoices(platforms=platforms, index_form=form)
