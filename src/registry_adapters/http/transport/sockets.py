"""Sockets that obey the ambient scope: each wait ends in time, and at once when the work is cancelled.

A read timeout alone bounds the silence between two bytes, not the wait for a status line that drips. As every wait
on these sockets looks at the deadline anew, headers, bodies, chunk sizes and sends are all covered; and so is the wait
for the connection itself.

Addresses of names, looked up so that nobody has to wait longer than he wants to.
"""

from __future__ import annotations

import contextlib
import errno
import io
import ipaddress
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from registry_core.cancellation import checkpoint, on_cancel, remaining
from registry_core.errors import DeadlineExceeded

__all__ = ["AddressInfo", "CancellableSocket", "CancellableTcpSocket", "LookUp", "Resolver", "connect"]


# Family, kind, protocol, canonical name, address: as the socket module has them.
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

LookUp = Callable[[str, int], list[AddressInfo]]


def _system(host: str, port: int) -> list[AddressInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class Resolver:
    """Looks names up; safe for many threads.

    A look-up of the system cannot be interrupted. So it runs in a thread of its own, and those who wait for it can be
    released: the thread goes on in the background until the system gives up, a few seconds as a rule, and ends by
    itself. While it runs, further requests for the same host wait for it as well, so there is one for each host at
    most. It does not keep the program from ending. Literal addresses need no look-up, and no thread.

    Args:
        look_up: The addresses for a host and a port; raises ``OSError`` if there are none.
    """

    def __init__(self, look_up: LookUp = _system) -> None:
        self._look_up = look_up
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}

    def addresses(self, host: str, port: int, timeout: float) -> list[AddressInfo]:
        """The addresses of a host.

        Args:
            host: A name or an address, without brackets.
            port: The port.
            timeout: How long to wait at most, in seconds.

        Raises:
            OSError: There are none.
            TimeoutError: The time was up.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        if _is_literal(host):
            return self._look_up(host, port)
        woken = threading.Event()
        left = remaining()
        with on_cancel(woken.set):
            inquiry = self._inquire(host, port, woken)
            woken.wait(timeout if left is None else min(timeout, left))
        checkpoint()
        return inquiry.result()

    def _inquire(self, host: str, port: int, woken: threading.Event) -> _Lookup:
        with self._lock:
            inquiry = self._running.get((host, port))
            if inquiry is not None:
                inquiry.waiting.append(woken)
                return inquiry
            inquiry = self._running[host, port] = _Lookup(woken)
        thread = threading.Thread(target=self._run, args=(inquiry, host, port), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._finish(inquiry, host, port, OSError(errno.EAGAIN, "no thread to look the name up"))
        return inquiry

    def _run(self, inquiry: _Lookup, host: str, port: int) -> None:
        try:
            outcome: list[AddressInfo] | OSError = self._look_up(host, port)
        except OSError as error:
            outcome = error
        except ValueError:
            outcome = socket.gaierror(socket.EAI_NONAME, "not a name")
        self._finish(inquiry, host, port, outcome)

    def _finish(self, inquiry: _Lookup, host: str, port: int, outcome: list[AddressInfo] | OSError) -> None:
        with self._lock:
            del self._running[host, port]
            inquiry.outcome = outcome
            waiting = list(inquiry.waiting)
        for woken in waiting:
            woken.set()


class _Lookup:
    """One look-up, and those who wait for it."""

    def __init__(self, woken: threading.Event) -> None:
        self.waiting = [woken]
        self.outcome: list[AddressInfo] | OSError | None = None

    def result(self) -> list[AddressInfo]:
        if self.outcome is None:
            raise TimeoutError(errno.ETIMEDOUT, "the host's name was not looked up in time")
        if isinstance(self.outcome, OSError):
            # Each thread gets its own: an exception carries the traceback of who raised it.
            raise type(self.outcome)(*self.outcome.args)
        return self.outcome


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_PENDING: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})

# Linux wakes a socket that is connecting when it is shut down; elsewhere this is how long a cancel may take.
_TICK: Final = 0.2

# Of the time for all addresses, no one gets less than this, in seconds.
_LEAST: Final = 0.001

if TYPE_CHECKING:
    _Base = socket.socket
else:
    _Base = object


class CancellableSocket(_Base):
    """What both kinds of socket share; ``idle_timeout`` is the longest wait for the other side, in seconds."""

    idle_timeout: float = 60.0
    _waits = True

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Some bytes."""
        with self._guarded():
            return super().recv(buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Some bytes, into a buffer; how many."""
        with self._guarded():
            return super().recv_into(buffer, nbytes or len(buffer), flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some bytes; how many."""
        with self._guarded():
            return super().send(data, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send everything; the timeout bounds each stall, where the builtin's bounds the whole."""
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self.send(left[sent:], flags)

    def has_unread_data(self, file: io.BufferedReader) -> bool:
        """Whether more has come than was read so far; nothing is waited for.

        Args:
            file: Made of this socket.
        """
        before = self.gettimeout()
        self._waits = False
        try:
            self.settimeout(0)
            return bool(file.peek(1))
        except (OSError, ValueError):
            return False
        finally:
            self._waits = True
            with contextlib.suppress(OSError):
                self.settimeout(before)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        if not self._waits:
            yield
            return
        left = remaining()
        # Zero would make the socket non-blocking.
        patience = self.idle_timeout if left is None else max(0.001, min(self.idle_timeout, left))
        if self.gettimeout() != patience:
            self.settimeout(patience)
        with on_cancel(self.interrupt):
            try:
                yield
            except TimeoutError:
                checkpoint()
                if left is not None and left <= self.idle_timeout:
                    raise DeadlineExceeded("the time allowed for the work has passed") from None
                raise
            except OSError:
                checkpoint()
                raise
        # A socket that may have been woken must not look healthy, or it would go back to the pool.
        checkpoint()

    def interrupt(self) -> None:
        """End whatever waits on this socket; from any thread, more than once."""
        with contextlib.suppress(OSError):
            # Not ``self.shutdown``: on a TLS socket that would take the TLS layer from under the waiting thread.
            socket.socket.shutdown(self, socket.SHUT_RDWR)


class CancellableTcpSocket(CancellableSocket, socket.socket):
    """A plain socket."""

    def connect_to(self, address: tuple[Any, ...], timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect to an address.

        Args:
            address: As the socket's family has it.
            timeout: How long it may take, in seconds.
            clock: Seconds that only go forward.

        Raises:
            OSError: Nobody is there.
            TimeoutError: The time was up.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        self.setblocking(False)
        code = self.connect_ex(address)
        if code in _PENDING:
            self._await_connection(clock() + timeout, clock)
            code = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _await_connection(self, end: float, clock: Callable[[], float]) -> None:
        # The connection is on its way before anybody can wake this wait, so no wake comes too early.
        with on_cancel(self.interrupt), selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_WRITE)
            while True:
                left, allowed = end - clock(), remaining()
                if left <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                if selector.select(min(_TICK, left, left if allowed is None else allowed)):
                    break
                checkpoint()
        checkpoint()


def connect(
    addresses: Sequence[AddressInfo],
    timeout: float,
    options: Iterable[tuple[int, int, int | bytes]] = (),
    *,
    clock: Callable[[], float] = time.monotonic,
) -> CancellableTcpSocket:
    """A connection to the first address that takes one.

    Each address gets its share of the time that is left, so that one which swallows everything does not use it up.

    Args:
        addresses: Where the other side may be, in the order to try.
        timeout: How long it may take in all, in seconds.
        options: Socket options to set before.
        clock: Seconds that only go forward.

    Raises:
        OSError: Nobody is at any of them; the last one's error.
        TimeoutError: The time was up.
        Cancelled: The ambient scope was cancelled.
        DeadlineExceeded: Its deadline has passed.
    """
    end = clock() + timeout
    failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    try:
        for place, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                sock = CancellableTcpSocket(family, kind, protocol)
            except OSError as error:
                failure = error
                continue
            try:
                for option in options:
                    sock.setsockopt(*option)
                sock.connect_to(address, max(_LEAST, (end - clock()) / (len(addresses) - place)), clock)
                sock.settimeout(max(_LEAST, end - clock()))
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure
    finally:
        # An error that is kept by the frame that it points to would keep both alive.
        del failure
