from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from registry_adapters.http.transport.sockets import AddressInfo, CancellableSocket, CancellableTcpSocket, connect
from registry_core.cancellation import CancelScope, fail_after
from registry_core.errors import Cancelled, DeadlineExceeded


@pytest.fixture
def pair() -> Iterator[tuple[CancellableTcpSocket, socket.socket]]:
    """Two ends, the guarded one with little room for what it sends."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    with CancellableTcpSocket(fileno=ours.detach()) as guarded, theirs:
        yield guarded, theirs


def test_everything_is_sent_though_little_fits_at_once(pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    ours, theirs = pair
    content = random.Random(5).randbytes(1 << 20)
    received = bytearray()

    def receive() -> None:
        while data := theirs.recv(1 << 16):
            received.extend(data)

    thread = threading.Thread(target=receive)
    thread.start()

    ours.sendall(content)
    ours.shutdown(socket.SHUT_WR)
    thread.join()

    assert received == content


def test_silence_ends_by_a_timeout(pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    """R-052."""
    ours, _ = pair
    ours.idle_timeout = 0.05

    with pytest.raises(TimeoutError) as caught:
        ours.recv(1)

    assert not isinstance(caught.value, DeadlineExceeded)


@pytest.mark.parametrize("wait", ["recv", "recv_into", "sendall"])
def test_each_wait_ends_with_the_deadline(pair: tuple[CancellableTcpSocket, socket.socket], wait: str) -> None:
    """R-052."""
    ours, _ = pair
    waits: dict[str, Callable[[], object]] = {
        "recv": lambda: ours.recv(1),
        "recv_into": lambda: ours.recv_into(bytearray(1)),
        "sendall": lambda: ours.sendall(bytes(1 << 24)),
    }

    with fail_after(0.05), pytest.raises(DeadlineExceeded):
        waits[wait]()


def test_what_comes_after_a_cancel_is_not_handed_out(pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    """The socket may have been shut down; it must not go back to a pool."""
    ours, theirs = pair
    theirs.sendall(b"data")

    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            ours.recv(4)


def test_what_comes_during_a_cancel_is_not_handed_out() -> None:
    """It was shut down by it; it must not go back to a pool."""
    scope = CancelScope()

    class Late(socket.socket):
        def recv(self, buflen: int, flags: int = 0, /) -> bytes:
            scope.cancel()
            return super().recv(buflen, flags)

    class GuardedLate(CancellableSocket, Late):
        """Cancelled while it reads."""

    ours, theirs = socket.socketpair()
    with GuardedLate(fileno=ours.detach()) as guarded, theirs:
        theirs.sendall(b"data")

        with scope, pytest.raises(Cancelled):
            guarded.recv(4)


def test_more_is_seen_without_waiting_and_the_timeout_stays(pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    """R-061."""
    ours, theirs = pair
    ours.settimeout(7.0)

    with ours.makefile("rb") as file:
        before = ours.has_unread_data(file)
        theirs.sendall(b"data")
        after = ours.has_unread_data(file)

    assert (before, after, ours.gettimeout()) == (False, True, 7.0)


def test_waking_a_closed_socket_does_nothing(pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    ours, _ = pair
    ours.close()

    ours.interrupt()

    assert ours.fileno() == -1


class Deaf:
    """A listener that takes no more connections: whoever tries has to wait."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.address = self._listener.getsockname()
        self._callers = [self._listener]
        for _ in range(16):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex(self.address)
            self._callers.append(caller)
            if not select.select([], [caller], [], 0.2)[1]:
                break

    def close(self) -> None:
        for sock in self._callers:
            sock.close()


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    with contextlib.closing(Deaf()) as opened:
        yield opened


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


@pytest.fixture
def closed() -> tuple[str, int]:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        address: tuple[str, int] = opened.getsockname()
    return address


def at(*addresses: tuple[str, int]) -> list[AddressInfo]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]


class TestConnect:
    def test_the_first_that_answers_is_taken(self, listener: socket.socket, closed: tuple[str, int]) -> None:
        with connect(at(closed, listener.getsockname()), 5.0) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.gettimeout() is not None

    def test_an_address_that_swallows_everything_leaves_time_for_the_next(
        self, deaf: Deaf, listener: socket.socket
    ) -> None:
        with connect(at(deaf.address, listener.getsockname()), 1.0) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert (sock.gettimeout() or 0) > 0.1

    def test_an_unknown_family_is_passed_over(self, listener: socket.socket) -> None:
        strange: list[AddressInfo] = [(9999, socket.SOCK_STREAM, 0, "", ("nowhere",))]

        with connect([*strange, *at(listener.getsockname())], 5.0) as sock:
            assert sock.getpeername() == listener.getsockname()

    def test_nobody_there_is_the_systems_error(self, closed: tuple[str, int]) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect(at(closed, closed), 5.0)

    def test_no_address_is_an_error(self) -> None:
        with pytest.raises(OSError, match="no address"):
            connect([], 5.0)

    def test_the_time_is_for_all_addresses_together(self, deaf: Deaf) -> None:
        """R-052."""
        started = time.monotonic()

        with pytest.raises(TimeoutError) as caught:
            connect(at(*[deaf.address] * 4), 0.4)

        assert not isinstance(caught.value, DeadlineExceeded)
        assert 0.3 < time.monotonic() - started < 2

    def test_a_deadline_ends_the_wait(self, deaf: Deaf) -> None:
        """R-052."""
        started = time.monotonic()

        with fail_after(0.1), pytest.raises(DeadlineExceeded):
            connect(at(deaf.address), 10.0)

        assert time.monotonic() - started < 1

    def test_cancel_ends_the_wait(self, deaf: Deaf) -> None:
        """At whatever moment it comes."""
        moments: list[float] = []
        with CancelScope() as scope:

            def cancel() -> None:
                moments.append(time.monotonic())
                scope.cancel()

            timer = threading.Timer(0.1, cancel)
            timer.start()

            with pytest.raises(Cancelled):
                connect(at(deaf.address, deaf.address), 10.0)

        timer.join()
        assert time.monotonic() - moments[0] < 0.5
