"""Authentication of requests to registries: Basic, Bearer tokens and token servers, without I/O.

``authenticator_for`` turns a credential or a keychain into an authenticator for ``HttpCatalog``.
"""

from registry_adapters.auth.authenticator import ChallengeAuthenticator, authenticator_for
from registry_adapters.auth.authorization import StaticTokenAuthenticator

__all__ = ["ChallengeAuthenticator", "StaticTokenAuthenticator", "authenticator_for"]
