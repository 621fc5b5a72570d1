"""A program that takes from Python what Windows has not, and then uses the library: ``without_posix.py SCENARIO DIR``.

It stands in for an operating system without ``flock``, directory descriptors, ``fork``, numbered users and the like;
paths and sockets stay those of the system that it runs on.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import pkgutil
import select
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType

MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"}
# fmt: off
FUNCTIONS = (
    "chown", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getpgid", "getresuid", "getuid",
    "getxattr", "initgroups", "killpg", "lchown", "listxattr", "mkfifo", "mknod", "posix_fadvise", "posix_fallocate",
    "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "register_at_fork", "removexattr", "sched_getaffinity",
    "sendfile", "set_blocking", "setpgid", "setsid", "setxattr", "sync", "wait3", "wait4",
    "O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "O_TMPFILE",
)
# fmt: on


class Refusal(importlib.abc.MetaPathFinder):
    """Finds no module that Windows lacks."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in MODULES:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def take_away() -> None:
    sys.meta_path.insert(0, Refusal())
    for module in MODULES:
        sys.modules.pop(module, None)
    for function in FUNCTIONS:
        if hasattr(os, function):
            delattr(os, function)
    for name in ("SIGKILL", "SIGHUP", "SIGUSR1"):
        delattr(signal, name)
    for name in ("epoll", "poll"):
        delattr(select, name)
    delattr(socket, "AF_UNIX")
    os.supports_dir_fd.clear()
    os.supports_fd.clear()
    os.supports_follow_symlinks.intersection_update({os.stat})


def imports(directory: Path) -> None:
    for package in ("registry_core", "registry_adapters"):
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            importlib.import_module(module.name)

    from registry_core.content import operating_system

    has = [name for name in vars(operating_system) if name.startswith("HAS_") and getattr(operating_system, name)]
    assert has == [], has


def memory(directory: Path) -> None:
    from registry_adapters import MemoryCatalog

    check_catalog(MemoryCatalog())


def http(directory: Path) -> None:
    from registry_adapters import MemoryCatalog, open_catalog
    from registry_adapters.wsgi import registry_server

    with registry_server(MemoryCatalog()) as server:
        check_catalog(open_catalog(server.url))


def layout(directory: Path) -> None:
    from registry_adapters import LayoutCatalog
    from registry_core import Digest, RepositoryName
    from registry_core.content.streams import BytesSource
    from registry_core.errors import Unavailable
    from registry_core.testing.content import push_image, put_blob
    from registry_core.testing.faults import HookedSource

    catalog = LayoutCatalog(directory / "layouts")
    check_catalog(catalog)
    assert [str(name) for name in catalog.repositories()] == ["org/app"]

    repository = catalog.repository(RepositoryName("org/app"))
    other = catalog.repository(RepositoryName("org/other"))
    push_image(other, "other", tags=["v1"])
    digest = put_blob(repository, b"shared")
    if not other.blobs.mount(digest, RepositoryName("org/app")):
        put_blob(other, b"shared")
    with other.blobs.open(digest) as reader:
        assert reader.read() == b"shared"

    content = os.urandom(3 << 20)
    with suppress(Unavailable):
        repository.blobs.put(Digest.of(content), len(content), HookedSource(content, unreachable))
    repository.blobs.put(Digest.of(content), len(content), BytesSource(content))
    assert repository.blobs.stat(Digest.of(content)) == len(content)
    left = [path.name for path in (directory / "layouts").rglob(".ociport-*") if path.name != ".ociport.lock"]
    assert left == [], left


def links(directory: Path) -> None:
    """A link is not followed, although each step is checked by its path only."""
    from registry_adapters import LayoutCatalog
    from registry_core import RepositoryName
    from registry_core.testing.content import push_image

    catalog = LayoutCatalog(directory / "layouts")
    push_image(catalog.repository(RepositoryName("app")), "one", tags=["v1"])
    (directory / "layouts" / "link").symlink_to("app")
    (directory / "layouts" / "app" / "index.json").rename(directory / "index.json")
    (directory / "layouts" / "app" / "index.json").symlink_to(directory / "index.json")
    for name in ("link", "app"):
        repository = catalog.repository(RepositoryName(name))
        refused(partial(push_image, repository, "two"), "link", error="LayoutError")


def prune(directory: Path) -> None:
    from registry_adapters import LayoutCatalog
    from registry_core import RepositoryName
    from registry_core.testing.content import push_image

    catalog = LayoutCatalog(directory / "layouts")
    repository = catalog.repository(RepositoryName("app"))
    digest = push_image(repository, "one").digest
    index = (directory / "layouts" / "app" / "index.json").read_bytes()

    refused(lambda: catalog.prune(RepositoryName("app"), untagged=True), "prune", "flock", "Linux or macOS")

    assert (directory / "layouts" / "app" / "index.json").read_bytes() == index
    assert repository.manifests.resolve(digest).digest == digest


