"""A log of the requests to a registry."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl
from wsgiref.types import WSGIEnvironment

from registry_adapters.testing.matching import endpoint_name
from registry_adapters.wsgi.connection import connection
from registry_core.domain.origin import redact_url

__all__ = ["Entry", "RequestLog"]

# Query parameters whose values are shown; the value of any other may be a secret.
_PUBLIC_PARAMETERS: Final = frozenset(
    {"n", "last", "digest", "digest-algorithm", "mount", "from", "artifactType", "scope", "tag"}
)
# A table shows only the beginning of a digest.
_DIGEST: Final = re.compile(r"((?:sha256|sha512)(?::|%3A)[0-9a-f]{12})[0-9a-f]+")
# A client has a response a little before the server has finished the request: the seconds to wait for that.
_FINISH_TIMEOUT: Final = 1.0


class Entry:
    """One request and its response.

    Args:
        number: Number of the request, from 1.
        environ: WSGI environment of the request.

    Attributes:
        endpoint: Endpoint of the path; an ``EndpointName``.
        headers: Request headers, by names in lower case.
        connection: Number of the connection; 0 if the server does not number them.
        received: Bytes of the request's body that were read.
        status: HTTP status of the response; 0 if there was none.
        sent: Bytes of the response's body that were sent.
        fault: Description of the fault that was applied; empty if none was.
        is_finished: Whether the response is complete, or there will be none.
        is_stalled: Whether a fault is holding the request back.
    """

    def __init__(self, number: int, environ: WSGIEnvironment) -> None:
        self.number = number
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO") or "/"
        self.query: str = environ.get("QUERY_STRING", "")
        self.endpoint = endpoint_name(self.path)
        self.headers: Mapping[str, str] = dict(_headers(environ))
        raw = connection(environ)
        self.connection = 0 if raw is None else raw.number
        self.received = 0
        self.status = 0
        self.sent = 0
        self.fault = ""
        self.is_finished = False
        self.is_stalled = False

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def authorization(self) -> str:
        """The ``Authorization`` header, or an empty string."""
        return self.header("Authorization")

    def header(self, name: str) -> str:
        """The value of a request header, or an empty string; names are case-insensitive."""
        return self.headers.get(name.lower(), "")

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, or ``None``."""
        return next((value for key, value in parse_qsl(self.query, keep_blank_values=True) if key == name), None)

    def __repr__(self) -> str:
        """Method, redacted target, status and fault."""
        fault = f", {self.fault}" if self.fault else ""
        return (
            f"<Entry {self.number}: {self.method} {self._redacted_target()} -> {self.status or 'no response'}{fault}>"
        )

    def _redacted_target(self) -> str:
        pairs = parse_qsl(self.query, keep_blank_values=True)
        query = "&".join(f"{key}={value if key in _PUBLIC_PARAMETERS else '…'}" for key, value in pairs)
        text = f"{redact_url(self.path)}?{query}" if query else redact_url(self.path)
        text = _DIGEST.sub(r"\1…", text)
        return "".join(char if char.isprintable() else "�" for char in text)

    def row(self) -> tuple[str, ...]:
        """The cells of the request in the table of the log."""
        return (
            str(self.number),
            str(self.connection or "-"),
            self.method,
            self._redacted_target(),
            str(self.status or "-"),
            str(self.received),
            str(self.sent),
            self.fault,
        )


class RequestLog:
    """All requests that reached a registry, oldest first. Its text is a table without secrets."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._last_number = 0

    def is_reused(self, entry: Entry) -> bool:
        """Return whether an earlier request of the log came over the connection of this one."""
        with self._changed:
            earlier = [each for each in self._entries if each.number < entry.number]
        return entry.connection > 0 and any(each.connection == entry.connection for each in earlier)

    def requests(
        self, *, method: str = "", endpoint: str = "", path: str = "", status: int = 0, fault: str | None = None
    ) -> list[Entry]:
        """The matching requests. Waits a moment for requests in progress, except stalled ones.

        Args:
            method: Method of the request; empty for any.
            endpoint: Endpoint of the request, an ``EndpointName``; empty for any.
            path: Regular expression to search in path and query.
            status: Status of the response; 0 for any, and for none.
            fault: Text in the description of the applied fault; ``""`` for any fault, ``None`` for any and none.
        """
        pattern = re.compile(path)
        return [
            entry
            for entry in self._finished()
            if method in ("", entry.method)
            and endpoint in ("", entry.endpoint)
            and pattern.search(entry.target)
            and status in (0, entry.status)
            and (fault is None or (entry.fault and fault in entry.fault))
        ]

    def count(
        self, *, method: str = "", endpoint: str = "", path: str = "", status: int = 0, fault: str | None = None
    ) -> int:
        """The number of matching requests; see ``requests``."""
        return len(self.requests(method=method, endpoint=endpoint, path=path, status=status, fault=fault))

    @property
    def bytes_sent(self) -> int:
        """Size of all response bodies together."""
        return sum(entry.sent for entry in self._finished())

    @property
    def bytes_received(self) -> int:
        """Size of all request bodies together."""
        return sum(entry.received for entry in self._finished())

    @property
    def connections(self) -> int:
        """Number of connections."""
        return len({entry.connection for entry in self._finished()})

    def clear(self) -> None:
        """Remove all entries."""
        with self._changed:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._finished())

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._finished())

    def __repr__(self) -> str:
        """The number of requests, and the table."""
        return f"<RequestLog of {len(self._entries)} requests>\n{self}"

    def __str__(self) -> str:
        """The table."""
        with self._changed:
            rows = [entry.row() for entry in self._entries]
        table = [("#", "connection", "method", "target", "status", "received", "sent", "fault"), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table
        )

    def add(self, environ: WSGIEnvironment) -> Entry:
        """Add a request."""
        with self._changed:
            self._last_number += 1
            entry = Entry(self._last_number, environ)
            self._entries.append(entry)
            return entry

    def finish(self, entry: Entry) -> None:
        """Mark a request as finished. Idempotent."""
        with self._changed:
            entry.is_finished = True
            self._changed.notify_all()

    def set_stalled(self, entry: Entry, *, stalled: bool) -> None:
        """Mark a request as stalled, or as no longer stalled."""
        with self._changed:
            entry.is_stalled = stalled
            self._changed.notify_all()

    def wait_for_stall(self, seconds: float) -> bool:
        """Wait until a request is stalled.

        Returns:
            Whether one is; ``False`` after the time is over.
        """
        with self._changed:
            return self._changed.wait_for(lambda: any(entry.is_stalled for entry in self._entries), seconds)

    def _finished(self) -> list[Entry]:
        with self._changed:
            self._changed.wait_for(
                lambda: all(entry.is_finished or entry.is_stalled for entry in self._entries), _FINISH_TIMEOUT
            )
            return list(self._entries)


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").lower(), str(value)
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            yield key.replace("_", "-").lower(), str(value)
