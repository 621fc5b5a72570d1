"""How requests are authorised: Basic, Bearer and OAuth2 token exchange, all without I/O of its own."""

from registry_adapters.auth.realm import check_realm
from registry_adapters.auth.select import ChallengeAuthenticator, authenticator

__all__ = ["ChallengeAuthenticator", "authenticator", "check_realm"]
