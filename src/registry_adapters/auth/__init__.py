"""How requests are authorised: Basic, Bearer and OAuth2 token exchange, all without I/O of its own."""

from registry_adapters.auth.authenticator import ChallengeAuthenticator, authenticator, check_realm

__all__ = ["ChallengeAuthenticator", "authenticator", "check_realm"]
