"""The second table of docs/reference/errors.md: errors that are the same for every operation."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.wsgi import BasicAuthorizer, TokenAuthorizer, registry_server
from registry_adapters.wsgi.auth import Policy
from registry_core import (
    Basic,
    Cancelled,
    CancelScope,
    DeadlineExceeded,
    Forbidden,
    ImageBuilder,
    InvalidDigest,
    InvalidName,
    InvalidReference,
    RegistryClient,
    RegistryError,
    Unsupported,
    fail_after,
)
from registry_core.domain.auth import Scope
from registry_core.ports.observer import Event

Operation = Callable[[RegistryClient], object]

READS: dict[str, Operation] = {
    "get_image": lambda client: client.get_image("v1", platform="linux/amd64"),
    "get_digest": lambda client: client.get_digest("v1"),
    "image_exists": lambda client: client.image_exists("v1"),
    "list_tags": lambda client: client.list_tags(),
}
WRITES: dict[str, Operation] = {
    "push_image": lambda client: client.push_image("v2", ImageBuilder(platform="linux/amd64").build()),
    "tag_image": lambda client: client.tag_image("v1", "v2"),
    "delete_tag": lambda client: client.delete_tag("v1"),
}
ALL = READS | WRITES


class Events:
    """An observer that collects events."""

    def __init__(self) -> None:
        self.seen: list[Event] = []

    def on(self, event: Event) -> None:
        self.seen.append(event)


def _filled() -> MemoryCatalog:
    catalog = MemoryCatalog()
    RegistryClient(catalog, "app").push_image("v1", ImageBuilder(platform="linux/amd64").build())
    return catalog


def _nothing(user: str, scope: Scope) -> Collection[str]:
    return ()


def _pulling(user: str, scope: Scope) -> Collection[str]:
    return ("pull",) if user else ()


@pytest.mark.parametrize(
    ("name", "policy"), [*((name, _nothing) for name in ALL), *((name, _pulling) for name in WRITES)]
)
def test_a_client_without_permission_gets_forbidden(name: str, policy: Policy) -> None:
    catalog = _filled()
    with registry_server(catalog, authorizer=BasicAuthorizer({"user": "secret"}, policy=policy)) as server:
        with open_client(server.url, auth=Basic("user", "secret")) as client, pytest.raises(Forbidden) as caught:
            ALL[name](client.with_segment("app"))

    assert "app" in caught.value.reference
    assert caught.value.operation
    assert caught.value.transport is not None
    assert caught.value.transport.status == 403
    assert RegistryClient(catalog, "app").list_tags() == ["v1"]


@pytest.mark.parametrize("name", READS)
def test_a_token_for_pulling_permits_every_read(name: str) -> None:
    with registry_server(_filled(), authorizer=TokenAuthorizer({"user": "secret"}, policy=_pulling)) as server:
        with open_client(server.url, auth=Basic("user", "secret")) as client:
            answer = READS[name](client.with_segment("app"))

    assert answer


@pytest.mark.parametrize(
    ("reference", "kind"),
    [
        ("a tag", InvalidName),
        ("x" * 129, InvalidName),
        ("sha256:short", InvalidDigest),
        ("@sha256:xyz", InvalidDigest),
        ("", InvalidReference),
        ("@sha256:../../etc", InvalidReference),
        ("v1@v2@sha256:" + "0" * 64, InvalidReference),
        ("v1@sha256:short", InvalidDigest),
        ("docker.io/library/alpine:3.18", InvalidReference),
        ("1.0+build", InvalidName),
    ],
)
def test_a_malformed_reference_is_refused_without_a_request(reference: str, kind: type[RegistryError]) -> None:
    events = Events()
    with registry_server(_filled()) as server, open_client(server.url, observer=events) as client:
        with pytest.raises(kind) as caught:
            client.with_segment("app").get_digest(reference)

    assert type(caught.value) is kind
    assert events.seen == []


@pytest.mark.parametrize("name", ALL)
def test_a_passed_deadline_ends_any_operation(client: RegistryClient, name: str) -> None:
    with fail_after(0), pytest.raises(DeadlineExceeded) as caught:
        ALL[name](client.with_segment("app"))

    assert "app" in caught.value.reference


@pytest.mark.parametrize("name", ALL)
def test_a_cancelled_scope_ends_any_operation(client: RegistryClient, name: str) -> None:
    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            ALL[name](client.with_segment("app"))


@pytest.mark.parametrize("name", WRITES)
def test_writing_to_a_read_only_registry_is_unsupported(name: str) -> None:
    catalog = _filled()
    with registry_server(catalog, read_only=True) as server, open_client(server.url) as client:
        with pytest.raises(Unsupported):
            WRITES[name](client.with_segment("app"))

    assert RegistryClient(catalog, "app").list_tags() == ["v1"]
