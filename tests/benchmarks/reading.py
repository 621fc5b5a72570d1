"""Cases that read images and registries: extraction, tag lists, look-ups."""

from __future__ import annotations

from typing import Final

from tests.benchmarks.case import Case, at, each, layout_of, regctl_hosts
from tests.benchmarks.images import TAG, blobs_of
from tests.benchmarks.implementations import Kind, RunContext, Tool, baseline, library, ours, persistent, program

__all__ = ["extract_directory", "extract_tar", "lookups", "tags"]

LOOKUPS: Final = 500


def extract_tar(found: dict[str, list[Tool]]) -> Case:
    def arguments(context: RunContext) -> list[str]:
        return [f"{context.source.url}/tree", TAG, str(context.fresh)]

    return Case(
        "extract tar",
        "Flatten an image of 6 gzip layers and about 20,000 files into a tar",
        [
            ours("extract_tar", arguments, note="isal", tool="ociport isal"),
            ours("extract_tar", arguments, note="zlib", tool="ociport zlib", options="zlib"),
            *each(found, "crane", lambda s, path: [path, "export", at(s.source.host, "tree"), str(s.fresh)]),
            baseline("baseline: gzip -dc", lambda s: ["sh", "-c", 'gzip -dc "$@" >/dev/null', "sh", *_layers(s)]),
        ],
    )


def extract_directory(found: dict[str, list[Tool]]) -> Case:
    def arguments(context: RunContext) -> list[str]:
        return [f"{context.source.url}/tree", TAG, str(context.fresh)]

    def local(context: RunContext) -> list[str]:
        return [f"oci:{layout_of(context, 'tree')}", TAG, str(context.fresh)]

    return Case(
        "extract directory",
        "Extract the same image into a directory",
        [
            ours("extract_directory", local, note="from a layout", tool="ociport layout"),
            ours("extract_directory", arguments, note="from a registry", tool="ociport registry"),
            *each(
                found,
                "umoci",
                lambda s, path: [
                    *(path, "raw", "unpack", "--rootless", "--image", f"{layout_of(s, 'tree')}:{TAG}", str(s.fresh))
                ],
            ),
            *each(
                found,
                "crane",
                lambda s, path: [
                    *("sh", "-c", 'mkdir "$3" && "$1" export "$2" - | tar -x -C "$3"', "sh"),
                    *(path, at(s.source.host, "tree"), str(s.fresh)),
                ],
            ),
            baseline(
                "baseline: tar -xz of each layer, no removals",
                lambda s: [
                    *("sh", "-c", 'mkdir "$0" && for layer; do tar -xzf "$layer" -C "$0" || exit; done'),
                    *(str(s.fresh), *_layers(s)),
                ],
            ),
        ],
    )


def _layers(context: RunContext) -> list[str]:
    layout = context.layouts / "tree"
    _, _, descriptors = blobs_of(layout)
    return [str(layout / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")) for entry in [*descriptors][1:]]


def tags(found: dict[str, list[Tool]], count: int) -> Case:
    def remote(context: RunContext) -> list[str]:
        return ["tags", context.source.host, "tags", str(count)]

    def name(context: RunContext) -> str:
        return f"{context.source.host}/tags"

    return Case(
        "tags",
        f"List {count:,} tags",
        [
            ours("tags", lambda s: [f"{s.source.url}/tags", str(count)]),
            persistent("ours", "tags", Kind.OURS, "ociport", lambda s: [f"{s.source.url}/tags", str(count)]),
            *each(found, "crane", lambda s, path: [path, "ls", name(s)]),
            *each(found, "skopeo", lambda s, path: [path, "list-tags", "--tls-verify=false", f"docker://{name(s)}"]),
            *each(found, "oras", lambda s, path: [path, "repo", "tags", "--plain-http", name(s)]),
            *each(found, "regctl", lambda s, path: [path, *regctl_hosts(s.source.host), "tag", "ls", name(s)]),
            *library("oras", "oras-py", "oras_py", remote),
            *library("dxf", "python-dxf", "dxf_py", remote),
            *each(
                found,
                "curl",
                lambda s, path: [path, "-sSf", "-o", "/dev/null", f"{s.source.url}/v2/tags/tags/list"],
                baseline="baseline: curl",
            ),
            baseline("baseline: urllib3, json", lambda s: [*program("baselines"), *remote(s)]),
        ],
    )


def lookups(found: dict[str, list[Tool]]) -> Case:
    def ours_at(context: RunContext) -> list[str]:
        return [f"{context.source.url}/tags", str(LOOKUPS)]

    def where(context: RunContext) -> list[str]:
        return [context.source.host, "tags", str(LOOKUPS)]

    def remote(context: RunContext) -> list[str]:
        return ["lookups", *where(context)]

    return Case(
        "lookups",
        f"Resolve {LOOKUPS} tags, one after the other",
        [
            ours("lookups", ours_at),
            persistent("ours", "lookups", Kind.OURS, "ociport", ours_at),
            *library("oras", "oras-py", "oras_py", remote),
            *library("dxf", "python-dxf", "dxf_py", remote),
            baseline("baseline: urllib3", lambda s: [*program("baselines"), *remote(s)]),
            persistent("baselines", "lookups", Kind.BASELINE, "baseline: urllib3", where),
            *each(
                found,
                "curl",
                lambda s, path: [
                    *(path, "-sSfI", "-o", "/dev/null", "-H", "Accept: application/vnd.oci.image.manifest.v1+json"),
                    f"{s.source.url}/v2/tags/manifests/v0.[0-{LOOKUPS - 1}]",
                ],
                baseline="baseline: curl, one connection",
            ),
        ],
    )
