"""Copying and extracting an image takes at most 96 MiB of memory, however large the image is (R-060).

Layers have 256 MiB; with ``OCIPORT_FULL_TESTS=1`` they have 2 GiB.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.scale import FULL

from registry_adapters import LayoutCatalog
from registry_core import Descriptor, Digest, RawManifest, RepositoryName, Tag, push_blob
from registry_core.domain import strict_json
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_core.testing.layers import member, tar

# Digests of tars with one file of zeros each, by the size of the file. The copies verify them.
DIGESTS: Final = {
    256 << 20: (
        Digest("sha256:805fd3ee6be1b56993d569cbc1aec4bc9eb1dcf4a5fcf83666d99d499434102f"),
        Digest("sha256:788141f03a0bca63456a5bd7e52a6eeed78d73103d3647d64c6e4a1b2a3925a7"),
    ),
    2 << 30: (
        Digest("sha256:fabcefa5ea0f53ee15dfa436d90963e9385692958f517f77f485f1db1c6c0d53"),
        Digest("sha256:98d8c3ef8be760c30ded4d7f5920f0d2971fad86ac286422b034567868181f47"),
    ),
}
FILE: Final = 2 << 30 if FULL else 256 << 20
LAYERS: Final = DIGESTS[FILE]
LIMIT: Final = 96 << 10

# A separate process with the client alone; its whole memory counts, with the interpreter and all modules.
SCRIPT = """
import sys
from pathlib import Path
from registry_adapters import open_client

what, source, target = sys.argv[1:]
with open_client(source) as client:
    image = client.get_image("v1", platform="linux/amd64")
    if what == "copy":
        with open_client(target, **({"fsync": False} if target.startswith("oci:") else {})) as other:
            client.copy_image("v1", other, "v1")
            moved = sum(other.repository.blobs.stat(layer.digest) for layer in image.layers())
    elif what == "tar":
        moved = 0
        with image.extract() as tar:
            while data := tar.read(1 << 20):
                moved += len(data)
    else:
        image.extract_to(target)
        moved = sum(path.stat().st_size for path in Path(target).rglob("*") if path.is_file())
# getrusage would report at least the memory that the parent had at the fork.
status = Path("/proc/self/status").read_text().split()
print(moved, status[status.index("VmHWM:") + 1])
"""

SERVER = """
import sys
from registry_adapters import LayoutCatalog
from registry_adapters.wsgi import registry_server
with registry_server(LayoutCatalog(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with an image of large layers; the files are sparse, so that they take no space on the disk."""
    directory = tmp_path_factory.mktemp("images")
    repository = LayoutCatalog(directory, fsync=False).repository(RepositoryName("big"))
    layers = [_layer(directory / "big/blobs/sha256", number) for number in range(len(LAYERS))]
    rootfs = {"type": "layers", "diff_ids": [str(layer.digest) for layer in layers]}
    config = strict_json.encode({"os": "linux", "architecture": "amd64", "rootfs": rootfs})
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _entry(push_blob(repository, config, media_type=OCI_CONFIG)),
        "layers": [_entry(layer) for layer in layers],
    }
    repository.manifests.put(RawManifest(OCI_MANIFEST, strict_json.encode(document)), tags=[Tag("v1")])
    yield directory
    shutil.rmtree(directory)


def _layer(blobs: Path, number: int) -> Descriptor:
    """A plain tar of one file."""
    blobs.mkdir(parents=True, exist_ok=True)
    header = member(f"srv/data-{number}", size=FILE)
    size = len(header) + FILE + len(tar().content)
    with (blobs / LAYERS[number].encoded).open("wb") as file:
        file.write(header)
        file.truncate(size)
    return Descriptor(media_type=OCI_LAYER, digest=LAYERS[number], size=size)


def _entry(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate("")


def _measured(what: str, source: str, target: str = "") -> tuple[int, int]:
    """The number of bytes moved, and the peak memory of the process in KiB."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, source, target], capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    moved, peak = run.stdout.split()
    return int(moved), int(peak)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_copied_from_a_registry_to_a_layout(images: Path, tmp_path: Path) -> None:
    try:
        with _served(images) as registry:
            moved, peak = _measured("copy", f"{registry}/big", f"oci:{tmp_path / 'target'}")
    finally:
        shutil.rmtree(tmp_path / "target", ignore_errors=True)

    assert moved > len(LAYERS) * FILE
    assert peak < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_copied_from_a_layout_to_a_registry(
    images: Path, tmp_path: Path, run_docker_registry: Callable[..., Any]
) -> None:
    try:
        moved, peak = _measured("copy", f"oci:{images / 'big'}", f"{run_docker_registry().url}/big")
    finally:
        shutil.rmtree(tmp_path / "registry-1", ignore_errors=True)

    assert moved > len(LAYERS) * FILE
    assert peak < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_extracted_to_a_tar(images: Path) -> None:
    moved, peak = _measured("tar", f"oci:{images / 'big'}")

    assert moved > len(LAYERS) * FILE
    assert peak < LIMIT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_extracted_to_a_directory(images: Path, tmp_path: Path) -> None:
    try:
        moved, peak = _measured("directory", f"oci:{images / 'big'}", str(tmp_path / "tree"))
    finally:
        shutil.rmtree(tmp_path / "tree", ignore_errors=True)

    assert moved == len(LAYERS) * FILE
    assert peak < LIMIT
