"""Ten processes write to a layout and collect its garbage at once (R-313), and some of them are killed.

Here they do so for some seconds. ``OCIPORT_CROWD_SECONDS=60 make test`` has them at it for a minute, and so does pytest
with this file alone.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

import registry_core
from registry_adapters.layout import LayoutCatalog
from registry_adapters.layout.directory import Root
from registry_adapters.layout.garbage import prune_layout
from registry_adapters.layout.layout import Layout
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ops.validation.validate import validate
from registry_core.ports.catalog import Repository
from registry_core.testing.content import push_image

NAME = RepositoryName("org/app")
GRACE = 2.0
WRITERS, COLLECTORS = 8, 2
MONTH = 30 * 24 * 3600.0

# Images share layers, lose their tags, and are made again out of parts that nothing refers to any more. What was pushed
# slower than the grace period allows is not promised to anybody, and not told.
_WRITER = """
import random, sys, time
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName, Tag
from registry_core.content.streams import OpenerSource
from registry_core.errors import BlobNotFound, ImageNotFound
from registry_core.ops.builder.staged import staged_repository
from registry_core.testing.content import push_image

root, me, seconds, grace = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
repository = LayoutCatalog(root, fsync=False).repository(RepositoryName("org/app"))
chance = random.Random(me)
end = time.monotonic() + seconds
mine = set()

def say(*words):
    print(*words, flush=True)

while time.monotonic() < end:
    staged = staged_repository()
    # Mostly what others make just now, sometimes what was made as long ago as the collectors look for.
    moment = int(time.time()) - chance.choice((0, 0, 2, 2, 3))
    manifest = push_image(staged, f"shared-{moment}-{chance.randrange(12)}")
    tag, begun = f"w{me}-{chance.randrange(3)}", time.monotonic()
    say("begin", tag)
    for part in manifest.children:
        try:
            repository.blobs.stat(part.digest)
        except BlobNotFound:
            source = OpenerSource(lambda start, part=part: staged.blobs.open(part.digest, start=start))
            repository.blobs.put(part.digest, part.size, source)
    time.sleep(chance.random() * grace / 8)
    repository.manifests.put(manifest, tags=[Tag(tag)])
    if time.monotonic() - begun < grace / 2:
        say("done", tag, manifest.digest)
        mine.add(tag)
    else:
        say("slow", tag)
        mine.discard(tag)
    if mine and chance.random() < 0.5:
        old = chance.choice(sorted(mine))
        mine.remove(old)
        say("begin", old)
        repository.manifests.untag(Tag(old))
        say("gone", old)
"""

_COLLECTOR = """
import sys, time
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName

root, _, seconds, grace = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
catalog = LayoutCatalog(root, fsync=False)
end = time.monotonic() + seconds
while time.monotonic() < end:
    report = catalog.prune(RepositoryName("org/app"), grace=grace, untagged=True)
    print("removed", len(report.blobs), flush=True)
