"""Asking for a token with POST: identity tokens, and passwords where GET is not served (distribution, "oauth.md")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from urllib.parse import urlencode

from registry_core.domain.access import Basic, IdentityToken, Scope, TokenRequest
from registry_core.errors import ConfigError

__all__ = ["CLIENT_ID", "token_form"]

CLIENT_ID: Final = "ociport"


def token_form(realm: str, service: str, scopes: Sequence[Scope], credential: Basic | IdentityToken) -> TokenRequest:
    """The POST that trades an identity token, or a password, for a token. The secret stands in the body only.

    Args:
        realm: The token server's URL, judged by ``check_realm``.
        service: As the challenge named it; empty for none.
        scopes: What the token has to allow; one field, with spaces between them.
        credential: Who asks.

    Raises:
        ConfigError: The credential cannot be written down.
    """
    if isinstance(credential, IdentityToken):
        fields = [("grant_type", "refresh_token"), ("refresh_token", credential.token)]
    else:
        fields = [("grant_type", "password"), ("username", credential.username), ("password", credential.password)]
    fields.append(("client_id", CLIENT_ID))
    if service:
        fields.append(("service", service))
    if scopes:
        fields.append(("scope", " ".join(str(scope) for scope in scopes)))
    try:
        body = urlencode(fields, errors="surrogateescape").encode("ascii")
    except UnicodeEncodeError:
        raise ConfigError("user name, password or identity token is not valid text") from None
    return TokenRequest(
        method="POST",
        url=realm.partition("#")[0],
        headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        body=body,
        scopes=tuple(scopes),
    )
