"""What the faults do to the bodies of answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from registry_adapters.testing.visits import Reply, Visit

__all__ = ["change_body", "claim_length", "cut", "drip", "empty_body", "endless_body", "stall"]

_PADDING: Final = b" " * (64 << 10)
_TICK: Final = 0.05


def cut(visit: Visit, *, at: int, reset: bool) -> Reply:
    """So many bytes of the body, and then no more."""

    def body(reply: Reply) -> Iterator[bytes]:
        for data, is_last in _up_to(reply.proper, at):
            if data:
                yield data
            if is_last:
                visit.send_head()
                visit.hang_up(reset=reset)

    return _with_body(visit, body, longer_than=at)


def stall(visit: Visit, *, seconds: float | None, at: int | None) -> Reply:
    """Silence before the head, or after so many bytes of the body."""
    if at is None:
        visit.wait(seconds)
        return visit.proceed()

    def body(reply: Reply) -> Iterator[bytes]:
        for data, is_last in _up_to(reply.proper, at):
            if data:
                yield data
            if is_last:
                visit.send_head()
                visit.wait(seconds)

    return _with_body(visit, body, longer_than=at)


def drip(visit: Visit, *, bytes_per_second: float) -> Reply:
    """The body, slowly."""
    piece = max(1, int(bytes_per_second * _TICK))

    def body(reply: Reply) -> Iterator[bytes]:
        released, since = False, visit.releases
        for data in reply.proper:
            start = 0
            while start < len(data):
                end = len(data) if released else start + piece
                yield data[start:end]
                start = end
                released = released or visit.wait(piece / bytes_per_second, since=since)

    return _with_body(visit, body)


def change_body(visit: Visit, *, at: int | None) -> Reply:
    """One bit of the body flipped: at a position, or in the middle."""

    def body(reply: Reply) -> Iterator[bytes]:
        position = (reply.length or 0) // 2 if at is None else at
        start = 0
        for data in reply.proper:
            if start <= position < start + len(data):
                changed = bytearray(data)
                changed[position - start] ^= 1
                yield bytes(changed)
            else:
                yield data
            start += len(data)

    return _with_body(visit, body, longer_than=at or 0)


def claim_length(visit: Visit, *, by: int) -> Reply:
    """A body that is longer or shorter than its ``Content-Length`` says."""

    def body(reply: Reply) -> Iterator[bytes]:
        left = reply.length or 0
        for data in reply.proper:
            if left:
                yield data[:left]
            else:
                visit.send_head()
            if data[left:]:
                visit.send(data[left:])
            left = max(0, left - len(data))
        if left:
            visit.send_head()
            visit.hang_up()

    reply = _with_body(visit, body)
    if reply.is_success and reply.length is not None:
        reply.set("Content-Length", str(max(0, reply.length + by)))
    return reply


def empty_body(visit: Visit) -> Reply:
    """The proper answer without its body."""
    reply = _with_body(visit, lambda _: iter(()))
    if reply.is_success:
        reply.set("Content-Length", "0")
    return reply


def endless_body(visit: Visit, *, claimed: int | None) -> Reply:
    """The proper body, and then blanks for as long as anybody reads."""

    def body(reply: Reply) -> Iterator[bytes]:
        yield from reply.proper
        while True:
            visit.demand_open()
            yield _PADDING

    reply = _with_body(visit, body)
    if reply.is_success:
        reply.remove("Content-Length")
        if claimed is not None:
            reply.set("Content-Length", str(claimed))
    return reply


def _with_body(visit: Visit, body: Callable[[Reply], Iterator[bytes]], *, longer_than: int = -1) -> Reply:
    """The proper answer with another body made of it, where it is a success that has one of that length."""
    reply = visit.proceed()
    too_short = reply.length is not None and reply.length <= longer_than
    if not reply.is_success or too_short:
        visit.spare()
    elif visit.method != "HEAD":
        reply.body = body(reply)
    return reply


def _up_to(whole: Iterable[bytes], at: int) -> Iterator[tuple[bytes, bool]]:
    """The body in pieces; the one that ends at the position is marked, and may be empty."""
    left: int | None = at
    if left == 0:
        left = None
        yield b"", True
    for data in whole:
        if left is None or len(data) < left:
            yield data, False
            left = None if left is None else left - len(data)
        else:
            yield data[:left], True
            yield data[left:], False
            left = None
