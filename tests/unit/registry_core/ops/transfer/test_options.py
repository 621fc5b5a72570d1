"""Tasks and options of copies."""

from __future__ import annotations

from typing import Any, cast

import pytest

from registry_core.domain.digest import Digest
from registry_core.domain.names import Tag
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidName, InvalidReference, InvalidValue
from registry_core.ops.transfer.copy import run_copies
from registry_core.ops.transfer.options import CopyOptions, CopyTask, IndexMode
from registry_core.ports.catalog import Repository

DIGEST = Digest.of(b"")


def test_platforms_and_index_mode_are_parsed() -> None:
    options = CopyOptions(platforms=["linux/amd64", Platform(os="linux", architecture="arm64")], index_mode="sparse")

    assert options == CopyOptions(
        platforms=(Platform(os="linux", architecture="amd64"), Platform(os="linux", architecture="arm64")),
        index_mode=IndexMode.SPARSE,
    )


@pytest.mark.parametrize(
    ("platforms", "mode", "error", "message"),
    [
        (["linux/amd64"], None, InvalidValue, "platforms need index_mode"),
        ([], IndexMode.REWRITTEN, InvalidValue, "index_mode needs platforms"),
        (["/"], IndexMode.SPARSE, InvalidName, "not a platform, such as linux/arm64: '/'"),
        ([1], IndexMode.SPARSE, InvalidName, "not a platform, such as linux/arm64: 1"),
        ("linux/amd64", IndexMode.SPARSE, InvalidValue, "platforms must be a list, not 'linux/amd64'"),
        (["linux/amd64"], "spare", InvalidValue, "index_mode must be 'sparse' or 'rewritten', not 'spare'"),
    ],
)
def test_malformed_options_are_refused(
    platforms: Any, mode: IndexMode | str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CopyOptions(platforms=platforms, index_mode=mode)


def test_boolean_options_must_be_booleans() -> None:
    with pytest.raises(InvalidValue, match="referrers must be True or False, not 'yes'"):
        CopyOptions(referrers=cast("Any", "yes"))


def test_source_and_target_of_a_task_must_be_repositories(target: Repository) -> None:
    with pytest.raises(InvalidValue, match="source must be a Repository, not str; of a client, pass its attribute"):
        CopyTask(source=cast("Any", "app"), target=target, reference="v1")


def test_items_that_are_not_tasks_are_refused() -> None:
    with pytest.raises(InvalidValue, match="each task must be a CopyTask, not str"):
        run_copies(cast("Any", ["v1"]))


def test_reference_and_tags_of_a_task_are_parsed(source: Repository, target: Repository) -> None:
    by_tag = CopyTask(source=source, target=target, reference="v1", tags=["v1", Tag("v2")])
    by_digest = CopyTask(source=source, target=target, reference=str(DIGEST))

    assert isinstance(by_tag.reference, Tag)
    assert [type(tag) for tag in by_tag.tags] == [Tag, Tag]
    assert isinstance(by_digest.reference, Digest)


@pytest.mark.parametrize(
    ("reference", "tags", "error", "message"),
    [
        ("", (), InvalidReference, "neither a tag nor a digest"),
        ("v1", "v1", InvalidValue, "tags must be a list, not 'v1'"),
        ("v1", ["no tag!"], InvalidName, "not a tag"),
        ("v1", cast("Any", None), InvalidValue, "tags must be a list, not None"),
    ],
)
def test_malformed_tasks_are_refused(
    source: Repository, target: Repository, reference: str, tags: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CopyTask(source=source, target=target, reference=reference, tags=tags)
