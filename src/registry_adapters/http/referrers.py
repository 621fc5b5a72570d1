"""Referrers: from the registry's API, or from an index under a tag (distribution-spec, "Referrers Tag Schema")."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from registry_adapters.http.endpoint import HEAD_REFUSED, RepositoryEndpoint, status_of
from registry_adapters.http.manifest_requests import ManifestRequests
from registry_adapters.http.messages import Request
from registry_adapters.http.paging import Page, pages
from registry_adapters.http.session import Session
from registry_core.cancellation import CancellableLock, backoff, sleep
from registry_core.domain import strict_json
from registry_core.domain.descriptor import Descriptor
from registry_core.domain.digest import Digest
from registry_core.domain.manifest import ImageIndex, RawManifest
from registry_core.domain.media_types import OCI_INDEX, essence
from registry_core.domain.names import RepositoryName, Tag
from registry_core.domain.referrers import fallback_tag, filter_by_artifact_type, with_referrer, without_referrer
from registry_core.errors import (
    ImageNotFound,
    InvalidDocument,
    ProtocolError,
    RegistryError,
    RepositoryNotFound,
    TooLarge,
    Unavailable,
    Unsupported,
)

__all__ = ["Referrers", "ReferrersSupportCache"]

# Every registry must accept manifests of this size (distribution-spec, "Pushing Manifests"); many accept no larger one.
_MAX_LIST_BYTES: Final = 4 << 20
_CACHE_SECONDS: Final = 300.0
_MAX_ATTEMPTS: Final = 4
# Pauses between the attempts, in seconds.
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_LOCK_COUNT: Final = 64

_log = logging.getLogger(__name__)


class ReferrersSupportCache:
    """Remembers for some minutes which repositories of a registry have a referrers API.

    It also holds the locks for referrers lists: the distribution protocol has no conditional PUT, so at least the
    threads of this process must not change the same list at the same time.
    """

    def __init__(self) -> None:
        self._supported: dict[RepositoryName, tuple[bool, float]] = {}
        self._locks = tuple(CancellableLock() for _ in range(_LOCK_COUNT))

    def get(self, name: RepositoryName) -> bool | None:
        """Return whether a repository has the API; ``None`` if unknown or too old."""
        entry = self._supported.get(name)
        return entry[0] if entry is not None and time.monotonic() < entry[1] else None

    def put(self, name: RepositoryName, *, supported: bool) -> None:
        """Remember whether a repository has the API."""
        self._supported[name] = (supported, time.monotonic() + _CACHE_SECONDS)

    def list_lock(self, name: RepositoryName, subject: Digest) -> CancellableLock:
        """Return the lock that keeps other threads from changing the referrers list of a subject."""
        return self._locks[hash((name, subject)) % _LOCK_COUNT]


class Referrers:
    """Referrers in one repository.

    Args:
        session: HTTP session that sends the requests.
        endpoint: Repository that holds the manifests.
        manifests: Requests for manifests of the same repository.
        support_cache: Cache of which repositories of the registry have a referrers API.
    """

    def __init__(
        self,
        session: Session,
        endpoint: RepositoryEndpoint,
        manifests: ManifestRequests,
        support_cache: ReferrersSupportCache,
    ) -> None:
        self._session = session
        self._endpoint = endpoint
        self._manifests = manifests
        self._support_cache = support_cache

    def list(self, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
        """Iterate over the referrers of a subject, each once, filtered here even if the registry filters too.

        Raises:
            ProtocolError: The response is not a list of referrers, or its pagination is broken.
        """
        seen: set[Digest] = set()
        for entry in filter_by_artifact_type(self._list_all(subject, artifact_type), artifact_type):
            if entry.digest not in seen:
                seen.add(entry.digest)
                yield entry

    def add(self, subject: Digest, entry: Descriptor) -> None:
        """Add a manifest to the referrers list of its subject, for a registry without the API.

        Raises:
            NotAnIndex: The tag of the list points to something else, which is not changed.
            TooLarge: The list would exceed the size that registries accept; it is not changed.
        """
        self._update(subject, lambda current: with_referrer(current, entry))

    def remove(self, subject: Digest, digest: Digest) -> None:
        """Remove a manifest from the referrers list of its subject.

        Raises:
            NotAnIndex: The tag of the list points to something else, which is not changed.
        """
        self._update(subject, lambda current: None if current is None else without_referrer(current, digest))

    def has_api(self, subject: Digest) -> bool:
        """Return whether the registry has a referrers API; the result is cached for some minutes.

        An API that fails with 5xx counts as missing. A list under the tag is then updated too, which does no harm.
        """
        supported = self._support_cache.get(self._endpoint.name)
        if supported is not None:
            return supported
        try:
            return self._request_api(subject, "") is not None
        except RegistryError as error:
            if status_of(error) < 500:
                raise
            return False

    def mark_api_available(self) -> None:
        """Remember that the registry has a referrers API, because a response said so."""
        self._support_cache.put(self._endpoint.name, supported=True)

    def _list_all(self, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
        api_pages = None
        if self._support_cache.get(self._endpoint.name) is not False:
            api_pages = self._request_api(subject, artifact_type)
        if api_pages is None:
            yield from self._list_tagged(subject)
            return
        for page in api_pages:
            yield from self._entries(page)

    def _request_api(self, subject: Digest, artifact_type: str) -> Iterator[Page] | None:
        """Request the first page from the API; return all pages, or ``None`` if the registry has no API."""
        name = self._endpoint.name
        request = Request(
            method="GET",
            target=self._endpoint.path(
                "referrers", subject, query=(("artifactType", artifact_type),) if artifact_type else ()
            ),
            success=(200,),
            scopes=self._endpoint.scopes("pull"),
            headers={"Accept": OCI_INDEX},
            reference=self._endpoint.at(subject),
        )
        following = pages(self._session, request, key="manifests")
        try:
            first = next(following)
        except RepositoryNotFound:
            # The registry knows the request, so this does not mean that it has no API.
            return None
        except RegistryError as error:
            if status_of(error) != 404 and status_of(error) not in HEAD_REFUSED:
                raise
            _log.debug("%s has no referrers API: status %d", name, status_of(error))
            self._support_cache.put(name, supported=False)
            return None
        if not _is_index(first):
            self._support_cache.put(name, supported=False)
            return None
        self._support_cache.put(name, supported=True)
        return chain([first], following)

    def _entries(self, page: Page) -> tuple[Descriptor, ...]:
        try:
            return strict_json.convert(page.document, ImageIndex).manifests
        except InvalidDocument as error:
            raise ProtocolError(
                f"the response is not a list of referrers: {error.message}", reference=str(self._endpoint)
            ) from error

    def _list_tagged(self, subject: Digest) -> tuple[Descriptor, ...]:
        try:
            current = self._manifests.get(fallback_tag(subject))
        except (ImageNotFound, InvalidDocument, Unsupported):
            return ()
        return current.index.manifests if current.media_type == OCI_INDEX else ()

    def _current_list(self, tag: Tag) -> RawManifest | None:
        try:
            return self._manifests.get(tag)
        except ImageNotFound:
            return None

    def _update(self, subject: Digest, change: Callable[[RawManifest | None], RawManifest | None]) -> None:
        """Read, change and write the list, then read it again: another process may have overwritten it meanwhile."""
        tag = fallback_tag(subject)
        with self._support_cache.list_lock(self._endpoint.name, subject):
            current = self._current_list(tag)
            for attempt in range(1, _MAX_ATTEMPTS + 1):
                changed = change(current)
                if changed is None or changed is current:
                    return
                if len(changed.content) > _MAX_LIST_BYTES:
                    raise TooLarge(
                        f"the referrers list would have {len(changed.content)} bytes, more than {_MAX_LIST_BYTES}",
                        reference=self._endpoint.at(tag),
                    )
                self._manifests.put(changed, tag)
                current = self._current_list(tag)
                repeated = change(current)
                if repeated is None or repeated is current:
                    return
                sleep(backoff(attempt, random.random(), base=_FIRST_PAUSE, cap=_LONGEST_PAUSE))
        raise Unavailable(
            f"update the referrers list: another client overwrote it after each of {_MAX_ATTEMPTS} attempts",
            reference=self._endpoint.at(tag),
        )


def _is_index(page: Page) -> bool:
    """Return whether a response is an image index; a ``Content-Type`` that names no kind of manifest does not count."""
    content_type = page.headers.get("Content-Type")
    if essence(content_type) == OCI_INDEX:
        return True
    try:
        return RawManifest.of(page.content, claimed=content_type).media_type == OCI_INDEX
    except (InvalidDocument, Unsupported):
        return False
