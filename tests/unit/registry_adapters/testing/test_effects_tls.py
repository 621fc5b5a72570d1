"""Faults of the connection have the same effect behind TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from registry_adapters.testing import Fault, FaultyRegistry, faults, faulty_registry
from registry_core import RegistryClient, TransportError
from registry_core.domain.names import RepositoryName
from registry_core.testing.content import push_image


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture
def registry(authority: trustme.CA, tmp_path: Path) -> Iterator[FaultyRegistry]:
    """A registry behind TLS, with a tagged image."""
    issued = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(key)
    for position, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(chain, append=position > 0)
    with faulty_registry(tls=(chain, key), threads=4) as running:
        push_image(running.catalog.repository(RepositoryName("app")), "x", tags=["v1"])
        yield running


@pytest.fixture
def client(registry: FaultyRegistry, authority: trustme.CA, tmp_path: Path) -> RegistryClient:
    """A client that trusts the registry's certificate and does not retry."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return registry.client(ca_file=tmp_path / "ca.pem", retries=0).with_segment("app")


@pytest.mark.parametrize(
    "fault",
    [
        faults.drop(),
        faults.drop(reset=True),
        faults.cut(3),
        faults.cut(3, reset=True),
        faults.garbage(),
        faults.wrong_length(5),
        faults.wrong_length(-5),
    ],
    ids=str,
)
def test_one_response_is_broken_and_the_next_one_is_not(
    registry: FaultyRegistry, client: RegistryClient, fault: Fault
) -> None:
    registry.inject(fault.times(1))

    with pytest.raises(TransportError):
        client.list_tags()

    assert client.list_tags() == ["v1"]


def test_a_stalled_request_continues(registry: FaultyRegistry, client: RegistryClient) -> None:
    registry.inject(faults.stall(0.01, at=3))

    assert client.list_tags() == ["v1"]
