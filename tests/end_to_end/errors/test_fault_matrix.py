"""Each fault of a registry or the network against each operation of the client.

Each cell is the correct result or the expected error, within a time limit, with credentials sent to their origin only.
The results are compared with the table in ``docs/reference/faults.md``. To generate that table again, run this file:
``python tests/end_to_end/errors/test_fault_matrix.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from registry_adapters import MemoryCatalog
from registry_adapters.testing import FaultyRegistry, faulty_registry
from registry_adapters.testing import faults as fault
from registry_adapters.testing.faults import Fault
from registry_adapters.wsgi import TokenAuthorizer
from registry_core import (
    Basic,
    Image,
    ImageBuilder,
    Index,
    IndexBuilder,
    RegistryClient,
    RegistryError,
    RepositoryName,
    Tag,
    fail_after,
)
from registry_core.ops.blobs import open_blob
from registry_core.ops.manifests import walk
from registry_core.ops.transfer.copy import copy
from registry_core.ports.catalog import Repository

TABLE: Final = Path(__file__).parents[3] / "docs" / "reference" / "faults.md"
USER: Final = "worker"
SECRET: Final = "correct-horse-battery"
SECONDS: Final = 8.0
AMD64: Final = "linux/amd64"


class Case(NamedTuple):
    """A row: the faults, and the errors allowed instead of the correct result."""

    name: str
    faults: Callable[[str], tuple[Fault, ...]]
    errors: frozenset[str] = frozenset()
    read_timeout: float = 0.3


def case(name: str, *faults: Fault, errors: str = "", read_timeout: float = 0.3) -> Case:
    return Case(name, lambda _: faults, frozenset(errors.split()), read_timeout)


CASES: Final = (
    case("408 once", fault.status(408).times(1)),
    case("429 twice", fault.status(429).times(2)),
    case("429 with Retry-After of 50 ms, once", fault.status(429, retry_after="0.05").times(1)),
    case("429 with Retry-After of one day", fault.status(429, retry_after=86400), errors="RateLimited"),
    case("499 once", fault.status(499).times(1)),
    case("500 once", fault.status(500).times(1)),
    case("500 always", fault.status(500), errors="ServerError"),
    case("502 twice", fault.status(502).times(2)),
    case("503 twice", fault.status(503).times(2)),
    case("503 always", fault.status(503), errors="Unavailable"),
    case("504 once", fault.status(504).times(1)),
    case("522 once", fault.status(522).times(1)),
    case("401 always, despite valid credentials", fault.status(401).on(path="^/v2/"), errors="Unauthorized"),
    case("403 always", fault.status(403).on(path="^/v2/"), errors="Forbidden"),
    case("404 to anonymous requests, except to /v2/", fault.hidden(404)),
    case("403 to anonymous requests, except to /v2/", fault.hidden(403)),
    case("412 always, a refusal by policy", fault.status(412), errors="Forbidden"),
    case("token expires at every 3rd request", fault.expired_token().every(3)),
    case("token server responds 503", fault.status(503).on("token"), errors="Unavailable"),
    case("token server sends an invalid document", fault.body(b'{"token": 7}').on("token"), errors="ProtocolError"),
    case("connection closed before the response, twice", fault.drop().times(2)),
    case("connection reset before the response, once", fault.drop(reset=True).times(1)),
    case("connection closed before the response, always", fault.drop(), errors="Unavailable"),
    case("kept connections closed at their next request", fault.idle_close()),
    case("kept connections reset at their next request", fault.idle_close(reset=True)),
    case("response lost after the request was executed, once", fault.lost_response().on(path="^/v2/").times(1)),
    case("response is not HTTP", fault.garbage(), errors="ProtocolError"),
    case("response body cut at byte 100, twice", fault.cut(100).on(path="^/v2/").times(2)),
    case("blob download reset at byte 20,000, always", fault.cut(20_000, reset=True).on("blob"), errors="Unavailable"),
    case("blob download cut, then Range ignored", fault.cut(9_000).on("blob").times(1), fault.no_range()),
    case(
        "blob download cut, then another range sent",
        fault.cut(9_000).on("blob").times(1),
        fault.bad_content_range(),
        errors="ProtocolError Unavailable",
    ),
    case("response body cut before its first byte, always", fault.cut(0).on(path="^/v2/"), errors="Unavailable"),
    case("upload cut at byte 1,000, once", fault.cut_request(1_000).on("upload").times(1)),
    case("upload cut at byte 1,000, always", fault.cut_request(1_000).on("upload"), errors="Unavailable"),
    case("no response, once", fault.stall().times(1), read_timeout=0.15),
    case("response body stalls, once", fault.stall(at=50).on(path="^/v2/").times(1), read_timeout=0.15),
    case("no response, always", fault.stall(), errors="Unavailable", read_timeout=0.05),
    case("slow response body", fault.drip(1_000_000)),
    case(
        "wrong Docker-Content-Digest",
        fault.wrong_digest_header().on(method="GET PUT"),
        errors="DigestMismatch",
    ),
    case("bit flipped in each blob", fault.wrong_bytes().on("blob"), errors="DigestMismatch InvalidDocument"),
    case(
        "bit flipped in each manifest",
        fault.wrong_bytes().on("manifest"),
        errors="DigestMismatch InvalidDocument ProtocolError",
    ),
    case("blobs shorter than Content-Length", fault.wrong_length(5).on("blob"), errors="Unavailable ProtocolError"),
    case("blobs longer than Content-Length", fault.wrong_length(-5).on("blob"), errors="SizeMismatch DigestMismatch"),
    case("empty blobs", fault.empty_body().on("blob"), errors="SizeMismatch DigestMismatch Unavailable"),
    case(
        "empty manifests",
        fault.empty_body().on("manifest"),
        errors="InvalidDocument DigestMismatch ProtocolError SizeMismatch",
    ),
    case("endless manifests", fault.endless_body().on("manifest"), errors="TooLarge"),
    case("endless blobs", fault.endless_body().on("blob"), errors="SizeMismatch TooLarge"),
    case("endless lists", fault.endless_body().on("tags", "catalog"), errors="TooLarge"),
    case(
        "login page with status 200",
        fault.login_page().on(path="^/v2/", method="GET HEAD"),
        errors="ProtocolError InvalidDocument DigestMismatch SizeMismatch",
    ),
    case("no Docker-Content-Digest", fault.missing_header("Docker-Content-Digest")),
    case("Content-Type text/html", fault.set_header("Content-Type", "text/html")),
    case("Content-Type binary/octet-stream", fault.set_header("Content-Type", "binary/octet-stream")),
    case("Content-Encoding gzip on plain content", fault.set_header("Content-Encoding", "gzip")),
    case("no Content-Type", fault.missing_header("Content-Type")),
    case("no Location", fault.missing_header("Location").on("uploads", "upload"), errors="ProtocolError"),
    case("200 instead of 201", fault.change_status(200).on(method="PUT")),
    case("202 instead of 201", fault.change_status(202).on(method="PUT")),
    case("204 instead of 201", fault.change_status(204).on(method="PUT")),
    case("200 instead of 202 to each chunk", fault.change_status(200).on(method="PATCH")),
    case("login page with status 200 to each PUT", fault.login_page().on(method="PUT"), errors="ProtocolError"),
    case("login page with status 202 to each PATCH", fault.login_page(202).on(method="PATCH"), errors="DigestMismatch"),
    case(
        "206 without a Range request",
        fault.change_status(206).on("blob", "manifest", method="GET"),
        errors="ProtocolError",
    ),
    case("upload session lost, once", fault.lost_upload().times(1)),
    case("upload session lost at the final PUT, once", fault.lost_upload().on(method="PUT").times(1)),
    case("wrong upload offset, once", fault.wrong_offset(-1).times(1)),
    case("upload offset of each chunk stays at 0-0", fault.set_header("Range", "0-0").on("upload", method="PATCH")),
    case("upload offset of each chunk one too high", fault.wrong_offset(1).on("upload", method="PATCH")),
    case("HEAD not supported", fault.no_head()),
    case("500 to each HEAD", fault.status(500).on(method="HEAD"), errors="ServerError"),
    case("403 to each HEAD", fault.status(403).on(method="HEAD"), errors="Forbidden"),
    case("412 to each HEAD", fault.status(412).on(method="HEAD")),
    case("mount not supported", fault.no_mount()),
    case("409 to each mount", fault.status(409).on("uploads", path="[?&]mount=")),
    case("500 to each mount", fault.status(500).on("uploads", path="[?&]mount=")),
    case("204 to each mount", fault.status(204).on("uploads", path="[?&]mount=")),
    case(
        "mount of another digest",
        fault.status(201, headers=(("Docker-Content-Digest", f"sha256:{'0' * 64}"),)).on("uploads", path="[?&]mount="),
    ),
    case("referrers API not supported", fault.no_referrers()),
    case("next-page link names an inner host", fault.inner_link("http://registry.invalid:5000")),
    case("pagination loop", fault.paging_loop(), errors="ProtocolError"),
    case("endless pagination", fault.endless_paging(), errors="ProtocolError TooLarge"),
    Case(
        "next-page link to another origin",
        lambda other_origin: (fault.off_origin_link(f"{other_origin}/v2/x/tags/list"),),
        frozenset({"ProtocolError"}),
    ),
    Case(
        "upload location at another host",
        lambda _: (fault.off_origin_location("http://elsewhere.example"),),
        frozenset({"ProtocolError"}),
    ),
    Case(
        "blob redirect to another origin",
        lambda other_origin: (fault.redirect(other_origin).on("blob", method="GET HEAD"),),
    ),
    Case(
        "token server redirects to another origin",
        lambda other_origin: (fault.redirect(f"{other_origin}/token").on("token"),),
        frozenset({"ProtocolError"}),
    ),
    case("redirect loop", fault.redirect_loop().on(path="^/v2/"), errors="ProtocolError"),
)


class Cell:
    """A repository with images, another repository, and a client that reaches them through the faults."""

    def __init__(self, client: RegistryClient, source: Repository, other: Repository) -> None:
        self.client = client
        self.source = source
        self.other = other


def _image(name: str, platform: str = AMD64) -> Image:
    noise = b"".join(bytes([number * 7 % 251, number % 256]) for number in range(20_000))
    builder = ImageBuilder(platform=platform).add_files({"etc/name": name.encode()}).add_files({"noise": noise})
    return builder.label("name", name).build()


IMAGE: Final = _image("one")
FRESH: Final = _image("fresh")
INDEX: Final = IndexBuilder().add(IMAGE).add(_image("two", "linux/arm64")).build()
FRESH_INDEX: Final = IndexBuilder().add(FRESH).add(_image("three", "linux/arm64")).build()


def _content(image: Image) -> list[bytes]:
    found = []
    for layer in image.layers():
        with layer.open() as reader:
            found.append(reader.read())
    return found


LAYERS: Final = _content(IMAGE)


def _is_intact(repository: Repository, tag: str, wanted: Image | Index) -> bool:
    """Return whether a tag names the wanted image or index, with every blob intact."""
    root = repository.manifests.get(Tag(tag))
    if root.digest != wanted.digest:
        return False
    for manifest in walk(repository, root):
        if not manifest.is_index:
            for part in manifest.children:
                with open_blob(repository, part.digest, part.size) as reader:
                    reader.read()
    return True


def _get_image(cell: Cell) -> bool:
    image = cell.client.get_image("v1", platform=AMD64)
    return image.digest == IMAGE.digest and _content(image) == LAYERS


def _get_index(cell: Cell) -> bool:
    index = cell.client.get_index("multi")
    return index.digest == INDEX.digest and _content(index.image(AMD64)) == LAYERS


def _get_manifest(cell: Cell) -> bool:
    return cell.client.get_manifest("v1").raw == IMAGE.raw


def _get_image_config(cell: Cell) -> bool:
    return cell.client.get_image_config("v1", platform=AMD64).config.labels == {"name": "one"}


def _get_digest(cell: Cell) -> bool:
    return cell.client.get_digest("v1") == IMAGE.digest


def _check_image_exists(cell: Cell) -> bool:
    cell.client.check_image_exists("v1")
    return True


def _image_exists(cell: Cell) -> bool:
    return cell.client.image_exists("v1") and not cell.client.image_exists("nothing")


def _list_tags(cell: Cell) -> bool:
    return cell.client.list_tags() == ["multi", "v1", "v2"]


def _iter_tags(cell: Cell) -> bool:
    return list(cell.client.iter_tags(limit=2)) == ["multi", "v1"]


def _list_repositories(cell: Cell) -> bool:
    return cell.client.list_repositories() == ["inner"]


def _iter_repositories(cell: Cell) -> bool:
    return list(cell.client.iter_repositories()) == ["inner"]


def _push_image(cell: Cell) -> bool:
    done = cell.client.push_image("fresh", FRESH, jobs=1)
    return done.digest == FRESH.digest and _is_intact(cell.source, "fresh", FRESH)


def _push_index(cell: Cell) -> bool:
    done = cell.client.push_index("fresh", FRESH_INDEX, jobs=1)
    return done.digest == FRESH_INDEX.digest and _is_intact(cell.source, "fresh", FRESH_INDEX)


def _tag_image(cell: Cell) -> bool:
    return cell.client.tag_image("v1", "again").digest == IMAGE.digest and _is_intact(cell.source, "again", IMAGE)


def _copy_image(cell: Cell) -> bool:
    done = cell.client.copy_image("v1", cell.client.with_segment("inner"), "copied", jobs=1)
    return done.digest == IMAGE.digest and _is_intact(cell.other, "copied", IMAGE)


def _delete_tag(cell: Cell) -> bool:
    cell.client.delete_tag("v2")
    return sorted(cell.source.manifests.tags()) == ["multi", "v1"]


def _delete_by_digest(cell: Cell) -> bool:
    cell.client.delete_by_digest(INDEX.digest)
    return sorted(cell.source.manifests.tags()) == ["v1", "v2"]


OPERATIONS: Final[dict[str, Callable[[Cell], bool]]] = {
    "get_image": _get_image,
    "get_index": _get_index,
    "get_manifest": _get_manifest,
    "get_image_config": _get_image_config,
    "get_digest": _get_digest,
    "check_image_exists": _check_image_exists,
    "image_exists": _image_exists,
    "list_tags": _list_tags,
    "iter_tags": _iter_tags,
    "list_repositories": _list_repositories,
    "iter_repositories": _iter_repositories,
    "push_image": _push_image,
    "push_index": _push_index,
    "tag_image": _tag_image,
    "copy_image": _copy_image,
    "delete_tag": _delete_tag,
    "delete_by_digest": _delete_by_digest,
}


@contextmanager
def registries() -> Iterator[tuple[FaultyRegistry, FaultyRegistry, MemoryCatalog]]:
    """A registry that requires tokens, another origin with the same content, and the content."""
    with ExitStack() as stack:
        catalog = stack.enter_context(_closing(MemoryCatalog()))
        guard = TokenAuthorizer({USER: SECRET})
        # Two entries a page, so that lists have several pages.
        registry = stack.enter_context(faulty_registry(catalog=catalog, authorizer=guard, page_limit=2))
        other_origin = stack.enter_context(faulty_registry(catalog=catalog))
        yield registry, other_origin, catalog


@contextmanager
def _closing(catalog: MemoryCatalog) -> Iterator[MemoryCatalog]:
    yield catalog
    catalog.close()


def run(row: Case) -> dict[str, str]:
    """The outcome of each operation."""
    with registries() as (registry, other_origin, catalog):
        return {name: _run(row, name, registry, other_origin, catalog) for name in OPERATIONS}


def _run(row: Case, name: str, registry: FaultyRegistry, other_origin: FaultyRegistry, catalog: MemoryCatalog) -> str:
    path = f"cell/{name.replace('_', '-')}"
    source = catalog.repository(RepositoryName(path))
    other = catalog.repository(RepositoryName(f"{path}/inner"))
    for tag in ("v1", "v2"):
        copy(IMAGE.repository, source, IMAGE.document, tags=[Tag(tag)])
    copy(INDEX.repository, source, INDEX.document, tags=[Tag("multi")])
    copy(FRESH.repository, other, FRESH.document, tags=[Tag("v1")])
    registry.inject(*row.faults(other_origin.url))
    client = registry.client(
        auth=Basic(USER, SECRET), retries=2, backoff=0.01, read_timeout=row.read_timeout, chunk_size=30_000
    ).with_segment(*path.split("/"))
    started = time.monotonic()
    try:
        with fail_after(SECONDS):
            done = OPERATIONS[name](Cell(client, source, other))
    except RegistryError as error:
        outcome, said = type(error).__name__, f"{error} {error!r}"
    else:
        outcome, said = "ok" if done else "wrong result", ""
    finally:
        registry.clear()
        client.close()
    assert time.monotonic() - started < SECONDS + 0.5
    assert SECRET not in said
    # After each outcome the images of the source are intact, except a deleted one, and each pushed tag is complete.
    if not name.startswith("delete"):
        assert _is_intact(source, "v1", IMAGE)
        assert _is_intact(source, "v2", IMAGE)
    if "fresh" in set(source.manifests.tags()):
        assert _is_intact(source, "fresh", FRESH_INDEX if name == "push_index" else FRESH)
    for request in other_origin.request_log.requests():
        assert not request.authorization, f"{row.name}: {name} sent a credential to another origin"
        assert not request.header("Cookie")
        assert SECRET not in request.target
    return outcome


def written(rows: dict[str, dict[str, str]]) -> str:
    """The page of the documentation, generated."""
    head = f"| | {' | '.join(f'`{name}`' for name in OPERATIONS)} |"
    line = f"| --- |{' --- |' * len(OPERATIONS)}"
    body = (
        f"| {name} | {' | '.join('✓' if cell == 'ok' else f'`{cell}`' for cell in cells.values())} |"
        for name, cells in rows.items()
    )
    return "\n".join([*_PREAMBLE, head, line, *body, ""])


_PREAMBLE: Final = (
    "# Fault matrix",
    "",
    f"{len(CASES)} faults of a registry or the network, and the result of each operation of `RegistryClient`.",
    "✓ is the correct result, with every byte compared; otherwise the cell is the error raised.",
    "In each case the operation ends within a time limit, existing content is unchanged,",
    "and credentials are sent only to the registry.",
    "The tests generate this table and compare it with the results.",
    "",
    "The client has `retries=2` and uploads in chunks; lists have pages of two entries; the registry requires tokens.",
    "A fault has no effect on an operation that does not send the affected request.",
    "`get_digest` returns the digest that the registry claims in the response to HEAD.",
    "A wrong one is detected when the content is read by that digest.",
    "",
)


def recorded() -> dict[str, dict[str, str]]:
    """The outcomes in the documentation."""
    rows = {}
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if len(cells) == len(OPERATIONS) + 1 and cells[0] and cells[0] != "---":
            outcomes = ("ok" if cell == "✓" else cell for cell in cells[1:])
            rows[cells[0]] = dict(zip(OPERATIONS, outcomes, strict=True))
    return rows


@pytest.mark.parametrize("row", CASES, ids=lambda row: row.name)
def test_each_operation_gives_the_correct_result_or_the_expected_error(row: Case) -> None:
    """R-030, R-050, R-054, R-062."""
    outcomes = run(row)

    assert set(outcomes.values()) <= {"ok"} | row.errors
    assert outcomes == recorded()[row.name]


def test_the_table_has_a_row_for_each_fault() -> None:
    assert list(recorded()) == [row.name for row in CASES]


def main() -> None:
    """Write the page again."""
    rows: dict[str, Any] = {}
    for row in CASES:
        rows[row.name] = run(row)
        unexpected = set(rows[row.name].values()) - {"ok"} - row.errors
        sys.stdout.write(f"{row.name}: {rows[row.name] if unexpected else 'as expected'}\n")
        sys.stdout.flush()
    TABLE.write_text(written(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
