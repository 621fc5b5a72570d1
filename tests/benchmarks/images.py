"""The benchmark images: the same bytes on every machine, written as image layouts without the library."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

__all__ = ["IMAGES", "TAG", "Shape", "blobs_of", "files", "noise", "write_archive", "write_image"]

TAG: Final = "v1"
_PIECE: Final = 1 << 20
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"


class Shape(NamedTuple):
    """The size of an image.

    Attributes:
        layers: How many layers it has.
        amount: How long each is in bytes, or how many files it adds.
        quick: The amount where time is short.
        fill: Writes a layer, told its number and the amount.
    """

    layers: int
    amount: int
    quick: int
    fill: Callable[[Any, int, int], None]


class _Hashing:
    """A file that computes the digest of the bytes written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)


class _Gzip:
    """A file that writes its content compressed into another, and computes both digests."""

    def __init__(self, file: _Hashing, level: int) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._packer = zlib.compressobj(level, wbits=31)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._file.write(self._packer.compress(data))
        return len(data)

    def finish(self) -> None:
        self._file.write(self._packer.flush())


def noise(layer: Any, number: int, amount: int) -> None:
    """A tar with one incompressible file."""
    source = random.Random(number)
    member = tarfile.TarInfo(f"noise-{number}")
    member.size = amount
    layer.write(member.tobuf())
    for _ in range(amount // _PIECE):
        layer.write(source.randbytes(_PIECE))
    layer.write(bytes(1024))


def files(layer: Any, number: int, amount: int) -> None:
    """A layer tar like those of distributions: small files, links and whiteouts."""
    source = random.Random(number)
    text = _text(random.Random(0))
    with tarfile.open(fileobj=layer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for member, content in _members(source, text, number, amount):
            member.mtime = 1_700_000_000 + number
            tar.addfile(member, io.BytesIO(content))


def _members(source: random.Random, text: bytes, number: int, amount: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    # Builders include the parent directories of everything that they add or change.
    for folder in ("usr", "usr/share"):
        yield _plain(folder, tarfile.DIRTYPE, 0o755), b""
    for place in range(amount):
        folder = f"usr/share/package-{number}-{place // 40:04}"
        if place % 40 == 0:
            yield _plain(folder, tarfile.DIRTYPE, 0o755), b""
        size = min(400_000, int(source.expovariate(1 / 13_000)))
        start = source.randrange(len(text) - size)
        name = f"{folder}/file-{place:05}"
        yield _sized(name, size), text[start : start + size]
        if place % 25 == 0:
            yield _link(f"{name}.symlink", tarfile.SYMTYPE, f"file-{place:05}"), b""
        if place % 60 == 0:
            yield _link(f"{name}.hard", tarfile.LNKTYPE, name), b""
    if number == 0:
        return
    for place in range(0, amount // 2, 5):
        below = f"usr/share/package-0-{place // 40:04}"
        if place % 40 == 0:
            yield _plain(below, tarfile.DIRTYPE, 0o755), b""
        if place % 60 == 0:
            # It has a hard link: tools handle its removal differently.
            continue
        if place % 10 == 0:
            yield _sized(f"{below}/.wh.file-{place:05}", 0), b""
        else:
            yield _sized(f"{below}/file-{place:05}", 100), text[place : place + 100]


def _plain(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _sized(name: str, size: int) -> tarfile.TarInfo:
    member = _plain(name, tarfile.REGTYPE, 0o644)
    member.size = size
    return member


def _link(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    member = _plain(name, kind, 0o777)
    member.linkname = target
    return member


def _text(source: random.Random) -> bytes:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(source.choices(letters, k=source.randint(2, 11))) for _ in range(6000)]
    return " ".join(source.choices(words, k=600_000)).encode()


IMAGES: Final = {
    "big": Shape(4, 256 << 20, 16 << 20, noise),
    "many": Shape(40, 2 << 20, 1 << 20, noise),
    "wide": Shape(8, 64 << 20, 8 << 20, noise),
    "tree": Shape(6, 3_700, 250, files),
    "tiny": Shape(1, 1 << 20, 1 << 20, noise),
}


def write_image(directory: Path, name: str, is_quick: bool) -> None:
    """Write an image layout with one image.

    Args:
        directory: Where to; it is made.
        name: One of ``IMAGES``.
        is_quick: Whether the smaller amount is enough.
    """
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    shape = IMAGES[name]
    amount = shape.quick if is_quick else shape.amount
    layers, diff_ids = [], []
    for number in range(shape.layers):
        descriptor, diff_id = _layer(blobs, shape, number, amount)
        layers.append(descriptor)
        diff_ids.append(diff_id)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "the benchmarks"} for _ in diff_ids],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _document(blobs, config, _CONFIG),
        "layers": layers,
    }
    entry = _document(blobs, manifest, _MANIFEST)
    entry["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')


def write_archive(layout: Path, file: Path) -> None:
    """Write a reproducible tar of an image layout."""
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(path for path in layout.rglob("*") if path.is_file()):
            member = _sized(str(path.relative_to(layout)), path.stat().st_size)
            with path.open("rb") as content:
                tar.addfile(member, content)


def _layer(blobs: Path, shape: Shape, number: int, amount: int) -> tuple[dict[str, Any], str]:
    staged = blobs / "staged"
    with staged.open("wb") as file:
        stored = _Hashing(file)
        # Incompressible data is stored uncompressed.
        layer = _Gzip(stored, 0 if shape.fill is noise else 6)
        shape.fill(layer, number, amount)
        layer.finish()
    staged.rename(blobs / stored.digest.removeprefix("sha256:"))
    return _descriptor(_LAYER, stored.digest, stored.size), layer.digest


def _document(blobs: Path, document: dict[str, Any], media_type: str) -> dict[str, Any]:
    content = json.dumps(document).encode()
    encoded = hashlib.sha256(content).hexdigest()
    (blobs / encoded).write_bytes(content)
    return _descriptor(media_type, f"sha256:{encoded}", len(content))


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def blobs_of(directory: Path) -> tuple[bytes, str, Iterable[dict[str, Any]]]:
    """The manifest of a layout with one image, its digest, and the descriptors of its blobs."""
    entry = json.loads((directory / "index.json").read_text())["manifests"][0]
    content = (directory / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")).read_bytes()
    manifest = json.loads(content)
    return content, entry["digest"], [manifest["config"], *manifest["layers"]]
