"""One policy for every URL that somebody else chose.

A registry sends its clients on errands: to a CDN, to an upload session, to a next page, to a token server. Each kind
of URL has one rule, in ``RULES``; ``check_url`` applies it. All code that follows such a URL calls it first.

Names are not looked up: a public name that leads to a private address is not noticed.
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
    """Why somebody is sent to a URL; the value says it in words."""

    REDIRECT = "redirect"
    UPLOAD = "upload location"
    LINK = "next-page link"
    REALM = "token server"
    FOREIGN = "foreign layer"
    MIRROR = "mirror"


class CrossOriginRule(Enum):
    """Which origins besides the registry's own may be gone to; the value says it in words."""

    NONE = "none"
    LISTED = "hosts listed by the caller"
    REACHABLE = "all, except addresses outside the zones below"
    VOUCHED = "same host and port; hosts listed by the caller; public names over https; loopback from loopback"
    CHOSEN = "all with a usable address, because the caller chose it"


class CredentialRule(Enum):
    """Whose credentials may go along; the value says it in words."""

    AT_HOME = "the registry's, to its own origin only"
    ALONG = "the registry's"
    OWN = "those of the mirror"
    NONE = "none"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for one kind of errand.

    Beyond it, the same for all: http and https only, no user information, never from https to http.

    Args:
        elsewhere: Which other origins may be gone to.
        carried: Whose credentials go along.
        hops: How many redirects may follow.
    """

    elsewhere: CrossOriginRule
    carried: CredentialRule
    hops: int


RULES: Final[Mapping[UrlPurpose, Rule]] = MappingProxyType(
    {
        UrlPurpose.REDIRECT: Rule(elsewhere=CrossOriginRule.REACHABLE, carried=CredentialRule.AT_HOME, hops=MAX_HOPS),
        UrlPurpose.UPLOAD: Rule(elsewhere=CrossOriginRule.LISTED, carried=CredentialRule.AT_HOME, hops=MAX_HOPS),
        UrlPurpose.LINK: Rule(elsewhere=CrossOriginRule.NONE, carried=CredentialRule.AT_HOME, hops=MAX_HOPS),
        # What goes there is a password: it goes to whom the registry named, and no further.
        UrlPurpose.REALM: Rule(elsewhere=CrossOriginRule.VOUCHED, carried=CredentialRule.ALONG, hops=0),
        UrlPurpose.FOREIGN: Rule(elsewhere=CrossOriginRule.REACHABLE, carried=CredentialRule.NONE, hops=MAX_HOPS),
        UrlPurpose.MIRROR: Rule(elsewhere=CrossOriginRule.CHOSEN, carried=CredentialRule.OWN, hops=MAX_HOPS),
    }
)

# A registry may name addresses of its own kind. From the network nobody is sent to this machine, nor, but by one who
# is there, to a link: cloud machines keep their own credentials at a link-local address.
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
    """A URL that may be gone to.

    Args:
        origin: Whom it leads to.
        credentials: Whose credentials may go along; ``None`` for nobody's.
    """

    origin: Origin
    credentials: Origin | None


def check_url(errand: UrlPurpose, home: Origin, url: str, *, listed: Collection[str] = ()) -> AllowedUrl:
    """Whether one may go to a URL, and with whose credentials.

    Args:
        errand: Why.
        home: The registry on whose behalf it is done; for a mirror, the registry that it mirrors.
        url: Absolute; ``resolve`` makes it so where it may be relative.
        listed: Further hosts to trust, as ``host[:port]``; they count where the errand's rule says so.

    Raises:
        ProtocolError: One may not; nothing was sent.
    """
    rule = RULES[errand]
    target = Origin.of_url(url)
    reason = None if target == home else _refusal(rule.elsewhere, home, target, target.netloc in listed)
    if reason is not None:
        raise ProtocolError(f"{home}: {errand.value} {redact_url(url)} refused: {reason}")
    return AllowedUrl(target, _owner(rule.carried, home, target))


def _refusal(elsewhere: CrossOriginRule, home: Origin, target: Origin, is_listed: bool) -> str | None:
    """Why not; ``None`` if nothing speaks against it."""
    # also for the registry's own host.
    if home.scheme == "https" and target.scheme == "http" and not _is_own_machine(elsewhere, target):
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
        case CrossOriginRule.CHOSEN:
            return None if target.zone is not Zone.UNROUTABLE else f"no usable address ({target.zone.value})"


def _owner(carried: CredentialRule, home: Origin, target: Origin) -> Origin | None:
    match carried:
        case CredentialRule.AT_HOME:
            return home if target == home else None
        case CredentialRule.ALONG:
            return home
        case CredentialRule.OWN:
            return target
        case CredentialRule.NONE:
            return None


def _is_own_machine(elsewhere: CrossOriginRule, target: Origin) -> bool:
    return elsewhere is CrossOriginRule.CHOSEN and target.is_loopback


def _is_vouched(home: Origin, target: Origin) -> bool:
    if (target.host, target.port) == (home.host, home.port) or (target.is_loopback and home.is_loopback):
        return True
    is_public = target.zone is Zone.PUBLIC and _PUBLIC_NAME.fullmatch(target.host) is not None
    return target.scheme == "https" and is_public and not target.host.endswith(_PRIVATE_NAMES)
