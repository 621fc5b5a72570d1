"""The application: from a WSGI environment to the handlers and back.

What a path asks for (distribution-spec, "Endpoints"). Pure.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from enum import Enum
from http import HTTPStatus
from typing import Final
from wsgiref.types import StartResponse, WSGIEnvironment

import msgspec

from registry_adapters.wsgi import blobs, manifests
from registry_adapters.wsgi.auth import Authorizer
from registry_adapters.wsgi.blobs import Uploads, UploadSessions
from registry_adapters.wsgi.messages import HttpError, Request, Response, document, json_response, refusal
from registry_core.content.streams import MANIFEST_LIMIT
from registry_core.domain.auth import Scope
from registry_core.domain.digest import Digest
from registry_core.domain.names import RepositoryName
from registry_core.errors import ConfigError, InvalidName, RegistryError
from registry_core.ports.catalog import Catalog, Repository

__all__ = ["Endpoint", "RegistryApp", "Route", "route"]


class Endpoint(Enum):
    """The sorts of things that have a path."""

    BASE = "base"
    CATALOG = "catalog"
    TAGS = "tags"
    MANIFEST = "manifest"
    BLOB = "blob"
    UPLOADS = "uploads"
    UPLOAD = "upload"
    REFERRERS = "referrers"


class Route(msgspec.Struct, frozen=True):
    """One parsed path.

    Args:
        kind: What it names.
        name: The repository as it was written, unchecked.
        reference: The last segment where it names one thing: a tag, a digest or an upload; unchecked.
    """

    kind: Endpoint
    name: str = ""
    reference: str = ""


# A name may itself contain "blobs" or "manifests", so it takes as much of the path as it can.
_PATTERNS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (Endpoint.BASE, r"/v2/?"),
        (Endpoint.CATALOG, r"/v2/_catalog"),
        (Endpoint.UPLOADS, r"/v2/(?P<name>.+)/blobs/uploads/?"),
        (Endpoint.UPLOAD, r"/v2/(?P<name>.+)/blobs/uploads/(?P<reference>[^/]+)"),
        (Endpoint.TAGS, r"/v2/(?P<name>.+)/tags/list"),
        (Endpoint.MANIFEST, r"/v2/(?P<name>.+)/manifests/(?P<reference>[^/]+)"),
        (Endpoint.BLOB, r"/v2/(?P<name>.+)/blobs/(?P<reference>[^/]+)"),
        (Endpoint.REFERRERS, r"/v2/(?P<name>.+)/referrers/(?P<reference>[^/]+)"),
    )
)


def route(path: str) -> Route | None:
    """What a decoded path names, or ``None`` where the specification knows no such path.

    Args:
        path: From ``/v2/`` on, without the query.
    """
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(path)
        if match is not None:
            return Route(kind, **match.groupdict())
    return None


_log = logging.getLogger(__name__)

_READ: Final = frozenset({"GET", "HEAD"})

_METHODS: Final = {
    Endpoint.BASE: ("GET", "HEAD"),
    Endpoint.CATALOG: ("GET", "HEAD"),
    Endpoint.TAGS: ("GET", "HEAD"),
    Endpoint.REFERRERS: ("GET", "HEAD"),
    Endpoint.MANIFEST: ("GET", "HEAD", "PUT", "DELETE"),
    Endpoint.BLOB: ("GET", "HEAD", "DELETE"),
    Endpoint.UPLOADS: ("POST",),
    Endpoint.UPLOAD: ("GET", "PATCH", "PUT", "DELETE"),
}


class RegistryApp:
    """Serves a catalog as a registry, as a WSGI application for any server with threads.

    Args:
        catalog: What is served; it stays open when the application is closed.
        read_only: Refuse whatever would change something, with 405.
        authorizer: Who may do what; everyone everything if ``None``.
        manifest_limit: The most bytes of a manifest that are taken.
        page_limit: The most entries of a list in one answer; none by default.
        upload_directory: Where uploads are kept on their way; the system's temporary directory by default.
        referrers_api: Whether there is one; without it, clients keep lists under tags.
        chunk_min_length: The least size of every chunk but the last; none by default.
        root_name: Under which name the repository with the empty name is shown, which has no path otherwise.

    Raises:
        ConfigError: A limit is not positive, or the root's name is no repository name.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        read_only: bool = False,
        authorizer: Authorizer | None = None,
        manifest_limit: int = MANIFEST_LIMIT,
        page_limit: int | None = None,
        upload_directory: str | os.PathLike[str] | None = None,
        referrers_api: bool = True,
        chunk_min_length: int | None = None,
        root_name: str = "",
    ) -> None:
        if manifest_limit < 1 or (page_limit is not None and page_limit < 1):
            raise ConfigError("limits are positive")
        try:
            self._root_name = RepositoryName(root_name)
        except InvalidName as error:
            raise ConfigError(error.message) from None
        self.catalog = catalog
        self._read_only = read_only
        self._authorizer = authorizer
        self._manifest_limit = manifest_limit
        self._page_limit = page_limit
        self._referrers_api = referrers_api
        self._sessions = UploadSessions(upload_directory)
        self._uploads = Uploads(self._sessions, chunk_min_length=chunk_min_length)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        request: Request | None = None
        try:
            request = Request(environ)
            response = self._answer(request)
        except Exception as error:
            response = _failure(error, writing=environ["REQUEST_METHOD"] not in _READ)
        # What is left of the body would be taken for the next request, or swallowed whole by the server.
        if request is not None and not request.body.drain():
            response.headers = [(name, value) for name, value in response.headers if name != "Connection"]
            response.headers.append(("Connection", "close"))
        if environ["REQUEST_METHOD"] == "HEAD":
            response.without_body()
        start_response(response.line, response.headers)
        return response.body

    def close(self) -> None:
        """Drop all uploads on their way. The catalog stays open. Idempotent."""
        self._sessions.close()

    def _answer(self, request: Request) -> Response:
        if self._authorizer is not None:
            own = self._authorizer.serve(request)
            if own is not None:
                return own
        wanted = route(request.path)
        if wanted is None or (wanted.kind is Endpoint.REFERRERS and not self._referrers_api):
            raise HttpError(HTTPStatus.NOT_FOUND, "NOT_FOUND", "no such endpoint")
        denial = self._check(request, *_scopes(request.method, wanted))
        if denial is not None:
            return denial
        allowed = _METHODS[wanted.kind]
        if request.method not in allowed or (self._read_only and request.method not in _READ):
            raise HttpError(
                HTTPStatus.METHOD_NOT_ALLOWED,
                "UNSUPPORTED",
                "this registry is read-only" if request.method in allowed else "no such method here",
                headers=(("Allow", ", ".join(_READ & set(allowed) if self._read_only else allowed)),),
            )
        if wanted.kind is Endpoint.BASE:
            return json_response({}, headers=[("Docker-Distribution-API-Version", "registry/2.0")])
        if wanted.kind is Endpoint.CATALOG:
            limit = self._page_limit
            return manifests.repositories(request, self.catalog, root_name=self._root_name, page_limit=limit)
        return self._handle(request, wanted, self._repository(wanted.name))

    def _handle(self, request: Request, wanted: Route, repository: Repository) -> Response:
        home = f"{request.prefix}/v2/{wanted.name}"
        match wanted.kind:
            case Endpoint.MANIFEST:
                return self._manifest(request, repository, wanted.reference, home)
            case Endpoint.BLOB:
                return _blob(request, repository, Digest(wanted.reference))
            case Endpoint.UPLOADS:
                return self._uploads.start(request, repository, f"{home}/blobs", self._origin(request, wanted))
            case Endpoint.UPLOAD:
                return self._upload(request, repository, wanted.reference, f"{home}/blobs")
            case Endpoint.TAGS:
                return manifests.tags(request, repository, wanted.name, page_limit=self._page_limit)
            case _:
                subject = Digest(wanted.reference)
                return manifests.referrers(request, repository, subject, page_limit=self._page_limit)

    def _manifest(self, request: Request, repository: Repository, text: str, home: str) -> Response:
        reference = manifests.reference(text)
        match request.method:
            case "GET":
                return manifests.pull(repository, reference)
            case "HEAD":
                return manifests.head(repository, reference)
            case "PUT":
                return manifests.push(
                    request,
                    repository,
                    reference,
                    location=f"{home}/manifests",
                    limit=self._manifest_limit,
                    referrers_api=self._referrers_api,
                )
            case _:
                return manifests.delete(repository, reference)

    def _upload(self, request: Request, repository: Repository, identity: str, home: str) -> Response:
        match request.method:
            case "GET":
                return self._uploads.status(repository, identity, home)
            case "PATCH":
                return self._uploads.append(request, repository, identity, home)
            case "PUT":
                return self._uploads.finish(request, repository, identity, home)
            case _:
                return self._uploads.cancel(repository, identity)

    def _origin(self, request: Request, wanted: Route) -> RepositoryName | None:
        """The repository to mount from, if the client may read it."""
        text = request.parameter("from")
        if text is None or request.parameter("mount") is None:
            return None
        origin = self._repository(text).name
        pull = Scope.repository(RepositoryName(text), ("pull",))
        denial = self._check(request, *_scopes(request.method, wanted), pull)
        if denial is None:
            return origin
        if denial.status == HTTPStatus.UNAUTHORIZED:
            # A better token may help; a client that may never read it is not refused, but has to upload.
            raise _Denied(denial)
        return None

    def _repository(self, text: str) -> Repository:
        if not text:
            raise InvalidName("a repository without a name")
        name = RepositoryName(text)
        return self.catalog.repository(RepositoryName("") if name == self._root_name else name)

    def _check(self, request: Request, *scopes: Scope) -> Response | None:
        return None if self._authorizer is None else self._authorizer.check(request, scopes)


class _Denied(Exception):
    """A guard's answer, on its way out."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def _blob(request: Request, repository: Repository, digest: Digest) -> Response:
    match request.method:
        case "GET":
            return blobs.pull(request, repository, digest)
        case "HEAD":
            return blobs.head(repository, digest)
        case _:
            return blobs.delete(repository, digest)


def _scopes(method: str, wanted: Route) -> tuple[Scope, ...]:
    if wanted.kind is Endpoint.BASE:
        return ()
    if wanted.kind is Endpoint.CATALOG:
        return (Scope.catalog(),)
    if wanted.kind in (Endpoint.UPLOADS, Endpoint.UPLOAD) or method not in (*_READ, "DELETE"):
        actions: tuple[str, ...] = ("pull", "push")
    else:
        actions = ("delete",) if method == "DELETE" else ("pull",)
    return (Scope.repository(RepositoryName(wanted.name), actions),)


def _failure(error: Exception, *, writing: bool) -> Response:
    if isinstance(error, _Denied):
        return error.response
    problem = refusal(error, writing=writing)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, HttpError):
        _log.debug("a request failed", exc_info=error if not isinstance(error, RegistryError) else None)
    return json_response(document(problem), problem.status, list(problem.headers))
