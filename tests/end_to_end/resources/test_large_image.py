"""An image of 4 GiB is copied and extracted by a process that never has more than 96 MiB in memory (R-060)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from registry_adapters import LayoutCatalog
from registry_core import Descriptor, Digest, RawManifest, RepositoryName, Tag, push_blob
from registry_core.domain import strict_json
from registry_core.domain.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from registry_core.testing.layers import member, tar

FILE: Final = 2 << 30
# Of tars of one file of zeros each. To find them out here would take as long as copying does; whoever copies does so.
LAYERS: Final = (
    Digest("sha256:fabcefa5ea0f53ee15dfa436d90963e9385692958f517f77f485f1db1c6c0d53"),
    Digest("sha256:98d8c3ef8be760c30ded4d7f5920f0d2971fad86ac286422b034567868181f47"),
)
LIMIT: Final = 96 << 10

# A process of its own, with nothing in it but our side, measured whole: interpreter, modules and all.
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
# The maximum that getrusage tells is at least what the parent had when it forked.
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
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with an image of 4 GiB; holes in its files take no room on the disk, and are read like all else."""
    directory = tmp_path_factory.mktemp("seed")
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


def _layer(shelf: Path, number: int) -> Descriptor:
    """A plain tar of one file."""
    shelf.mkdir(parents=True, exist_ok=True)
    header = member(f"srv/data-{number}", size=FILE)
    size = len(header) + FILE + len(tar().content)
    with (shelf / LAYERS[number].encoded).open("wb") as file:
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
    """How many bytes were moved, and how many KiB of memory the process had at most."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, what, source, target], capture_output=True, text=True, timeout=280, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    moved, peak = run.stdout.split()
    return int(moved), int(peak)


@pytest.mark.timeout(300)
def test_copied_from_a_registry_to_a_layout(seed: Path, tmp_path: Path) -> None:
    try:
        with _served(seed) as registry:
            moved, peak = _measured("copy", f"{registry}/big", f"oci:{tmp_path / 'target'}")
    finally:
        shutil.rmtree(tmp_path / "target", ignore_errors=True)

    assert moved > 4 << 30
    assert peak < LIMIT


@pytest.mark.timeout(300)
def test_copied_from_a_layout_to_a_registry(
    seed: Path, tmp_path: Path, run_docker_registry: Callable[..., Any]
) -> None:
    try:
        moved, peak = _measured("copy", f"oci:{seed / 'big'}", f"{run_docker_registry().url}/big")
    finally:
        shutil.rmtree(tmp_path / "registry-1", ignore_errors=True)

    assert moved > 4 << 30
    assert peak < LIMIT


@pytest.mark.timeout(300)
def test_extracted_to_a_tar(seed: Path) -> None:
    moved, peak = _measured("tar", f"oci:{seed / 'big'}")

    assert moved > 4 << 30
    assert peak < LIMIT


@pytest.mark.timeout(300)
def test_extracted_to_a_directory(seed: Path, tmp_path: Path) -> None:
    try:
        moved, peak = _measured("directory", f"oci:{seed / 'big'}", str(tmp_path / "tree"))
    finally:
        shutil.rmtree(tmp_path / "tree", ignore_errors=True)

    assert moved == len(LAYERS) * FILE
    assert peak < LIMIT
