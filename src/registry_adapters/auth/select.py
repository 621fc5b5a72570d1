"""The answer to a challenge: which scheme, whose credential, which token (R-030 to R-039)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Final, NoReturn, TypeVar

from registry_adapters.auth.basic import basic_value
from registry_adapters.auth.bearer import GivenToken, bearer_value, token_query
from registry_adapters.auth.oauth import token_form
from registry_adapters.auth.realm import REALMS, check_realm
from registry_adapters.auth.token import Token, token
from registry_adapters.auth.token_cache import Audience, TokenCache
from registry_core.domain.access import (
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
from registry_core.errors import InvalidName
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.keychain import Keychain

__all__ = ["ChallengeAuthenticator", "authenticator"]

_NOT_SERVED: Final = (404, 405)
_SCOPE_LIMIT: Final = 16
_PLACES: Final = 4096

_Place = tuple[Origin, RepositoryName | None]
_Value = TypeVar("_Value")


class ChallengeAuthenticator(Authenticator):
    """Answers Basic and Bearer challenges with credentials from a keychain; without any it asks for anonymous tokens.

    The keychain is asked on a challenge, never before one; what it said and the tokens that came of it are kept for
    the same registry and repository. Bearer is preferred, and a registry that has once accepted a token is not given
    the password itself any more (R-031).

    Args:
        keychain: Where credentials come from.
        clock: Seconds that only grow; how the age of tokens is measured.
        realms: Token servers to trust, as ``host[:port]``, by the registry's ``host[:port]``; see ``check_realm``.
    """

    def __init__(
        self,
        keychain: Keychain,
        *,
        clock: Callable[[], float] = time.monotonic,
        realms: Mapping[str, Collection[str]] = REALMS,
    ) -> None:
        self._keychain = keychain
        self._realms = realms
        self._cache = TokenCache(clock=clock)
        self._lock = threading.Lock()
        self._audiences: dict[_Place, Audience] = {}
        self._values: dict[_Place, str] = {}
        self._bearers: set[Origin] = set()

    def remembered(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """What answered the last challenge for the same repository, where it is still good for these scopes."""
        place = (registry, _repository(scopes))
        with self._lock:
            value = self._values.get(place)
            audience = self._audiences.get(place)
        if audience is not None:
            found = self._cache.find(audience, _joined(scopes))
            return None if found is None else bearer_value(found)
        return value

    def answer(
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
        exchange = next((one for one in challenges if one.scheme == "bearer" and one.parameters.get("realm")), None)
        if not schemes & {"basic", "bearer"}:
            return None
        place = (registry, _repository(scopes))
        credential = self._keychain.credential(registry.netloc, place[1]) or Anonymous()
        if isinstance(credential, RegistryToken):
            return self._settle(place, bearer_value(credential.token), rejected) if "bearer" in schemes else None
        if exchange is not None:
            return (yield from self._exchange(place, exchange, credential, scopes, rejected))
        return self._password(place, credential, rejected) if "basic" in schemes else None

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
            _put(self._values, place, value)
            return value

    def _exchange(
        self,
        place: _Place,
        challenge: Challenge,
        credential: Credential,
        scopes: Collection[Scope],
        rejected: str | None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        parameters = challenge.parameters
        check_realm(place[0], parameters["realm"], self._realms)
        audience = Audience(place[0], parameters["realm"], parameters.get("service", ""), credential)
        wanted = _joined(scopes) or _offered(parameters.get("scope", ""))
        if rejected is not None:
            self._cache.forget(audience, rejected.removeprefix("Bearer "))
        with self._cache.turn(audience, wanted):
            text = self._cache.find(audience, wanted)
            if text is None:
                fresh = yield from _fetched(audience, wanted)
                self._cache.keep(audience, wanted, fresh)
                text = fresh.text
        with self._lock:
            self._bearers.add(place[0])
            self._values.pop(place, None)
            _put(self._audiences, place, audience)
        return bearer_value(text)

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
        return GivenToken(auth, registry=registry)
    if auth is None or isinstance(auth, Basic | IdentityToken | Anonymous):
        return ChallengeAuthenticator(_Bound(auth, registry))
    if isinstance(auth, Keychain):
        return ChallengeAuthenticator(auth)
    raise TypeError(f"auth is a credential, a Keychain or an Authenticator, not {type(auth).__name__}")


class _Bound(Keychain):
    def __init__(self, credential: Credential | None, registry: Origin | None) -> None:
        self._credential = credential
        self._registry = registry

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        return self._credential if self._registry is None or self._registry.netloc == registry else None


def _fetched(audience: Audience, scopes: Sequence[Scope]) -> Generator[TokenRequest, TokenReply, Token]:
    who = audience.identity
    if isinstance(who, IdentityToken):
        request = token_form(audience.realm, audience.service, scopes, who)
    else:
        request = token_query(audience.realm, audience.service, scopes, who if isinstance(who, Basic) else None)
    reply = yield request
    if reply.status in _NOT_SERVED and isinstance(who, Basic):
        request = token_form(audience.realm, audience.service, scopes, who)
        reply = yield request
    return token(request, reply)


def _put(memory: dict[_Place, _Value], place: _Place, value: _Value) -> None:
    """Remember, and forget what was remembered longest ago where there is too much: that costs a 401, no more."""
    memory.pop(place, None)
    if len(memory) >= _PLACES:
        del memory[next(iter(memory))]
    memory[place] = value


def _repository(scopes: Collection[Scope]) -> RepositoryName | None:
    for one in scopes:
        if one.kind == "repository":
            try:
                return RepositoryName(one.name)
            except InvalidName:
                return None
    return None


def _joined(scopes: Collection[Scope]) -> tuple[Scope, ...]:
    """Each repository once, with all of its actions, in a steady order."""
    actions: dict[tuple[str, str], set[str]] = {}
    for one in scopes:
        actions.setdefault((one.kind, one.name), set()).update(one.actions)
    return tuple(Scope(kind, name, tuple(sorted(some))) for (kind, name), some in sorted(actions.items()))


def _offered(text: str) -> tuple[Scope, ...]:
    """What a challenge proposes where the operation named nothing: reading only, whatever it says (R-037)."""
    found = []
    for word in text.split(None, _SCOPE_LIMIT)[:_SCOPE_LIMIT]:
        kind, _, rest = word.partition(":")
        name, _, actions = rest.rpartition(":")
        if kind == "repository" and name and "pull" in actions.split(","):
            found.append(Scope(kind, name, ("pull",)))
        elif (kind, name, actions) == ("registry", "catalog", "*"):
            found.append(Scope.catalog())
    return _joined(found)
