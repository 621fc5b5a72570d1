"""Requests to one registry, carried to their end: the only place that puts auth, retry, redirect and problem in order.

The decisions are made elsewhere, without I/O: by the authenticator, ``retry``, ``redirects`` and ``problems``.

Attempts at a request, until one succeeds or there is no use in another.

Exchanges with token servers, on behalf of an authenticator.

Where a redirect leads, and how: decisions without I/O.
"""

from __future__ import annotations

import logging
import random as chance
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import tenacity

from registry_adapters.http.endpoint import check_not_encoded
from registry_adapters.http.error_mapping import error_from_response
from registry_adapters.http.headers import challenges
from registry_adapters.http.messages import Body, BufferedResponse, Request, Response
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.rate_limit import RateLimiter
from registry_adapters.http.retry import (
    REFUSED,
    TRANSIENT,
    Failure,
    NotConnected,
    RetryPolicy,
    StaleConnection,
    error_summary,
    failure_kind,
)
from registry_adapters.http.sender import RequestSender, RequestState, SecretMasker, read_error_body
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import SourceFailed
from registry_adapters.http.transport.urllib3_transport import Transport, Urllib3Transport
from registry_core.cancellation import remaining, sleep
from registry_core.content.streams import BytesSource
from registry_core.domain.auth import Challenge, TokenReply, TokenRequest
from registry_core.domain.origin import Origin, redact_url, resolve_url
from registry_core.domain.url_policy import MAX_HOPS, UrlPurpose, check_url
from registry_core.errors import ProtocolError, RegistryError, Unavailable
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.observer import Event, Observer, RequestRetried, TokenRequested

__all__ = ["MAX_HOPS", "Hop", "Retrier", "Session", "Tokens", "is_redirect", "next_hop"]


_log = logging.getLogger("registry_adapters.http")

Result = TypeVar("Result")


class Retrier:
    """Repeats what failed, as the policy says.

    Args:
        policy: When to repeat, and after how long.
        tell: Is told of each repetition.
        sleep: Waits for so many seconds.
        random: A number from 0 to 1.
    """

    def __init__(
        self,
        policy: RetryPolicy,
        tell: Callable[[Event], None],
        *,
        sleep: Callable[[float], None],
        random: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._tell = tell
        self._sleep = sleep
        self._random = random

    def run(self, call: RequestState, attempt: Callable[[], Result]) -> Result:
        """The result of the first attempt that succeeds; what the last one raised, if none does.

        A pause that would go beyond the ambient deadline is not begun.

        Raises:
            RegistryError: As the attempt does, and of kinds that users know.
        """
        policy = self._policy

        def wait(state: tenacity.RetryCallState) -> float:
            error = _failure(state)
            return _held(call, error) or policy.pause(state.attempt_number, error, self._random())

        def enough(state: tenacity.RetryCallState) -> bool:
            left = remaining()
            return state.attempt_number > policy.retries or (left is not None and state.upcoming_sleep >= left)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: policy.is_worthwhile(
                    error, repeatable=call.repeatable, empty=call.empty, method=call.method
                )
            ),
            wait=wait,
            stop=enough,
            before_sleep=lambda state: self._announce(call, _failure(state), state),
            sleep=lambda seconds: self._sleep(seconds) if call.waits else None,
            reraise=True,
        )
        try:
            result: Result = retrying(attempt)
        except (StaleConnection, NotConnected) as error:
            raise Unavailable(error.message, method=error.method, url=error.url) from error.__cause__
        return result

    def _announce(self, call: RequestState, error: BaseException, state: tenacity.RetryCallState) -> None:
        number, seconds, url, why = (
            state.attempt_number,
            state.upcoming_sleep,
            redact_url(call.url),
            error_summary(error),
        )
        call.doubtful = call.doubtful or failure_kind(error) not in (Failure.UNREACHED, 429)
        call.waits = not _held(call, error)
        _log.debug("%s %s: attempt %d failed (%s), again in %.3f s", call.method, url, number, why, seconds)
        self._tell(RequestRetried(method=call.method, url=url, attempt=number, pause=seconds, reason=why))


