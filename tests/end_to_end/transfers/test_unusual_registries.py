"""Each operation that pushes, against registries that refuse look-ups and mounts, and answer by other statuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import pytest

from registry_adapters import MemoryCatalog
from registry_adapters.testing import FaultyRegistry, faulty_registry
from registry_adapters.testing import faults as fault
from registry_adapters.testing.faults import Fault
from registry_core import ArtifactFile, ImageBuilder, Index, IndexBuilder, ProtocolError, RegistryClient, Tag
from registry_core.ops.manifests import walk
from registry_core.ops.mirror.mirror import MirrorRule, run_mirror

KIND: Final = "application/vnd.example.note"
PLATFORM: Final = "linux/amd64"


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    with faulty_registry(catalog=MemoryCatalog()) as registry:
        yield registry


def on_base(client: RegistryClient) -> ImageBuilder:
    return ImageBuilder(base=client.with_segment("base").get_image("v1", PLATFORM)).add_files({"app": b"ours"})


def index() -> Index:
    images = [
        ImageBuilder(platform).add_files({"a": platform.encode()}).build() for platform in (PLATFORM, "linux/s390x")
    ]
    return IndexBuilder().add(images[0]).add(images[1]).build()


def note() -> list[ArtifactFile]:
    return [ArtifactFile(b"a note", title="note.txt")]


def mirrored(client: RegistryClient) -> None:
    source = MemoryCatalog()
    RegistryClient(source, "app").push_image("pushed", ImageBuilder(PLATFORM).add_files({"a": b"mirrored"}).build())
    report = run_mirror([MirrorRule(source=source, target=client.catalog, repositories=("app",))])
    assert report.ok


PUSHES: Final[dict[str, Callable[[RegistryClient], object]]] = {
    "push_image": lambda client: client.with_segment("app").push_image("pushed", on_base(client).build()),
    "push_index": lambda client: client.with_segment("app").push_index("pushed", index()),
    "copy_image": lambda client: client.with_segment("base").copy_image("v1", client.with_segment("app"), "pushed"),
    "push_artifact": lambda client: client.with_segment("app").push_artifact("pushed", note(), artifact_type=KIND),
    "attach": lambda client: client.with_segment("app").attach("subject", note(), artifact_type=KIND),
    "tag_image": lambda client: client.with_segment("app").tag_image("subject", "pushed"),
    "run_mirror": mirrored,
}
MOUNT: Final = r"[?&]mount="
FAULTS: Final[dict[str, tuple[Fault, ...]]] = {
    **{f"HEAD {code}": (fault.status(code).on(method="HEAD"),) for code in (400, 403, 405, 412, 429, 451, 500, 503)},
    **{f"HEAD {code}": (fault.status(code).on(method="HEAD"),) for code in (202, 204, 206)},
    "HEAD login page": (fault.login_page().on(method="HEAD"),),
    **{
        f"mount {code}": (fault.status(code).on("uploads", path=MOUNT),)
        for code in (200, 202, 204, 400, 401, 403, 404, 409, 412, 415, 422, 429, 500, 503)
    },
    "mount without an answer": (fault.drop().on("uploads", path=MOUNT),),
    **{f"PUT {code}": (fault.change_status(code).on(method="PUT"),) for code in (200, 202, 203, 204, 206)},
    **{f"PATCH {code}": (fault.change_status(code).on(method="PATCH"),) for code in (200, 201, 203, 204)},
    "PUT 202 without digests": (
        fault.change_status(202).on(method="PUT"),
        fault.missing_header("Docker-Content-Digest").on(method="HEAD GET"),
    ),
    "PUT 200, no HEAD": (fault.change_status(200).on(method="PUT"), fault.no_head()),
    "PUT 200, no referrers API": (fault.no_referrers(), fault.change_status(200).on(method="PUT")),
    "Range 0-0": (fault.set_header("Range", "0-0").on("upload", method="PATCH"),),
    "Range exclusive": (fault.wrong_offset(1).on("upload", method="PATCH"),),
    "Range garbage": (fault.set_header("Range", "garbage").on("upload", method="PATCH"),),
    "no Range": (fault.missing_header("Range").on("upload", method="PATCH"),),
    "kept connections closed": (fault.idle_close(),),
    "kept connections reset": (fault.idle_close(reset=True),),
}


def complete(client: RegistryClient, tag: str) -> bool:
    """Return whether the registry has all parts of what a tag names."""
    repository = client.with_segment("app").repository
    for manifest in walk(repository, repository.manifests.get(Tag(tag))):
        for part in manifest.children:
            if not manifest.is_index:
                repository.blobs.stat(part.digest)
    return True


ABOUT_CHUNKS: Final = ("PATCH", "Range", "no Range")
ABOUT_OTHER_REQUESTS: Final = ("HEAD", "mount")
CASES: Final = [
    *((situation, None) for situation in FAULTS if not situation.startswith(ABOUT_CHUNKS)),
    *((situation, 50) for situation in FAULTS if not situation.startswith(ABOUT_OTHER_REQUESTS)),
]


@pytest.mark.parametrize(("situation", "chunk_size"), CASES)
@pytest.mark.parametrize("push", PUSHES)
def test_a_push_that_an_upload_can_complete_is_completed(
    registry: FaultyRegistry, push: str, situation: str, chunk_size: int | None
) -> None:
    """R-053, R-074, R-076, R-077, R-078, R-079: without a retry."""
    image = ImageBuilder(PLATFORM).add_files({"etc/os-release": b"ID=test"}).build()
    client = registry.client(retries=0, backoff=0.01, chunk_size=chunk_size)
    for name, tag in (("base", "v1"), ("app", "subject")):
        client.with_segment(name).push_image(tag, image if name == "base" else ImageBuilder(PLATFORM).build())
    registry.inject(*FAULTS[situation])

    PUSHES[push](client)

    registry.clear()
    if push == "attach":
        assert [each.artifact_type for each in client.with_segment("app").list_referrers("subject")] == [KIND]
    else:
        assert complete(client, "pushed")


@pytest.mark.parametrize("code", [200, 202, 204])
@pytest.mark.parametrize("push", PUSHES)
def test_a_login_page_in_place_of_each_put_is_no_success(registry: FaultyRegistry, push: str, code: int) -> None:
    """R-076, R-079: also where the manifest was stored before, under another tag."""
    client = registry.client(retries=0)
    for name, tag in (("base", "v1"), ("app", "subject")):
        client.with_segment(name).push_image(tag, ImageBuilder(PLATFORM).add_files({"name": name.encode()}).build())
    registry.inject(fault.login_page(code).on(method="PUT"))

    with pytest.raises(ProtocolError, match=f"unexpected status {code}"):
        PUSHES[push](client)

    assert client.with_segment("app").list_tags() == ["subject"]
