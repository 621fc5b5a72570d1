"""The policy for URLs that a server chose: which may be followed, and which credentials may be sent there.

A registry names URLs for redirects, upload sessions, next pages, token servers and foreign layers. Each purpose has one
rule in ``RULES``, and ``check_url`` applies it. Code that follows such a URL calls it first, and sends the credentials
that its answer allows.

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
    VOUCHED = "same host and port; hosts listed by the caller; public names over https; loopback from loopback"


class CredentialRule(Enum):
    """Credentials that may be sent; the value describes them."""

    AT_HOME = "the registry's, to its own origin only"
    ALONG = "the registry's"
    NONE = "none"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """The rule for one purpose.

    For all purposes: http and https only, no user information, never from https to http.

    Args:
        elsewhere: Origins allowed besides the registry's.
        carried: Credentials that may be sent.
        hops: Number of redirects that may be followed.
    """

    elsewhere: CrossOriginRule
    carried: CredentialRule
    hops: int


RULES: Final[Mapping[UrlPurpose, Rule]] = MappingProxyType(
    {
        UrlPurpose.REDIRECT: Rule(elsewhere=CrossOriginRule.REACHABLE, carried=CredentialRule.AT_HOME, hops=MAX_HOPS),
        UrlPurpose.UPLOAD: Rule(elsewhere=CrossOriginRule.LISTED, carried=CredentialRule.AT_HOME, hops=MAX_HOPS),
        UrlPurpose.LINK: Rule(elsewhere=CrossOriginRule.NONE, carried=CredentialRule.AT_HOME, hops=MAX_HOPS),
        # A password is sent to the token server that the registry named, and no redirect takes it further.
        UrlPurpose.REALM: Rule(elsewhere=CrossOriginRule.VOUCHED, carried=CredentialRule.ALONG, hops=0),
        UrlPurpose.FOREIGN: Rule(elsewhere=CrossOriginRule.REACHABLE, carried=CredentialRule.NONE, hops=MAX_HOPS),
    }
)

# A registry may name addresses of its own zone. A registry on the network never leads to this machine, and only one
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


def check_url(purpose: UrlPurpose, home: Origin, url: str, *, listed: Collection[str] = ()) -> AllowedUrl:
    """Check that a URL may be followed, and return which credentials may be sent there.

    Args:
        purpose: Purpose of the URL.
        home: Registry that named the URL.
        url: Absolute URL; ``resolve_url`` makes a relative one absolute.
        listed: Further trusted hosts as ``host[:port]``; they count where the rule says so.

    Raises:
        ProtocolError: The policy refuses the URL; nothing was sent.
    """
    rule = RULES[purpose]
    target = Origin.of_url(url)
    reason = None if target == home else _refusal(rule.elsewhere, home, target, target.netloc in listed)
    if reason is not None:
        raise ProtocolError(f"{home}: {purpose.value} {redact_url(url)} refused: {reason}")
    return AllowedUrl(target, _credentials(rule.carried, home, target))


def _refusal(elsewhere: CrossOriginRule, home: Origin, target: Origin, is_listed: bool) -> str | None:
    """The reason to refuse a target; ``None`` if it is allowed."""
    # also for the registry's own host.
    if home.scheme == "https" and target.scheme == "http":
        return "https to http"
    match elsewhere:
        case CrossOriginRule.NONE:
            return "not the registry's origin"
        case CrossOriginRule.LISTED:
            return None if is_listed else "not the registry's origin, and not a listed host"
        case CrossOriginRule.REACHABLE:
            return None if target.zone in ALLOWED_ZONES[home.zone] else f"internal address ({target.zone.value})"
        case CrossOriginRule.VOUCHED:
            return (
                None
                if is_listed or _is_vouched(home, target)
                else "neither the registry's host, nor a listed host, nor a public name over https"
            )


def _credentials(carried: CredentialRule, home: Origin, target: Origin) -> Origin | None:
    match carried:
        case CredentialRule.AT_HOME:
            return home if target == home else None
        case CredentialRule.ALONG:
            return home
        case CredentialRule.NONE:
            return None


def _is_vouched(home: Origin, target: Origin) -> bool:
    if (target.host, target.port) == (home.host, home.port) or (target.is_loopback and home.is_loopback):
        return True
    is_public = target.zone is Zone.PUBLIC and _PUBLIC_NAME.fullmatch(target.host) is not None
    return target.scheme == "https" and is_public and not target.host.endswith(_PRIVATE_NAMES)
