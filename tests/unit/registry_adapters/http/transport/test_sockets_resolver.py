from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from registry_adapters.http.transport.sockets import AddressInfo, Resolver
from registry_core.cancellation import CancelScope, fail_after
from registry_core.errors import Cancelled, DeadlineExceeded

FOUND: list[AddressInfo] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 443))]


class FakeLookup:
    """A look-up that returns when the test releases it."""

    def __init__(self, *, error: OSError | None = None) -> None:
        self.called = threading.Event()
        self.release = threading.Event()
        self.threads: list[threading.Thread] = []
        self._error = error

    def __call__(self, host: str, port: int) -> list[AddressInfo]:
        self.threads.append(threading.current_thread())
        self.called.set()
        self.release.wait(10)
        if self._error is not None:
            raise self._error
        return FOUND


@pytest.fixture
def blocked_lookup() -> Iterator[FakeLookup]:
    """A look-up that blocks until it is released; its threads end with the test."""
    lookup = FakeLookup()
    yield lookup
    lookup.release.set()
    for thread in lookup.threads:
        thread.join(5)
        assert not thread.is_alive()


def instant_lookup(*, error: OSError | None = None) -> FakeLookup:
    lookup = FakeLookup(error=error)
    lookup.release.set()
    return lookup


def test_a_name_is_looked_up_in_another_thread() -> None:
    lookup = instant_lookup()

    assert Resolver(lookup).addresses("registry.example.com", 443, 5) == FOUND
    assert lookup.threads != [threading.current_thread()]


@pytest.mark.parametrize("host", ["192.0.2.7", "::1"])
def test_an_ip_address_is_looked_up_in_the_same_thread(host: str) -> None:
    lookup = instant_lookup()

    Resolver(lookup).addresses(host, 443, 5)

    assert lookup.threads == [threading.current_thread()]


def test_the_look_up_of_the_system_accepts_ip_addresses() -> None:
    found = Resolver().addresses("127.0.0.1", 5000, 5)

    assert [entry[4] for entry in found] == [("127.0.0.1", 5000)]


def test_an_unknown_name_raises_a_copy_of_the_error_of_the_system() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror) as caught:
        Resolver(instant_lookup(error=error)).addresses("registry.example.com", 443, 5)

    assert caught.value.args == error.args
    assert caught.value is not error


def test_a_cancellation_ends_the_wait_for_a_look_up(blocked_lookup: FakeLookup) -> None:
    """The look-up cannot be interrupted; its thread ends when the system returns."""
    resolver = Resolver(blocked_lookup)
    moments: list[float] = []
    with CancelScope() as scope:

        def cancel() -> None:
            blocked_lookup.called.wait(5)
            moments.append(time.monotonic())
            scope.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()

        with pytest.raises(Cancelled):
            resolver.addresses("registry.example.com", 443, 10)

    canceller.join()
    assert time.monotonic() - moments[0] < 0.5


def test_a_deadline_ends_the_wait_for_a_look_up(blocked_lookup: FakeLookup) -> None:
    """R-052."""
    with fail_after(0.05), pytest.raises(DeadlineExceeded):
        Resolver(blocked_lookup).addresses("registry.example.com", 443, 10)


def test_a_look_up_beyond_the_timeout_raises_timeout_error(blocked_lookup: FakeLookup) -> None:
    """R-052."""
    with pytest.raises(TimeoutError) as caught:
        Resolver(blocked_lookup).addresses("registry.example.com", 443, 0.05)

    assert not isinstance(caught.value, DeadlineExceeded)


def test_concurrent_requests_for_one_name_share_a_look_up(blocked_lookup: FakeLookup) -> None:
    resolver = Resolver(blocked_lookup)
    found: list[list[AddressInfo]] = []
    with pytest.raises(TimeoutError):
        resolver.addresses("registry.example.com", 443, 0.001)
    threads = [
        threading.Thread(target=lambda: found.append(resolver.addresses("registry.example.com", 443, 10)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()

    with pytest.raises(TimeoutError):
        resolver.addresses("registry.example.com", 443, 0.05)
    running = len(blocked_lookup.threads)
    released = time.monotonic()
    blocked_lookup.release.set()
    for thread in threads:
        thread.join()

    assert running == 1
    assert time.monotonic() - released < 5
    assert found == [FOUND] * 8


def test_results_are_not_cached() -> None:
    """Addresses change, and only the resolver of the system knows how long a result is valid."""
    lookup = instant_lookup()
    resolver = Resolver(lookup)

    resolver.addresses("registry.example.com", 443, 5)
    resolver.addresses("registry.example.com", 443, 5)

    assert len(lookup.threads) == 2
