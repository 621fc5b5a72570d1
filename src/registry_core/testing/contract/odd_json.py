"""Contract of ``ManifestStore`` for valid manifests with unusual JSON: their bytes are returned unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.ports.catalog import Repository
from registry_core.testing.content import image_manifest, push_image, put_config_and_layer
from registry_core.testing.contract.base import Contract

__all__ = ["OddJsonContract"]


def _spaced(content: bytes) -> bytes:
    return json.dumps(json.loads(content), indent=3).encode() + b"\n\n"


def _tabbed(content: bytes) -> bytes:
    return b"\r\n\t " + json.dumps(json.loads(content), indent="\t").replace("\n", "\r\n").encode()


def _shuffled(content: bytes) -> bytes:
    return json.dumps(dict(reversed(json.loads(content).items()))).encode()


def _unknown(content: bytes) -> bytes:
    vendor = {"vendor": {"deep": [{"er": [1.0, 1e2, -0.0, True]}]}, "x-field": "kept"}
    mapping = json.loads(content)
    mapping["layers"][0]["vendor"] = "kept too"
    return json.dumps(mapping | vendor).encode()


def _nulls(content: bytes) -> bytes:
    return json.dumps(json.loads(content) | {"annotations": None, "subject": None, "artifactType": None}).encode()


def _unicode(content: bytes) -> bytes:
    text = "Größe 尺寸 \U0001f4e6 \u202e \x7f"
    return json.dumps(json.loads(content) | {"annotations": {"org.example.text": text}}, ensure_ascii=False).encode()


def _escaped(content: bytes) -> bytes:
    annotations = b'{"\\u006b\\u0065y":"\\ud83d\\udce6 \\/ \\u003cb\\u003e"}'
    return content[:-1] + b',"annotations":' + annotations + b"}"


def _without_media_type(content: bytes) -> bytes:
    mapping = json.loads(content)
    del mapping["mediaType"]
    return json.dumps(mapping).encode()


class OddJsonContract(Contract):
    """Manifests are never encoded again."""

    @pytest.mark.parametrize(
        "change",
        [_spaced, _tabbed, _shuffled, _unknown, _nulls, _unicode, _escaped, _without_media_type],
        ids=lambda change: change.__name__.strip("_"),
    )
    def test_unusual_json_is_returned_unchanged(self, repository: Repository, change: Callable[[bytes], bytes]) -> None:
        """Content, digest and media type, by tag and by digest."""
        config, layer = put_config_and_layer(repository, "odd")
        usual = image_manifest(config, [layer])
        manifest = RawManifest(usual.media_type, change(usual.content))

        stored = repository.manifests.put(manifest, tags=[Tag("odd")])
        found = [repository.manifests.get(reference) for reference in (Tag("odd"), manifest.digest)]

        assert manifest.content != usual.content
        assert stored.digest == manifest.digest
        assert [each.content for each in found] == [manifest.content] * 2
        assert [each.digest for each in found] == [manifest.digest] * 2
        assert [each.media_type for each in found] == [manifest.media_type] * 2

    def test_equivalent_manifests_are_distinct(self, repository: Repository) -> None:
        """Manifests with the same meaning but different bytes are stored side by side."""
        usual = push_image(repository, "equivalent", tags=["usual"])
        odd = RawManifest(usual.media_type, _spaced(usual.content))

        repository.manifests.put(odd, tags=[Tag("odd")])

        assert repository.manifests.get(Tag("usual")).content == usual.content
        assert repository.manifests.get(Tag("odd")).content == odd.content
