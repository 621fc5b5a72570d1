"""All authenticators fulfil the contract."""

from __future__ import annotations

import pytest

from registry_adapters.auth import authenticator_for
from registry_core.domain.auth import Basic, Challenge, IdentityToken, RegistryToken
from registry_core.ports.authenticator import Authenticator
from registry_core.testing.authenticators import REGISTRY, AuthenticatorContract

BEARER = Challenge("bearer", {"realm": "https://auth.example.com/token", "service": "registry"})


class TestPassword(AuthenticatorContract):
    secrets = ("hunter2", "dXNlcjpodW50ZXIy")

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        return authenticator_for(Basic("user", "hunter2"), registry=REGISTRY)


class TestExchangedPassword(TestPassword):
    challenge = BEARER


class TestIdentityToken(AuthenticatorContract):
    challenge = BEARER
    secrets = ("r3fresh",)

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        return authenticator_for(IdentityToken("r3fresh"), registry=REGISTRY)


class TestAnonymous(AuthenticatorContract):
    challenge = BEARER

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        return authenticator_for(None)


class TestRegistryToken(AuthenticatorContract):
    challenge = BEARER
    secrets = ("g1ven",)

    @pytest.fixture
    def authenticator(self) -> Authenticator:
        return authenticator_for(RegistryToken("g1ven"), registry=REGISTRY)
