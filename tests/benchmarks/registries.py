"""Real registries on loopback, filled without the library."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from tests.benchmarks.images import TAG, blobs_of

__all__ = ["Registry", "registry_program"]

_START_SECONDS: Final = 20.0
_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"


def registry_program(extra: Iterable[Path] = ()) -> str | None:
    """A ``registry`` program of distribution in the directories, otherwise the system's docker-registry."""
    for directory in extra:
        for path in sorted(directory.glob("registry*"), reverse=True):
            if os.access(path, os.X_OK):
                return str(path)
    return shutil.which("docker-registry") or shutil.which("docker-registry", path="/usr/sbin:/usr/local/sbin")


class Registry:
    """A new docker-registry process with its own data directory.

    Args:
        found: The program.
        root: Where it may write.
    """

    def __init__(self, found: str, root: Path) -> None:
        self._found = found
        self._root = root
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> Self:
        self._root.mkdir(parents=True)
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self._root / "data")}, "delete": {"enabled": True}},
            "http": {"addr": self.host, "secret": "of these benchmarks"},
        }
        (self._root / "config.yml").write_text(json.dumps(config))
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen([self._found, "serve", f"{self._root}/config.yml"], stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.01)
        self.__exit__(None, None, None)
        raise SystemExit(f"docker-registry did not start: {(self._root / 'log').read_text()[-800:]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(10)
        shutil.rmtree(self._root, ignore_errors=True)

    def load(self, layout: Path, repository: str) -> None:
        """Store the image of a layout."""
        manifest, _, descriptors = blobs_of(layout)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, blocksize=1 << 20)
        for descriptor in descriptors:
            connection.request("POST", f"/v2/{repository}/blobs/uploads/", headers={"Content-Length": "0"})
            location = urlsplit(_answered(connection, 202).headers["Location"])
            target = f"{location.path}?{location.query}&digest={descriptor['digest']}"
            with (layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")).open("rb") as file:
                headers = {"Content-Length": str(descriptor["size"]), "Content-Type": "application/octet-stream"}
                connection.request("PUT", target, body=file, headers=headers)
                _answered(connection, 201)
        headers = {"Content-Type": _MANIFEST}
        connection.request("PUT", f"/v2/{repository}/manifests/{TAG}", body=manifest, headers=headers)
        _answered(connection, 201)
        connection.close()

    def tag_many(self, layout: Path, repository: str, count: int) -> None:
        """Store the image of a layout and create ``count`` tags for it, including its own.

        They are written into its storage as it does so itself: over HTTP that many would take minutes.
        """
        self.load(layout, repository)
        _, digest, _ = blobs_of(layout)
        tags = self._root / "data" / "docker/registry/v2/repositories" / repository / "_manifests" / "tags"
        for number in range(count - 1):
            current = tags / f"v0.{number}" / "current"
            current.mkdir(parents=True)
            (current / "link").write_text(digest)


def _answered(connection: http.client.HTTPConnection, status: int) -> http.client.HTTPResponse:
    response = connection.getresponse()
    said = response.read()
    if response.status != status:
        raise SystemExit(f"the registry answered {response.status} instead of {status}: {said[:300]!r}")
    return response
