"""Many processes write to a layout and collect its garbage at once (R-313)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import registry_core
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ops.upkeep.validate import validate
from registry_core.testing.content import push_image

NAME = RepositoryName("org/app")
GRACE = 2.0

# Images share layers, lose their tags, and are made again out of parts that nothing refers to any more. What was pushed
# slower than the grace period allows is not promised to anybody, and not told.
_WRITER = """
import random, sys, time
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName, Tag
from registry_core.content.source import OpenerSource
from registry_core.errors import BlobNotFound, ImageNotFound
from registry_core.ops.build.staged import staged_repository
from registry_core.testing.content import push_image

root, me, seconds, grace = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
repository = LayoutCatalog(root, fsync=False).repository(RepositoryName("org/app"))
chance = random.Random(me)
end = time.monotonic() + seconds
mine, count = {}, 0
while time.monotonic() < end:
    count += 1
    staged = staged_repository()
    # Mostly what others make just now, sometimes what was made as long ago as the collectors look for.
    moment = int(seconds - end + time.monotonic()) - chance.choice((0, 0, 2, 2, 3))
    manifest = push_image(staged, f"shared-{moment}-{chance.randrange(12)}")
    tag, begun = f"w{me}-{chance.randrange(3)}", time.monotonic()
    mine.pop(tag, None)
    for part in manifest.children:
        try:
            repository.blobs.stat(part.digest)
        except BlobNotFound:
            source = OpenerSource(lambda start, part=part: staged.blobs.open(part.digest, start=start))
            repository.blobs.put(part.digest, part.size, source)
    time.sleep(chance.random() * grace / 8)
    repository.manifests.put(manifest, tags=[Tag(tag)])
    if time.monotonic() - begun < grace / 2:
        mine[tag] = manifest.digest
    else:
        print("slow")
    if chance.random() < 0.5:
        old = chance.choice(sorted(mine) or [tag])
        mine.pop(old, None)
        try:
            repository.manifests.untag(Tag(old))
        except ImageNotFound:
            pass
for tag, digest in mine.items():
    print(tag, digest)
print("done", count)
"""

_COLLECTOR = """
import sys, time
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName

root, _, seconds, grace = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
catalog = LayoutCatalog(root, fsync=False)
end = time.monotonic() + seconds
removed = 0
while time.monotonic() < end:
    report = catalog.prune(RepositoryName("org/app"), grace=grace, untagged=True)
    removed += len(report.blobs)
print("removed", removed)
"""


def _start(script: str, *arguments: str) -> subprocess.Popen[str]:
    source = str(Path(registry_core.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((source, os.environ.get("PYTHONPATH", "")))}
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_every_tag_that_was_acknowledged_is_there_and_sound(tmp_path: Path) -> None:
    """R-313."""
    seconds = os.environ.get("OCIPORT_CROWD_SECONDS", "6")
    catalog = LayoutCatalog(tmp_path, fsync=False)
    repository = catalog.repository(NAME)
    push_image(repository, "first", tags=["first"])

    writers = [_start(_WRITER, str(tmp_path), str(number), seconds, str(GRACE)) for number in range(8)]
    collectors = [_start(_COLLECTOR, str(tmp_path), str(number), seconds, str(GRACE)) for number in range(2)]
    answers = [process.communicate(timeout=100)[0] for process in (*writers, *collectors)]

    assert [process.returncode for process in (*writers, *collectors)] == [0] * 10
    promised = dict(line.split() for answer in answers[:8] for line in answer.splitlines() if line.startswith("w"))
    removed = sum(int(answer.split()[1]) for answer in answers[8:])
    assert promised
    assert removed
    for tag, digest in promised.items():
        assert repository.manifests.resolve(Tag(tag)).digest == digest
        report = validate(repository, tag)
        assert report.is_clean, str(report)
    slow = any("slow" in answer for answer in answers)
    whole = catalog.check(NAME)
    assert slow or whole.is_clean, str(whole)
