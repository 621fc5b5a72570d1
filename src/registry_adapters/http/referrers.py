"""Referrers: by the registry's API, and by a list under a tag where it has none."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

from registry_adapters.http.endpoint import HEAD_REFUSED, RegistryRequester, RepositoryEndpoint, status_of
from registry_adapters.http.manifest_requests import ManifestDocuments
from registry_adapters.http.messages import Request
from registry_adapters.http.paging import Page, pages
from registry_core.cancellation import CancellableLock, sleep
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

# What every registry has to take (distribution-spec, "Pushing Manifests"); many take no more.
_LIST_LIMIT: Final = 4 << 20
_MEMORY_SECONDS: Final = 300.0
_TRIES: Final = 4
_STRIPES: Final = 64

_log = logging.getLogger(__name__)


class ReferrersSupportCache:
    """What is known about a registry's referrers API, by repository, for some minutes; shared by its stores.

    It also lets only one thread at a time change a list, as a registry has no means to.
    """

    def __init__(self) -> None:
        self._known: dict[RepositoryName, tuple[bool, float]] = {}
        self._locks = tuple(CancellableLock() for _ in range(_STRIPES))

    def available(self, name: RepositoryName) -> bool | None:
        """Whether a repository has the API; ``None`` where that is not known, or not any more."""
        known = self._known.get(name)
        return known[0] if known is not None and time.monotonic() < known[1] else None

    def note(self, name: RepositoryName, *, available: bool) -> None:
        """Keep in mind whether a repository has the API."""
        self._known[name] = (available, time.monotonic() + _MEMORY_SECONDS)

    def changing(self, name: RepositoryName, subject: Digest) -> CancellableLock:
        """The lock that keeps other threads from changing the same list of referrers."""
        return self._locks[hash((name, subject)) % _STRIPES]


class Referrers:
    """The referrers of manifests in one repository.

    Args:
        sender: Who carries the requests.
        address: The repository.
        documents: Its manifests.
        memory: Of the registry.
    """

    def __init__(
        self,
        sender: RegistryRequester,
        address: RepositoryEndpoint,
        documents: ManifestDocuments,
        memory: ReferrersSupportCache,
    ) -> None:
        self._sender = sender
        self._address = address
        self._documents = documents
        self._memory = memory

    def list(self, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
        """The manifests whose subject is that digest, each once; filtered here, whatever the registry did.

        Raises:
            ProtocolError: The registry's list is none.
        """
        seen: set[Digest] = set()
        for entry in filter_by_artifact_type(self._all(subject, artifact_type), artifact_type):
            if entry.digest not in seen:
                seen.add(entry.digest)
                yield entry

    def add(self, subject: Digest, entry: Descriptor) -> None:
        """Enter a manifest in its subject's list under the tag, for a registry that did not do so itself.

        Raises:
            NotAnIndex: Something else stands under the tag; it is left alone.
            TooLarge: The list would become larger than registries take; it is left as it is.
        """
        self._change(subject, lambda current: with_referrer(current, entry))

    def remove(self, subject: Digest, digest: Digest) -> None:
        """Take a manifest out of its subject's list under the tag.

        Raises:
            NotAnIndex: Something else stands under the tag; it is left alone.
        """
        self._change(subject, lambda current: None if current is None else without_referrer(current, digest))

    def api_available(self, subject: Digest) -> bool:
        """Whether the registry keeps lists itself; asked once in some minutes.

        A registry whose API is broken (5xx) is taken for one without: a list under the tag, if there is one, is then
        kept as well, which does no harm.
        """
        known = self._memory.available(self._address.name)
        if known is not None:
            return known
        try:
            return self._api(subject, "") is not None
        except RegistryError as error:
            if status_of(error) < 500:
                raise
            return False

    def note_api(self) -> None:
        """Keep in mind that the registry keeps lists itself: it said so."""
        self._memory.note(self._address.name, available=True)

    def _all(self, subject: Digest, artifact_type: str) -> Iterator[Descriptor]:
        listed = None
        if self._memory.available(self._address.name) is not False:
            listed = self._api(subject, artifact_type)
        if listed is None:
            yield from self._tagged(subject)
            return
        first, rest = listed
        yield from self._entries(first)
        for page in rest:
            yield from self._entries(page)

    def _api(self, subject: Digest, artifact_type: str) -> tuple[Page, Iterator[Page]] | None:
        """The first page and the others; ``None`` where the registry has no such API, which is kept in mind."""
        name = self._address.name
        request = Request(
            method="GET",
            target=self._address.path(
                "referrers", subject, query=(("artifactType", artifact_type),) if artifact_type else ()
            ),
            success=(200,),
            scopes=self._address.scopes("pull"),
            headers={"Accept": OCI_INDEX},
            reference=self._address.at(subject),
        )
        answers = pages(self._sender, request)
        try:
            first = next(answers)
        except RepositoryNotFound:
            # It answers in the words of the API, so this says nothing about whether there is one.
            return None
        except RegistryError as error:
            if status_of(error) != 404 and status_of(error) not in HEAD_REFUSED:
                raise
            _log.debug("%s has no referrers API: status %d", name, status_of(error))
            self._memory.note(name, available=False)
            return None
        if essence(first.headers.get("Content-Type")) != OCI_INDEX:
            self._memory.note(name, available=False)
            return None
        self._memory.note(name, available=True)
        return first, answers

    def _entries(self, page: Page) -> tuple[Descriptor, ...]:
        try:
            return strict_json.convert(page.mapping(), ImageIndex).manifests
        except InvalidDocument as error:
            raise ProtocolError(f"not a list of referrers: {error.message}", reference=str(self._address)) from error

    def _tagged(self, subject: Digest) -> tuple[Descriptor, ...]:
        try:
            current = self._documents.fetch(fallback_tag(subject))
        except (ImageNotFound, InvalidDocument, Unsupported):
            return ()
        return current.index.manifests if current.media_type == OCI_INDEX else ()

    def _current(self, tag: Tag) -> RawManifest | None:
        try:
            return self._documents.fetch(tag)
        except ImageNotFound:
            return None

    def _change(self, subject: Digest, change: Callable[[RawManifest | None], RawManifest | None]) -> None:
        """Read, change, write, and read again: another process may have written in between, and the last one wins."""
        tag = fallback_tag(subject)
        with self._memory.changing(self._address.name, subject):
            current = self._current(tag)
            for attempt in range(_TRIES):
                changed = change(current)
                if changed is None or changed is current:
                    return
                if len(changed.content) > _LIST_LIMIT:
                    raise TooLarge(
                        f"the list of referrers would have {len(changed.content)} bytes, more than {_LIST_LIMIT}",
                        reference=self._address.at(tag),
                    )
                self._documents.send(changed, tag)
                current = self._current(tag)
                wanted = change(current)
                if wanted is None or wanted is current:
                    return
                sleep(random.uniform(0, 0.05 * 2**attempt))
        raise Unavailable(
            f"the list of referrers is being changed by others, {_TRIES} times in a row",
            reference=self._address.at(tag),
        )
