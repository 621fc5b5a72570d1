"""Cases that transfer images: pull, push, copy, import."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.benchmarks.case import Case, archive_of, at, each, layout_of, regctl_hosts
from tests.benchmarks.images import TAG, blobs_of
from tests.benchmarks.implementations import Kind, RunContext, Tool, baseline, library, ours, persistent, program

__all__ = ["MOVED", "copy", "disk", "load", "pull", "push", "wide"]

MOVED: Final = {
    "many": "40 layers of 2 MiB",
    "big": "4 incompressible layers of 256 MiB",
}


def pull(image: str, found: dict[str, list[Tool]]) -> Case:
    def arguments(context: RunContext) -> list[str]:
        return [f"{context.source.url}/{image}", TAG, str(context.fresh)]

    def remote(context: RunContext) -> list[str]:
        return ["pull", context.source.host, image, TAG, str(context.fresh)]

    def source(context: RunContext) -> str:
        return at(context.source.host, image)

    return Case(
        f"pull {image}",
        f"Pull into an image layout: {MOVED[image]}",
        [
            ours("pull", arguments),
            persistent("ours", "pull", Kind.OURS, "ociport", arguments),
            *each(found, "crane", lambda s, path: [path, "pull", "--format=oci", source(s), str(s.fresh)]),
            *each(
                found,
                "skopeo",
                lambda s, path: [
                    *(path, "--insecure-policy", "copy", "-q", "--src-tls-verify=false"),
                    *(f"docker://{source(s)}", f"oci:{s.fresh}:{TAG}"),
                ],
            ),
            *each(
                found,
                "oras",
                lambda s, path: [
                    *(path, "cp", "--no-tty", "--from-plain-http", "--to-oci-layout", source(s)),
                    f"{s.fresh}:{TAG}",
                ],
            ),
            *each(
                found,
                "regctl",
                lambda s, path: [
                    *(path, *regctl_hosts(s.source.host), "image", "copy", source(s), f"ocidir://{s.fresh}:{TAG}")
                ],
            ),
            *library("oras", "oras-py", "oras_py", remote),
            *library("dxf", "python-dxf", "dxf_py", remote),
            baseline("baseline: urllib3, sha256, file", lambda s: [*program("baselines"), *remote(s)]),
            baseline(
                "baseline: urllib3 to nowhere", lambda s: [*program("baselines"), "read", s.source.host, image, TAG]
            ),
            *each(found, "curl", lambda s, path: _curl_blobs(s, path, image), baseline="baseline: curl to nowhere"),
        ],
    )


def _curl_blobs(context: RunContext, path: str, image: str) -> list[str]:
    _, _, descriptors = blobs_of(Path(layout_of(context, image)))
    urls = [f"{context.source.url}/v2/{image}/blobs/{entry['digest']}" for entry in descriptors]
    return [path, "-sSf", *(part for url in urls for part in ("-o", "/dev/null", url))]


def disk(image: str, found: dict[str, list[Tool]]) -> Case:
    """The cost of syncing to disk."""

    def arguments(context: RunContext) -> list[str]:
        return [f"{context.source.url}/{image}", TAG, str(context.fresh)]

    def crane(context: RunContext, path: str) -> list[str]:
        return [path, "pull", "--format=oci", at(context.source.host, image), str(context.fresh)]

    waited = [
        implementation._replace(name=f"{implementation.name}, then sync", tool="crane, then sync")
        for implementation in each(
            found, "crane", lambda s, path: ["sh", "-c", '"$@" && sync -f "$5"', "sh", *crane(s, path)]
        )
    ]
    return Case(
        f"disk {image}",
        f"Pull to a disk, with sync: {MOVED[image]}",
        [
            ours("pull", arguments),
            ours("pull_unsynced", arguments, note="without fsync", tool="ociport unsynced"),
            *waited,
            *each(found, "crane", crane),
        ],
        on_disk=True,
    )


def load(image: str, found: dict[str, list[Tool]]) -> Case:
    """From an archive to a layout."""

    def arguments(context: RunContext) -> list[str]:
        return [archive_of(context, image), TAG, str(context.fresh)]

    return Case(
        f"import {image}",
        f"Import an archive (a tar of an image layout) into an image layout: {MOVED[image]}",
        [
            ours("import", arguments),
            persistent("ours", "import", Kind.OURS, "ociport", arguments),
            *each(
                found,
                "skopeo",
                lambda s, path: [
                    *(path, "--insecure-policy", "copy", "-q"),
                    *(f"oci-archive:{archive_of(s, image)}:{TAG}", f"oci:{s.fresh}:{TAG}"),
                ],
            ),
            baseline("baseline: sha256 of the files", lambda s: [*program("baselines"), "sha256", layout_of(s, image)]),
            baseline("baseline: cp", lambda s: ["cp", archive_of(s, image), str(s.fresh)]),
        ],
    )


def push(image: str, found: dict[str, list[Tool]]) -> Case:
    def arguments(context: RunContext) -> list[str]:
        return [layout_of(context, image), TAG, f"{context.target.url}/{image}"]

    def remote(context: RunContext) -> list[str]:
        return ["push", layout_of(context, image), context.target.host, image, TAG]

    def target(context: RunContext) -> str:
        return at(context.target.host, image)

    return Case(
        f"push {image}",
        f"Push from an image layout to an empty registry: {MOVED[image]}",
        [
            ours("push", arguments),
            persistent("ours", "push", Kind.OURS, "ociport", arguments),
            *each(found, "crane", lambda s, path: [path, "push", layout_of(s, image), target(s)]),
            *each(
                found,
                "skopeo",
                lambda s, path: [
                    *(path, "--insecure-policy", "copy", "-q", "--dest-tls-verify=false"),
                    *(f"oci:{layout_of(s, image)}:{TAG}", f"docker://{target(s)}"),
                ],
            ),
            *each(
                found,
                "oras",
                lambda s, path: [
                    *(path, "cp", "--no-tty", "--from-oci-layout", "--to-plain-http"),
                    *(f"{layout_of(s, image)}:{TAG}", target(s)),
                ],
            ),
            *each(
                found,
                "regctl",
                lambda s, path: [
                    *(path, *regctl_hosts(s.target.host), "image", "copy"),
                    *(f"ocidir://{layout_of(s, image)}:{TAG}", target(s)),
                ],
            ),
            *library("oras", "oras-py", "oras_py", remote),
            *library("dxf", "python-dxf", "dxf_py", remote),
            baseline("baseline: sha256 of the files", lambda s: [*program("baselines"), "sha256", layout_of(s, image)]),
            baseline("baseline: cp", lambda s: ["cp", "-r", layout_of(s, image), str(s.fresh)]),
        ],
        needs_target=True,
    )


def copy(image: str, found: dict[str, list[Tool]]) -> Case:
    def arguments(context: RunContext) -> list[str]:
        return [f"{context.source.url}/{image}", TAG, f"{context.target.url}/{image}"]

    def ends(context: RunContext) -> tuple[str, str]:
        return at(context.source.host, image), at(context.target.host, image)

    return Case(
        f"copy {image}",
        f"Copy from a registry to an empty registry: {MOVED[image]}",
        [
            ours("copy", arguments),
            persistent("ours", "copy", Kind.OURS, "ociport", arguments),
            *each(found, "crane", lambda s, path: [path, "copy", *ends(s)]),
            *each(
                found,
                "skopeo",
                lambda s, path: [
                    *(path, "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"),
                    *(f"docker://{end}" for end in ends(s)),
                ],
            ),
            *each(
                found,
                "oras",
                lambda s, path: [path, "cp", "--no-tty", "--from-plain-http", "--to-plain-http", *ends(s)],
            ),
            *each(
                found,
                "regctl",
                lambda s, path: [*(path, *regctl_hosts(s.source.host, s.target.host), "image", "copy", *ends(s))],
            ),
            baseline(
                "baseline: urllib3 to nowhere", lambda s: [*program("baselines"), "read", s.source.host, image, TAG]
            ),
        ],
        needs_target=True,
    )


def wide() -> Case:
    return Case(
        "wide",
        "Peak memory: 8 blobs of 64 MiB at once",
        [
            ours("pull", lambda s: [f"{s.source.url}/wide", TAG, str(s.fresh), "8"], note="pull", tool="pull"),
            ours("push", lambda s: [layout_of(s, "wide"), TAG, f"{s.target.url}/wide", "8"], note="push", tool="push"),
            ours(
                "copy",
                lambda s: [f"{s.source.url}/wide", TAG, f"{s.target.url}/wide", "8"],
                note="copy",
                tool="copy",
            ),
        ],
        needs_target=True,
    )
