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
def socket_pair() -> Iterator[tuple[CancellableTcpSocket, socket.socket]]:
    """A cancellable socket with a small send buffer, and its peer."""
    raw, peer = socket.socketpair()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    with CancellableTcpSocket(fileno=raw.detach()) as client, peer:
        yield client, peer


def test_sendall_sends_more_than_the_send_buffer_holds(socket_pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    client, peer = socket_pair
    content = random.Random(5).randbytes(1 << 20)
    received = bytearray()

    def receive() -> None:
        while data := peer.recv(1 << 16):
            received.extend(data)

    thread = threading.Thread(target=receive)
    thread.start()

    client.sendall(content)
    client.shutdown(socket.SHUT_WR)
    thread.join()

    assert received == content


def test_a_read_without_data_ends_at_the_idle_timeout(socket_pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    """R-052."""
    client, _ = socket_pair
    client.idle_timeout = 0.05

    with pytest.raises(TimeoutError) as caught:
        client.recv(1)

    assert not isinstance(caught.value, DeadlineExceeded)


@pytest.mark.parametrize("wait", ["recv", "recv_into", "sendall"])
def test_each_wait_ends_with_the_deadline(socket_pair: tuple[CancellableTcpSocket, socket.socket], wait: str) -> None:
    """R-052."""
    client, _ = socket_pair
    waits: dict[str, Callable[[], object]] = {
        "recv": lambda: client.recv(1),
        "recv_into": lambda: client.recv_into(bytearray(1)),
        "sendall": lambda: client.sendall(bytes(1 << 24)),
    }

    with fail_after(0.05), pytest.raises(DeadlineExceeded):
        waits[wait]()


def test_data_received_after_a_cancellation_is_not_returned(
    socket_pair: tuple[CancellableTcpSocket, socket.socket],
) -> None:
    """The cancellation may have shut the socket down; it must not return to a pool."""
    client, peer = socket_pair
    peer.sendall(b"data")

    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            client.recv(4)


def test_data_received_during_a_cancellation_is_not_returned() -> None:
    """The cancellation has shut the socket down; it must not return to a pool."""
    scope = CancelScope()

    class CancellingSocket(socket.socket):
        def recv(self, buflen: int, flags: int = 0, /) -> bytes:
            scope.cancel()
            return super().recv(buflen, flags)

    class CancelledDuringRead(CancellableSocket, CancellingSocket):
        """A cancellable socket that is cancelled while it reads."""

    raw, peer = socket.socketpair()
    with CancelledDuringRead(fileno=raw.detach()) as client, peer:
        peer.sendall(b"data")

        with scope, pytest.raises(Cancelled):
            client.recv(4)


def test_unread_data_is_detected_without_waiting_or_changing_the_timeout(
    socket_pair: tuple[CancellableTcpSocket, socket.socket],
) -> None:
    """R-061."""
    client, peer = socket_pair
    client.settimeout(7.0)

    with client.makefile("rb") as file:
        before = client.has_unread_data(file)
        peer.sendall(b"data")
        after = client.has_unread_data(file)

    assert (before, after, client.gettimeout()) == (False, True, 7.0)


def test_interrupting_a_closed_socket_does_nothing(socket_pair: tuple[CancellableTcpSocket, socket.socket]) -> None:
    client, _ = socket_pair
    client.close()

    client.interrupt()

    assert client.fileno() == -1


class FullListener:
    """A listener with a full backlog: further connections wait."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.address = self._listener.getsockname()
        self._sockets = [self._listener]
        for _ in range(16):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(self.address)
            self._sockets.append(sock)
            if not select.select([], [sock], [], 0.2)[1]:
                break

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def full_listener() -> Iterator[FullListener]:
    with contextlib.closing(FullListener()) as listener:
        yield listener


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def closed_address() -> tuple[str, int]:
    """An address without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address: tuple[str, int] = sock.getsockname()
    return address


def address_infos(*addresses: tuple[str, int]) -> list[AddressInfo]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]


class TestConnect:
    def test_the_first_address_that_accepts_is_used(
        self, listener: socket.socket, closed_address: tuple[str, int]
    ) -> None:
        with connect(address_infos(closed_address, listener.getsockname()), 5.0) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert sock.gettimeout() is not None

    def test_an_address_without_reply_leaves_time_for_the_next(
        self, full_listener: FullListener, listener: socket.socket
    ) -> None:
        with connect(address_infos(full_listener.address, listener.getsockname()), 1.0) as sock:
            assert sock.getpeername() == listener.getsockname()
            assert (sock.gettimeout() or 0) > 0.1

    def test_an_unknown_address_family_is_skipped(self, listener: socket.socket) -> None:
        unknown_family: list[AddressInfo] = [(9999, socket.SOCK_STREAM, 0, "", ("nowhere",))]

        with connect([*unknown_family, *address_infos(listener.getsockname())], 5.0) as sock:
            assert sock.getpeername() == listener.getsockname()

    def test_a_refused_connection_raises_the_error_of_the_system(self, closed_address: tuple[str, int]) -> None:
        with pytest.raises(ConnectionRefusedError):
            connect(address_infos(closed_address, closed_address), 5.0)

    def test_an_empty_list_of_addresses_is_an_error(self) -> None:
        with pytest.raises(OSError, match="no address"):
            connect([], 5.0)

    def test_the_timeout_limits_all_addresses_together(self, full_listener: FullListener) -> None:
        """R-052."""
        started = time.monotonic()

        with pytest.raises(TimeoutError) as caught:
            connect(address_infos(*[full_listener.address] * 4), 0.4)

        assert not isinstance(caught.value, DeadlineExceeded)
        assert 0.3 < time.monotonic() - started < 2

    def test_a_deadline_ends_a_connection_attempt(self, full_listener: FullListener) -> None:
        """R-052."""
        started = time.monotonic()

        with fail_after(0.1), pytest.raises(DeadlineExceeded):
            connect(address_infos(full_listener.address), 10.0)

        assert time.monotonic() - started < 1

    def test_a_cancellation_ends_a_connection_attempt(self, full_listener: FullListener) -> None:
        """The attempt ends at once."""
        moments: list[float] = []
        with CancelScope() as scope:

            def cancel() -> None:
                moments.append(time.monotonic())
                scope.cancel()

            timer = threading.Timer(0.1, cancel)
            timer.start()

            with pytest.raises(Cancelled):
                connect(address_infos(full_listener.address, full_listener.address), 10.0)

        timer.join()
        assert time.monotonic() - moments[0] < 0.5
