"""Requests to one registry: challenges, redirects and retries around single exchanges.

The decisions are made without I/O by the authenticator, ``retry``, ``url_policy`` and ``error_mapping``.
"""

from __future__ import annotations

import logging
import random as random_module
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from registry_adapters.http.endpoint import coding_remark, is_text
from registry_adapters.http.error_mapping import error_from_response
from registry_adapters.http.headers import challenges
from registry_adapters.http.messages import Body, BufferedResponse, Request, Response
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.rate_limit import RateLimiter
from registry_adapters.http.retry import (
    REFUSED,
    TRANSIENT,
    Failure,
    RetryPolicy,
    StaleConnection,
    as_unavailable,
    error_summary,
    failure_kind,
    failure_reason,
)
from registry_adapters.http.sender import RequestSender, RequestState, SecretMasker, read_error_body
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import SourceFailed
from registry_adapters.http.transport.urllib3_transport import Transport, Urllib3Transport
from registry_core.cancellation import CancellableLock, remaining, sleep
from registry_core.content.streams import BytesSource
from registry_core.domain.auth import Challenge, TokenReply, TokenRequest
from registry_core.domain.origin import Origin, redact_url, resolve_url
from registry_core.domain.url_policy import RULES, AllowedUrl, UrlPurpose, check_url
from registry_core.errors import ConfigError, ProtocolError, RegistryError, TransportError, Unauthorized, Unavailable
from registry_core.ports.authenticator import Authenticator, HoldsCredentials
from registry_core.ports.observer import Event, Observer, RequestRetried, TokenRequested

__all__ = ["Session", "redirect_target"]

_log = logging.getLogger("registry_adapters.http")

_Result = TypeVar("_Result")

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
# The statuses that keep the method and the body.
_KEEPING_REDIRECTS: Final = frozenset({307, 308})
# one for a token that has expired, one more for a registry that asks for another scope only then.
_MAX_CHALLENGES: Final = 2
_API: Final = "/v2/"
# some registries answer so to anonymous requests for content that needs credentials.
_HIDING: Final = frozenset({403, 404})


