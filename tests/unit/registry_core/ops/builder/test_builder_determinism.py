"""The same input gives the same digests in every process and on every machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from registry_core.ops.builder.builder import ImageBuilder

SCRIPT = r"""
import json, os, sys
from pathlib import Path
from registry_core import ImageBuilder, ImageEditor, IndexBuilder
from registry_core.ops.artifacts.push import build_artifact

os.umask(int(sys.argv[2], 8))
folder = Path(sys.argv[1])
for name in sorted({"b/run", "b/data", "a", "é", "Z"}, reverse=len(sys.argv) > 3):
    path = folder / "files" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name, encoding="utf-8")
(folder / "files" / "b" / "run").chmod(0o700)
(folder / "files" / "link").symlink_to("b/run")
image = (
    ImageBuilder(platform="linux/amd64")
    .add_directory(folder / "files", "srv", mode=0o644)
    .add_files({name: name for name in {"x", "y", "z/é"}}, compression="zstd", mtime=1_700_000_000)
    .label("b", "2").label("a", "1").expose(*{80, "53/udp"}).volume("/b").volume("/a")
    .created(1_700_000_000)
    .build()
)
edited = ImageEditor(image).canonicalise(1_600_000_000).squash(compression="").annotate("k", "v").build()
index = IndexBuilder().add(image).add(edited, "linux/arm64").annotate("z", "1").annotate("y", "2").build()
artifact = build_artifact([folder / "files"], artifact_type="a/b", annotations={"z": "1", "y": "2"})[1]
print(json.dumps([each.digest for each in (image, edited, index, artifact)]))
"""


def digests(folder: Path, umask: str, *more: str, **environment: str) -> list[str]:
    folder.mkdir()
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), umask, *more],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
    )
    found: list[str] = json.loads(ran.stdout)
    return found


def test_neither_hash_seed_umask_time_zone_locale_nor_the_order_on_disk_matters(tmp_path: Path) -> None:
    one = digests(tmp_path / "one", "022", PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C.UTF-8")

    other = digests(tmp_path / "other", "077", "reversed", PYTHONHASHSEED="2", TZ="Pacific/Kiritimati", LC_ALL="C")

    assert one == other
    assert len(set(one)) == 4


def test_uncompressed_layers_are_equal_on_every_machine() -> None:
    """Without zlib and its versions, nothing is left that could differ."""
    image = ImageBuilder(platform="linux/amd64").add_files({"a/é": "1"}, compression="", mtime=1).build()

    assert image.digest == "sha256:c05ceabe63283166bd15c2521f506ba285f03d57bf49db3bd5916d15b29078bf"
