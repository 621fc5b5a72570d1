"""Archives as other tools write them, built member by member: ``docker save`` and image layouts."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from typing import Any, Final

from registry_core.domain.media_types import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, REF_NAME

__all__ = [
    "LAYERS",
    "MARKER",
    "Member",
    "blob",
    "config_of",
    "entry",
    "layout",
    "listing",
    "manifest_of",
    "member",
    "named",
    "saved",
    "sha256",
    "tar",
]

MARKER: Final = b'{"imageLayoutVersion":"1.0.0"}'


class Member(tarfile.TarInfo):
    """A member of a tar with its content."""

    content: bytes


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", pax: dict[str, str] | None = None
) -> Member:
    """One member; a regular file by default."""
    made = Member(name)
    made.type, made.linkname, made.size, made.content = kind, link, len(content), content
    made.pax_headers = pax or {}
    return made


def tar(*members: Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of some members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as out:
        for each in members:
            out.addfile(each, io.BytesIO(each.content))
    return stream.getvalue()


def sha256(content: bytes) -> str:
    """The hexadecimal digits of a digest."""
    return hashlib.sha256(content).hexdigest()


LAYERS: Final = tuple(tar(member(name, name.encode() * 1000)) for name in ("one", "two", "three"))


def config_of(layers: Iterable[bytes], **more: Any) -> bytes:
    """The configuration of an image with these uncompressed layers."""
    diff_ids = [f"sha256:{sha256(layer)}" for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids}
    return json.dumps({"os": "linux", "architecture": "amd64", "rootfs": rootfs, **more}).encode()


def saved(config: str, layers: Sequence[str] = (), tags: Sequence[str] | None = ("org/app:v1",)) -> dict[str, Any]:
    """An entry of ``manifest.json``, with the names of files."""
    return {"Config": config, "RepoTags": None if tags is None else list(tags), "Layers": list(layers)}


def listing(*entries: dict[str, Any]) -> Member:
    """``manifest.json``."""
    return member("manifest.json", json.dumps(entries).encode())


def blob(content: bytes) -> Member:
    """A blob of an image layout."""
    return member(f"blobs/sha256/{sha256(content)}", content)


def manifest_of(config: bytes, layers: Sequence[bytes], layer_type: str = OCI_LAYER) -> bytes:
    """An OCI image manifest."""
    parts = [
        {"mediaType": kind, "digest": f"sha256:{sha256(content)}", "size": len(content)}
        for kind, content in [(OCI_CONFIG, config), *((layer_type, layer) for layer in layers)]
    ]
    mapping = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1:]}
    return json.dumps(mapping).encode()


def entry(manifest: bytes, kind: str = OCI_MANIFEST, **annotations: str) -> dict[str, Any]:
    """An entry of ``index.json``."""
    found = {"mediaType": kind, "digest": f"sha256:{sha256(manifest)}", "size": len(manifest)}
    return {**found, "annotations": annotations} if annotations else found


def named(manifest: bytes, name: str, kind: str = OCI_MANIFEST) -> dict[str, Any]:
    """An entry of ``index.json`` with a name."""
    return entry(manifest, kind, **{REF_NAME: name})


def layout(*entries: dict[str, Any]) -> tuple[Member, Member]:
    """``oci-layout`` and ``index.json``."""
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return member("oci-layout", MARKER), member("index.json", json.dumps(index).encode())
