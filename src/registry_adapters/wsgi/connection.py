"""What a middleware may do to the connection that a request came over, past HTTP."""

from __future__ import annotations

from typing import Final, Protocol
from wsgiref.types import WSGIEnvironment

__all__ = ["CONNECTION", "Connection", "connection"]

CONNECTION: Final = "ociport.connection"
"""Under this key of a WSGI environment our server puts a ``Connection``; another server puts nothing."""


class Connection(Protocol):
    """The connection of one request. Only the thread that answers the request may use it."""

    @property
    def number(self) -> int:
        """Which of the server's connections it is, from 1."""
        ...

    def send_head(self) -> None:
        """Send status and headers now, before the first byte of the body."""

    def send(self, data: bytes) -> None:
        """Send bytes that are not HTTP's, after whatever was sent before."""

    def close_gracefully(self) -> None:
        """Say nothing more, and end the connection in an orderly way."""

    def reset(self) -> None:
        """Say nothing more, and break the connection off at once."""


def connection(environ: WSGIEnvironment) -> Connection | None:
    """The connection of a request, or ``None`` where the server does not let anyone at it."""
    found: Connection | None = environ.get(CONNECTION)
    return found
