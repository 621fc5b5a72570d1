from __future__ import annotations

import pytest

from registry_core.domain import media_types as types


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"{types.OCI_INDEX}; charset=utf-8", types.OCI_INDEX),
        ("  Application/JSON ;x=y", "application/json"),
        ("", ""),
        (";", ""),
    ],
)
def test_parameters_and_case_are_ignored(value: str, expected: str) -> None:
    """R-029."""
    assert types.essence(value) == expected


@pytest.mark.parametrize("suffix", ["json", "prettyjws"])
def test_schema_1_is_recognised(suffix: str) -> None:
    """R-028."""
    assert types.is_schema1(f"application/vnd.docker.distribution.manifest.v1+{suffix}")


@pytest.mark.parametrize("media_type", [*types.MANIFESTS, "application/vnd.docker.distribution.manifest.v1", ""])
def test_nothing_else_is_schema_1(media_type: str) -> None:
    """R-028."""
    assert not types.is_schema1(media_type)


def test_indexes_are_distinguished_from_images() -> None:
    assert [kind for kind in types.MANIFESTS if types.is_index(kind)] == [types.OCI_INDEX, types.DOCKER_INDEX]
    assert all(types.is_manifest(kind) for kind in types.MANIFESTS)
    assert not types.is_manifest(types.OCI_CONFIG)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        (types.DOCKER_FOREIGN_LAYER_GZIP, True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", True),
        (types.OCI_LAYER_GZIP, False),
    ],
)
def test_nondistributable_layers_are_recognised(media_type: str, expected: bool) -> None:
    assert types.is_nondistributable(media_type) is expected
