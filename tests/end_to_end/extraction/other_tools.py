"""Other programs that unpack an image: umoci, and GNU tar with the whiteouts applied in Python."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Self

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from registry_adapters import LayoutCatalog
from registry_core import Image, RepositoryName
from registry_core.domain import strict_json
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import RawManifest
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from registry_core.domain.names import Tag
from registry_core.testing.content import put_blob

__all__ = [
    "GZIP",
    "PLAIN",
    "ZSTD",
    "apply_tar",
    "clean_name",
    "copied_layers",
    "layout_image",
    "listed",
    "tar_applies",
    "umoci_unpacks",
]

PLAIN, GZIP, ZSTD = OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD
_PACK: dict[str, Callable[[bytes], bytes]] = {
    PLAIN: bytes,
    GZIP: lambda content: gzip.compress(content, 1, mtime=0),
    ZSTD: lambda content: zstd.compress(content, 1),
}
_EXTRACT = [
    "tar",
    "--extract",
    "--preserve-permissions",
    "--same-owner",
    "--numeric-owner",
    "--xattrs",
    "--xattrs-include=*",
    "--delay-directory-restore",
]


def layout_image(directory: Path, layers: Sequence[tuple[bytes, str]]) -> Image:
    """Create a layout with an image ``v1``, from tars and the media types of their layers."""
    repository = LayoutCatalog(directory.parent, fsync=False).repository(RepositoryName(directory.name))
    entries = []
    for content, media_type in layers:
        stored = _PACK[media_type](content)
        put_blob(repository, stored)
        entries.append({"mediaType": media_type, "digest": str(Digest.of(stored)), "size": len(stored)})
    config = strict_json.encode(
        {
            "os": "linux",
            "architecture": "amd64",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(content)) for content, _ in layers]},
        }
    )
    put_blob(repository, config)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": entries,
    }
    manifest = RawManifest(OCI_MANIFEST, strict_json.encode(document))
    repository.manifests.put(manifest, tags=[Tag("v1")])
    return Image(repository, manifest)


def umoci_unpacks(umoci: str, layout: Path, target: Path) -> None:
    """Unpack the image of a layout with umoci."""
    command = [umoci, "raw", "unpack", "--image", f"{layout}:v1", str(target)]
    subprocess.run(command, check=True, capture_output=True, umask=0o022)


def copied_layers(skopeo: str, layout: Path, directory: Path) -> Iterator[IO[bytes]]:
    """The layers of a layout's image, copied by skopeo and decompressed one after the other."""
    command = [skopeo, "copy", "--quiet", f"oci:{layout}:v1", f"dir:{directory}"]
    subprocess.run(command, check=True, capture_output=True)
    document = strict_json.decode((directory / "manifest.json").read_bytes())
    for layer in document["layers"]:
        stored = (directory / layer["digest"].partition(":")[2]).read_bytes()
        if stored.startswith(b"\x1f\x8b"):
            yield io.BytesIO(gzip.decompress(stored))
        elif stored.startswith(b"\x28\xb5\x2f\xfd"):
            yield io.BytesIO(zstd.decompress(stored))
        else:
            yield io.BytesIO(stored)


def tar_applies(layers: Iterator[IO[bytes]], target: Path) -> None:
    """Unpack layers with GNU tar, and apply the rules of the image-spec that tar does not know.

    Whiteouts remove files of lower layers before their own layer is unpacked; another kind of file replaces a
    directory; a directory over a directory replaces all attributes; directories without an entry keep their times.
    """
    target.mkdir()
    target.chmod(0o755)
    for layer in layers:
        infos = [(clean_name(info), info.isdir()) for info in listed(layer)]
        if not infos:
            continue
        with _KeptTimes(target, {name for name, is_folder in infos if is_folder}) as kept:
            for name, is_folder in sorted(infos, key=lambda info: _is_whiteout(info[0]), reverse=True):
                if _is_whiteout(name):
                    _white_out(name, target)
                elif not is_folder or (target / name).is_symlink() or not (target / name).is_dir():
                    _remove(target / name, target)
                else:
                    for key in os.listxattr(target / name):
                        os.removexattr(target / name, key)
            kept.forget_removed()
            apply_tar(layer, target)


def listed(layer: IO[bytes]) -> list[tarfile.TarInfo]:
    """The members of a tar."""
    if not layer.read(1):
        return []
    layer.seek(0)
    with tarfile.open(fileobj=layer, errors="surrogateescape") as archive:
        return list(archive)


def apply_tar(stream: IO[bytes], target: Path) -> None:
    """Unpack one tar with GNU tar, without its whiteouts."""
    stream.seek(0)
    command = [*_EXTRACT, "--exclude=.wh.*", "--file=-", "-C", str(target)]
    subprocess.run(command, input=stream.read(), check=True, capture_output=True)


class _KeptTimes:
    """Restore the times of directories without an entry in a layer."""

    def __init__(self, target: Path, named: set[str]) -> None:
        self._times = {}
        for folder, _, _ in os.walk(target):
            if folder == str(target) or os.path.relpath(folder, target) not in named:
                self._times[folder] = os.lstat(folder).st_mtime_ns
        if "" in named:
            self._times.pop(str(target), None)

    def __enter__(self) -> Self:
        return self

    def forget_removed(self) -> None:
        for folder in list(self._times):
            if os.path.islink(folder) or not os.path.isdir(folder):
                del self._times[folder]

    def __exit__(self, *_: object) -> None:
        for folder, mtime in self._times.items():
            os.utime(folder, ns=(mtime, mtime))


def clean_name(info: tarfile.TarInfo) -> str:
    """The normalized path of a member: no leading slash, no dots, no double slashes."""
    return "/".join(part for part in info.name.split("/") if part not in ("", "."))


def _is_whiteout(name: str) -> bool:
    return name.rpartition("/")[2].startswith(".wh.")


def _white_out(name: str, target: Path) -> None:
    folder, _, last = name.rpartition("/")
    if last != ".wh..wh..opq":
        _remove(target / folder / last.removeprefix(".wh."), target)
    elif (target / folder).is_dir() and not (target / folder).is_symlink():
        for child in list((target / folder).iterdir()):
            _remove(child, target)


def _remove(path: Path, target: Path) -> None:
    above = [target / part for part in path.relative_to(target).parents]
    if any(folder.is_symlink() or not folder.is_dir() for folder in above):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
