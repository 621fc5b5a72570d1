"""Lower bounds in Python: no checks, no retries, one thread."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tests.benchmarks.programs.loop import main

_PIECE = 1 << 20
_ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}


def sha256(directory: str) -> None:
    """Read all blobs of a layout and hash them."""
    blobs = f"{directory}/blobs/sha256"
    for name in os.listdir(blobs):
        with open(f"{blobs}/{name}", "rb", buffering=0) as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == name


def read(host: str, repository: str, tag: str) -> None:
    """Read and discard all blobs of an image in a registry."""
    for _, response in _blobs(host, repository, tag):
        for _ in response.stream(_PIECE, decode_content=False):
            continue
        response.release_conn()


def pull(host: str, repository: str, tag: str, directory: str) -> None:
    """Read, hash and write all blobs of an image in a registry."""
    os.mkdir(directory)
    for digest, response in _blobs(host, repository, tag):
        hasher = hashlib.sha256()
        with open(f"{directory}/{digest.removeprefix('sha256:')}", "wb", buffering=0) as file:
            for piece in response.stream(_PIECE, decode_content=False):
                hasher.update(piece)
                file.write(piece)
        response.release_conn()
        assert f"sha256:{hasher.hexdigest()}" == digest


def tags(host: str, repository: str, count: str) -> None:
    """List all tags."""
    answer = _pool(host).request("GET", f"/v2/{repository}/tags/list")
    assert len(json.loads(answer.data)["tags"]) == int(count)


def lookups(host: str, repository: str, count: str) -> None:
    """Resolve ``count`` tags over one connection."""
    pool = _pool(host)
    for number in range(int(count)):
        answer = pool.request("HEAD", f"/v2/{repository}/manifests/v0.{number}", headers=_ACCEPT)
        assert answer.headers["Docker-Content-Digest"]


def _pool(host: str) -> Any:
    import urllib3

    return urllib3.HTTPConnectionPool(*_parts(host), maxsize=1, retries=False, blocksize=_PIECE)


def _parts(host: str) -> tuple[str, int]:
    name, _, port = host.partition(":")
    return name, int(port)


def _blobs(host: str, repository: str, tag: str) -> Any:
    pool = _pool(host)
    manifest = pool.request("GET", f"/v2/{repository}/manifests/{tag}", headers=_ACCEPT).json()
    for descriptor in (manifest["config"], *manifest["layers"]):
        digest = descriptor["digest"]
        yield digest, pool.request("GET", f"/v2/{repository}/blobs/{digest}", preload_content=False)


if __name__ == "__main__":
    main({"sha256": sha256, "read": read, "pull": pull, "tags": tags, "lookups": lookups})
