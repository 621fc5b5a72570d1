"""The warnings that a registry sends along (R-240)."""

from __future__ import annotations

import re
import threading
from typing import Final

from registry_adapters.http.exchange import Headers
from registry_adapters.http.problems import escaped

__all__ = ["Notices"]

_WARNING = re.compile(r'299 [^ ]{1,255} "((?:[^"\\]|\\.)*)"')
_PAIR = re.compile(r"\\(.)")
_LENGTH: Final = 500
_COUNT: Final = 256


class Notices:
    """The warnings seen so far, so that each is told once; safe for many threads."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def fresh(self, headers: Headers) -> list[str]:
        """The warnings of an answer that have not been told yet: escaped, cut, and not without end.

        Those of other codes than 299 are not meant for users (distribution-spec, "Warnings").
        """
        told: list[str] = []
        for value in headers.all("warning"):
            match = _WARNING.match(value[: 8 * _LENGTH].strip())
            text = "" if match is None else escaped(_PAIR.sub(r"\1", match[1]), _LENGTH)
            with self._lock:
                if text and text not in self._seen and len(self._seen) < _COUNT:
                    self._seen.add(text)
                    told.append(text)
        return told
