"""The HTTP backend over a registry that others wrote: distribution 2.8, as Debian packages it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from registry_adapters.http import HttpCatalog, HttpSettings
from registry_core.content.source import BytesSource
from registry_core.domain.digest import Digest
from registry_core.errors import ServerError
from registry_core.ports.catalog import Catalog
from registry_core.ports.repository import Repository
from registry_core.testing.content import blob, push_image, put_blob
from registry_core.testing.contract import Can, ContractSuite
from registry_core.testing.contract.base import fresh_name

BACKENDS: Final = {"http", "https"}

_PROGRAM: Final = "docker-registry"
_START_SECONDS: Final = 20.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    pytest.fail(f"{_PROGRAM} did not start to listen")


@pytest.fixture(scope="module")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a running registry that allows deletion."""
    program = shutil.which(_PROGRAM)
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{_PROGRAM} is missing, and has to be there in CI")
        pytest.skip(f"{_PROGRAM} is missing: apt-get install --yes docker-registry")
    directory: Path = tmp_path_factory.mktemp("docker-registry")
    port = _free_port()
    config = directory / "config.yml"
    config.write_text(
        "version: 0.1\n"
        "log: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {directory / 'data'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}', secret: contract}}\n"
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(config)],
            stdout=log,
            stderr=log,
            env={key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "REGISTRY_"))},
        )
        try:
            _await_listening(process, port)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=10)


class DockerRegistry(ContractSuite):
    """What distribution 2.8 can do, and where it does otherwise than others."""

    can = ~(Can.EMPTY_NAME | Can.UNTAG | Can.SHA512 | Can.KEEPS_DANGLING | Can.ANY_MEDIA_TYPE | Can.MISSING_REPOSITORY)

    def test_all_repositories_are_listed_from_the_start(self, catalog: Catalog) -> None:
        """Complete and each once; in its own order as soon as there are more than fit on a page."""
        names = [fresh_name() for _ in range(3)]
        for name in names:
            push_image(catalog.repository(name), "listed", tags=["v1"])

        listed = list(catalog.repositories())

        assert sorted(name for name in listed if name in names) == sorted(names)
        assert len(listed) == len(set(listed))

    @pytest.mark.parametrize("page_size", [None, 1, 2, 1000])
    def test_repositories_come_in_ascii_order(self, catalog: Catalog, page_size: int | None) -> None:
        """Its pages come in the order of paths, where ``a/b`` stands before ``a-b``; they are complete all the same."""
        root = fresh_name()
        expected = [root / child for child in ("a", "a-b", "a/b", "b", "c.d")]
        for name in reversed(expected):
            push_image(catalog.repository(name), "listed", tags=["v1"])

        listed = [name for name in catalog.repositories(after=root, page_size=page_size) if name.below(root)]

        assert sorted(listed) == expected

    @pytest.mark.parametrize(("after", "first"), [("a", 1), ("a/b", 3), ("a/a", 2), ("b/x", 4), ("c_d", 5), ("zz", 5)])
    def test_repositories_after_a_name(self, catalog: Catalog, after: str, first: int) -> None:
        """Those, and no others; in its own order as soon as there are more than fit on a page."""
        root = fresh_name()
        expected = [root / child for child in ("a", "a-b", "a/b", "b", "c.d")]
        for name in expected:
            push_image(catalog.repository(name), "listed", tags=["v1"])

        listed = [name for name in catalog.repositories(after=root / after) if name.below(root)]

        assert sorted(listed) == expected[first:]

    def test_a_blob_is_no_manifest(self, repository: Repository) -> None:
        """It fails over the question, where it should deny it."""
        layer = put_blob(repository, blob("layer"))

        with pytest.raises(ServerError):
            repository.manifests.get(layer)

    def test_a_configuration_is_no_manifest(self, repository: Repository) -> None:
        """It fails over the question, where it should deny it."""
        manifest = push_image(repository, "configured")

        with pytest.raises(ServerError):
            repository.manifests.get(manifest.image.config.digest)

    def test_sha512_blobs_are_kept_or_refused(self, repository: Repository) -> None:
        """It keeps blobs under sha512, though not manifests."""
        content = blob("sha512")
        digest = Digest.of(content, "sha512")

        repository.blobs.put(digest, len(content), BytesSource(content))

        assert repository.blobs.stat(digest) == len(content)

    def test_readers_during_writes(self, repository: Repository) -> None:
        """It writes a tag's file in place: who reads it at that moment gets a 500, but nothing worse."""
        with contextlib.suppress(ServerError):
            super().test_readers_during_writes(repository)


class TestHttpOverDockerRegistry(DockerRegistry):
    @pytest.fixture
    def catalog(self, docker_registry: str) -> Iterator[Catalog]:
        catalog = HttpCatalog(docker_registry, HttpSettings(plain_http=True))
        yield catalog
        catalog.close()


class TestHttpOverDockerRegistryInChunks(DockerRegistry):
    @pytest.fixture
    def catalog(self, docker_registry: str) -> Iterator[Catalog]:
        catalog = HttpCatalog(docker_registry, HttpSettings(plain_http=True, chunk_size=700_000))
        yield catalog
        catalog.close()
