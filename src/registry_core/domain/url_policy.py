"""The policy for URLs that a server chose: which may be followed, and which credentials may be sent there.

A registry names URLs for redirects, upload sessions, next pages, token servers and foreign layers. Each purpose has one
rule in ``RULES``, and ``check_url`` applies it. Code that follows such a URL calls it first, and sends only the
credentials that the result allows. The setting ``trusted_hosts`` adds hosts that the user trusts.

Names are not looked up: a public name that resolves to a private address is not detected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Final, Self
from urllib.parse import urlsplit

import msgspec

from registry_core.domain.origin import Origin, Zone, parse_host, redact_url
from registry_core.errors import ConfigError, InvalidName, ProtocolError

__all__ = [
    "ALLOWED_ZONES",
    "MAX_HOPS",
    "RULES",
    "AllowedUrl",
    "CredentialRule",
    "CrossOriginRule",
    "Rule",
    "TrustedHost",
    "UrlPurpose",
    "check_url",
]

MAX_HOPS: Final = 10

# Domains that the public DNS does not have: reserved by RFCs and ICANN, and those of common cluster software.
_PRIVATE_NAMES: Final = (
    ".localhost",
    ".localdomain",
    ".localnet",
    ".local",
    ".internal",
    ".intranet",
    ".intra",
    ".intern",
    ".private",
    ".priv",
    ".corp",
    ".home",
    ".lan",
    ".lab",
    ".loc",
    ".lcl",
    ".dmz",
    ".vpn",
    ".mesh",
    ".domain",
    ".cluster",
    ".svc",
    ".k8s",
    ".docker",
    ".podman",
    ".incus",
    ".nomad",
    ".consul",
    ".arpa",
    ".test",
    ".invalid",
    ".onion",
)
# "127.1" and "0x7f.1" are addresses to a resolver: a public name ends in a label that begins with a letter.
_PUBLIC_NAME: Final = re.compile(r"[a-z0-9_.-]+\.[a-z][a-z0-9-]*[a-z0-9]")


class UrlPurpose(Enum):
    """Purpose of a URL; the value names it in messages and documents."""

    REDIRECT = "redirect"
    WRITE = "redirect of a write"
    UPLOAD = "upload location"
    LINK = "next-page link"
    REALM = "token server"
    FOREIGN = "foreign layer"


class CrossOriginRule(Enum):
    """Origins other than the registry's that are allowed; the value describes them."""

    TRUSTED = "trusted hosts and neighbours"
    REACHABLE = "trusted hosts and neighbours; all others, except addresses outside the zones below"
    TOKEN_SERVER = "trusted hosts and neighbours; public names over https; loopback from loopback"
    ZONES = "all, except addresses outside the zones below"


class CredentialRule(Enum):
    """Credentials that may be sent; the value describes them."""

    SAME_ORIGIN = "the registry's, to its own origin only"
    ALWAYS = "the registry's"
    NONE = "none"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """The rule for one purpose.

    For all purposes: http and https only, no user information, never from https to http.

    Args:
        cross_origin: Origins allowed besides the registry's.
        credentials: Credentials that may be sent.
        hops: Number of redirects that may be followed.
    """

    cross_origin: CrossOriginRule
    credentials: CredentialRule
    hops: int


def _same_origin_rule(cross_origin: CrossOriginRule) -> Rule:
    return Rule(cross_origin=cross_origin, credentials=CredentialRule.SAME_ORIGIN, hops=MAX_HOPS)


RULES: Final[Mapping[UrlPurpose, Rule]] = MappingProxyType(
    {
        UrlPurpose.REDIRECT: _same_origin_rule(CrossOriginRule.REACHABLE),
        UrlPurpose.WRITE: _same_origin_rule(CrossOriginRule.TRUSTED),
        UrlPurpose.UPLOAD: _same_origin_rule(CrossOriginRule.TRUSTED),
        UrlPurpose.LINK: _same_origin_rule(CrossOriginRule.TRUSTED),
        # A password is sent to the token server that the registry named, and no redirect takes it further.
        UrlPurpose.REALM: Rule(cross_origin=CrossOriginRule.TOKEN_SERVER, credentials=CredentialRule.ALWAYS, hops=0),
        # The URL was chosen by a user who may push, not by the registry.
        UrlPurpose.FOREIGN: Rule(cross_origin=CrossOriginRule.ZONES, credentials=CredentialRule.NONE, hops=MAX_HOPS),
    }
)

# A registry may name addresses in the same zone. A registry on the network never leads to this machine, and only one
# at a link-local address leads to another: cloud machines offer their credentials at such an address.
ALLOWED_ZONES: Final[Mapping[Zone, frozenset[Zone]]] = MappingProxyType(
    {
        Zone.PUBLIC: frozenset({Zone.PUBLIC}),
        Zone.PRIVATE: frozenset({Zone.PUBLIC, Zone.PRIVATE}),
        Zone.LINK_LOCAL: frozenset({Zone.PUBLIC, Zone.LINK_LOCAL}),
        Zone.LOOPBACK: frozenset({Zone.PUBLIC, Zone.PRIVATE, Zone.LOOPBACK}),
        Zone.UNROUTABLE: frozenset({Zone.PUBLIC}),
    }
)


