"""The operations with python-dxf."""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

from tests.benchmarks.programs.loop import main


def _client(host: str, repository: str) -> Any:
    return import_module("dxf").DXF(host, repository, insecure=True)


def pull(host: str, repository: str, tag: str, directory: str) -> None:
    """Pull an image into a directory of blobs."""
    client = _client(host, repository)
    manifest = json.loads(client.get_manifest(tag))
    os.mkdir(directory)
    for descriptor in (manifest["config"], *manifest["layers"]):
        with open(f"{directory}/{descriptor['digest'].removeprefix('sha256:')}", "wb") as file:
            for piece in client.pull_blob(descriptor["digest"], chunk_size=1 << 20):
                file.write(piece)


def push(directory: str, host: str, repository: str, tag: str) -> None:
    """Push the image of a layout to a registry."""
    client = _client(host, repository)
    with open(f"{directory}/index.json") as index:
        entry = json.load(index)["manifests"][0]
    with open(_blob(directory, entry["digest"])) as file:
        text = file.read()
    manifest = json.loads(text)
    for descriptor in (manifest["config"], *manifest["layers"]):
        client.push_blob(_blob(directory, descriptor["digest"]), digest=descriptor["digest"])
    client.set_manifest(tag, text)


def tags(host: str, repository: str, count: str) -> None:
    """List all tags."""
    assert len(_client(host, repository).list_aliases()) == int(count)


def lookups(host: str, repository: str, count: str) -> None:
    """Resolve ``count`` tags."""
    client = _client(host, repository)
    for number in range(int(count)):
        client.head_manifest_and_response(f"v0.{number}")


def _blob(directory: str, digest: str) -> str:
    return f"{directory}/blobs/sha256/{digest.removeprefix('sha256:')}"


if __name__ == "__main__":
    main({"pull": pull, "push": push, "tags": tags, "lookups": lookups})
