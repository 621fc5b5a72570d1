"""Answers to the challenges of registries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from typing import Final

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
    repository_of,
    widen_scopes,
)
from registry_core.domain.auth import (
    Anonymous,
    Basic,
    Challenge,
    Credential,
    IdentityToken,
    NotPicklable,
    RegistryToken,
    Scope,
    TokenReply,
    TokenRequest,
)
from registry_core.domain.names import RepositoryName
from registry_core.domain.origin import Origin
from registry_core.errors import AccessDenied, RegistryError, TransportError, Unauthorized
from registry_core.ports.authenticator import Authenticator, HoldsCredentials
from registry_core.ports.keychain import Keychain

__all__ = ["ChallengeAuthenticator", "authenticator_for"]


# A keychain may run a program for each question, and anonymous clients may ask for missing content often.
_NO_CREDENTIAL_SECONDS: Final = 60.0

_RepositoryKey = tuple[Origin, RepositoryName | None]


class ChallengeAuthenticator(NotPicklable, Authenticator, HoldsCredentials):
    """Answers Basic and Bearer challenges with credentials from a keychain, or with anonymous tokens.

    The keychain is asked on a challenge, or after an anonymous request was refused, and not before. The resulting
    ``Authorization`` value and tokens are cached by registry and repository. Bearer is preferred to Basic, and a
    registry that has accepted a token is not sent the password afterwards.

    Args:
        keychain: Source of credentials.
        clock: Monotonic clock in seconds; measures the age of tokens.
        registry: Only registry that the keychain is asked for; ``None`` for every registry.
    """

    def __init__(
        self,
        keychain: Keychain,
        *,
        clock: Callable[[], float] = time.monotonic,
        registry: Origin | None = None,
    ) -> None:
        self._keychain = keychain
        self._registry = registry
        self._clock = clock
        self._cache = TokenCache(clock=clock)
        self._lock = threading.Lock()
        self._token_keys: dict[_RepositoryKey, TokenKey] = {}
        self._values: dict[_RepositoryKey, str] = {}
        self._without_credential: dict[_RepositoryKey, float] = {}
        self._bearer_registries: set[Origin] = set()
        self._uncombinable: dict[tuple[TokenKey, tuple[Scope, ...]], bool] = {}
        self._single_flight = SingleFlight(AccessDenied)
        self._exchanger = TokenExchanger()

    def cached_authorization(self, registry: Origin, scopes: Collection[Scope]) -> str | None:
        """Return the value that the last challenge for the repository led to, if it still covers the scopes."""
        repository = (registry, repository_of(scopes))
        with self._lock:
            value = self._values.get(repository)
            key = self._token_keys.get(repository)
        if key is not None:
            token = self._cache.get(key, self._combinable_scopes(key, scopes))
            return None if token is None else bearer_value(token)
        return value

    def has_credential(self, registry: Origin, scopes: Collection[Scope]) -> bool:
        """Return whether the keychain has a credential; that it has none is remembered for a minute.

        Raises:
            ConfigError: A source of the keychain cannot be read.
        """
        repository = (registry, repository_of(scopes))
        with self._lock:
            if self._clock() < self._without_credential.get(repository, float("-inf")):
                return False
        if not isinstance(self._credential(*repository), Anonymous):
            return True
        with self._lock:
            put_bounded(self._without_credential, repository, self._clock() + _NO_CREDENTIAL_SECONDS)
        return False

    def handle_challenge(
        self,
        registry: Origin,
        challenges: Sequence[Challenge],
        scopes: Collection[Scope],
        *,
        rejected: str | None = None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """Answer a 401, with a token if the registry offers Bearer.

        Raises:
            Unauthorized: The token server refused the credential or an anonymous request, or the registry offers
                neither Basic nor Bearer.
            Forbidden: The token server accepted the credential, but refused the scopes.
            ProtocolError: The URL policy refuses the token server, or the reply has no usable token.
            ConfigError: The credential cannot be encoded.
        """
        schemes = {challenge.scheme for challenge in challenges}
        if not schemes & {"basic", "bearer"}:
            if schemes:
                raise Unauthorized(
                    f"authenticate to {registry.netloc}: the registry offers only {_list(schemes)}; "
                    "supported are Basic and Bearer"
                )
            return None
        repository = (registry, repository_of(scopes))
        credential = self._credential(*repository)
        if isinstance(credential, RegistryToken):
            offers_bearer = "bearer" in schemes
            return self._keep_value(repository, bearer_value(credential.token), rejected) if offers_bearer else None
        bearer = next((each for each in challenges if each.scheme == "bearer" and each.parameters.get("realm")), None)
        if bearer is not None:
            parameters = bearer.parameters
            key = TokenKey(registry, parameters["realm"], parameters.get("service", ""), credential)
            return (yield from self._exchange(repository, key, parameters, scopes, rejected))
        last_key = self._last_token_key(repository, credential)
        if last_key is not None and rejected is not None:
            # Harbor answers an expired token with a Basic challenge.
            return (yield from self._exchange(repository, last_key, {}, scopes, rejected))
        return self._basic_value(repository, credential, rejected) if "basic" in schemes else None

    def _credential(self, registry: Origin, repository: RepositoryName | None) -> Credential:
        # A keychain knows registries by name only, so http and https must be distinguished here.
        if self._registry not in (None, registry):
            return Anonymous()
        return self._keychain.credential(_keychain_name(registry), repository) or Anonymous()

    def _last_token_key(self, repository: _RepositoryKey, credential: Credential) -> TokenKey | None:
        """The key of the last token for a repository, if it was issued for the same credential."""
        with self._lock:
            key = self._token_keys.get(repository)
        return key if key is not None and key.credential == credential else None

    def _basic_value(self, repository: _RepositoryKey, credential: Credential, rejected: str | None) -> str | None:
        with self._lock:
            is_downgrade = repository[0] in self._bearer_registries
        if is_downgrade or not isinstance(credential, Basic):
            return None
        return self._keep_value(repository, basic_value(credential), rejected)

    def _keep_value(self, repository: _RepositoryKey, value: str, rejected: str | None) -> str | None:
        """Cache and return a value, unless the registry has just rejected it."""
        with self._lock:
            if value == rejected:
                self._values.pop(repository, None)
                return None
            put_bounded(self._values, repository, value)
            return value

    def _exchange(
        self,
        repository: _RepositoryKey,
        key: TokenKey,
        parameters: Mapping[str, str],
        scopes: Collection[Scope],
        rejected: str | None,
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """Get a token for all scopes, or for the own repository alone if the token server refuses to combine them."""
        merged = merge_scopes(scopes)
        requested = self._combinable_scopes(key, scopes) or challenge_scopes(parameters.get("scope", ""))
        if rejected is not None:
            requested = widen_scopes(requested, parameters.get("scope", ""))
            if requested == merged != own_repository(scopes) and parameters.get("error") == "insufficient_scope":
                # The token is valid, but for fewer scopes: the server never issues one for two repositories.
                self._mark_uncombinable(key, merged)
                return None
            self._cache.discard(key, merged or requested, rejected.removeprefix("Bearer "))
        try:
            token = yield from self._token(key, requested, rejected)
        except (AccessDenied, TransportError) as error:
            own = own_repository(scopes)
            if requested == own or requested != merged or not _is_refusal(error):
                raise
            token = yield from self._token(key, own, rejected)
            self._mark_uncombinable(key, merged)
        if token is None:
            return None
        with self._lock:
            self._bearer_registries.add(repository[0])
            self._values.pop(repository, None)
            put_bounded(self._token_keys, repository, key)
        return bearer_value(token)

    def _token(
        self, key: TokenKey, scopes: tuple[Scope, ...], rejected: str | None
    ) -> Generator[TokenRequest, TokenReply, str | None]:
        """Return a cached or new token; ``None`` if the server issues the rejected one again."""
        with self._single_flight.lock((key, scopes)):
            cached = self._cache.get(key, scopes)
            if cached is not None:
                return cached
            token = yield from self._exchanger.fetch(key, scopes)
            if rejected == bearer_value(token.text):
                return None
            self._cache.put(key, scopes, token)
            return token.text

    def _combinable_scopes(self, key: TokenKey, scopes: Collection[Scope]) -> tuple[Scope, ...]:
        """The scopes to request in one token: all of them, unless the token server has refused to combine them."""
        merged = merge_scopes(scopes)
        with self._lock:
            return own_repository(scopes) if (key, merged) in self._uncombinable else merged

    def _mark_uncombinable(self, key: TokenKey, scopes: tuple[Scope, ...]) -> None:
        with self._lock:
            put_bounded(self._uncombinable, (key, scopes), True)


def authenticator_for(
    auth: Credential | Keychain | Authenticator | None, *, registry: Origin | None = None
) -> Authenticator:
    """Return an authenticator for a credential, a keychain or an authenticator.

    Args:
        auth: Credential for ``registry``, or a keychain for all registries; an authenticator is returned unchanged;
            ``None`` for anonymous tokens.
        registry: Registry that a credential is sent to; ``None`` for every registry.

    Raises:
        TypeError: ``auth`` has another type.
        ConfigError: The token has other characters than printable ASCII.
    """
    if isinstance(auth, Authenticator):
        return auth
    if isinstance(auth, RegistryToken):
        return StaticTokenAuthenticator(auth, registry=registry)
    if auth is None or isinstance(auth, Basic | IdentityToken | Anonymous):
        return ChallengeAuthenticator(_SingleCredentialKeychain(auth), registry=registry)
    if isinstance(auth, Keychain):
        return ChallengeAuthenticator(auth)
    raise TypeError(f"auth must be a credential, a Keychain or an Authenticator, not {type(auth).__name__}")


class _SingleCredentialKeychain(Keychain):
    def __init__(self, credential: Credential | None) -> None:
        self._credential = credential

    def credential(self, registry: str, repository: RepositoryName | None) -> Credential | None:
        return self._credential


def _list(schemes: Collection[str]) -> str:
    """Join scheme names from a challenge, cut to the length of a message."""
    return ", ".join(scheme[:32] for scheme in sorted(schemes)[:4])


def _is_refusal(error: RegistryError) -> bool:
    """Return whether a token server refused the scopes; GitLab answers 500 to scopes that it does not know."""
    return error.transport is not None and error.transport.status not in (0, 429)


def _keychain_name(registry: Origin) -> str:
    """The name of a registry in keychains, which leave out the port only if it is the one of https."""
    return f"{registry.netloc}:80" if (registry.scheme, registry.port) == ("http", 80) else registry.netloc
