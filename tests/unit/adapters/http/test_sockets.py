from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from registry_adapters.http.sockets import GuardedSocket
from registry_core.errors import Cancelled, DeadlineExceeded
from registry_core.scope import CancelScope, fail_after


@pytest.fixture
def pair() -> Iterator[tuple[GuardedSocket, socket.socket]]:
    """Two ends, the guarded one with little room for what it sends."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    with GuardedSocket(fileno=ours.detach()) as guarded, theirs:
        yield guarded, theirs


def test_everything_is_sent_though_little_fits_at_once(pair: tuple[GuardedSocket, socket.socket]) -> None:
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


def test_silence_ends_by_a_timeout(pair: tuple[GuardedSocket, socket.socket]) -> None:
    """R-052."""
    ours, _ = pair
    ours.silence = 0.05

    with pytest.raises(TimeoutError) as caught:
        ours.recv(1)

    assert not isinstance(caught.value, DeadlineExceeded)


@pytest.mark.parametrize("wait", ["recv", "recv_into", "sendall"])
def test_each_wait_ends_with_the_deadline(pair: tuple[GuardedSocket, socket.socket], wait: str) -> None:
    """R-052."""
    ours, _ = pair
    waits: dict[str, Callable[[], object]] = {
        "recv": lambda: ours.recv(1),
        "recv_into": lambda: ours.recv_into(bytearray(1)),
        "sendall": lambda: ours.sendall(bytes(1 << 24)),
    }

    with fail_after(0.05), pytest.raises(DeadlineExceeded):
        waits[wait]()


def test_what_comes_after_a_cancel_is_not_handed_out(pair: tuple[GuardedSocket, socket.socket]) -> None:
    """The socket may have been shut down; it must not go back to a pool."""
    ours, theirs = pair
    theirs.sendall(b"data")

    with CancelScope() as scope:
        scope.cancel()
        with pytest.raises(Cancelled):
            ours.recv(4)


def test_waking_a_closed_socket_does_nothing(pair: tuple[GuardedSocket, socket.socket]) -> None:
    ours, _ = pair
    ours.close()

    ours.wake()

    assert ours.fileno() == -1
