"""Manifests that are valid and look unlike ours: the bytes that went in are the bytes that come out."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from registry_core.domain.manifest import RawManifest
from registry_core.domain.names import Tag
from registry_core.ports.catalog import Repository
from registry_core.testing.content import image_manifest, push_image, put_parts
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


def _untyped(content: bytes) -> bytes:
    mapping = json.loads(content)
    del mapping["mediaType"]
    return json.dumps(mapping).encode()


class OddJsonContract(Contract):
    """Nothing fetched or stored is encoded again."""

    @pytest.mark.parametrize(
        "oddity",
        [_spaced, _tabbed, _shuffled, _unknown, _nulls, _unicode, _escaped, _untyped],
        ids=lambda oddity: oddity.__name__.strip("_"),
    )
    def test_odd_bytes_survive(self, repository: Repository, oddity: Callable[[bytes], bytes]) -> None:
        """Content, digest and media type, by tag and by digest."""
        config, layer = put_parts(repository, "odd")
        plain = image_manifest(config, [layer])
        manifest = RawManifest(plain.media_type, oddity(plain.content))

        stored = repository.manifests.put(manifest, tags=[Tag("odd")])
        found = [repository.manifests.get(reference) for reference in (Tag("odd"), manifest.digest)]

        assert manifest.content != plain.content
        assert stored.digest == manifest.digest
        assert [each.content for each in found] == [manifest.content] * 2
        assert [each.digest for each in found] == [manifest.digest] * 2
        assert [each.media_type for each in found] == [manifest.media_type] * 2

    def test_unknown_fields_survive_next_to_plain_manifests(self, repository: Repository) -> None:
        """Two manifests that mean the same are still two."""
        plain = push_image(repository, "twins", tags=["plain"])
        odd = RawManifest(plain.media_type, _spaced(plain.content))

        repository.manifests.put(odd, tags=[Tag("odd")])

        assert repository.manifests.get(Tag("plain")).content == plain.content
        assert repository.manifests.get(Tag("odd")).content == odd.content
