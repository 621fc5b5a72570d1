"""User names and passwords on the wire (RFC 7617)."""

from __future__ import annotations

from base64 import b64encode

from registry_core.domain.access import Basic
from registry_core.errors import ConfigError

__all__ = ["basic_value"]


def basic_value(credential: Basic) -> str:
    """The ``Authorization`` value for a user name and a password, as UTF-8.

    Raises:
        ConfigError: The user name has a colon, which the scheme cannot carry, or a part is not text.
    """
    if ":" in credential.username:
        raise ConfigError("a user name for Basic authentication cannot have a colon")
    try:
        pair = f"{credential.username}:{credential.password}".encode()
    except UnicodeEncodeError:
        raise ConfigError("user name or password is not valid text") from None
    return f"Basic {b64encode(pair).decode('ascii')}"
