"""Sockets that obey the ambient scope: each wait ends in time, and at once when the work is cancelled (R-052).

A read timeout alone bounds the silence between two bytes, not the wait for a status line that drips. As every wait
on these sockets looks at the deadline anew, headers, bodies, chunk sizes and sends are all covered.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from registry_core.errors import DeadlineExceeded
from registry_core.scope import checkpoint, interruptible, remaining

__all__ = ["Guard", "GuardedSocket"]

if TYPE_CHECKING:
    _Base = socket.socket
else:
    _Base = object


class Guard(_Base):
    """What both kinds of socket share; ``silence`` is the longest wait for the other side, in seconds."""

    silence: float = 60.0

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Some bytes."""
        with self._guarded():
            return super().recv(buflen, flags)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Some bytes, into a buffer; how many."""
        with self._guarded():
            return super().recv_into(buffer, nbytes or len(buffer), flags)

    def send(self, data: Any, flags: int = 0, /) -> int:
        """Send some bytes; how many."""
        with self._guarded():
            return super().send(data, flags)

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send everything; the timeout bounds each stall, where the builtin's bounds the whole."""
        with memoryview(data) as view, view.cast("B") as left:
            sent = 0
            while sent < len(left):
                sent += self.send(left[sent:], flags)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        left = remaining()
        # Zero would make the socket non-blocking.
        self.settimeout(self.silence if left is None else max(0.001, min(self.silence, left)))
        with interruptible(self.wake):
            try:
                yield
            except TimeoutError:
                checkpoint()
                if left is not None and left <= self.silence:
                    raise DeadlineExceeded("the time allowed for the work has passed") from None
                raise
            except OSError:
                checkpoint()
                raise
        # A socket that may have been woken must not look healthy, or it would go back to the pool.
        checkpoint()

    def wake(self) -> None:
        """End whatever waits on this socket; from any thread, more than once."""
        with contextlib.suppress(OSError):
            # Not ``self.shutdown``: on a TLS socket that would take the TLS layer from under the waiting thread.
            socket.socket.shutdown(self, socket.SHUT_RDWR)


class GuardedSocket(Guard, socket.socket):
    """A plain socket."""
