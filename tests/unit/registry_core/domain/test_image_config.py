from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from registry_core.domain.image_config import ImageConfig, RawConfig
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


class TestRawConfig:
    """R-017."""

    DIFF_ID = f"sha256:{'0' * 64}"

    def raw(self, **fields: object) -> RawConfig:
        stated = {"os": "linux", "architecture": "arm64", "rootfs": {"type": "layers", "diff_ids": [self.DIFF_ID]}}
        return RawConfig(json.dumps(stated | fields).encode())

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"config": {"Entrypoint": "/bin/sh"}}, "$.config.Entrypoint"),
            ({"config": {"Cmd": {"a": 1}}}, "$.config.Cmd"),
            ({"config": {"Env": "A=b"}}, "$.config.Env"),
            ({"config": {"Labels": {"a": 1}}}, "$.config.Labels[...]"),
            ({"config": {"User": 1000}}, "$.config.User"),
            ({"config": {"ExposedPorts": ["80/tcp"]}}, "$.config.ExposedPorts"),
            ({"config": {"Volumes": "/data"}}, "$.config.Volumes"),
            ({"config": []}, "$.config"),
            ({"history": [None]}, "$.history[0]"),
            ({"history": {}}, "$.history"),
            ({"created": 7}, "$.created"),
            ({"author": ["me"]}, "$.author"),
            ({"variant": 8}, "$.variant"),
            ({"os.features": "win32k"}, "$.os.features"),
        ],
    )
    def test_diff_ids_and_platform_do_not_need_a_malformed_field(self, fields: dict[str, object], path: str) -> None:
        raw = self.raw(**fields)

        assert raw.diff_ids == (self.DIFF_ID,)
        assert raw.platform == Platform.parse("linux/arm64")
        with pytest.raises(InvalidDocument) as caught:
            _ = raw.config
        assert caught.value.path == path

    @pytest.mark.parametrize(
        "rootfs", [[], "layers", {"diff_ids": "sha256:abc"}, {"diff_ids": ["sha256:abc"]}, {"diff_ids": [None]}]
    )
    def test_malformed_diff_ids_are_refused(self, rootfs: object) -> None:
        with pytest.raises(InvalidDocument) as caught:
            _ = self.raw(rootfs=rootfs).diff_ids

        assert caught.value.path.startswith("$.rootfs")

    def test_absent_diff_ids_are_none(self) -> None:
        assert self.raw(rootfs=None).diff_ids == self.raw(rootfs={}).diff_ids == ()

    @pytest.mark.parametrize(
        "fields", [{"os": None}, {"os": 7}, {"os": ""}, {"architecture": None}, {"architecture": ["arm64"]}]
    )
    def test_half_a_platform_is_none(self, fields: dict[str, object]) -> None:
        assert self.raw(**fields).platform is None

    @pytest.mark.parametrize(
        ("fields", "requested", "expected"),
        [
            ({}, "linux/arm64", True),
            ({}, "windows/arm64", False),
            ({"architecture": None}, "linux/amd64", True),
            ({"architecture": None}, "windows/amd64", False),
            ({"os": 7}, "windows/arm64", True),
            ({"os": 7}, "windows/amd64", False),
            ({"os": None, "architecture": "aarch64"}, "linux/arm64/v8", True),
            ({"os": None, "architecture": None}, "plan9/mips", True),
        ],
    )
    def test_a_field_that_is_not_stated_excludes_no_platform(
        self, fields: dict[str, object], requested: str, expected: bool
    ) -> None:
        assert self.raw(**fields).allows(Platform.parse(requested)) is expected

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a":1,"a":2}'])
    def test_what_is_no_json_object_is_refused(self, content: bytes) -> None:
        raw = RawConfig(content)

        for read in (lambda: raw.diff_ids, lambda: raw.platform, lambda: raw.config):
            with pytest.raises(InvalidDocument):
                read()
