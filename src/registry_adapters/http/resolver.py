"""Addresses of names, looked up so that nobody has to wait longer than he wants to."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Callable
from typing import Any

from registry_core.scope import checkpoint, interruptible, remaining

__all__ = ["AddressInfo", "LookUp", "Resolver"]

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
        self._running: dict[tuple[str, int], _Inquiry] = {}

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
        with interruptible(woken.set):
            inquiry = self._inquire(host, port, woken)
            woken.wait(timeout if left is None else min(timeout, left))
        checkpoint()
        return inquiry.result()

    def _inquire(self, host: str, port: int, woken: threading.Event) -> _Inquiry:
        with self._lock:
            inquiry = self._running.get((host, port))
            if inquiry is not None:
                inquiry.waiting.append(woken)
                return inquiry
            inquiry = self._running[host, port] = _Inquiry(woken)
        thread = threading.Thread(target=self._run, args=(inquiry, host, port), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._finish(inquiry, host, port, OSError(errno.EAGAIN, "no thread to look the name up"))
        return inquiry

    def _run(self, inquiry: _Inquiry, host: str, port: int) -> None:
        try:
            outcome: list[AddressInfo] | OSError = self._look_up(host, port)
        except OSError as error:
            outcome = error
        except ValueError:
            outcome = socket.gaierror(socket.EAI_NONAME, "not a name")
        self._finish(inquiry, host, port, outcome)

    def _finish(self, inquiry: _Inquiry, host: str, port: int, outcome: list[AddressInfo] | OSError) -> None:
        with self._lock:
            del self._running[host, port]
            inquiry.outcome = outcome
            waiting = list(inquiry.waiting)
        for woken in waiting:
            woken.set()


class _Inquiry:
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
