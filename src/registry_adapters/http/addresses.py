"""Where the things of one repository are found, and what may be done to them."""

from __future__ import annotations

from typing import Protocol
from urllib.parse import quote, urlencode

import msgspec

from registry_adapters.http.exchange import Answer, Document, Request
from registry_adapters.http.retry import RetryPolicy
from registry_core.domain.access import Scope
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import InvalidName
from registry_core.ports.observer import Event

__all__ = ["Address", "Carrier", "Sender"]


class Carrier(Protocol):
    """Carries requests to one place: what a download needs of a session."""

    @property
    def origin(self) -> Origin:
        """The place's own origin."""
        ...

    @property
    def policy(self) -> RetryPolicy:
        """How patient to be."""
        ...

    def tell(self, event: Event) -> None:
        """Tell whoever watches."""

    def send(self, request: Request) -> Answer:
        """The answer to a request, if its status means success; whoever gets it closes it.

        Raises:
            RegistryError: Any other status, or no answer.
        """
        ...


class Sender(Carrier, Protocol):
    """Carries requests to one registry: what the stores need of a session."""

    def fetch(self, request: Request, limit: int, *, what: str = "the answer") -> Document:
        """The whole answer to a request, asked for again if it breaks off.

        Raises:
            TooLarge: It has more bytes than the limit.
            RegistryError: As ``send`` does.
        """
        ...


class Address(msgspec.Struct, frozen=True):
    """A repository as requests and messages name it.

    Args:
        registry: ``host[:port]``.
        name: Of the repository.
    """

    registry: str
    name: RepositoryName

    def path(self, *parts: str, query: tuple[tuple[str, str], ...] = ()) -> str:
        """The target of a request below ``/v2/<name>/``; what it is made of is percent-encoded (R-010, R-200).

        Raises:
            InvalidName: It is the nameless repository, which registries do not have.
        """
        if not self.name:
            raise InvalidName("a registry has no repository without a name", reference=self.registry)
        path = "/".join(quote(part, safe=":") for part in parts)
        text = f"/v2/{quote(self.name)}/{path}"
        return f"{text}?{urlencode(query, quote_via=quote, safe='')}" if query else text

    def scopes(self, *actions: str) -> tuple[Scope, ...]:
        """The right to do something here."""
        return (Scope.repository(self.name, actions),)

    def at(self, reference: str) -> str:
        """How a tag or digest is written: ``registry/name:tag`` or ``registry/name@digest``."""
        return f"{self}{'@' if isinstance(reference, Digest) else ':'}{reference}"

    def __str__(self) -> str:
        """``registry/name``."""
        return f"{self.registry}/{self.name}"