class TrustedHost(msgspec.Struct, frozen=True):
    """A host of the setting ``trusted_hosts``.

    Args:
        host: Host as in ``Origin.host``.
        port: Port; 0 for every port.
        scheme: ``http`` or ``https``; empty for both.
    """

    host: str
    port: int = 0
    scheme: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``host``, ``host:port``, or an origin such as ``http://host:port``.

        Raises:
            ConfigError: The text is no host and no origin, or has user information or a path.
        """
        example = "write 'host', 'host:port' or an origin such as 'http://host:port'"
        if not isinstance(text, str):
            raise ConfigError(f"trusted_hosts: {example}, not {type(text).__name__}")
        try:
            if "://" not in text:
                return cls(*parse_host(text))
            origin, parts = Origin.of_url(text), urlsplit(text)
            if parts.path or parts.query or parts.fragment or text.endswith(("?", "#")):
                raise ConfigError(f"trusted_hosts: {redact_url(text)!r} has a path, query or fragment: {example}")
        except (InvalidName, ProtocolError) as error:
            raise ConfigError(f"trusted_hosts: {error.message}: {example}") from None
        return cls(origin.host, origin.port, origin.scheme)

    def covers(self, target: Origin) -> bool:
        """Return whether an origin is at this host."""
        return target.host == self.host and self.port in (0, target.port) and self.scheme in ("", target.scheme)


class AllowedUrl(msgspec.Struct, frozen=True):
    """A URL that may be followed.

    Args:
        origin: Origin of the URL.
        credentials: Origin whose credentials may be sent to the URL; ``None`` for no credentials.
    """

    origin: Origin
    credentials: Origin | None


def check_url(purpose: UrlPurpose, registry: Origin, url: str, *, trusted_hosts: Collection[str] = ()) -> AllowedUrl:
    """Check that a URL may be followed, and return which credentials may be sent there.

    Args:
        purpose: Purpose of the URL.
        registry: Registry that named the URL.
        url: Absolute URL; ``resolve_url`` makes a relative one absolute.
        trusted_hosts: Hosts besides the registry's own that its URLs may lead to: ``host`` for every port,
            ``host:port``, or an origin such as ``http://host:port``. They do not count for foreign layers, and permit
            no http where the registry has https.

    Raises:
        ProtocolError: The policy refuses the URL; nothing was sent.
        ConfigError: One of the trusted hosts is malformed.
    """
    rule = RULES[purpose]
    target = Origin.of_url(url)
    reason = None if target == registry else _refusal(rule.cross_origin, registry, target, trusted_hosts)
    if reason is not None:
        raise ProtocolError(f"{registry}: {purpose.value} {redact_url(url)} refused: {reason}")
    return AllowedUrl(target, _credentials(rule.credentials, registry, target))


def _refusal(
    cross_origin: CrossOriginRule, registry: Origin, target: Origin, trusted_hosts: Collection[str]
) -> str | None:
    """Return the reason to refuse a target of another origin; ``None`` if it is allowed."""
    # also for the registry's own host.
    if registry.scheme == "https" and target.scheme == "http":
        return "https to http, which trusted_hosts does not permit either"
    is_reachable = target.zone in ALLOWED_ZONES[registry.zone]
    if cross_origin is CrossOriginRule.ZONES:
        internal = f"internal address ({target.zone.value}); trusted_hosts does not count for this purpose"
        return None if is_reachable else internal
    is_trusted = any(_trusted_host(text).covers(target) for text in trusted_hosts)
    if is_trusted or _is_neighbour(registry, target):
        return None
    match cross_origin:
        case CrossOriginRule.REACHABLE:
            reason = None if is_reachable else f"internal address ({target.zone.value})"
        case CrossOriginRule.TOKEN_SERVER:
            is_allowed = _is_public_over_tls(target) or (target.is_loopback and registry.is_loopback)
            reason = None if is_allowed else "neither the registry's host nor a public name over https"
        case CrossOriginRule.TRUSTED:
            reason = "not the registry's host"
    return None if reason is None else f"{reason}; to allow it, add {str(target)!r} to trusted_hosts"


def _credentials(rule: CredentialRule, registry: Origin, target: Origin) -> Origin | None:
    match rule:
        case CredentialRule.SAME_ORIGIN:
            return registry if target == registry else None
        case CredentialRule.ALWAYS:
            return registry
        case CredentialRule.NONE:
            return None


def _is_neighbour(registry: Origin, target: Origin) -> bool:
    """Return whether a target is at the registry's own host, or next to it in a private domain.

    In a private domain, the parent of the registry's name and other names below that parent count, if the parent has
    at least two labels: the names below a single label such as ``lan`` are those of the whole network.
    """
    if target.host == registry.host:
        return True
    parent = registry.host.partition(".")[2]
    is_private = registry.host.endswith(_PRIVATE_NAMES) and "." in parent
    return is_private and parent in (target.host, target.host.partition(".")[2])


def _is_public_over_tls(target: Origin) -> bool:
    is_public = target.zone is Zone.PUBLIC and _PUBLIC_NAME.fullmatch(target.host) is not None
    return target.scheme == "https" and is_public and not target.host.endswith(_PRIVATE_NAMES)


# Requests repeat a few hosts; errors are not cached.
@lru_cache(maxsize=256)
def _trusted_host(text: str) -> TrustedHost:
    return TrustedHost.parse(text)
