"""Access of WSGI middleware to the client's connection, below HTTP."""

from __future__ import annotations

from typing import Final, Protocol
from wsgiref.types import WSGIEnvironment

__all__ = ["CONNECTION", "Connection", "connection"]

CONNECTION: Final = "ociport.connection"
"""Key of the ``Connection`` in a WSGI environment; only ``registry_server`` sets it."""


class Connection(Protocol):
    """The connection of one request, for the thread that handles the request."""

    @property
    def number(self) -> int:
        """Number of the connection, counted by the server from 1."""
        ...

    def send_head(self) -> None:
        """Send status and headers now, before the first byte of the body."""

    def send(self, data: bytes) -> None:
        """Send raw bytes on the connection."""

    def close_gracefully(self) -> None:
        """Send no more of the response, and close the connection with a FIN."""

    def reset(self) -> None:
        """Send no more of the response, and reset the connection at once."""


def connection(environ: WSGIEnvironment) -> Connection | None:
    """The connection of a request, or ``None`` if the server does not provide it."""
    found: Connection | None = environ.get(CONNECTION)
    return found
