"""Sockets and name resolution under the current scope: each wait ends at the deadline and on cancellation.

A read timeout alone bounds the time between two bytes, so a status line that drips could take forever. Each wait on
these sockets checks the deadline again; this covers headers, bodies, chunk sizes, sends and connecting.
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
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from registry_core.cancellation import checkpoint, has_scope, on_cancel, remaining
from registry_core.errors import DeadlineExceeded

__all__ = ["AddressInfo", "CancellableSocket", "CancellableTcpSocket", "LookUp", "Resolver", "connect"]


# Family, type, protocol, canonical name and address, as ``socket.getaddrinfo`` returns them.
AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]

LookUp = Callable[[str, int], list[AddressInfo]]

_Result = TypeVar("_Result")


def _getaddrinfo(host: str, port: int) -> list[AddressInfo]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))


class Resolver:
    """Resolves host names. Safe for many threads.

    ``getaddrinfo`` cannot be interrupted. It therefore runs in a daemon thread, and waiting callers can be cancelled;
    the thread ends when the system gives up, usually after a few seconds. Concurrent lookups of one host and port
    share a thread. Address literals need no lookup and no thread.

    Args:
        look_up: Returns the addresses of a host and port; raises ``OSError`` if there are none.
    """

    def __init__(self, look_up: LookUp = _getaddrinfo) -> None:
        self._look_up = look_up
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], _Lookup] = {}

    def addresses(self, host: str, port: int, timeout: float) -> list[AddressInfo]:
        """Return the addresses of a host.

        Args:
            host: Host name or address, without brackets.
            port: Port.
            timeout: Maximum time to wait, in seconds.

        Raises:
            OSError: The host has no addresses.
            TimeoutError: The lookup took longer than the timeout.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        if _is_literal(host):
            return self._look_up(host, port)
        done = threading.Event()
        left = remaining()
        with on_cancel(done.set):
            lookup = self._start_or_join(host, port, done)
            done.wait(timeout if left is None else min(timeout, left))
        checkpoint()
        return lookup.result()

    def _start_or_join(self, host: str, port: int, done: threading.Event) -> _Lookup:
        with self._lock:
            lookup = self._running.get((host, port))
            if lookup is not None:
                lookup.waiting.append(done)
                return lookup
            lookup = self._running[host, port] = _Lookup(done)
        thread = threading.Thread(target=self._run, args=(lookup, host, port), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._finish(lookup, host, port, OSError(errno.EAGAIN, "cannot start a thread for the name lookup"))
        return lookup

    def _run(self, lookup: _Lookup, host: str, port: int) -> None:
        try:
            outcome: list[AddressInfo] | OSError = self._look_up(host, port)
        except OSError as error:
            outcome = error
        except ValueError:
            outcome = socket.gaierror(socket.EAI_NONAME, "not a name")
        self._finish(lookup, host, port, outcome)

    def _finish(self, lookup: _Lookup, host: str, port: int, outcome: list[AddressInfo] | OSError) -> None:
        with self._lock:
            del self._running[host, port]
            lookup.outcome = outcome
            waiting = list(lookup.waiting)
        for done in waiting:
            done.set()


class _Lookup:
    """One running lookup, and the events of the threads that wait for it."""

    def __init__(self, done: threading.Event) -> None:
        self.waiting = [done]
        self.outcome: list[AddressInfo] | OSError | None = None

    def result(self) -> list[AddressInfo]:
        if self.outcome is None:
            raise TimeoutError(errno.ETIMEDOUT, "the host name was not resolved in time")
        if isinstance(self.outcome, OSError):
            # A new exception for each thread, because an exception holds the traceback of its thread.
            raise type(self.outcome)(*self.outcome.args)
        return self.outcome


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


_PENDING: Final = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})

# On Linux a shutdown wakes a connecting socket. On other systems a cancel takes effect after at most this time.
_POLL_SECONDS: Final = 0.2

# The minimum share of the connect timeout for one address, in seconds.
_MIN_TIMEOUT: Final = 0.001

if TYPE_CHECKING:
    _Base = socket.socket
else:
    _Base = object


