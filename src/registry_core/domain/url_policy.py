"""The policy for URLs that a server chose: which may be followed, and which credentials may be sent there.

A registry names URLs for redirects, upload sessions, next pages, token servers and foreign layers. Each purpose has one
rule in ``RULES``, and ``check_url`` applies it. Code that follows such a URL calls it first, and sends only the
credentials that the result allows.

Names are not looked up: a public name that resolves to a private address is not detected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

from registry_core.domain.origin import Origin, Zone, redact_url
from registry_core.errors import ProtocolError

__all__ = [
    "ALLOWED_ZONES",
    "MAX_HOPS",
    "RULES",
    "AllowedUrl",
    "CredentialRule",
    "CrossOriginRule",
    "Rule",
    "UrlPurpose",
    "check_url",
]

MAX_HOPS: Final = 10

_PRIVATE_NAMES: Final = (
    ".localhost",
    ".localdomain",
    ".local",
    ".internal",
    ".intranet",
    ".private",
    ".corp",
    ".home",
    ".lan",
    ".arpa",
    ".test",
    ".invalid",
    ".onion",
)
# "127.1" and "0x7f.1" are addresses to a resolver: a public name ends in a label that begins with a letter.
_PUBLIC_NAME: Final = re.compile(r"[a-z0-9.-]+\.[a-z][a-z0-9-]*[a-z0-9]")


class UrlPurpose(Enum):
    """Purpose of a URL; the value names it in messages and documents."""

    REDIRECT = "redirect"
    UPLOAD = "upload location"
    LINK = "next-page link"
    REALM = "token server"
    FOREIGN = "foreign layer"


class CrossOriginRule(Enum):
    """Origins other than the registry's that are allowed; the value describes them."""

    NONE = "none"
    LISTED = "hosts listed by the caller"
    REACHABLE = "all, except addresses outside the zones below"
    TRUSTED = "same host and port; hosts listed by the caller; public names over https; loopback from loopback"


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


RULES: Final[Mapping[UrlPurpose, Rule]] = MappingProxyType(
    {
        UrlPurpose.REDIRECT: Rule(
            cross_origin=CrossOriginRule.REACHABLE, credentials=CredentialRule.SAME_ORIGIN, hops=MAX_HOPS
        ),
        UrlPurpose.UPLOAD: Rule(
            cross_origin=CrossOriginRule.LISTED, credentials=CredentialRule.SAME_ORIGIN, hops=MAX_HOPS
        ),
        UrlPurpose.LINK: Rule(cross_origin=CrossOriginRule.NONE, credentials=CredentialRule.SAME_ORIGIN, hops=MAX_HOPS),
        # A password is sent to the token server that the registry named, and no redirect takes it further.
        UrlPurpose.REALM: Rule(cross_origin=CrossOriginRule.TRUSTED, credentials=CredentialRule.ALWAYS, hops=0),
        UrlPurpose.FOREIGN: Rule(
            cross_origin=CrossOriginRule.REACHABLE, credentials=CredentialRule.NONE, hops=MAX_HOPS
        ),
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


class AllowedUrl(msgspec.Struct, frozen=True):
    """A URL that may be followed.

    Args:
        origin: Origin of the URL.
        credentials: Origin whose credentials may be sent to the URL; ``None`` for no credentials.
    """

    origin: Origin
    credentials: Origin | None


def check_url(purpose: UrlPurpose, registry: Origin, url: str, *, listed: Collection[str] = ()) -> AllowedUrl:
    """Check that a URL may be followed, and return which credentials may be sent there.

    Args:
        purpose: Purpose of the URL.
        registry: Registry that named the URL.
        url: Absolute URL; ``resolve_url`` makes a relative one absolute.
        listed: Further trusted hosts as ``host[:port]``; they count where the rule says so.

    Raises:
        ProtocolError: The policy refuses the URL; nothing was sent.
    """
    rule = RULES[purpose]
    target = Origin.of_url(url)
    reason = None if target == registry else _refusal(rule.cross_origin, registry, target, target.netloc in listed)
    if reason is not None:
        raise ProtocolError(f"{registry}: {purpose.value} {redact_url(url)} refused: {reason}")
    return AllowedUrl(target, _credentials(rule.credentials, registry, target))


def _refusal(cross_origin: CrossOriginRule, registry: Origin, target: Origin, is_listed: bool) -> str | None:
    """Return the reason to refuse a target; ``None`` if it is allowed."""
    # also for the registry's own host.
    if registry.scheme == "https" and target.scheme == "http":
        return "https to http"
    match cross_origin:
        case CrossOriginRule.NONE:
            return "not the registry's origin"
        case CrossOriginRule.LISTED:
            return None if is_listed else "not the registry's origin, and not a listed host"
        case CrossOriginRule.REACHABLE:
            return None if target.zone in ALLOWED_ZONES[registry.zone] else f"internal address ({target.zone.value})"
        case CrossOriginRule.TRUSTED:
            return (
                None
                if is_listed or _is_trusted(registry, target)
                else "neither the registry's host, nor a listed host, nor a public name over https"
            )


def _credentials(rule: CredentialRule, registry: Origin, target: Origin) -> Origin | None:
    match rule:
        case CredentialRule.SAME_ORIGIN:
            return registry if target == registry else None
        case CredentialRule.ALWAYS:
            return registry
        case CredentialRule.NONE:
            return None


def _is_trusted(registry: Origin, target: Origin) -> bool:
    if (target.host, target.port) == (registry.host, registry.port) or (target.is_loopback and registry.is_loopback):
        return True
    is_public = target.zone is Zone.PUBLIC and _PUBLIC_NAME.fullmatch(target.host) is not None
    return target.scheme == "https" and is_public and not target.host.endswith(_PRIVATE_NAMES)
