"""How requests to a registry are authorised."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Generator, Sequence
from typing import Protocol, runtime_checkable

from registry_core.domain.auth import Challenge, Scope, TokenReply, TokenRequest
from registry_core.domain.origin import Origin

__all__ = ["Authenticator"]


@runtime_checkable
class Authenticator(Protocol):
    """Decides, without I/O, how to authorise a request; the HTTP session carries out what it asks for."""

    @abstractmethod
    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """The ``Authorization`` value to send at once, or ``None`` to send nothing.

        Args:
            registry: Whom the request is for; the value is sent there and nowhere else.
            scopes: What the request needs.
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
        """Answer a 401: yields what to ask a token server, receives its answers, returns the ``Authorization`` value.

        Whoever drives it must exhaust or close it, and throw into it the error that a request ended with: other threads
        that need the same token may be waiting, and learn how it went.

        Args:
            registry: Who challenged.
            challenges: What it asked for.
            scopes: What the request needs.
            rejected: The value that was refused, if one was sent.

        Returns:
            The value to repeat the request with, or ``None`` where there is no answer to give.

        Raises:
            Unauthorized: The token server refused, or no scheme is on offer that can be answered at all.
            Forbidden: The token server knows who asks, and refused.
            TransportError: What a request ended with.
            ProtocolError: Its realm is one that no credentials may go to, or its answer makes no sense.
        """
