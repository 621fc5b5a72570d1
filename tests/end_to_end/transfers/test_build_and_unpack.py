"""Images with added files, unpacked by umoci and the library: parents keep their attributes, and links stay links."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from registry_adapters import open_client
from registry_core import Image, ImageBuilder, ImageEditor, RegistryClient
from registry_core.testing.layers import member, tar


@pytest.fixture
def client(tmp_path: Path) -> RegistryClient:
    return open_client(f"oci:{tmp_path}").with_segment("layout")


@pytest.fixture
def built(client: RegistryClient, tmp_path: Path, as_root: None) -> Image:
    """An image on a base with directories of its own modes and owners, and with symbolic links to directories."""
    layer = tar(
        member("tmp", kind="5", mode=0o1777),
        member("root", kind="5", mode=0o700),
        member("home/app", kind="5", mode=0o750, uid=1000, gid=1000),
        member("usr/lib", kind="5", mode=0o711),
        member("lib", kind="2", link="usr/lib"),
        member("var/run", kind="2", link="../run"),
    )
    client.push_image("base", ImageBuilder("linux/amd64").add_tar(layer.content).build())
    base = client.get_image("base", "linux/amd64")
    disk = tmp_path / "disk"
    (disk / "lib").mkdir(parents=True)
    (disk / "lib/module.so").write_bytes(b"1")
    (disk / "secret").write_bytes(b"1")
    (disk / "secret").chmod(0o600)
    (disk / "spool").mkdir()
    (disk / "spool").chmod(0o1777)
    image = (
        ImageBuilder(base=base)
        .add_files({"tmp/x": "1", "root/.netrc": "1", "lib/x.so": "1", "var/run/x.pid": "1", "new/x": "1"})
        .add_directory(disk, owner=(1000, 1001))
        .build()
    )
    return ImageEditor(image).add_files({"home/app/.wh.gone": "", "tmp/y": "2"}).build()


EXPECTED = {
    "tmp": "drwxrwxrwt 0:0",
    "tmp/x": "-rw-r--r-- 0:0",
    "tmp/y": "-rw-r--r-- 0:0",
    "root": "drwx------ 0:0",
    "root/.netrc": "-rw-r--r-- 0:0",
    "home": "drwxr-xr-x 0:0",
    "home/app": "drwxr-x--- 1000:1000",
    "usr": "drwxr-xr-x 0:0",
    "usr/lib": "drwx--x--x 0:0",
    "usr/lib/x.so": "-rw-r--r-- 0:0",
    "usr/lib/module.so": "-rw-r--r-- 1000:1001",
    "lib": "lrwxrwxrwx 0:0",
    "var": "drwxr-xr-x 0:0",
    "var/run": "lrwxrwxrwx 0:0",
    "run": "drwxr-xr-x 0:0",
    "run/x.pid": "-rw-r--r-- 0:0",
    "new": "drwxr-xr-x 0:0",
    "new/x": "-rw-r--r-- 0:0",
    "secret": "-rw------- 1000:1001",
    "spool": "drwxrwxrwt 1000:1001",
}


def seen(directory: Path) -> dict[str, str]:
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        mode = stat.filemode(0o777 | status.st_mode if path.is_symlink() else status.st_mode)
        found[str(path.relative_to(directory))] = f"{mode} {status.st_uid}:{status.st_gid}"
    return found


def test_umoci_finds_parents_and_links_as_the_base_has_them(
    umoci: str, client: RegistryClient, built: Image, tmp_path: Path
) -> None:
    """R-161, R-162, R-163."""
    client.push_image("v1", built)

    command = [umoci, "raw", "unpack", "--image", f"{tmp_path / 'layout'}:v1", str(tmp_path / "unpacked")]
    subprocess.run(command, check=True, capture_output=True, umask=0o022)

    assert seen(tmp_path / "unpacked") == EXPECTED


def test_the_library_finds_parents_and_links_as_the_base_has_them(built: Image, tmp_path: Path) -> None:
    """R-161, R-162, R-163."""
    (tmp_path / "extracted").mkdir()

    built.extract_to(tmp_path / "extracted", owners=True)

    assert seen(tmp_path / "extracted") == EXPECTED
