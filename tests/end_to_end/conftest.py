"""Backends to run whole stories against, and the real programs."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry_adapters import LayoutCatalog, MemoryCatalog, open_client
from registry_adapters.wsgi import registry_server
from registry_core import RegistryClient


@pytest.fixture(params=["memory", "layout", "http"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RegistryClient]:
    """An empty backend of each kind."""
    if request.param == "memory":
        with open_client("memory:") as opened:
            yield opened
    elif request.param == "layout":
        with open_client(f"oci:{tmp_path / 'images'}") as opened:
            yield opened
    else:
        with registry_server(MemoryCatalog()) as server, open_client(server.url) as opened:
            yield opened


@pytest.fixture
def layout_server(tmp_path: Path) -> Iterator[str]:
    """The URL of our server over a layout directory."""
    with registry_server(LayoutCatalog(tmp_path / "served")) as server:
        yield server.url


def program(name: str, package: str) -> str:
    """Where a real program is; without it CI fails, and anybody else is told how to get it."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{name} is missing: apt-get install {package}")
    if found is None:
        pytest.skip(f"needs {name}: apt-get install {package}")
    return found


@pytest.fixture(scope="session")
def skopeo() -> str:
    """The skopeo program."""
    return program("skopeo", "skopeo")


def free_port() -> int:
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a fresh docker-registry."""
    found = program("docker-registry", "docker-registry")
    root = tmp_path_factory.mktemp("docker-registry")
    port = free_port()
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(root)}, "delete": {"enabled": True}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    path = root / "config.yml"
    path.write_text(json.dumps(config))
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([found, "serve", str(path)], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(100):
            try:
                with urllib.request.urlopen(f"{url}/v2/", timeout=1):
                    break
            except OSError:
                time.sleep(0.05)
        else:
            pytest.fail(f"docker-registry did not start: {(root / 'log').read_text()[-500:]}")
        yield url
    finally:
        process.terminate()
        process.wait(10)