class Session:
    """Sends requests to one registry; safe for many threads.

    All threads share the pauses that the registry asks for. An exception from an observer or a middleware ends the
    request unchanged, and leaves no connection open.

    Args:
        origin: The registry; its credentials go there and nowhere else.
        settings: Settings of connections, retries and limits.
        transport: Transport that carries out exchanges; by default one over sockets.
        authenticator: Authenticator that answers challenges; ``None`` to answer none.
        observer: Observer of requests, retries, token requests, pauses and warnings.
        middleware: Middleware around each exchange; the first is outermost.
        purpose: Purpose of absolute URLs and redirects in the URL policy; ``FOREIGN`` for a session that never sends
            credentials.
        sleep: Function that waits for a number of seconds.
        random: Source of random numbers from 0 to 1.
        clock: Monotonic clock, in seconds.
        now: Seconds since the epoch.

    Raises:
        ConfigError: The settings name files that cannot be used.
    """

    def __init__(
        self,
        origin: Origin,
        settings: HttpSettings,
        *,
        transport: Transport | None = None,
        authenticator: Authenticator | None = None,
        observer: Observer | None = None,
        middleware: Sequence[Middleware] = (),
        purpose: UrlPurpose = UrlPurpose.REDIRECT,
        sleep: Callable[[float], None] = sleep,
        random: Callable[[], float] = random_module.random,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self.settings = settings
        self.policy = RetryPolicy(retries=settings.retries, base=settings.backoff)
        self._authenticator = authenticator
        self._purpose = purpose
        self._sleep = sleep
        self._random = random
        self._clock = clock
        self._now = now
        self._root = str(origin)
        self._allowed_origin = self.check_url(purpose, self._root)
        self._api_lock = CancellableLock()
        self._api_challenges: Sequence[Challenge] | None = None
        if transport is None:
            transport = Urllib3Transport(settings, origin if self._allowed_origin.credentials == origin else None)
        self._sender = RequestSender(
            transport,
            RateLimiter(maximum=settings.max_connections, rate=settings.requests_per_second, clock=clock, sleep=sleep),
            policy=self.policy,
            middleware=middleware,
            observer=observer,
            random=random,
            clock=clock,
            now=now,
        )

    def send(self, request: Request) -> Response:
        """Send a request and return its response, which the caller closes; any status but success is raised.

        A 404 to a repeated ``DELETE`` is a success: the first attempt deleted it.

        Raises:
            Unauthorized: The registry wants credentials and got none, or refused those it got.
            Forbidden: The registry refuses the request.
            NotFound: The content does not exist; the subclass says which kind.
            Unsupported: The registry does not support the request.
            InvalidValue: The registry finds a name or document invalid.
            IntegrityError: The registry finds that content has another digest or size, or is too large.
            TransportError: Any other failure of the exchange.
            Cancelled: The current scope was cancelled.
            DeadlineExceeded: The deadline has passed.
        """
        return self._repeat(self._new_state(request), self._exchange)

    def fetch(self, request: Request, limit: int, *, what: str = "the response") -> BufferedResponse:
        """Send a repeatable request and read the whole response; repeat it if the body breaks off.

        Args:
            request: Request to send.
            limit: Largest size of the body in bytes.
            what: Name of the body in errors.

        Raises:
            TooLarge: The body has more bytes.
            RegistryError: As ``send`` does.
        """

        def exchange(state: RequestState) -> BufferedResponse:
            response = self._exchange(state)
            content = response.content(limit, what=what)
            return BufferedResponse(headers=response.headers, url=response.url, content=content)

        return self._repeat(self._new_state(request), exchange)

    def url_of(self, target: str) -> str:
        """The URL of a request target: a path of the registry, or an absolute URL."""
        if target.startswith(_API):
            return f"{self._root}{self.settings.path_prefix}{target}"
        return f"{self._root}{target}" if target.startswith("/") else target

    def check_url(self, purpose: UrlPurpose, url: str) -> AllowedUrl:
        """Check that a URL that the registry named may be followed; see ``url_policy.check_url``.

        Args:
            purpose: Purpose of the URL.
            url: Absolute URL.

        Raises:
            ProtocolError: The URL policy refuses the URL.
        """
        return check_url(purpose, self.origin, url, trusted_hosts=self.settings.trusted_hosts)

    def report_retry(self, error: RegistryError, method: str, url: str, *, attempt: int, pause: float) -> None:
        """Report to the log and the observer that an attempt failed and is repeated.

        Args:
            error: Error of the attempt.
            method: HTTP method.
            url: URL of the request.
            attempt: Number of the attempt, from 1.
            pause: Pause before the next attempt, in seconds.
        """
        shown, reason = redact_url(url), failure_reason(error)
        _log.debug("%s %s: attempt %d failed (%s), again in %.3f s", method, shown, attempt, reason, pause)
        self.tell(RequestRetried(method=method, url=shown, attempt=attempt, pause=pause, reason=error_summary(error)))

    def tell(self, event: Event) -> None:
        """Pass an event to the observer, if there is one."""
        self._sender.tell(event)

    def close(self) -> None:
        """Close idle connections; later requests open new ones. Idempotent."""
        self._sender.close()

    def _new_state(self, request: Request) -> RequestState:
        url = self.url_of(request.target)
        is_path = request.target.startswith("/")
        allowed = self._allowed_origin if is_path else self.check_url(self._purpose, url)
        state = RequestState(request, url, allowed)
        if self._authenticator is not None:
            state.authorization = self._authenticator.cached_authorization(self.origin, request.scopes)
        return state

    def _repeat(self, state: RequestState, attempt: Callable[[RequestState], _Result]) -> _Result:
        """Repeat an attempt while the retry policy says so; a pause beyond the deadline is not begun."""
        started = self._clock()
        number = 1
        while True:
            try:
                return attempt(state)
            except SourceFailed as failure:
                raise failure.error from None
            except RegistryError as error:
                error.reference = error.reference or state.request.reference
                if self._wait_before_retry(state, error, number):
                    number += 1
                    continue
                _note_attempts(error, number, self._clock() - started)
                if isinstance(error, StaleConnection) and not state.may_repeat(Failure.STALE):
                    # An upload goes on without counting it as a failure of the registry.
                    raise
                failed = as_unavailable(error)
                if failed is error:
                    raise
                raise failed from failed.__cause__

    def _wait_before_retry(self, state: RequestState, error: RegistryError, number: int) -> bool:
        """Return whether to repeat the request, after the pause before it."""
        policy, request = self.policy, state.request
        if (
            not request.is_retried
            or number > policy.retries
            or not policy.is_worthwhile(
                error, repeatable=request.repeatable, empty=state.is_empty, method=request.method
            )
        ):
            return False
        kind = failure_kind(error)
        # A pause for the whole origin is waited out by the limiter, before the next exchange.
        shared = state.limiter.left() if state.limiter is not None and kind in REFUSED else 0.0
        pause = shared or policy.pause(number, error, self._random())
        left = remaining()
        if left is not None and pause >= left:
            return False
        # After a 401, it was the token request that failed.
        state.may_be_done = state.may_be_done or (not state.is_refused and kind not in (Failure.UNREACHED, 429))
        self.report_retry(error, request.method, state.url, attempt=number, pause=pause)
        if not shared:
            self._sleep(pause)
        return True

    def _exchange(self, state: RequestState) -> Response:
        """Send a request once, answer up to two challenges, and raise unless the status is a success."""
        request = state.request
        while True:
            state.is_refused = False
            response = self._follow_redirects(state)
            if response.status in request.success:
                return response
            refusal = self._error(response, state)
            authorization = self._answer_refusal(state, response, refusal)
            if authorization is not None and authorization != state.authorization:
                state.authorization = authorization
                state.challenges_answered += 1
            elif response.status == 404 and request.method == "DELETE" and state.may_be_done:
                return response
            else:
                raise refusal

    def _answer_refusal(self, state: RequestState, response: Response, refusal: RegistryError) -> str | None:
        """The ``Authorization`` to repeat a refused request with; ``None`` to raise the refusal."""
        state.is_refused = response.status == 401
        if (
            self._authenticator is None
            or state.challenges_answered >= _MAX_CHALLENGES
            # a host that gets no credentials of the registry gets no answer to its challenge.
            or state.responder.credentials != self.origin
        ):
            return None
        if response.status == 401:
            offers: Sequence[Challenge] = challenges(response.headers.all("www-authenticate"))
        elif response.status in _HIDING and state.authorization is None and state.request.target != _API:
            # The registry carried nothing out, even if the request for a challenge fails.
            state.is_refused = True
            offers = self._hidden_challenges(self._authenticator, state.request)
            if not offers:
                return None
        else:
            return None
        return self._authorize(self._authenticator, offers, state, refusal)

    def _hidden_challenges(self, authenticator: Authenticator, request: Request) -> Sequence[Challenge]:
        """The challenges of ``/v2/``, if there is a credential to answer them with; requested once, by one thread.

        Some registries hide content from anonymous requests behind 404 or 403, and show a challenge there only.
        """
        if self._api_challenges is not None and not self._api_challenges:
            return ()
        if not self._may_have_credential(authenticator, request):
            return ()
        with self._api_lock:
            if self._api_challenges is None:
                self._api_challenges = self._request_api_challenges()
        return self._api_challenges

    def _may_have_credential(self, authenticator: Authenticator, request: Request) -> bool:
        if not isinstance(authenticator, HoldsCredentials):
            return True
        try:
            return authenticator.has_credential(self.origin, request.scopes)
        except ConfigError as error:
            # A registry without a challenge needs no credential. The answer to a challenge raises this error again.
            _log.debug("%s: cannot read the credentials: %s", self.origin, error_summary(error))
            return True

    def _request_api_challenges(self) -> Sequence[Challenge]:
        request = Request(method="GET", target=_API, success=(200,), missing="registry")
        state = RequestState(request, self.url_of(_API), self._allowed_origin)
        try:
            response = self._follow_redirects(state)
        except ProtocolError as error:
            _log.debug("%s shows no challenge at %s: %s", self.origin, _API, error_summary(error))
            return ()
        if response.status in TRANSIENT:
            # The request that led here is repeated, or fails with this error: without an answer, 404 proves nothing.
            raise self._error(response, state)
        read_error_body(response)
        if response.status != 401 or state.responder.credentials != self.origin:
            return ()
        return tuple(challenges(response.headers.all("www-authenticate")))

    def _follow_redirects(self, state: RequestState) -> Response:
        """Send a request and follow its redirects; the URL policy decides where to, and with which credentials."""
        request, url, allowed = state.request, state.url, state.allowed
        hops = RULES[self._purpose].hops
        for _ in range(hops + 1):
            headers = request.headers
            # credentials do not follow a redirect to another origin.
            if state.authorization is not None and allowed.credentials == self.origin:
                headers = {**headers, "Authorization": state.authorization}
            response = self._sender.send(state, url, allowed, headers)
            state.responder = allowed
            if response.status not in _REDIRECTS:
                return response
            read_error_body(response)
            try:
                location = response.headers.get("location")
                purpose, url = redirect_target(self._purpose, request.method, url, response.status, location)
                allowed = self.check_url(purpose, url)
            except ProtocolError as error:
                error.status, error.method, error.url = response.status, request.method, redact_url(url)
                raise
        raise ProtocolError(
            f"{request.method} {redact_url(state.url)}: more than {hops} redirects",
            method=request.method,
            url=redact_url(state.url),
        )

    def _authorize(
        self, authenticator: Authenticator, offers: Sequence[Challenge], state: RequestState, refusal: RegistryError
    ) -> str | None:
        """Have the authenticator answer a challenge, and send its token requests; return the ``Authorization``."""
        steps = authenticator.handle_challenge(self.origin, offers, state.request.scopes, rejected=state.authorization)
        try:
            token_request = next(steps)
            while True:
                try:
                    reply = self._request_token(token_request, state.request)
                except RegistryError as error:
                    # The authenticator passes the error to the threads that wait for the same token.
                    token_request = steps.throw(error)
                else:
                    token_request = steps.send(reply)
        except StopIteration as stop:
            authorization: str | None = stop.value
            return authorization
        except RegistryError as error:
            error.transport = error.transport or refusal.transport
            raise
        finally:
            # Releases the threads that wait for the token that this one was to fetch.
            steps.close()

    def _request_token(self, token_request: TokenRequest, request: Request) -> TokenReply:
        """Send a token request; redirects are not followed, because the request holds secrets.

        Raises:
            TransportError: The token server cannot be reached, or responds with a transient error for too long.
            ProtocolError: The URL is refused, or the response is longer than any token needs.
        """
        url = token_request.url
        # the session checks the token server of every authenticator.
        allowed = self.check_url(UrlPurpose.REALM, url)
        has_credentials = token_request.body is not None or "Authorization" in token_request.headers
        if has_credentials and allowed.credentials != self.origin:
            raise ProtocolError(f"request a token from {redact_url(url)}: credentials must not be sent there")
        content = token_request.body
        state = RequestState(
            Request(
                method=token_request.method,
                target=url,
                success=(200,),
                headers=dict(token_request.headers),
                body=None if content is None else Body(BytesSource(content), 0, len(content)),
                reference=request.reference,
                missing="repository",
            ),
            url,
            allowed,
        )

        def attempt(state: RequestState) -> TokenReply:
            started, status = self._clock(), 0
            try:
                response = self._sender.send(state, url, allowed, state.request.headers)
                status, content = response.status, read_error_body(response, whole=True)
            finally:
                self.tell(
                    TokenRequested(
                        registry=self.origin.netloc,
                        url=redact_url(url),
                        scopes=tuple(str(scope) for scope in token_request.scopes or request.scopes),
                        status=status,
                        seconds=self._clock() - started,
                    )
                )
            if status in TRANSIENT:
                raise error_from_response(
                    status, response.headers, b"", state.request, url=response.url, now=self._now()
                )
            return TokenReply(status=status, content=content, remark=coding_remark(response.headers))

        try:
            return self._repeat(state, attempt)
        except TransportError as error:
            error.message = f"request a token: {error.message}"
            raise

    def _error(self, response: Response, state: RequestState) -> RegistryError:
        """The error for a response that is no success; reads and closes it."""
        content = SecretMasker(state.authorization or "").mask_body(read_error_body(response))
        remark = coding_remark(response.headers)
        if not remark or is_text(content):
            remark = ""
        else:
            # The body is really encoded.
            content = b""
        error = error_from_response(
            response.status, response.headers, content, state.request, url=response.url, now=self._now()
        )
        error.message += remark
        if isinstance(error, Unauthorized):
            error.message += f" ({self._refused(state)})"
        return error

    def _refused(self, state: RequestState) -> str:
        """Return the reason for a 401: the credentials that were refused, or that none were sent."""
        if state.responder.credentials != self.origin:
            return f"no credentials are sent to {state.responder.origin}, another origin than the registry's"
        if state.authorization is None:
            return "no credentials were sent"
        is_basic = state.authorization.startswith("Basic ")
        return "the user name or password was refused" if is_basic else "the token was refused"


def redirect_target(purpose: UrlPurpose, method: str, url: str, status: int, location: str) -> tuple[UrlPurpose, str]:
    """The purpose in the URL policy and the URL of a redirect's target. The method stays the same.

    A request that changes something is repeated only where the status keeps method and body: a DELETE or PUT that
    became a GET would be reported as done.

    Args:
        purpose: Purpose of redirected reads.
        method: Method of the redirected request.
        url: URL of the redirected request.
        status: Status of the redirect.
        location: Value of ``Location``.

    Raises:
        ProtocolError: The redirect would change the method, or names no URL.
    """
    is_read = method in ("GET", "HEAD")
    # what became a GET would be reported as done.
    if not is_read and status not in _KEEPING_REDIRECTS:
        raise ProtocolError(f"{method} {redact_url(url)}: refused a redirect ({status}) that turns it into a GET")
    if not location:
        raise ProtocolError(f"{method} {redact_url(url)}: redirect ({status}) without a Location")
    # content goes to fewer hosts than it comes from.
    return purpose if is_read else UrlPurpose.WRITE, resolve_url(url, location)


def _note_attempts(error: RegistryError, attempts: int, seconds: float) -> None:
    """Add the number of attempts and the time to the message of a failed exchange."""
    is_lost = isinstance(error, Unavailable) and not error.status
    if isinstance(error, TransportError) and (is_lost or attempts > 1) and " attempt" not in error.message:
        count = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        error.message = f"{error.message} ({count}, {seconds:.2f} s)"
