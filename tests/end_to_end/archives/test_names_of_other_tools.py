"""Layouts and archives of skopeo, buildah and podman: names are read, mirrored, and written so that they read them."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from registry_adapters import LayoutCatalog, open_catalog, open_client
from registry_core import Image, ImageBuilder, MirrorRule, RegistryClient, run_mirror

WHOLE = "docker.io/library/alpine:3.18"
NAMES = [WHOLE, "localhost:5000/org/app:v1", "1.0+build", "v1/rc", "debian:12", "v1"]


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def _image(label: str) -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"label": label.encode()}).build()


def _names(url: str) -> dict[str, str]:
    """The names that a layout or archive lists, with the digests."""
    catalog: Any = open_catalog(url)
    return {image.name: str(image.descriptor.digest) for image in catalog.images()}


def _open(url: str) -> RegistryClient:
    return open_client(url, default_platform="linux/amd64")


@pytest.fixture
def named_by_skopeo(skopeo: str, tmp_path: Path) -> dict[str, str]:
    """Write ``oci:named`` with all the names, as skopeo does; return the digests."""
    origin = open_client(f"oci:{tmp_path / 'origin'}")
    for number, name in enumerate(NAMES):
        origin.push_image(f"v{number}", _image(name))
        source, target = f"oci:{tmp_path / 'origin'}:v{number}", f"oci:{tmp_path / 'named'}:{name}"
        _run(skopeo, "--insecure-policy", "copy", "-q", "--preserve-digests", source, target)
    return {name: str(_image(name).digest) for name in NAMES}


class TestSkopeo:
    def test_every_name_is_listed_and_read(self, named_by_skopeo: dict[str, str], tmp_path: Path) -> None:
        """R-307."""
        client = _open(f"oci:{tmp_path / 'named'}")

        assert _names(f"oci:{tmp_path / 'named'}") == named_by_skopeo
        assert {name: str(client.get_image(name).digest) for name in NAMES} == named_by_skopeo
        assert client.list_repositories() == ["debian", "library/alpine", "localhost/org/app"]
        assert client.with_segment("library", "alpine").list_tags() == ["3.18"]
        with client.with_segment("library/alpine").get_image("3.18").open_file("label") as file:
            assert file.read() == WHOLE.encode()

    @pytest.mark.parametrize("repositories", [(), ("*",)])
    def test_it_reads_a_mirror_by_the_same_names(
        self, skopeo: str, named_by_skopeo: dict[str, str], tmp_path: Path, repositories: tuple[str, ...]
    ) -> None:
        """R-315: through a layout and an archive."""
        origin = f"oci:{tmp_path / 'named'}"
        for url in (f"oci:{tmp_path / 'mirror'}", f"oci-archive:{tmp_path / 'mirror.tar'}", f"oci:{tmp_path / 'back'}"):
            with closing(open_catalog(origin)) as source, closing(open_catalog(url)) as target:
                report = run_mirror([MirrorRule(source=source, target=target, repositories=repositories)])
            origin = url

            assert report.ok
            assert not report.warnings
            assert _names(url) == named_by_skopeo
            for name, digest in named_by_skopeo.items():
                inspected = json.loads(_run(skopeo, "inspect", f"{url}:{name}"))
                assert inspected["Digest"] == digest

    def test_it_reads_what_we_tag(self, skopeo: str, named_by_skopeo: dict[str, str], tmp_path: Path) -> None:
        """R-315."""
        client = _open(f"oci:{tmp_path / 'named'}")
        alpine = client.with_segment("library", "alpine")

        alpine.push_image("3.19", _image("3.19"))
        alpine.push_image("3.18", _image("3.18 again"))
        client.tag_image("v1", "2.0+build")
        client.delete_tag("v1/rc")

        expected = named_by_skopeo | {
            "docker.io/library/alpine:3.19": str(_image("3.19").digest),
            WHOLE: str(_image("3.18 again").digest),
            "2.0+build": named_by_skopeo["v1"],
        }
        expected.pop("v1/rc")
        for name, digest in expected.items():
            inspected = json.loads(_run(skopeo, "inspect", f"oci:{tmp_path / 'named'}:{name}"))
            assert inspected["Digest"] == digest
        listed = _names(f"oci:{tmp_path / 'named'}")
        listed.pop("")
        assert listed == expected

    def test_the_only_image_of_a_layout_needs_no_name(self, skopeo: str, tmp_path: Path) -> None:
        open_client(f"oci:{tmp_path / 'origin'}").push_image("v1", _image("only"))
        for target in ("nameless", f"named:{WHOLE}"):
            _run(
                skopeo, "--insecure-policy", "copy", "-q", "--preserve-digests",
                f"oci:{tmp_path / 'origin'}:v1", f"oci:{tmp_path / target}",
            )  # fmt: skip

        for directory in ("nameless", "named"):
            assert _open(f"oci:{tmp_path / directory}").get_image().digest == _image("only").digest


@pytest.fixture
def containers(as_root: None, tmp_path: Path) -> dict[str, str]:
    """The environment in which buildah and podman keep their files in a temporary directory."""
    storage = tmp_path / "storage"
    storage.mkdir()
    configuration = f'[storage]\ndriver = "vfs"\nrunroot = "{storage}/run"\ngraphroot = "{storage}/graph"\n'
    (storage / "storage.conf").write_text(configuration)
    return {"CONTAINERS_STORAGE_CONF": str(storage / "storage.conf")}


@pytest.fixture
def built(buildah: str, containers: dict[str, str], tmp_path: Path) -> str:
    """An image in the storage, built by buildah."""
    (tmp_path / "file").write_bytes(b"content")
    container = _run(buildah, "from", "scratch", **containers)
    _run(buildah, "copy", container, str(tmp_path / "file"), "/file", **containers)
    _run(buildah, "commit", "-q", "--format", "oci", container, "localhost/org/app:v1", **containers)
    return "localhost/org/app:v1"


@pytest.mark.parametrize("scheme", ["oci", "oci-archive"])
def test_what_buildah_pushes_is_read_by_its_name(
    buildah: str, skopeo: str, containers: dict[str, str], built: str, tmp_path: Path, scheme: str
) -> None:
    """R-307, R-315."""
    url, name = f"{scheme}:{tmp_path / 'pushed'}", "docker.io/org/app:v1"
    _run(buildah, "push", "-q", built, f"{url}:{name}", **containers)

    client = _open(url)
    image = client.get_image(name)
    with image.open_file("file") as file:
        assert file.read() == b"content"
    assert client.list_repositories() == ["org/app"]
    assert client.with_segment("org", "app").get_digest("v1") == image.digest
    assert client.get_image().digest == image.digest
    with open_client(f"{scheme}:{tmp_path / 'copied'}") as copied:
        client.copy_image(name, copied, name)
    inspected = json.loads(_run(skopeo, "inspect", f"{scheme}:{tmp_path / 'copied'}:{name}"))
    assert inspected["Digest"] == image.digest


@pytest.mark.parametrize(
    ("saved", "scheme"), [("oci-dir", "oci"), ("oci-archive", "oci-archive"), ("docker-archive", "docker-archive")]
)
def test_what_podman_saves_is_mirrored_and_loaded_again(
    podman: str, skopeo: str, containers: dict[str, str], built: str, tmp_path: Path, saved: str, scheme: str
) -> None:
    """R-307, R-315."""
    _run(podman, "save", "-q", "--format", saved, "-o", str(tmp_path / "saved"), built, **containers)
    _run(podman, "rmi", built, **containers)
    source, target = f"{scheme}:{tmp_path / 'saved'}", f"{scheme}:{tmp_path / 'mirror'}"

    with closing(open_catalog(source)) as ours, closing(open_catalog(target)) as copied:
        report = run_mirror([MirrorRule(source=ours, target=copied, repositories=("*",))])

    assert report.ok
    assert list(_names(source)) == [built]
    assert _names(target) == _names(source)
    client = _open(target)
    assert client.get_digest(built) == client.with_segment("localhost/org/app").get_digest("v1")
    if scheme == "oci":
        # podman names what it loads from a directory after the directory.
        assert json.loads(_run(skopeo, "inspect", f"{target}:{built}"))["Digest"] == client.get_digest(built)
    else:
        _run(podman, "load", "-q", "-i", str(tmp_path / "mirror"), **containers)
        assert built in _run(podman, "images", "--format", "{{.Repository}}:{{.Tag}}", **containers)


def test_an_image_that_buildah_pushes_without_a_name_is_mirrored_by_its_digest(
    buildah: str, containers: dict[str, str], built: str, tmp_path: Path
) -> None:
    """R-316."""
    _run(buildah, "push", "-q", built, f"oci:{tmp_path / 'nameless'}", **containers)
    target = LayoutCatalog(tmp_path / "mirror")

    report = run_mirror([MirrorRule(source=open_catalog(f"oci:{tmp_path / 'nameless'}"), target=target)])

    assert report.ok
    assert [image.name for image in target.images()] == [""]
    assert _open(f"oci:{tmp_path / 'mirror'}").get_image().digest == _open(f"oci:{tmp_path / 'nameless'}").get_digest()