def archives(directory: Path) -> None:
    from registry_adapters.archive import ArchiveCatalog, ArchiveForm
    from registry_core import RepositoryName
    from registry_core.content import operating_system
    from registry_core.domain.names import Tag
    from registry_core.testing.content import push_image

    for form in ArchiveForm:
        for can_rename in (True, False):
            operating_system.CAN_RENAME_OPEN_FILES = can_rename  # type: ignore[misc]  # as on Windows
            path = directory / f"{form.value}-{can_rename}.tar"
            with ArchiveCatalog(path, form) as catalog:
                manifest = push_image(catalog.repository(RepositoryName("library/app")), "one", tags=["v1"])
            found = ArchiveCatalog(path).repository(RepositoryName("library/app")).manifests.get(Tag("v1"))
            assert found == manifest
    assert len(os.listdir(directory)) == 4


def extraction(directory: Path) -> None:
    from registry_adapters import MemoryCatalog
    from registry_core import ImageBuilder, RegistryClient
    from registry_core.domain.names import Tag
    from registry_core.ops.artifacts.pull import pull_artifact
    from registry_core.ops.artifacts.push import push_artifact
    from registry_core.ops.blobs import push_blob, save_blob

    client = RegistryClient(MemoryCatalog(), "org", "app")
    client.push_image("v1", ImageBuilder(platform="linux/amd64").add_files({"a": b"content"}).build())
    image = client.get_image("v1", platform="linux/amd64")
    with image.extract() as tar:
        assert b"content" in tar.read()
    refused(lambda: image.extract_to(directory / "files"), "extract to", "symbolic link", "Linux or macOS")
    assert not (directory / "files").exists()

    repository = client.repository
    descriptor = push_blob(repository, b"blob")
    save_blob(repository, descriptor.digest, directory / "blob")
    assert (directory / "blob").read_bytes() == b"blob"

    artifact = push_artifact(repository, [directory / "blob"], artifact_type="application/x", tags=[Tag("files")])
    refused(
        lambda: pull_artifact(repository, artifact.digest, directory / "pulled"), "write files to", "Linux or macOS"
    )
    assert not (directory / "pulled").exists()


def keychains(directory: Path) -> None:
    from registry_adapters.keychains import DockerConfigKeychain, HelperKeychain, default_keychain
    from registry_core import Basic

    keychain = DockerConfigKeychain(directory / "config.json")
    keychain.store("registry.example.com", Basic("user", "password"))
    assert keychain.credential("registry.example.com", None) == Basic("user", "password")
    environment = {"HOME": str(directory), "DOCKER_CONFIG": str(directory)}
    assert default_keychain(environment).credential("registry.example.com", None) == Basic("user", "password")

    program = directory / "docker-credential-tests"
    program.write_text("#!/bin/sh\necho '{}'\n")
    program.chmod(0o755)
    helper = HelperKeychain("tests", environment={"PATH": str(directory)})
    refused(lambda: helper.credential("registry.example.com", None), "docker-credential-tests", "pipes")


def check_catalog(catalog: object) -> None:
    from registry_core import Digest, RepositoryName, Tag
    from registry_core.errors import ImageNotFound
    from registry_core.ports.catalog import Catalog
    from registry_core.testing.content import push_image

    assert isinstance(catalog, Catalog)
    repository = catalog.repository(RepositoryName("org/app"))
    manifest = push_image(repository, "one", tags=["v1", "v2"])
    descriptor = repository.manifests.resolve(Tag("v1"))
    assert descriptor.digest == manifest.digest
    assert repository.manifests.get(Tag("v2")) == manifest
    assert [str(tag) for tag in repository.manifests.tags()] == ["v1", "v2"]
    layer = manifest.image.layers[0]
    with repository.blobs.open(layer.digest) as reader:
        assert Digest.of(reader.read()) == layer.digest
    repository.manifests.untag(Tag("v2"))
    try:
        repository.manifests.resolve(Tag("v2"))
    except ImageNotFound:
        pass
    else:
        raise AssertionError("the tag is still there")


def refused(attempt: Callable[[], object], *words: str, error: str = "Unsupported") -> None:
    message = ""
    try:
        attempt()
    except Exception as caught:
        if type(caught).__name__ != error:
            raise
        message = str(caught)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in {message}"


def unreachable() -> None:
    from registry_core.errors import Unavailable

    raise Unavailable("connection reset")


SCENARIOS: dict[str, Callable[[Path], None]] = {
    scenario.__name__: scenario
    for scenario in (imports, memory, http, layout, links, prune, archives, extraction, keychains)
}

if __name__ == "__main__":
    take_away()
    SCENARIOS[sys.argv[1]](Path(sys.argv[2]))