class CancellableSocket(_Base):
    """Base of the plain and the TLS socket; ``idle_timeout`` is the maximum wait for the peer, in seconds."""

    idle_timeout: float = 60.0
    _may_wait = True

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Receive bytes."""
        return self._wait(super().recv, buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Receive bytes into a buffer and return their number."""
        return self._wait(super().recv_into, buffer, nbytes or len(buffer), flags)

    def send(self, data: Any, flags: int = 0) -> int:
        """Send some of the bytes and return their number."""
        return self._wait(super().send, data, flags)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all bytes. The timeout bounds each wait; in the built-in ``sendall`` it bounds the whole call."""
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self.send(left[sent:], flags)

    def has_unread_data(self, file: io.BufferedReader) -> bool:
        """Return whether there is data that was received but not read. Does not wait.

        Args:
            file: Buffered reader of this socket.
        """
        before = self.gettimeout()
        self._may_wait = False
        try:
            self.settimeout(0)
            return bool(file.peek(1))
        except (OSError, ValueError):
            return False
        finally:
            self._may_wait = True
            with contextlib.suppress(OSError):
                self.settimeout(before)

    def _wait(self, operation: Callable[..., _Result], *arguments: Any) -> _Result:
        """Run an operation that may block, bounded by the idle timeout, the deadline and a cancellation."""
        if not self._may_wait:
            return operation(*arguments)
        if not has_scope():
            if self.gettimeout() != self.idle_timeout:
                self.settimeout(self.idle_timeout)
            return operation(*arguments)
        left = remaining()
        # Zero would make the socket non-blocking.
        timeout = self.idle_timeout if left is None else max(0.001, min(self.idle_timeout, left))
        if self.gettimeout() != timeout:
            self.settimeout(timeout)
        with on_cancel(self.interrupt):
            try:
                result = operation(*arguments)
            except TimeoutError:
                checkpoint()
                if left is not None and left <= self.idle_timeout:
                    raise DeadlineExceeded("the deadline has passed") from None
                raise
            except OSError:
                checkpoint()
                raise
        # A socket that was shut down by a cancel must raise here, or it would go back to the pool.
        checkpoint()
        return result

    def interrupt(self) -> None:
        """End all waits on this socket. May be called from any thread, repeatedly."""
        with contextlib.suppress(OSError):
            # Not ``self.shutdown``: on a TLS socket it would remove the TLS layer while another thread uses it.
            socket.socket.shutdown(self, socket.SHUT_RDWR)


class CancellableTcpSocket(CancellableSocket, socket.socket):
    """A plain socket."""

    def connect_to(self, address: tuple[Any, ...], timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Connect to an address.

        Args:
            address: Address in the form of the socket's family.
            timeout: Maximum time, in seconds.
            clock: Monotonic clock, in seconds.

        Raises:
            OSError: The connection failed.
            TimeoutError: The connection took longer than the timeout.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        self.setblocking(False)
        code = self.connect_ex(address)
        if code in _PENDING:
            self._await_connection(clock() + timeout, clock)
            code = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _await_connection(self, end: float, clock: Callable[[], float]) -> None:
        # connect_ex was called before: an interrupt that came earlier would have had no effect.
        with on_cancel(self.interrupt), selectors.DefaultSelector() as selector:
            selector.register(self, selectors.EVENT_WRITE)
            while True:
                left, allowed = end - clock(), remaining()
                if left <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                if selector.select(min(_POLL_SECONDS, left, left if allowed is None else allowed)):
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
    """Connect to the first address that accepts the connection.

    Each address gets a share of the remaining time, so that an address that drops packets does not use up all of it.

    Args:
        addresses: Addresses in the order to try.
        timeout: Maximum time for all addresses, in seconds.
        options: Socket options to set before connecting.
        clock: Monotonic clock, in seconds.

    Raises:
        OSError: No address accepted the connection; the error of the last one.
        TimeoutError: The connection took longer than the timeout.
        Cancelled: The current scope was cancelled.
        DeadlineExceeded: The deadline has passed.
    """
    end = clock() + timeout
    failure: OSError = OSError(errno.EADDRNOTAVAIL, "the name has no address")
    try:
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                sock = CancellableTcpSocket(family, kind, protocol)
            except OSError as error:
                failure = error
                continue
            try:
                for option in options:
                    sock.setsockopt(*option)
                sock.connect_to(address, max(_MIN_TIMEOUT, (end - clock()) / (len(addresses) - number)), clock)
                sock.settimeout(max(_MIN_TIMEOUT, end - clock()))
                return sock
            except OSError as error:
                sock.close()
                failure = error
            except BaseException:
                sock.close()
                raise
        raise failure
    finally:
        # The error refers to this frame; a reference from the frame to the error would be a cycle.
        del failure
