"""The port ``Authenticator``: authorization of requests to a registry."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Generator, Sequence
from typing import Protocol, runtime_checkable

from registry_core.domain.auth import Challenge, Scope, TokenReply, TokenRequest
from registry_core.domain.origin import Origin

__all__ = ["Authenticator", "HoldsCredentials"]


@runtime_checkable
class Authenticator(Protocol):
    """Decides, without I/O, how to authorize a request; the HTTP session sends the token requests."""

    @abstractmethod
    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """Return the ``Authorization`` value to send with the first attempt, or ``None`` to send none.

        Args:
            registry: Origin of the request; the value is sent to no other origin.
            scopes: Scopes that the request needs.
        """

    @abstractmethod
    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """Handle a 401: yield token requests, receive their replies, return the ``Authorization`` value.

        The session sends a token request only where the URL policy allows a token server: at the registry's own host,
        at a public name over https, or at a host of the setting ``trusted_hosts``.

        The caller must exhaust or close the generator, and must throw into it the error of a failed token request:
        other threads may be waiting for the same token and get the same error.

        Args:
            registry: Origin that sent the challenges.
            challenges: Challenges of the response.
            scopes: Scopes that the request needs.
            rejected: ``Authorization`` value that the registry rejected, if one was sent.

        Returns:
            Value to repeat the request with, or ``None`` if no challenge can be met.

        Raises:
            Unauthorized: The token server rejected the credentials, or no challenge has a supported scheme.
            Forbidden: The token server denied the scopes.
            TransportError: A token request failed.
            ProtocolError: The URL policy refuses the token server, or the reply is malformed.
        """


@runtime_checkable
class HoldsCredentials(Protocol):
    """An authenticator that knows whether it has a credential, without I/O to the registry.

    Some registries hide content from anonymous requests behind 404 or 403. Where an authenticator has a credential, the
    HTTP session then asks ``/v2/`` for a challenge. An authenticator without this method counts as one that has one.
    """

    @abstractmethod
    def has_credential(self, registry: Origin, scopes: Collection[Scope]) -> bool:
        """Return whether there is a credential for a request that was sent without ``Authorization``.

        Args:
            registry: Origin of the request.
            scopes: Scopes that the request needs.

        Raises:
            ConfigError: The source of the credentials cannot be read. The session then asks for a challenge all the
                same, and a registry without one can be used.
        """
