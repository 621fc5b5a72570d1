"""Mirrors from a file, between real registries and layouts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from registry_adapters import LayoutCatalog, open_client
from registry_adapters.mirroring import open_mirror
from registry_adapters.wsgi import registry_server
from registry_core import ConfigError, ImageBuilder, IndexBuilder, RegistryClient, Tag
from registry_core.ops.artifacts.push import ArtifactFile, push_artifact
from registry_core.ops.transfer.nodes import Outcome
from registry_core.ops.upkeep.validate import validate

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
    """Some versions of an index for two platforms, with a signature of the first."""
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
def test_a_registry_goes_to_a_directory_and_from_there_to_another_registry(
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
        target = "oci:{tmp_path / "whole"}"
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
    whole = open_client(f"oci:{tmp_path / 'whole'}")
    assert kept.list_tags() == ["1.1.0", "2.0.0"]
    assert [str(entry.platform) for entry in kept.get_index("2.0.0").document.children] == ["linux/arm64"]
    assert len(list(whole.repository.manifests.referrers(whole.get_digest("1.0.0")))) == 1
    assert validate(kept.repository).is_clean
    assert validate(whole.repository).is_clean

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


def test_a_mirror_that_was_killed_goes_on_where_it_was(layout_server: str, tmp_path: Path) -> None:
    host = layout_server.removeprefix("http://")
    with open_client(host, plain_http=True) as client:
        for number in range(30):
            image = ImageBuilder("linux/amd64").add_files({"data": bytes([number]) * 300_000}).build()
            client.with_segment(f"app{number}").push_image("v1", image)
    path = tmp_path / "mirror.toml"
    path.write_text(f"""
        jobs = 1
        images = 1
        [backends."{host}"]
        plain_http = true
        [[mirror]]
        source = "{host}"
        target = "oci:{tmp_path / "mirror"}"
        repositories = ["*"]
    """)
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE)
    with program:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "mirror").glob("*/index.json"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        program.send_signal(signal.SIGKILL)

    with open_mirror(path) as mirror:
        report = mirror.run()

    there = open_client(f"oci:{tmp_path / 'mirror'}")
    assert report.ok
    assert report.counts[Outcome.SKIPPED] >= 3
    assert report.counts[Outcome.TAGGED] < 28
    assert len(there.list_repositories()) == 30
    assert all(validate(there.with_segment(name).repository).is_clean for name in there.list_repositories())


def test_settings_that_a_backend_does_not_know_are_said(tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_text('[backends."oci:x"]\nplain_http = true\n[[mirror]]\nsource = "oci:x"\ntarget = "oci:y"\n')

    with pytest.raises(ConfigError, match="oci:x"):
        open_mirror(path)
