"""The operations with oras-py."""

from __future__ import annotations

import json
import os
from importlib import import_module
from typing import Any

from tests.benchmarks.programs.loop import main


def _client(host: str) -> Any:
    return import_module("oras.client").OrasClient(hostname=host, insecure=True)


def pull(host: str, repository: str, tag: str, directory: str) -> None:
    """Pull an image into a directory of blobs; oras-py verifies no digest."""
    client, name = _client(host), f"{host}/{repository}:{tag}"
    manifest = client.get_manifest(name)
    os.mkdir(directory)
    for descriptor in (manifest["config"], *manifest["layers"]):
        client.download_blob(name, descriptor["digest"], f"{directory}/{descriptor['digest'].removeprefix('sha256:')}")


def push(directory: str, host: str, repository: str, tag: str) -> None:
    """Push the image of a layout to a registry."""
    client = _client(host)
    container = import_module("oras.container").Container(f"{host}/{repository}:{tag}")
    with open(f"{directory}/index.json") as index:
        entry = json.load(index)["manifests"][0]
    with open(_blob(directory, entry["digest"])) as file:
        manifest = json.load(file)
    for descriptor in (manifest["config"], *manifest["layers"]):
        client.upload_blob(_blob(directory, descriptor["digest"]), container, descriptor)
    client.upload_manifest(manifest, container)


def tags(host: str, repository: str, count: str) -> None:
    """List all tags."""
    assert len(_client(host).get_tags(f"{host}/{repository}")) == int(count)


def lookups(host: str, repository: str, count: str) -> None:
    """Resolve ``count`` tags; oras-py has no call for that, so use its request function."""
    client = _client(host)
    for number in range(int(count)):
        answer = client.do_request(f"http://{host}/v2/{repository}/manifests/v0.{number}", "HEAD", headers=_ACCEPT)
        assert answer.headers["Docker-Content-Digest"]


def _blob(directory: str, digest: str) -> str:
    return f"{directory}/blobs/sha256/{digest.removeprefix('sha256:')}"


_ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json"}

if __name__ == "__main__":
    main({"pull": pull, "push": push, "tags": tags, "lookups": lookups})
