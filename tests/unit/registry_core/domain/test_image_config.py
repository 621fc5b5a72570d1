from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from registry_core.domain.image_config import ImageConfig
from registry_core.domain.platform import Platform
from registry_core.errors import InvalidDocument

MOMENT = "2015-10-31T22:22:56.015925234Z"


def read(**fields: object) -> ImageConfig:
    return ImageConfig.read(json.dumps(fields).encode())


def test_nanoseconds_are_kept() -> None:
    config = read(created=MOMENT)

    assert config.created == MOMENT
    assert config.created_at == datetime(2015, 10, 31, 22, 22, 56, 15925, tzinfo=UTC)


@pytest.mark.parametrize("text", ["yesterday", "2015-10-31", "2015-10-31T22:22:56", "9999-12-31T23:59:59.9999999Z"])
def test_an_invalid_date_is_refused_on_access(text: str) -> None:
    config = read(created=text)

    with pytest.raises(InvalidDocument) as caught:
        _ = config.created_at

    assert caught.value.path == "$.created"


def test_every_field_is_optional() -> None:
    config = read()

    assert config.created_at is None
    assert config.platform is None
    assert config.rootfs.diff_ids == ()


def test_nulls_count_as_absent() -> None:
    config = read(config={"Env": None, "Labels": None, "Cmd": None}, history=None, rootfs=None, created=None)

    assert config.config.env == ()
    assert config.config.labels == {}
    assert config == read(config={}).__class__.read(config.raw)


def test_unknown_fields_are_kept_in_the_bytes() -> None:
    """R-027."""
    content = b'{"os":"linux","raw":{"x":1},"\\u0020":2,"container_config":{"Hostname":"h"}}'

    config = ImageConfig.read(content)

    assert config.os == "linux"
    assert config.raw == content


def test_container_fields_have_the_names_of_docker() -> None:
    config = read(
        config={
            "WorkingDir": "/w",
            "StopSignal": "TERM",
            "ExposedPorts": {"80/tcp": {}},
            "Entrypoint": ["a"],
            "User": "u",
        }
    ).config

    assert (config.working_dir, config.stop_signal, list(config.exposed_ports)) == ("/w", "TERM", ["80/tcp"])
    assert (config.entrypoint, config.user) == (("a",), "u")


def test_the_platform_is_normalised() -> None:
    config = read(os="linux", architecture="arm64", variant="v8")

    assert config.platform == Platform(os="linux", architecture="arm64")


@pytest.mark.parametrize("fields", [{"rootfs": {"diff_ids": ["x"]}}, {"config": []}, {"os": 5}, {"history": {}}])
def test_an_invalid_configuration_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidDocument):
        read(**fields)
