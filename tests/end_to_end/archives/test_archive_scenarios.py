"""Archives exported, imported, mirrored across an air gap and served, with real programs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from registry_adapters import ArchiveCatalog, ArchiveForm, MemoryCatalog, open_client
from registry_adapters.mirroring import open_mirror
from registry_adapters.wsgi import registry_server
from registry_core import ImageBuilder, Index, IndexBuilder, RepositoryName, Tag, Unsupported, copy
from registry_core.ops.validation.validate import validate

APP = RepositoryName("org/app")


def _index() -> Index:
    index = IndexBuilder()
    for platform in ("linux/amd64", "linux/arm64"):
        index.add(ImageBuilder(platform=platform).add_files({"arch": platform.encode()}).build())
    return index.build()


def _inspected(skopeo: str, *arguments: str) -> dict[str, object]:
    done = subprocess.run([skopeo, "inspect", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("form", ArchiveForm)
def test_an_index_is_exported_from_a_registry_and_imported_again(
    form: ArchiveForm, docker_registry: str, skopeo: str, tmp_path: Path
) -> None:
    url = f"{form.value}:{tmp_path / 'images.tar'}"
    with open_client(docker_registry) as registry:
        source, target = registry.with_segment(form.value, "source"), registry.with_segment(form.value, "target")
        pushed = source.push_index("v1", _index())

        with open_client(url) as archive:
            source.copy_image("v1", archive.with_segment(APP), "v1")
        with open_client(url) as archive:
            archive.with_segment(APP).copy_image("v1", target, "v1")

        assert target.get_digest("v1") == pushed.digest
        assert not validate(target.get_index("v1")).findings
    name = "org/app" if form is ArchiveForm.DOCKER else "docker.io/org/app"
    assert _inspected(skopeo, "--config", "--override-arch=amd64", f"{url}:{name}:v1")["architecture"] == "amd64"


@pytest.mark.parametrize("form", ArchiveForm)
def test_a_mirror_crosses_an_air_gap_in_an_archive(form: ArchiveForm, tmp_path: Path) -> None:
    """Names are kept; in a Docker archive, ``tool`` stands for ``library/tool``."""
    origin = MemoryCatalog()
    for name in ("org/app", "tool"):
        for tag in ("v1", "v2"):
            copy(_index().repository, origin.repository(RepositoryName(name)), _index().digest, tags=[Tag(tag)])
    (tmp_path / "there.toml").write_text(
        f'[[mirror]]\nsource = "{{url}}"\ntarget = "{form.value}:{tmp_path / "all.tar"}"\nrepositories = ["**"]\n'
    )
    carried = MemoryCatalog()

    with registry_server(origin) as server:
        text = (tmp_path / "there.toml").read_text().format(url=server.url)
        (tmp_path / "there.toml").write_text(text)
        with open_mirror(tmp_path / "there.toml") as mirror:
            assert mirror.run().ok
    with registry_server(carried) as server:
        (tmp_path / "here.toml").write_text(
            f'[[mirror]]\nsource = "{form.value}:{tmp_path / "all.tar"}"\ntarget = "{server.url}"\n'
            'repositories = ["**"]\n'
        )
        with open_mirror(tmp_path / "here.toml") as mirror:
            assert mirror.run().ok

    tool = "library/tool" if form is ArchiveForm.DOCKER else "tool"
    assert sorted(carried.repositories()) == sorted([tool, "org/app"])
    for name in carried.repositories():
        repository = carried.repository(name)
        assert list(repository.manifests.tags()) == ["v1", "v2"]
        assert repository.manifests.resolve(Tag("v2")).digest == _index().digest
        assert not validate(repository).findings


def test_a_mirror_that_fails_leaves_no_archive(tmp_path: Path) -> None:
    """Not even with the image that was copied before the failure."""
    origin = MemoryCatalog()
    arrives = ImageBuilder(platform="linux/s390x").build()
    copy(arrives.repository, origin.repository(APP), arrives.digest, tags=[Tag("v0")])
    copy(_index().repository, origin.repository(APP), _index().digest, tags=[Tag("v1")])
    origin.repository(APP).manifests.delete(_index().document.index.manifests[1].digest)
    with registry_server(origin) as server:
        places = f'source = "{server.url}/org/app"\ntarget = "oci-archive:{tmp_path / "all.tar"}"\n'
        (tmp_path / "mirror.toml").write_text(f"jobs = 1\nimages = 1\n[[mirror]]\n{places}")

        with pytest.raises(LookupError), open_mirror(tmp_path / "mirror.toml") as mirror:
            mirror.run()

    assert [each.name for each in tmp_path.iterdir()] == ["mirror.toml"]


def test_an_archive_is_served_as_a_registry(skopeo: str, tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    with open_client(f"docker-archive:{path}") as archive:
        pushed = archive.with_segment(APP).push_image("v1", ImageBuilder(platform="linux/amd64").build())

    with registry_server(ArchiveCatalog(path)) as server, open_client(server.url) as client:
        host = server.url.removeprefix("http://")
        found = _inspected(skopeo, "--tls-verify=false", f"docker://{host}/org/app:v1")
        with pytest.raises(Unsupported):
            client.with_segment(APP).push_image("v2", ImageBuilder(platform="linux/arm64").build())

    assert (found["Digest"], found["RepoTags"]) == (pushed.digest, ["v1"])


def test_images_pushed_to_a_served_archive_are_written_when_it_is_closed(skopeo: str, tmp_path: Path) -> None:
    with open_client(f"oci:{tmp_path / 'layout'}") as layout:
        layout.push_image("v1", ImageBuilder(platform="linux/amd64").add_files({"a": b"b"}).build())
    catalog = ArchiveCatalog(tmp_path / "images.tar")

    with catalog, registry_server(catalog) as server:
        subprocess.run(
            [
                *(skopeo, "--insecure-policy", "copy", "--dest-tls-verify=false"),
                *(f"oci:{tmp_path / 'layout'}:v1", f"docker://{server.url.removeprefix('http://')}/org/app:v1"),
            ],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        assert not (tmp_path / "images.tar").exists()

    assert not validate(ArchiveCatalog(tmp_path / "images.tar").repository(APP)).findings
