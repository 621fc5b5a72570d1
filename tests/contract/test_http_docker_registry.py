"""The HTTP backend over a registry that others wrote: distribution 2.8, as Debian packages it."""

from __future__ import annotations

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
from registry_core.ports.catalog import Catalog
from registry_core.testing.contract import Can, ContractSuite

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
    """What distribution 2.8 lacks."""

    can = ~(
        Can.EMPTY_NAME
        | Can.UNTAG
        | Can.SHA512_MANIFESTS
        | Can.KEEPS_DANGLING
        | Can.ANY_MEDIA_TYPE
        | Can.MISSING_REPOSITORY
        # Pages of its catalog come in the order of paths, where a/b stands before a-b.
        | Can.ASCII_CATALOG
        # It answers 500 to such a question.
        | Can.DENIES_BLOBS_AS_MANIFESTS
        # It writes its link files in place, and answers 500 to who reads one just then.
        | Can.ATOMIC_WRITES
    )


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
