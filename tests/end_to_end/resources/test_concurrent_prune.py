"""Eight processes write to a layout while two collect its garbage; some processes are killed (R-313).

They run for six seconds; with ``OCIPORT_FULL_TESTS=1`` they run for a minute.
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
from tests.scale import FULL

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
SECONDS = 60.0 if FULL else 6.0

# Images share layers, lose their tags, and are built again from blobs that nothing refers to any more. A push that
# takes longer than the grace period allows is reported as slow: its image may be collected.
_WRITER = """
import random, sys, time
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.names import RepositoryName, Tag
from registry_core.content.streams import CallableSource
from registry_core.errors import BlobNotFound, ImageNotFound
from registry_core.ops.builder.staged import staged_repository
from registry_core.testing.content import push_image

root, writer, seconds, grace = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
repository = LayoutCatalog(root, fsync=False).repository(RepositoryName("org/app"))
chance = random.Random(writer)
end = time.monotonic() + seconds
tagged = set()

def report(*words):
    print(*words, flush=True)

while time.monotonic() < end:
    staged = staged_repository()
    # Mostly images that other writers push now; sometimes images that are old enough to be collected.
    moment = int(time.time()) - chance.choice((0, 0, 2, 2, 3))
    manifest = push_image(staged, f"shared-{moment}-{chance.randrange(12)}")
    tag, begun = f"w{writer}-{chance.randrange(3)}", time.monotonic()
    report("begin", tag)
    for part in manifest.children:
        try:
            repository.blobs.stat(part.digest)
        except BlobNotFound:
            source = CallableSource(lambda start, part=part: staged.blobs.open(part.digest, start=start))
            repository.blobs.put(part.digest, part.size, source)
    time.sleep(chance.random() * grace / 8)
    repository.manifests.put(manifest, tags=[Tag(tag)])
    if time.monotonic() - begun < grace / 2:
        report("done", tag, manifest.digest)
        tagged.add(tag)
    else:
        report("slow", tag)
        tagged.discard(tag)
    if tagged and chance.random() < 0.5:
        old = chance.choice(sorted(tagged))
        tagged.remove(old)
        report("begin", old)
        repository.manifests.untag(Tag(old))
        report("gone", old)
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


class Processes:
    """Writers and collectors on one layout, and the lines that they report.

    Args:
        root: Directory of the catalog.
        output: Empty directory for the output; a pipe would block a process when it is full.
        seconds: Time for which they run.
    """

    def __init__(self, root: Path, output: Path, seconds: float) -> None:
        self._root = root
        self._output = output
        self._end = time.monotonic() + seconds
        self._numbers = itertools.count()
        self.killed = 0
        self._scripts = [_WRITER] * WRITERS + [_COLLECTOR] * COLLECTORS
        self._running = [self._start(script) for script in self._scripts]

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self._end - time.monotonic()

    def kill(self, position: int) -> None:
        """Kill one process and start another in its place."""
        process = self._running[position]
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.killed += 1
        self._running[position] = self._start(self._scripts[position])

    def wait(self) -> list[int]:
        """Wait for all processes, and return their exit codes."""
        return [process.wait(timeout=max(self.left, 0) + 60) for process in self._running]

    def close(self) -> None:
        """Kill all processes."""
        for process in self._running:
            process.kill()
            process.wait()

    def lines(self) -> Iterable[list[str]]:
        """Every complete line of output, split into words; the lines of one process are in order."""
        for file in self._output.iterdir():
            for line in file.read_text().splitlines(keepends=True):
                if line.endswith("\n"):
                    yield line.split()

    @property
    def removed(self) -> int:
        """The number of blobs that the collectors reported as removed."""
        return sum(int(words[1]) for words in self.lines() if words[0] == "removed")

    @property
    def pushed(self) -> int:
        """The number of acknowledged pushes; most of their tags were moved or deleted later."""
        return sum(words[0] == "done" for words in self.lines())

    def acknowledged(self) -> dict[Tag, Digest]:
        """The digest of each tag whose last push was acknowledged, without tags that a process was changing."""
        tags: dict[Tag, Digest] = {}
        for word, subject, *more in self.lines():
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
        with (self._output / str(number)).open("wb") as output:
            return subprocess.Popen([sys.executable, "-c", script, *arguments], env=environment, stdout=output)


