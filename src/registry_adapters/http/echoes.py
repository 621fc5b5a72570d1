"""Secrets that a registry was shown and repeats: they go no further (R-043)."""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from typing import Final

from registry_adapters.http.exchange import Headers

__all__ = ["Echoes"]

# Anything shorter may stand in a text by chance.
_TELLING: Final = 8
_MASK: Final = "***"


class Echoes:
    """What must not be believed to be a registry's own words.

    Args:
        authorization: The ``Authorization`` that was sent; empty for none.
    """

    def __init__(self, authorization: str) -> None:
        scheme, _, value = authorization.partition(" ")
        self._value = value if len(value) >= _TELLING else ""
        self._password = ""
        if scheme.lower() == "basic":
            with suppress(binascii.Error, UnicodeDecodeError):
                password = base64.b64decode(value, validate=True).decode().partition(":")[2]
                self._password = password if len(password) >= _TELLING else ""

    def masked(self, content: bytes) -> bytes:
        """A text for people without what was sent, and without the password in it."""
        for secret in (self._value, self._password):
            if secret:
                content = content.replace(secret.encode(), _MASK.encode())
        return content

    def hushed(self, headers: Headers) -> Headers:
        """Headers without what was sent.

        A password may be a word that a URL needs: it stays, but for a warning, which is a text for people.
        """
        if not self._value:
            return headers
        return Headers([(name, self._hushed(name, value)) for name, value in headers])

    def _hushed(self, name: str, value: str) -> str:
        value = value.replace(self._value, _MASK)
        return value.replace(self._password, _MASK) if self._password and name == "warning" else value
