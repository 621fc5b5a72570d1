"""Registries that refuse by policy: immutable tags, quotas, vulnerable images (R-244)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.testing import FaultyRegistry, faulty_registry
from registry_adapters.testing import faults as fault
from registry_core import Digest, Forbidden, Image, ImageBuilder, RegistryClient

Operation = Callable[[RegistryClient], object]

ECR = "The image tag 'v1' already exists in the 'app' repository and cannot be overwritten because the {} is immutable."
ACR = "The operation is disallowed on this registry, repository or image."
REFUSALS = {
    "Harbor, vulnerable image": (412, "PROJECTPOLICYVIOLATION", "image with 9 vulnerabilities cannot be pulled"),
    "Harbor, unsigned image": (412, "PROJECTPOLICYVIOLATION", "The image is not signed by cosign."),
    "Harbor, immutable tag": (412, "PRECONDITION", "request failed due to 'app:v1' configured as immutable."),
    "Harbor, quota": (403, "DENIED", "adding 29.0 MiB of storage resource will exceed the configured upper limit"),
    "Quay, quota": (403, "DENIED", "Quota has been exceeded on namespace"),
    "DigitalOcean, limit": (403, "DENIED", "registry contains 1 repositories, limit is 1"),
    "ECR, immutable repository": (400, "TAG_INVALID", ECR.format("repository")),
    "ECR, immutable tag": (400, "TAG_INVALID", ECR.format("tag")),
    "ACR, locked image": (405, "REGISTRY_DISALLOWED_OPERATION", ACR),
    "a conflict": (409, "TAG_IMMUTABLE", "the tag is immutable"),
    "payment": (402, "DENIED", "the plan does not include private repositories"),
    "law": (451, "DENIED", "withdrawn after a notice"),
}  # fmt: skip


def image() -> Image:
    return ImageBuilder(platform="linux/amd64").add_files({"a": b"1"}).build()


OPERATIONS: dict[str, Operation] = {
    "get_image": lambda client: client.get_image("v1"),
    "get_manifest": lambda client: client.get_manifest("v1"),
    "get_digest": lambda client: client.get_digest("v1"),
    "image_exists": lambda client: client.image_exists("v1"),
    "get_image_config": lambda client: client.get_image_config("v1"),
    "copy_image": lambda client: client.copy_image("v1", open_client("memory:").with_segment("copy"), "v1"),
    "tag_image": lambda client: client.tag_image("v1", "v2"),
    "push_image": lambda client: client.push_image("v1", image()),
    "delete_tag": lambda client: client.delete_tag("v1"),
    "delete_by_digest": lambda client: client.delete_by_digest(client.get_digest("v1")),
    "list_tags": lambda client: client.list_tags(),
    "open_blob": lambda client: client.repository.blobs.open(Digest.of(b"1")),
}


# The operations that begin with a HEAD, whose response has no body.
BY_HEAD = {"get_digest", "image_exists", "delete_by_digest"}


@pytest.fixture
def registry() -> Iterator[FaultyRegistry]:
    """A registry with one image."""
    with faulty_registry(catalog=MemoryCatalog()) as server:
        with open_client(server.url) as client:
            client.with_segment("app").push_image("v1", image())
        yield server


def refusal(status: int, code: str, message: str) -> fault.Fault:
    content = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return fault.status(status, content=content)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", REFUSALS)
def test_every_operation_raises_forbidden_with_the_words(registry: FaultyRegistry, name: str, operation: str) -> None:
    """R-205."""
    status, code, message = REFUSALS[name]
    registry.inject(refusal(status, code, message).on(path="^/v2/app/"))

    with open_client(registry.url, retries=0) as client, pytest.raises(Forbidden) as caught:
        OPERATIONS[operation](client.with_segment("app"))

    # A 403 to a HEAD is not looked up by GET.
    has_words = status != 403 or operation not in BY_HEAD
    assert (message in str(caught.value)) is has_words
    assert caught.value.code == code
    assert caught.value.transport is not None
    assert caught.value.transport.status == status


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize(
    ("method", "path", "operation"),
    [
        ("PUT", "/manifests/", "push_image"),
        ("PUT", "/manifests/", "tag_image"),
        ("POST", "/blobs/uploads/", "push_image"),
        ("PUT", "/blobs/uploads/", "push_image"),
        ("DELETE", "/manifests/", "delete_tag"),
        ("DELETE", "/manifests/", "delete_by_digest"),
    ],
)
def test_every_write_raises_forbidden_with_the_words(
    registry: FaultyRegistry, name: str, method: str, path: str, operation: str
) -> None:
    status, code, message = REFUSALS[name]
    registry.inject(refusal(status, code, message).on(path=path, method=method))
    other = ImageBuilder(platform="linux/amd64").add_files({"b": b"2"}).build()

    with open_client(registry.url, retries=0) as client, pytest.raises(Forbidden) as caught:
        app = client.with_segment("app")
        if operation == "push_image":
            app.push_image("v1", other)
        else:
            OPERATIONS[operation](app)

    assert message in str(caught.value)
