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


class System:
    """A look-up that takes as long as the test wants it to."""

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
def slow() -> Iterator[System]:
    """Answers when it is released; afterwards its threads have ended."""
    system = System()
    yield system
    system.release.set()
    for thread in system.threads:
        thread.join(5)
        assert not thread.is_alive()


def quick(*, error: OSError | None = None) -> System:
    system = System(error=error)
    system.release.set()
    return system


def test_a_name_is_looked_up_in_a_thread_of_its_own() -> None:
    system = quick()

    assert Resolver(system).addresses("registry.example.com", 443, 5) == FOUND
    assert system.threads != [threading.current_thread()]


@pytest.mark.parametrize("host", ["192.0.2.7", "::1"])
def test_an_address_needs_no_thread(host: str) -> None:
    system = quick()

    Resolver(system).addresses(host, 443, 5)

    assert system.threads == [threading.current_thread()]


def test_the_systems_look_up_knows_addresses() -> None:
    found = Resolver().addresses("127.0.0.1", 5000, 5)

    assert [entry[4] for entry in found] == [("127.0.0.1", 5000)]


def test_a_name_that_is_not_known_is_the_systems_error() -> None:
    error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(socket.gaierror) as caught:
        Resolver(quick(error=error)).addresses("registry.example.com", 443, 5)

    assert caught.value.args == error.args
    assert caught.value is not error


def test_cancel_releases_who_waits_for_a_look_up(slow: System) -> None:
    """The look-up itself cannot be interrupted; it ends by itself."""
    resolver = Resolver(slow)
    moments: list[float] = []
    with CancelScope() as scope:

        def cancel() -> None:
            slow.called.wait(5)
            moments.append(time.monotonic())
            scope.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()

        with pytest.raises(Cancelled):
            resolver.addresses("registry.example.com", 443, 10)

    canceller.join()
    assert time.monotonic() - moments[0] < 0.5


def test_a_deadline_releases_who_waits_for_a_look_up(slow: System) -> None:
    """R-052."""
    with fail_after(0.05), pytest.raises(DeadlineExceeded):
        Resolver(slow).addresses("registry.example.com", 443, 10)


def test_a_look_up_that_takes_too_long_is_a_timeout(slow: System) -> None:
    """R-052."""
    with pytest.raises(TimeoutError) as caught:
        Resolver(slow).addresses("registry.example.com", 443, 0.05)

    assert not isinstance(caught.value, DeadlineExceeded)


def test_one_look_up_serves_all_who_want_the_same_meanwhile(slow: System) -> None:
    resolver = Resolver(slow)
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
    running = len(slow.threads)
    released = time.monotonic()
    slow.release.set()
    for thread in threads:
        thread.join()

    assert running == 1
    assert time.monotonic() - released < 5
    assert found == [FOUND] * 8


def test_nothing_is_remembered_once_it_was_found() -> None:
    """Names move; how long an answer holds is the system's to know."""
    system = quick()
    resolver = Resolver(system)

    resolver.addresses("registry.example.com", 443, 5)
    resolver.addresses("registry.example.com", 443, 5)

    assert len(system.threads) == 2