"""


class Crowd:
    """Ten processes on one layout, and what they say.

    Args:
        root: Of the catalog.
        notes: An empty directory for what they say: a pipe that nobody reads would stop them.
        seconds: How long they work.
    """

    def __init__(self, root: Path, notes: Path, seconds: float) -> None:
        self._root = root
        self._notes = notes
        self._end = time.monotonic() + seconds
        self._numbers = itertools.count()
        self.killed = 0
        self._scripts = [_WRITER] * WRITERS + [_COLLECTOR] * COLLECTORS
        self._running = [self._start(script) for script in self._scripts]

    @property
    def left(self) -> float:
        """How many seconds there are left."""
        return self._end - time.monotonic()

    def kill(self, position: int) -> None:
        """End one of them wherever it stands, and let another take its place."""
        process = self._running[position]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed += 1
        self._running[position] = self._start(self._scripts[position])

    def wait(self) -> list[int]:
        """How each of them ended."""
        return [process.wait(timeout=max(self.left, 0) + 60) for process in self._running]

    def close(self) -> None:
        """Leave none of them behind."""
        for process in self._running:
            process.kill()
            process.wait()

    def said(self) -> Iterable[list[str]]:
        """Every line that was told whole, in words, in the order in which each process told them."""
        for note in self._notes.iterdir():
            for line in note.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield line.split()

    @property
    def removed(self) -> int:
        """How many blobs were collected, by those that lived to tell."""
        return sum(int(words[1]) for words in self.said() if words[0] == "removed")

    def promised(self) -> dict[Tag, Digest]:
        """What each tag was when somebody last was told about it; without those that something had been begun with."""
        tags: dict[Tag, Digest] = {}
        for word, subject, *more in self.said():
            if word == "begin":
                tags.pop(Tag(subject), None)
            elif word == "done":
                tags[Tag(subject)] = Digest(more[0])
        return tags

    def _start(self, script: str) -> subprocess.Popen[bytes]:
        number = next(self._numbers)
        source = str(Path(registry_core.__file__).parents[1])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((source, os.environ.get("PYTHONPATH", "")))}
        arguments = [str(self._root), str(number), str(max(self.left, 0)), str(GRACE)]
        with (self._notes / str(number)).open("wb") as note:
            return subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment, stdout=note)


def _read_by_skopeo(layout: Path, tags: Iterable[Tag], target: Path) -> None:
    """Fail unless skopeo reads every blob of every tag."""
    skopeo = shutil.which("skopeo")
    assert skopeo is not None
    for tag in tags:
        subprocess.run([skopeo, "copy", "--quiet", f"oci:{layout}:{tag}", f"dir:{target}"], check=True)
        shutil.rmtree(target)


def _sound(repository: Repository, promised: dict[Tag, Digest]) -> None:
    for tag, digest in promised.items():
        assert repository.manifests.resolve(tag).digest == digest
        report = validate(repository, tag)
        assert report.is_clean, str(report)


def _tidied(catalog: LayoutCatalog, root: Path, promised: dict[Tag, Digest]) -> None:
    """What a later collection leaves is what was promised, and nothing else."""
    repository = catalog.repository(NAME)
    for tag in list(repository.manifests.tags()):
        if tag not in promised:
            repository.manifests.untag(tag)

    prune_layout(Layout(Root(root, fsync=False), NAME), grace=GRACE, untagged=True, clock=lambda: time.time() + MONTH)

    whole = catalog.check(NAME)
    assert whole.findings == (), str(whole)
    assert set(repository.manifests.tags()) == set(promised)
    assert whole.manifests == len(set(promised.values()))


@pytest.fixture
def seconds() -> float:
    """How long a crowd works: a minute, where somebody has one."""
    return float(os.environ.get("OCIPORT_CROWD_SECONDS", "6"))


def test_every_tag_that_was_acknowledged_is_there_and_sound(tmp_path: Path, seconds: float) -> None:
    """R-313."""
    root, notes = tmp_path / "images", tmp_path / "notes"
    notes.mkdir()
    catalog = LayoutCatalog(root, fsync=False)
    repository = catalog.repository(NAME)
    first = push_image(repository, "first", tags=["first"]).digest

    crowd = Crowd(root, notes, seconds)
    try:
        ended = crowd.wait()
    finally:
        crowd.close()

    assert ended == [0] * 10
    promised = crowd.promised() | {Tag("first"): first}
    said = list(crowd.said())
    assert len(promised) > WRITERS
    assert crowd.removed > 10
    _sound(repository, promised)
    _read_by_skopeo(root / NAME, promised, tmp_path / "copy")
    whole = catalog.check(NAME)
    assert whole.is_clean or any(words[0] == "slow" for words in said), str(whole)
    _tidied(catalog, root, promised)


def test_whoever_is_killed_harms_nobody_else(tmp_path: Path, seconds: float) -> None:
    """R-313: writers and collectors end anywhere; what was acknowledged stays, and a later collection tidies up."""
    root, notes = tmp_path / "images", tmp_path / "notes"
    notes.mkdir()
    catalog = LayoutCatalog(root, fsync=False)
    repository = catalog.repository(NAME)
    first = push_image(repository, "first", tags=["first"]).digest
    chance = random.Random(313)

    crowd = Crowd(root, notes, seconds)
    try:
        while crowd.left > 0.5:
            time.sleep(chance.uniform(0.1, 0.5))
            crowd.kill(chance.randrange(WRITERS + COLLECTORS))
        ended = crowd.wait()
    finally:
        crowd.close()

    assert ended == [0] * 10
    promised = crowd.promised() | {Tag("first"): first}
    assert len(promised) > WRITERS
    assert crowd.removed > 0
    assert crowd.killed > 2
    _sound(repository, promised)
    _read_by_skopeo(root / NAME, promised, tmp_path / "copy")
    _tidied(catalog, root, promised)
    _sound(repository, promised)
