"""What a registry was asked, in order."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl
from wsgiref.types import WSGIEnvironment

from registry_adapters.testing.matching import endpoint
from registry_adapters.wsgi.connection import connection
from registry_core.domain.origin import redact_url

__all__ = ["Entry", "RequestLog"]

# What a query may show; whatever else it holds may be somebody's secret.
_SHOWN: Final = frozenset({"n", "last", "digest", "digest-algorithm", "mount", "from", "artifactType", "scope", "tag"})
# Nobody reads more of a digest in a table.
_DIGEST: Final = re.compile(r"((?:sha256|sha512)(?::|%3A)[0-9a-f]{12})[0-9a-f]+")
# An answer reaches its client a little before the server is done with it.
_PATIENCE: Final = 1.0


class Entry:
    """One request, and how it was answered.

    Args:
        number: Its place in the journal, from 1.
        environ: Its WSGI environment.
    """

    def __init__(self, number: int, environ: WSGIEnvironment) -> None:
        self.number = number
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO") or "/"
        self.query: str = environ.get("QUERY_STRING", "")
        self.endpoint = endpoint(self.path)
        self.headers: Mapping[str, str] = dict(_headers(environ))
        raw = connection(environ)
        self.connection = 0 if raw is None else raw.number
        self.received = 0
        self.status = 0
        self.sent = 0
        self.fault = ""
        self.is_settled = False
        self.is_waiting = False

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{self.query}" if self.query else self.path

    @property
    def authorization(self) -> str:
        """The credential that came with it, or the empty string."""
        return self.header("Authorization")

    def header(self, name: str) -> str:
        """A header's value, whatever the case of its name, or the empty string."""
        return self.headers.get(name.lower(), "")

    def parameter(self, name: str) -> str | None:
        """The first value of a query parameter, or ``None``."""
        return next((value for key, value in parse_qsl(self.query, keep_blank_values=True) if key == name), None)

    def __repr__(self) -> str:
        """Without headers, and without whatever else could be a secret."""
        fault = f", {self.fault}" if self.fault else ""
        return f"<Entry {self.number}: {self.method} {self._shown()} -> {self.status or 'nothing'}{fault}>"

    def _shown(self) -> str:
        pairs = parse_qsl(self.query, keep_blank_values=True)
        query = "&".join(f"{key}={value if key in _SHOWN else '…'}" for key, value in pairs)
        text = f"{redact_url(self.path)}?{query}" if query else redact_url(self.path)
        text = _DIGEST.sub(r"\1…", text)
        return "".join(char if char.isprintable() else "�" for char in text)

    def row(self) -> tuple[str, ...]:
        """What a table shows of it."""
        return (
            str(self.number),
            str(self.connection or "-"),
            self.method,
            self._shown(),
            str(self.status or "-"),
            str(self.received),
            str(self.sent),
            self.fault,
        )


class RequestLog:
    """Every request that reached a registry, oldest first. As text, it is a table without secrets."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._begun = 0

    def requests(
        self, *, method: str = "", endpoint: str = "", path: str = "", status: int = 0, fault: str | None = None
    ) -> list[Entry]:
        """The requests that fit, as soon as those on their way have been answered, but for stalled ones.

        Args:
            method: ``GET``, ``PUT`` and so on; any if empty.
            endpoint: What was asked for, by the words of ``Endpoint``; any if empty.
            path: A regular expression to be found in path and query.
            status: What was answered; 0 for anything, or nothing at all.
            fault: Words in the description of the fault that befell it; ``""`` for any, ``None`` with or without one.
        """
        pattern = re.compile(path)
        return [
            entry
            for entry in self._settled()
            if method in ("", entry.method)
            and endpoint in ("", entry.endpoint)
            and pattern.search(entry.target)
            and status in (0, entry.status)
            and (fault is None or (entry.fault and fault in entry.fault))
        ]

    def count(
        self, *, method: str = "", endpoint: str = "", path: str = "", status: int = 0, fault: str | None = None
    ) -> int:
        """How many requests fit; see ``requests``."""
        return len(self.requests(method=method, endpoint=endpoint, path=path, status=status, fault=fault))

    @property
    def bytes_sent(self) -> int:
        """How many bytes of bodies were sent."""
        return sum(entry.sent for entry in self._settled())

    @property
    def bytes_received(self) -> int:
        """How many bytes of bodies were taken in."""
        return sum(entry.received for entry in self._settled())

    @property
    def connections(self) -> int:
        """Over how many connections the requests came."""
        return len({entry.connection for entry in self._settled()})

    def clear(self) -> None:
        """Forget what was."""
        with self._changed:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._settled())

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._settled())

    def __repr__(self) -> str:
        """A line that says how much there is, and the table."""
        return f"<Journal of {len(self._entries)} requests>\n{self}"

    def __str__(self) -> str:
        """The table."""
        with self._changed:
            rows = [entry.row() for entry in self._entries]
        table = [("#", "connection", "method", "target", "status", "received", "sent", "fault"), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table
        )

    def begin(self, environ: WSGIEnvironment) -> Entry:
        """Write a request down."""
        with self._changed:
            self._begun += 1
            entry = Entry(self._begun, environ)
            self._entries.append(entry)
            return entry

    def settle(self, entry: Entry) -> None:
        """Note that no more will be said to a request. Idempotent."""
        with self._changed:
            entry.is_settled = True
            self._changed.notify_all()

    def note_waiting(self, entry: Entry, *, waiting: bool) -> None:
        """Note that an answer is being held back, or no longer."""
        with self._changed:
            entry.is_waiting = waiting
            self._changed.notify_all()

    def wait_for_stall(self, seconds: float) -> bool:
        """Wait until an answer is being held back.

        Returns:
            Whether there is one.
        """
        with self._changed:
            return self._changed.wait_for(lambda: any(entry.is_waiting for entry in self._entries), seconds)

    def _settled(self) -> list[Entry]:
        with self._changed:
            self._changed.wait_for(
                lambda: all(entry.is_settled or entry.is_waiting for entry in self._entries), _PATIENCE
            )
            return list(self._entries)


def _headers(environ: WSGIEnvironment) -> Iterator[tuple[str, str]]:
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            yield key[5:].replace("_", "-").lower(), str(value)
        elif key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            yield key.replace("_", "-").lower(), str(value)
