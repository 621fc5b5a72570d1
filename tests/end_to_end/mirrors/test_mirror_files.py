"""Mirrors from a configuration file, between real registries and layouts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters import LayoutCatalog, open_client
from registry_adapters.mirroring import open_mirror
from registry_adapters.wsgi import registry_server
from registry_core import (
    ImageBuilder,
    IndexBuilder,
    LayoutError,
    NotFound,
    RegistryClient,
    Repository,
    RepositoryNotFound,
    Tag,
)
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.transfer.report import Outcome
from registry_core.ops.validation.validate import validate

if TYPE_CHECKING:
    Registry = Any

PROGRAM = """
import sys
from registry_adapters.mirroring import open_mirror

with open_mirror(sys.argv[1]) as mirror:
    print("begins", flush=True)
    mirror.run()
"""


def filled(client: RegistryClient) -> None:
    """Push some versions of an index for two platforms, and a signature of the first."""
    for number, version in enumerate(("1.0.0", "1.1.0", "2.0.0", "2.1.0-rc.1")):
        index = IndexBuilder()
        for platform in ("linux/amd64", "linux/arm64"):
            index.add(ImageBuilder(platform).add_files({"base": b"base" * 10000, "v": version.encode()}).build())
        client.push_index(version, index.build())
        if not number:
            push_artifact(
                client.repository,
                [ArtifactFile(b"{}", title="sbom.json")],
                artifact_type="application/vnd.example.sbom",
                subject=Tag(version),
            )


def inspected(skopeo: str, *where: str) -> Any:
    done = subprocess.run(
        [skopeo, "inspect", "--raw", "--tls-verify=false", *where], check=True, capture_output=True, timeout=60
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("server", ["docker_registry", "layout_server"])
def test_a_registry_is_mirrored_to_a_directory_and_then_to_another_registry(
    server: str, request: pytest.FixtureRequest, skopeo: str, tmp_path: Path
) -> None:
    registry = request.getfixturevalue(server)
    host = (registry if isinstance(registry, str) else registry.host).removeprefix("http://")
    with open_client(host, plain_http=True) as client:
        filled(client.with_segment("org", "app"))
    out, back = tmp_path / "out.toml", tmp_path / "back.toml"
    out.write_text(f"""
        [backends."{host}"]
        plain_http = true

        [[mirror]]
        source = "{host}/org"
        target = "oci:{tmp_path / "mirror"}"
        repositories = ["app"]
        tags = {{ semver = ">=1.1" }}
        platforms = ["linux/arm64"]
        index = "rewritten"

        [[mirror]]
        source = "{host}/org/app"
        target = "oci:{tmp_path / "mirrored"}"
        tags = ["1.0.0"]
        referrers = true
    """)

    with open_mirror(out) as mirror:
        plan = mirror.plan()
        planned = plan.bytes_to_move
        report = plan.apply()
        again = mirror.run()

    assert report.ok
    assert report.bytes_moved == planned
    assert again.ok
    assert again.bytes_moved == 0
    kept = open_client(f"oci:{tmp_path / 'mirror'}").with_segment("app")
    mirrored = open_client(f"oci:{tmp_path / 'mirrored'}")
    assert kept.list_tags() == ["1.1.0", "2.0.0"]
    assert [str(entry.platform) for entry in kept.get_index("2.0.0").document.children] == ["linux/arm64"]
    assert len(list(mirrored.repository.manifests.referrers(mirrored.get_digest("1.0.0")))) == 1
    assert validate(kept.repository).is_clean
    assert validate(mirrored.repository).is_clean

    with registry_server(LayoutCatalog(tmp_path / "air-gapped")) as other:
        target = other.url.removeprefix("http://")
        back.write_text(f"""
            [defaults]
            prune = true

            [backends."{target}"]
            plain_http = true

            [[mirror]]
            source = "oci:{tmp_path / "mirror"}"
            target = "{target}/far"
            repositories = ["*"]
        """)
        with open_client(target, plain_http=True) as client:
            far = client.with_segment("far", "app")
            far.push_image("stale", ImageBuilder("linux/amd64").add_files({"a": b"stale"}).build())
            with open_mirror(back) as mirror:
                report = mirror.run()
            assert far.list_tags() == ["1.1.0", "2.0.0"]
            assert far.get_digest("2.0.0") == kept.get_digest("2.0.0")
        assert report.counts[Outcome.DELETED] == 1
        (entry,) = inspected(skopeo, f"docker://{target}/far/app:2.0.0")["manifests"]
        assert entry["platform"]["architecture"] == "arm64"


@pytest.mark.parametrize("kind", ["directory", "registry"])
def test_a_killed_mirror_continues_with_the_missing_blobs(
    kind: str, layout_server: str, run_docker_registry: Callable[..., Any], tmp_path: Path
) -> None:
    host = layout_server.removeprefix("http://")
    with open_client(host, plain_http=True) as client:
        for number in range(16):
            builder = ImageBuilder("linux/amd64").add_files({"base": b"base" * 1000})
            image = builder.add_files({"data": bytes([number]) * 300_000}).build()
            client.with_segment("killed").push_image(f"v{number:02}", image)
    target = f"oci:{tmp_path / 'mirror'}"
    path, plain = tmp_path / "mirror.toml", ""
    if kind == "registry":
        target = run_docker_registry().host
        plain = f'[backends."{target}"]\nplain_http = true\n'
    path.write_text(f"""
        jobs = 1
        images = 1
        [backends."{host}"]
        plain_http = true
        {plain}
        [[mirror]]
        source = "{host}"
        target = "{target}"
        repositories = ["killed"]
    """)
    settings: dict[str, Any] = {"plain_http": True} if plain else {}
    with open_client(target, **settings) as client:
        copied = client.with_segment("killed")
        program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE)
        with program:
            deadline = time.monotonic() + 60
            while tags_of(copied) < 5 and time.monotonic() < deadline:
                time.sleep(0.005)
            program.send_signal(signal.SIGKILL)
        with open_client(host, plain_http=True) as source:
            before = missing(source.with_segment("killed").repository, copied.repository)

        with open_mirror(path) as mirror:
            report = mirror.run()

        moved = [result.node.digest for result in report.results if result.outcome is Outcome.MOVED]
        assert report.ok
        assert sorted(map(str, moved)) == sorted(before)
        assert 0 < len(before) <= 11 * 3
        assert tags_of(copied) == 16
        assert validate(copied.repository).is_clean


def tags_of(client: RegistryClient) -> int:
    try:
        return len(client.list_tags())
    except (RepositoryNotFound, LayoutError):
        return 0


def missing(source: Repository, target: Repository) -> set[str]:
    """Blobs and manifests that the tags of one repository need and the other repository lacks."""
    found = set()
    for tag in source.manifests.tags():
        raw = source.manifests.get(tag)
        for part in raw.children:
            try:
                target.blobs.stat(part.digest)
            except NotFound:
                found.add(str(part.digest))
        try:
            target.manifests.resolve(raw.digest)
        except NotFound:
            found.add(str(raw.digest))
    return found


def test_the_tags_and_digests_equal_those_of_skopeo_sync(
    run_docker_registry: Callable[..., Any], skopeo: str, tmp_path: Path
) -> None:
    source, ours, theirs = (run_docker_registry().host for _ in range(3))
    with open_client(source, plain_http=True) as client:
        app = client.with_segment("org", "app")
        filled(app)
        app.push_image("plain", ImageBuilder("linux/amd64").add_files({"a": b"plain"}).build())
        signature = ImageBuilder("linux/amd64").add_files({"s": b"signature"}).build()
        app.push_image(f"sha256-{app.get_digest('plain').encoded}.sig", signature)
    path = tmp_path / "mirror.toml"
    path.write_text(f"""
        [backends."{source}"]
        plain_http = true
        [backends."{ours}"]
        plain_http = true
        [[mirror]]
        source = "{source}/org"
        target = "{ours}/mirror"
        repositories = ["app"]
    """)

    with open_mirror(path) as mirror:
        report = mirror.run()
    command = [skopeo, "sync", "--all", "--src", "docker", "--dest", "docker", "--src-tls-verify=false"]
    subprocess.run(
        [*command, "--dest-tls-verify=false", f"{source}/org/app", f"{theirs}/mirror"],
        check=True,
        capture_output=True,
        timeout=120,
    )

    assert report.ok
    held = []
    for host in (ours, theirs):
        with open_client(host, plain_http=True) as client:
            copy = client.with_segment("mirror", "app")
            held.append({tag: copy.get_digest(tag) for tag in copy.list_tags() if not is_referrers_tag(tag)})
            assert validate(copy.repository).is_clean
    assert held[0] == held[1]
    assert len(held[0]) == 6


@pytest.mark.parametrize("server", ["docker_registry", "layout_server"])
def test_zero_padded_versions_and_a_digest_are_mirrored_and_only_old_versions_are_pruned(
    server: str, request: pytest.FixtureRequest, skopeo: str, tmp_path: Path
) -> None:
    registry = request.getfixturevalue(server)
    host = (registry if isinstance(registry, str) else registry.host).removeprefix("http://")
    versions = ["18.04", "20.04", "22.04", "24.04", "24.10"]
    with open_client(host, plain_http=True) as client:
        source = client.with_segment("padded", "ubuntu")
        for tag in [*versions, "latest", "lost"]:
            source.push_image(tag, ImageBuilder("linux/amd64").add_files({"tag": tag.encode()}).build())
        digest = source.get_digest("lost")
    path = tmp_path / "mirror.toml"

    def mirrored(tags: str) -> Any:
        path.write_text(f"""
            [backends."{host}"]
            plain_http = true
            [[mirror]]
            source = "{host}/padded/ubuntu"
            target = "oci:{tmp_path / "copy"}"
            tags = {tags}
            prune = true
        """)
        with open_mirror(path) as mirror:
            return mirror.run()

    everything = mirrored('["*"]')
    narrowed = mirrored(f'{{ semver = ">=20.04", latest = 2, names = ["pinned@{digest}"] }}')
    nothing = mirrored('{ semver = ">=99" }')

    assert everything.ok
    assert narrowed.ok
    assert narrowed.counts[Outcome.DELETED] == 2
    assert [str(failed.error) for failed in nothing.failed] == [
        f"{host}/padded/ubuntu: no tag matches semver '>=99'; if that is right, set allow_empty"
    ]
    layout = open_client(f"oci:{tmp_path / 'copy'}")
    assert layout.list_tags() == ["18.04", "24.04", "24.10", "latest", "lost", "pinned"]
    assert layout.get_digest("pinned") == digest
    assert inspected(skopeo, f"oci:{tmp_path / 'copy'}:pinned") == json.loads(layout.get_manifest("pinned").raw)


def is_referrers_tag(tag: str) -> bool:
    """Return whether a tag is a referrers tag, which skopeo would copy as an image."""
    return tag.startswith("sha256-") and not tag.endswith(".sig")