def _read_by_skopeo(layout: Path, tags: Iterable[Tag], target: Path) -> None:
    """Fail unless skopeo reads every blob of every tag."""
    skopeo = shutil.which("skopeo")
    assert skopeo is not None
    for tag in tags:
        subprocess.run([skopeo, "copy", "--quiet", f"oci:{layout}:{tag}", f"dir:{target}"], check=True)
        shutil.rmtree(target)


def _check_images(repository: Repository, acknowledged: dict[Tag, Digest]) -> None:
    for tag, digest in acknowledged.items():
        assert repository.manifests.resolve(tag).digest == digest
        report = validate(repository, tag)
        assert report.is_clean, str(report)


def _check_collection(catalog: LayoutCatalog, root: Path, acknowledged: dict[Tag, Digest]) -> None:
    """Check that a later collection leaves exactly the acknowledged images."""
    repository = catalog.repository(NAME)
    for tag in list(repository.manifests.tags()):
        if tag not in acknowledged:
            repository.manifests.untag(tag)

    prune_layout(Layout(Root(root, fsync=False), NAME), grace=GRACE, untagged=True, clock=lambda: time.time() + MONTH)

    report = catalog.check(NAME)
    assert report.findings == (), str(report)
    assert set(repository.manifests.tags()) == set(acknowledged)
    assert report.manifests == len(set(acknowledged.values()))


@pytest.mark.slow
def test_every_acknowledged_tag_exists_and_is_valid(tmp_path: Path) -> None:
    root, output = tmp_path / "images", tmp_path / "output"
    output.mkdir()
    catalog = LayoutCatalog(root, fsync=False)
    repository = catalog.repository(NAME)
    first = push_image(repository, "first", tags=["first"]).digest

    processes = Processes(root, output, SECONDS)
    try:
        ended = processes.wait()
    finally:
        processes.close()

    assert ended == [0] * 10
    acknowledged = processes.acknowledged() | {Tag("first"): first}
    slow = any(words[0] == "slow" for words in processes.lines())
    assert processes.pushed > WRITERS
    # In six seconds on a busy machine, few blobs become old enough to be removed.
    assert processes.removed > (10 if FULL else 0)
    _check_images(repository, acknowledged)
    _read_by_skopeo(root / NAME, acknowledged, tmp_path / "copy")
    report = catalog.check(NAME)
    assert report.is_clean or slow, str(report)
    _check_collection(catalog, root, acknowledged)


@pytest.mark.slow
def test_killed_processes_harm_no_acknowledged_image(tmp_path: Path) -> None:
    """Writers and collectors are killed at any point; a later collection removes what they left."""
    root, output = tmp_path / "images", tmp_path / "output"
    output.mkdir()
    catalog = LayoutCatalog(root, fsync=False)
    repository = catalog.repository(NAME)
    first = push_image(repository, "first", tags=["first"]).digest
    chance = random.Random(313)

    processes = Processes(root, output, SECONDS)
    try:
        while processes.left > 0.5:
            time.sleep(chance.uniform(0.1, 0.5))
            processes.kill(chance.randrange(WRITERS + COLLECTORS))
        ended = processes.wait()
    finally:
        processes.close()

    assert ended == [0] * 10
    acknowledged = processes.acknowledged() | {Tag("first"): first}
    assert processes.pushed > WRITERS
    assert processes.removed > 0
    assert processes.killed > 2
    _check_images(repository, acknowledged)
    _read_by_skopeo(root / NAME, acknowledged, tmp_path / "copy")
    _check_collection(catalog, root, acknowledged)
    _check_images(repository, acknowledged)