def _failure(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if error is not None else AssertionError("only failures are repeated")


def _held(call: RequestState, error: BaseException) -> float:
    """How long the way there is closed to everyone: then each exchange waits, the next of this call as well."""
    return call.gate.left() if call.gate is not None and failure_kind(error) in REFUSED else 0.0


class Tokens:
    """Asks token servers.

    Args:
        home: The registry that the tokens are for.
        exchanges: Carries out exchanges.
        attempts: Repeats them.
        clock: Seconds that only go forward.
        now: Seconds since the epoch.
    """

    def __init__(
        self,
        home: Origin,
        exchanges: RequestSender,
        attempts: Retrier,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._home = home
        self._exchanges = exchanges
        self._attempts = attempts
        self._clock = clock
        self._now = now

    def ask(self, asked: TokenRequest, request: Request) -> TokenReply:
        """What a token server says: no redirect is followed, for the request holds secrets.

        Args:
            asked: What to ask.
            request: What the token is for.

        Raises:
            TransportError: It cannot be reached, or is out of order for too long.
            ProtocolError: It must not be asked, or says more than any token needs.
        """
        # Which hosts to trust with a password, the authenticator knows; never from https to http, is known here, too.
        check_url(UrlPurpose.REALM, self._home, asked.url, listed=(Origin.of_url(asked.url).netloc,))
        body = None if asked.body is None else Body(BytesSource(asked.body), 0, len(asked.body))
        call = RequestState(asked.method, asked.url, body, repeatable=True)
        about = Request(
            method=asked.method, target=asked.url, success=(200,), reference=request.reference, missing="repository"
        )

        def attempt() -> TokenReply:
            started, status = self._clock(), 0
            try:
                answer = self._exchanges.send(call, asked.method, asked.url, asked.headers)
                status, content = answer.status, read_error_body(answer, whole=True)
            finally:
                event = TokenRequested(
                    registry=self._home.netloc,
                    url=redact_url(asked.url),
                    scopes=tuple(str(scope) for scope in asked.scopes or request.scopes),
                    status=status,
                    seconds=self._clock() - started,
                )
                self._exchanges.tell(event)
            if status in TRANSIENT:
                raise error_from_response(status, answer.headers, b"", about, url=answer.url, now=self._now())
            return TokenReply(status=status, content=content)

        return self._attempts.run(call, attempt)


_STATUSES: Final = frozenset({301, 302, 303, 307, 308})

_KEEPING: Final = frozenset({307, 308})


class Hop(msgspec.Struct, frozen=True):
    """The next request of a redirected one.

    Args:
        method: Its method; the body goes along exactly if the method is the same.
        url: Absolute, and judged.
        origin: Whom it goes to: credentials only if that is the registry itself.
    """

    method: str
    url: str
    origin: Origin


def is_redirect(status: int) -> bool:
    """Whether a status sends one elsewhere."""
    return status in _STATUSES


def next_hop(home: Origin, hop: Hop, status: int, location: str) -> Hop:
    """What to ask next.

    GET and HEAD stay what they are. Anything that changes something is only followed where the answer says that method
    and body are to be kept: a DELETE or PUT that became a GET would be reported as done. And it stays with the
    registry, as uploads do.

    Args:
        home: The registry.
        hop: What was asked last.
        status: The redirecting status.
        location: The ``Location`` that came with it.

    Raises:
        ProtocolError: It must not be followed, or leads nowhere.
    """
    # what became a GET would be reported as done.
    if hop.method not in ("GET", "HEAD") and status not in _KEEPING:
        raise ProtocolError(f"refused to turn a {hop.method} into a GET by a redirect ({status})")
    if not location:
        raise ProtocolError(f"a redirect ({status}) without a single Location, from {redact_url(hop.url)}")
    url = resolve_url(hop.url, location)
    target = check_url(UrlPurpose.REDIRECT, home, url).origin
    # content goes to no other origin.
    if hop.method not in ("GET", "HEAD") and target != home:
        raise ProtocolError(f"refused to repeat a {hop.method} at another place: {redact_url(url)}")
    return Hop(hop.method, url, target)


# one for a token that ran out, one more for a registry that asks for another scope only then.
_ANSWERS: Final = 2

_API: Final = "/v2/"


class Session:
    """Sends requests to one registry; safe for many threads.

    All threads share what the registry asks for: while it wants to be left alone, every ``send`` waits. What an
    observer or a middleware raises ends the request, unchanged, and leaves no connection behind.

    Args:
        origin: The registry; credentials go there and nowhere else.
        settings: How to talk to it.
        transport: What carries out exchanges; by default sockets.
        authenticator: How to answer challenges; ``None`` to answer none.
        observer: Who is told about exchanges, retries, tokens, pauses and warnings.
        middleware: What is put around each exchange; the first is outermost.
        sleep: Waits for so many seconds.
        random: A number from 0 to 1.
        clock: Seconds that only go forward.
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
        sleep: Callable[[float], None] = sleep,
        random: Callable[[], float] = chance.random,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self.settings = settings
        self.policy = RetryPolicy(retries=settings.retries, base=settings.backoff)
        self._authenticator = authenticator
        self._now = now
        self._exchanges = RequestSender(
            origin,
            Urllib3Transport(settings, origin) if transport is None else transport,
            RateLimiter(maximum=settings.max_connections, rate=settings.requests_per_second, clock=clock, sleep=sleep),
            policy=self.policy,
            middleware=middleware,
            observer=observer,
            random=random,
            clock=clock,
            now=now,
        )
        self._attempts = Retrier(self.policy, self.tell, sleep=sleep, random=random)
        self._tokens = Tokens(origin, self._exchanges, self._attempts, clock=clock, now=now)

    def send(self, request: Request) -> Response:
        """The answer to a request, if its status is one of those that mean success; to be closed by the caller.

        A ``DELETE`` that had to be repeated is also answered by a 404: then it was the first try that did it.

        Raises:
            Unauthorized: The registry wants credentials that there are none of, or other ones.
            Forbidden: It refuses.
            NotFound: What was asked for is not there; its leaf says what.
            Unsupported: The registry does not do that.
            InvalidValue: The registry finds a name or document invalid.
            IntegrityError: It finds content to be wrong, or too large.
            TransportError: Anything else that went wrong between us and it.
            Cancelled: The ambient scope was cancelled.
            DeadlineExceeded: Its deadline has passed.
        """
        return self._carried_out(request, lambda answer: answer)

    def fetch(self, request: Request, limit: int, *, what: str = "the answer") -> BufferedResponse:
        """The whole answer to a request that can be repeated: also if its body breaks off.

        Args:
            request: What to ask.
            limit: How many bytes it may have.
            what: What it is called in errors.

        Raises:
            TooLarge: It has more.
            ProtocolError: It is encoded.
            RegistryError: As ``send`` does.
        """

        def whole(answer: Response) -> BufferedResponse:
            check_not_encoded(answer, reference=request.reference)
            return BufferedResponse(headers=answer.headers, url=answer.url, content=answer.content(limit, what=what))

        return self._carried_out(request, whole)

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        self._exchanges.tell(event)

    def close(self) -> None:
        """Close idle connections; what is sent afterwards opens new ones. Idempotent."""
        self._exchanges.close()

    def _carried_out(self, request: Request, taken: Callable[[Response], Result]) -> Result:
        """What is made of a request's answer; making it is a part of the attempt."""
        call = _Call(request, self._url(request.target))
        if self._authenticator is not None:
            call.authorization = self._authenticator.cached_authorization(self.origin, request.scopes)

        def attempt() -> Result:
            answer = self._authorised(call)
            if answer.status in request.success or _was_done(call, answer):
                return taken(answer)
            raise self._problem(answer, call)

        try:
            return self._attempts.run(call, attempt)
        except SourceFailed as failure:
            raise failure.error from None
        except RegistryError as error:
            error.reference = error.reference or request.reference
            raise

    def _url(self, target: str) -> str:
        if target.startswith(_API):
            return f"{self.origin}{self.settings.path_prefix}{target}"
        if target.startswith("/"):
            return f"{self.origin}{target}"
        check_url(UrlPurpose.REDIRECT, self.origin, target)
        return target

    def _authorised(self, call: _Call) -> Response:
        """The answer after at most two answers to challenges; only the registry's own are answered (R-031)."""
        while True:
            answer = self._followed(call)
            if (
                answer.status != 401
                or self._authenticator is None
                or call.answered >= _ANSWERS
                # a host that a redirect led to gets no answer to its challenge.
                or Origin.of_url(answer.url) != self.origin
            ):
                return answer
            refusal = self._problem(answer, call)
            offers = challenges(answer.headers.all("www-authenticate"))
            value = self._credentials(self._authenticator, offers, call, refusal)
            if value is None or value == call.authorization:
                raise refusal
            call.authorization = value
            call.answered += 1

    def _credentials(
        self, authenticator: Authenticator, offers: Sequence[Challenge], call: _Call, refusal: RegistryError
    ) -> str | None:
        """What the authenticator says to a challenge, after the token requests that it asks for."""
        steps = authenticator.handle_challenge(self.origin, offers, call.request.scopes, rejected=call.authorization)
        try:
            asked = next(steps)
            while True:
                try:
                    reply = self._tokens.ask(asked, call.request)
                except RegistryError as error:
                    # Those who wait for the same token learn how it went.
                    asked = steps.throw(error)
                else:
                    asked = steps.send(reply)
        except StopIteration as stop:
            value: str | None = stop.value
            return value
        except RegistryError as error:
            error.transport = error.transport or refusal.transport
            raise
        finally:
            # Other threads may be waiting for the token that this one was to fetch.
            steps.close()

    def _followed(self, call: _Call) -> Response:
        """The answer at the end of all redirects; the registry's credentials stay with it."""
        request = call.request
        hop = Hop(request.method, call.url, Origin.of_url(call.url))
        for _ in range(MAX_HOPS + 1):
            headers = dict(request.headers)
            # credentials do not follow a redirect to another origin.
            if call.authorization is not None and hop.origin == self.origin:
                headers["Authorization"] = call.authorization
            answer = self._exchanges.send(call, hop.method, hop.url, headers)
            if not is_redirect(answer.status):
                return answer
            read_error_body(answer)
            try:
                hop = next_hop(self.origin, hop, answer.status, answer.headers.get("location"))
            except ProtocolError as error:
                error.status, error.method, error.url = answer.status, hop.method, redact_url(hop.url)
                raise
        raise ProtocolError(
            f"more than {MAX_HOPS} redirects from {redact_url(call.url)}",
            method=request.method,
            url=redact_url(call.url),
        )

    def _problem(self, answer: Response, call: _Call) -> RegistryError:
        content = SecretMasker(call.authorization or "").mask_body(read_error_body(answer))
        return error_from_response(
            answer.status, answer.headers, content, call.request, url=answer.url, now=self._now()
        )


class _Call(RequestState):
    """A request to the registry on its way, with what authorises it."""

    def __init__(self, request: Request, url: str) -> None:
        super().__init__(request.method, url, request.body, repeatable=request.repeatable)
        self.request = request
        self.authorization: str | None = None
        self.answered = 0


def _was_done(call: RequestState, answer: Response) -> bool:
    return call.method == "DELETE" and call.doubtful and answer.status == 404
