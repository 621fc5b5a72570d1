"""Many processes share a layout, and any of them may be killed at any moment (R-313)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import registry_core
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.ports.catalog import Repository
from registry_core.testing.content import push_image, put_blob
from registry_core.testing.faults import HookedSource

NAME = RepositoryName("org/app")

_PREFIX = """
import os, signal, sys
from registry_adapters.layout import LayoutCatalog
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName, Tag
from registry_core.testing.content import push_image, put_blob
from registry_core.testing.faults import HookedSource

repository = LayoutCatalog(sys.argv[1]).repository(RepositoryName("org/app"))
"""

_TAGS = """
for number in range(25):
    push_image(repository, f"{sys.argv[2]}-{number}", tags=[f"{sys.argv[2]}-{number}"])
"""

_WAITING = """
def wait():
    print("started", flush=True)
    sys.stdin.read()

content = b"x" * 3_000_000
repository.blobs.put(Digest.of(content), len(content), HookedSource(content, wait))
"""

_KILLED = """
count, replace = 0, os.replace

def killing(*arguments, **where):
    global count
    count += 1
    if count == int(sys.argv[2]) and sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments, **where)
    if count == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = killing
push_image(repository, "one", tags=["v1"])
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return LayoutCatalog(tmp_path).repository(NAME)


def _start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    source = str(Path(registry_core.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((source, os.environ.get("PYTHONPATH", "")))}
    return subprocess.Popen(
        [sys.executable, "-c", _PREFIX + script, *arguments],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def test_no_tag_of_concurrent_processes_is_lost(tmp_path: Path, repository: Repository) -> None:
    """R-313."""
    processes = [_start(_TAGS, str(tmp_path), str(number)) for number in range(4)]
    for process in processes:
        process.communicate(timeout=100)

    expected = sorted(f"{process}-{number}" for process in range(4) for number in range(25))
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    assert list(repository.manifests.tags()) == expected
    assert len(json.loads((tmp_path / NAME / "index.json").read_bytes())["manifests"]) == 100
    assert len({repository.manifests.get(Tag(tag)).digest for tag in expected}) == 100


@pytest.mark.parametrize("known", [True, False])
def test_a_put_that_is_killed_changes_nothing(tmp_path: Path, repository: Repository, known: bool) -> None:
    """R-006, R-313."""
    manifest = push_image(repository, "one", tags=["v1"]) if known else None
    content = b"x" * 3_000_000

    process = _start(_WAITING, str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == b"started\n"
    process.kill()
    process.communicate(timeout=100)

    if manifest is not None:
        assert repository.manifests.get(Tag("v1")) == manifest
    else:
        assert list(LayoutCatalog(tmp_path).repositories()) == []
    assert not (tmp_path / NAME / "blobs" / "sha256" / Digest.of(content).encoded).exists()
    put_blob(repository, content)
    assert repository.blobs.stat(Digest.of(content)) == len(content)


# A layout's index and marker, the configuration, the layer, the manifest, and the index again.
@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_push_that_is_killed_at_any_step_can_be_repeated(
    tmp_path: Path, repository: Repository, step: int, moment: str
) -> None:
    """R-313."""
    process = _start(_KILLED, str(tmp_path), str(step), moment)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    between = list(LayoutCatalog(tmp_path).repositories())

    manifest = push_image(repository, "one", tags=["v1"])

    assert between in ([], [NAME])
    assert repository.manifests.get(Tag("v1")) == manifest
    assert list(repository.manifests.tags()) == ["v1"]
    assert (tmp_path / NAME / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'


def test_a_reader_never_sees_an_incomplete_layout(tmp_path: Path, repository: Repository) -> None:
    """R-313: without a marker, the layout does not exist."""
    reader = LayoutCatalog(tmp_path)
    seen: list[list[RepositoryName]] = []
    content = b"some content"

    def look() -> None:
        seen.append(list(reader.repositories()))

    repository.blobs.put(Digest.of(content), len(content), HookedSource(content, look))

    assert seen == [[]]
    assert list(reader.repositories()) == [NAME]
