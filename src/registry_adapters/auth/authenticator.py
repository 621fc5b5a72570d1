"""The answer to a challenge: which scheme, whose credential, which token.

Whom a registry may send credentials to: the policy for token servers.

The realm of a Bearer challenge is text from the network, and passwords go there. A realm may be

* the registry itself: its own host and port;
* a host that stands in the allow-list for this registry, which knows Docker Hub's from the start;
* any public DNS name, over https: a name with a dot, below no domain that is private by convention;
* this machine, where the registry is this machine as well: for token servers in development.

Never another scheme than http and https, never with user information, never http where the registry is https, and
never an address literal but in the cases above. Names are not looked up: a public name that leads to a private address
is not noticed. Requests without credentials follow the same rules, for they too can be aimed.

The rules are those of ``registry_core.domain.url_policy``; here stands whom a user trusts for which registry.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NoReturn

from registry_adapters.auth.authorization import StaticTokenAuthenticator, basic_value, bearer_value
from registry_adapters.auth.single_flight import SingleFlight
from registry_adapters.auth.token_requests import TokenExchanger
from registry_adapters.auth.tokens import (
    TokenCache,
    TokenKey,
    challenge_scopes,
    merge_scopes,
    own_repository,
    put_bounded,
    repository,
    widen_scopes,
)
from registry_core.domain.auth import (
    Anonymous,
    Basic,
    Challenge,
    Credential,
    IdentityToken,
    RegistryToken,
    Scope,
    TokenReply,
    TokenRequest,
)
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.domain.url_policy import UrlPurpose, check_url
from registry_core.errors import AccessDenied, RegistryError, TransportError, Unauthorized
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.keychain import Keychain

__all__ = ["REALMS", "ChallengeAuthenticator", "authenticator", "check_realm"]


_HUB: Final = ("auth.docker.io",)

REALMS: Final[Mapping[str, Collection[str]]] = MappingProxyType(
    {"docker.io": _HUB, "index.docker.io": _HUB, "registry-1.docker.io": _HUB}
)


def check_realm(registry: Origin, realm: str, allowed: Mapping[str, Collection[str]] = REALMS) -> Origin:
    """The origin of a token server that the registry named, if requests may go there at all.

    Args:
        registry: Who named it.
        realm: The ``realm`` of its Bearer challenge.
        allowed: Further hosts to trust, as ``host[:port]``, by the registry's ``host[:port]``.

    Raises:
        ProtocolError: They may not; nothing was sent.
    """
    return check_url(UrlPurpose.REALM, registry, realm, listed=allowed.get(registry.netloc, ())).origin


_Place = tuple[Origin, RepositoryName | None]


class ChallengeAuthenticator(Authenticator):
    """Answers Basic and Bearer challenges with credentials from a keychain; without any it asks for anonymous tokens.

    The keychain is asked on a challenge, never before one; what it said and the tokens that came of it are kept for
    the same registry and repository. Bearer is preferred, and a registry that has once accepted a token is not given
    the password itself any more.

    Args:
        keychain: Where credentials come from.
        clock: Seconds that only grow; how the age of tokens is measured.
        realms: Token servers to trust, as ``host[:port]``, by the registry's ``host[:port]``; see ``check_realm``.
        registry: The only one that the keychain is asked for; any, where there is none.
    """

    def __init__(
        self,
        keychain: Keychain,
        *,
        clock: Callable[[], float] = time.monotonic,
        realms: Mapping[str, Collection[str]] = REALMS,
        registry: Origin | None = None,
    ) -> None:
        self._keychain = keychain
        self._registry = registry
        self._realms = realms
        self._cache = TokenCache(clock=clock)
        self._lock = threading.Lock()
        self._audiences: dict[_Place, TokenKey] = {}
        self._values: dict[_Place, str] = {}
        self._bearers: set[Origin] = set()
        self._uncombinable: dict[tuple[TokenKey, tuple[Scope, ...]], bool] = {}
        self._turns = SingleFlight(AccessDenied)
        self._grants = TokenExchanger()

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """What answered the last challenge for the same repository, where it is still good for these scopes."""
        place = (registry, repository(scopes))
        with self._lock:
            value = self._values.get(place)
            audience = self._audiences.get(place)
        if audience is not None:
            found = self._cache.find(audience, self._grantable(audience, scopes))
            return None if found is None else bearer_value(found)
        return value

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """Answer a 401, by token exchange where the registry asks for that.

        Raises:
            Unauthorized: The token server refused the credential, or an anonymous request.
            Forbidden: It knows the credential, and refused nevertheless.
            ProtocolError: The realm is none to send anything to, or the answer makes no sense.
            ConfigError: The credential cannot be written into a header.
        """
        schemes = {one.scheme for one in challenges}
        if not schemes & {"basic", "bearer"}:
            if schemes:
                raise Unauthorized(
                    f"{registry.netloc} asks for {_named(schemes)}; only Basic and Bearer are spoken here"
                )
            return None
        place = (registry, repository(scopes))
        credential = self._credential(*place)
        if isinstance(credential, RegistryToken):
            return self._settle(place, bearer_value(credential.token), rejected) if "bearer" in schemes else None
        exchange = next((one for one in challenges if one.scheme == "bearer" and one.parameters.get("realm")), None)
        if exchange is not None:
            parameters = exchange.parameters
            check_realm(registry, parameters["realm"], self._realms)
            audience = TokenKey(registry, parameters["realm"], parameters.get("service", ""), credential)
            return (yield from self._exchange(place, audience, parameters, scopes, rejected))
        known = self._known(place, credential)
        if known is not None and rejected is not None:
            # Harbor answers a token that has run out with a challenge for Basic.
            return (yield from self._exchange(place, known, {}, scopes, rejected))
        return self._password(place, credential, rejected) if "basic" in schemes else None

    def _credential(self, registry: Origin, repository: RepositoryName | None) -> Credential:
        # Keychains know names, which are the same with TLS and without.
        if self._registry not in (None, registry):
            return Anonymous()
        return self._keychain.credential(_called(registry), repository) or Anonymous()

    def _known(self, place: _Place, credential: Credential) -> TokenKey | None:
        """Who gave the last token for a place, if the same credential would be traded for the next one."""
        with self._lock:
            audience = self._audiences.get(place)
        return audience if audience is not None and audience.identity == credential else None

    def _password(self, place: _Place, credential: Credential, rejected: str | None) -> str | None:
        with self._lock:
            downgraded = place[0] in self._bearers
        if downgraded or not isinstance(credential, Basic):
            return None
        return self._settle(place, basic_value(credential), rejected)

    def _settle(self, place: _Place, value: str, rejected: str | None) -> str | None:
        with self._lock:
            if value == rejected:
                self._values.pop(place, None)
                return None
            put_bounded(self._values, place, value)
            return value

    def _exchange(
        self,
        place: _Place,
        audience: TokenKey,
        parameters: Mapping[str, str],
        scopes: Collection[Scope],
        rejected: str | None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """A token for the operation; for its own repository alone, where none is given for several."""
        asked = merge_scopes(scopes)
        wanted = self._grantable(audience, scopes) or challenge_scopes(parameters.get("scope", ""))
        if rejected is not None:
            text = rejected.removeprefix("Bearer ")
            wanted = widen_scopes(wanted, parameters.get("scope", ""))
            if wanted == asked != own_repository(scopes) and parameters.get("error") == "insufficient_scope":
                # The token is good, but for less. A registry that gives none for two repositories never will.
                self._separate(audience, asked)
                return None
            self._cache.forget(audience, asked or wanted, text)
        try:
            fetched = yield from self._token(audience, wanted, rejected)
        except (AccessDenied, TransportError) as error:
            alone = own_repository(scopes)
            if wanted == alone or wanted != asked or not _is_verdict(error):
                raise
            fetched = yield from self._token(audience, alone, rejected)
            self._separate(audience, asked)
        if fetched is None:
            return None
        with self._lock:
            self._bearers.add(place[0])
            self._values.pop(place, None)
            put_bounded(self._audiences, place, audience)
        return bearer_value(fetched)

    def _token(
        self, audience: TokenKey, wanted: tuple[Scope, ...], rejected: str | None
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """A kept or new token; ``None`` where the server gives out again what was refused."""
        with self._turns.lock((audience, wanted)):
            found = self._cache.find(audience, wanted)
            if found is None:
                fresh = yield from self._grants.fetch(audience, wanted)
                if rejected == bearer_value(fresh.text):
                    return None
                self._cache.keep(audience, wanted, fresh)
                found = fresh.text
            return found

    def _grantable(self, audience: TokenKey, scopes: Collection[Scope]) -> tuple[Scope, ...]:
        """The operation's scopes; its own repository's alone, where none are granted together."""
        asked = merge_scopes(scopes)
        with self._lock:
            return own_repository(scopes) if (audience, asked) in self._uncombinable else asked

    def _separate(self, audience: TokenKey, asked: tuple[Scope, ...]) -> None:
        with self._lock:
            put_bounded(self._uncombinable, (audience, asked), True)

    def __reduce__(self) -> NoReturn:
        raise TypeError("ChallengeAuthenticator holds secrets and is not pickled; let each process build its own")


def authenticator(
    auth: Credential | Keychain | Authenticator | None, *, registry: Origin | None = None
) -> Authenticator:
    """What makes an authenticator of whatever a caller has for authentication.

    Args:
        auth: A credential, which goes to ``registry`` only; a keychain; an authenticator, which is taken as it is;
            or ``None``, which asks for anonymous tokens where a registry wants any.
        registry: Whom a credential is for; without one, it goes to whichever registry the authenticator is used for.

    Raises:
        TypeError: It is none of these.
        ConfigError: It is a token that no header can carry.
    """
    if isinstance(auth, Authenticator):
        return auth
    if isinstance(auth, RegistryToken):
        return StaticTokenAuthenticator(auth, registry=registry)
    if auth is None or isinstance(auth, Basic | IdentityToken | Anonymous):
        return ChallengeAuthenticator(_Single(auth), registry=registry)
    if isinstance(auth, Keychain):
        return ChallengeAuthenticator(auth)
    raise TypeError(f"auth is a credential, a Keychain or an Authenticator, not {type(auth).__name__}")


class _Single(Keychain):
    def __init__(self, credential: Credential | None) -> None:
        self._credential = credential

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        return self._credential


def _named(schemes: Collection[str]) -> str:
    """Some scheme names as a peer wrote them, cut to what fits into a message."""
    return ", ".join(one[:32] for one in sorted(schemes)[:4])


def _is_verdict(error: RegistryError) -> bool:
    """Whether a token server said no to a request, in whatever way: GitLab's has said 500 to scopes it did not know."""
    return error.transport is not None and error.transport.status not in (0, 429)


def _called(registry: Origin) -> str:
    """What keychains are asked for: to them, only the port of https goes without saying."""
    return f"{registry.netloc}:80" if (registry.scheme, registry.port) == ("http", 80) else registry.netloc
