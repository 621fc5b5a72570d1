"""Requests to one registry, carried to their end: the only place that puts auth, retry, redirect and problem in order.

The decisions are made elsewhere, without I/O: by the authenticator, ``retry``, ``redirects`` and ``problems``.
"""

from __future__ import annotations

import logging
import random as chance
import time
from collections.abc import Callable, Sequence
from typing import Final

import tenacity

from registry_adapters.http.challenges import challenges
from registry_adapters.http.exchange import Answer, Body, Request
from registry_adapters.http.notices import Notices
from registry_adapters.http.pieces import SourceFailed
from registry_adapters.http.problems import CONTENT_LIMIT, problem
from registry_adapters.http.redirects import MAX_HOPS, Hop, is_redirect, next_hop
from registry_adapters.http.retry import RetryPolicy, Stale
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport import Transport, Urllib3Transport
from registry_core.content.source import BytesSource
from registry_core.domain.access import Challenge, TokenReply, TokenRequest
from registry_core.domain.origin import Origin, check_followable, redacted
from registry_core.errors import ProtocolError, RateLimited, RegistryError, TransportError, Unavailable
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.observer import Event, Exchange, Observer, Retry, Warned
from registry_core.scope import pause, remaining

__all__ = ["Session"]

_log = logging.getLogger("registry_adapters.http")
# one for a token that ran out, one more for a registry that asks for another scope only then.
_ANSWERS: Final = 2
# Each kept connection may have died meanwhile; more than a few in a row are not silently replaced.
_STALE: Final = 3


class Session:
    """Sends requests to one registry; safe for many threads.

    Args:
        origin: The registry; credentials go there and nowhere else (R-030).
        settings: How to talk to it.
        transport: What carries out exchanges; by default sockets.
        authenticator: How to answer challenges; ``None`` to answer none.
        observer: Who is told about exchanges, retries and warnings.
        sleep: Waits for so many seconds.
        random: A number from 0 to 1.
        clock: Seconds that only go forward.

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
        sleep: Callable[[float], None] = pause,
        random: Callable[[], float] = chance.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.origin = origin
        self.settings = settings
        self._transport: Transport = Urllib3Transport(settings) if transport is None else transport
        self._authenticator = authenticator
        self._observer = observer
        self.policy = RetryPolicy(retries=settings.retries)
        self._sleep = sleep
        self._random = random
        self._clock = clock
        self._notices = Notices()

    def send(self, request: Request) -> Answer:
        """The answer to a request, if its status is one of those that mean success; to be closed by the caller.

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
        call = _Call(request, self._url(request.target))
        if self._authenticator is not None:
            call.authorization = self._authenticator.remembered(self.origin, request.scopes)
        try:
            empty = request.body is None or not request.body.length
            answer: Answer = self._retrying(request.method, call.url, repeatable=request.repeatable, empty=empty)(
                self._attempt, call
            )
        except SourceFailed as failure:
            raise failure.error from None
        except RegistryError as error:
            error.reference = error.reference or request.reference
            raise
        return answer

    def close(self) -> None:
        """Close idle connections. Idempotent."""
        self._transport.close()

    def _url(self, target: str) -> str:
        if target.startswith("/"):
            return f"{self.origin}{target}"
        check_followable(self.origin, target)
        return target

    def _attempt(self, call: _Call) -> Answer:
        answer = self._authorised(call)
        if answer.status in call.request.success:
            return answer
        raise _problem(answer, call.request)

    def _authorised(self, call: _Call) -> Answer:
        """The answer after at most two answers to challenges; only the registry's own are answered (R-031)."""
        while True:
            answer = self._followed(call)
            if (
                answer.status != 401
                or self._authenticator is None
                or call.answered >= _ANSWERS
                or Origin.of_url(answer.url) != self.origin
            ):
                return answer
            refusal = _problem(answer, call.request)
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
        steps = authenticator.answer(self.origin, offers, call.request.scopes, rejected=call.authorization)
        try:
            asked = next(steps)
            while True:
                asked = steps.send(self._token(asked, call.request))
        except StopIteration as stop:
            value: str | None = stop.value
            return value
        except RegistryError as error:
            error.transport = error.transport or refusal.transport
            raise
        finally:
            # Other threads may be waiting for the token that this one was to fetch.
            steps.close()

    def _token(self, asked: TokenRequest, request: Request) -> TokenReply:
        """What a token server says: no redirect is followed, for the request holds secrets (R-036)."""
        check_followable(self.origin, asked.url)
        body = None if asked.body is None else Body(BytesSource(asked.body), 0, len(asked.body))

        def attempt() -> TokenReply:
            answer = self._exchange(asked.method, asked.url, asked.headers, body, repeatable=True)
            about = Request(
                method=asked.method, target=asked.url, success=(200,), reference=request.reference, missing="repository"
            )
            status, content = answer.status, _content(answer, whole=True)
            error = problem(status, answer.headers, b"", about, url=answer.url)
            if isinstance(error, Unavailable | RateLimited):
                raise error
            return TokenReply(status=status, content=content)

        reply: TokenReply = self._retrying(asked.method, asked.url, repeatable=True)(attempt)
        return reply

    def _followed(self, call: _Call) -> Answer:
        """The answer at the end of all redirects; the registry's credentials stay with it."""
        request = call.request
        hop = Hop(request.method, call.url, Origin.of_url(call.url))
        for _ in range(MAX_HOPS + 1):
            headers = dict(request.headers)
            if call.authorization is not None and hop.origin == self.origin:
                headers["Authorization"] = call.authorization
            answer = self._exchange(hop.method, hop.url, headers, request.body, repeatable=request.repeatable)
            if not is_redirect(answer.status):
                return answer
            location = answer.headers.get("location")
            _content(answer)
            try:
                hop = next_hop(self.origin, hop, answer.status, location)
            except ProtocolError as error:
                error.status, error.method, error.url = answer.status, hop.method, redacted(hop.url)
                raise
        raise ProtocolError(
            f"more than {MAX_HOPS} redirects from {redacted(call.url)}", method=request.method, url=redacted(call.url)
        )

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: Body | None, *, repeatable: bool
    ) -> Answer:
        """One exchange; a kept connection that turns out to be dead is replaced silently (R-053)."""
        for left in range(_STALE, -1, -1):
            started = self._clock()
            status = 0
            try:
                answer = self._transport.send(method, url, headers, body)
                status = answer.status
            except Stale:
                if not repeatable or not left:
                    raise
                continue
            finally:
                seconds = self._clock() - started
                _log.debug("%s %s: %s after %.3f s", method, redacted(url), status or "no answer", seconds)
                self.tell(Exchange(method=method, url=redacted(url), status=status, seconds=seconds))
            self._warn(answer)
            return answer
        raise AssertionError("unreachable")

    def _retrying(self, method: str, url: str, *, repeatable: bool, empty: bool = True) -> tenacity.Retrying:
        policy = self.policy

        def failure(state: tenacity.RetryCallState) -> BaseException:
            error = state.outcome.exception() if state.outcome is not None else None
            return error if error is not None else AssertionError("only failures are repeated")

        def enough(state: tenacity.RetryCallState) -> bool:
            left = remaining()
            return state.attempt_number > policy.retries or (left is not None and state.upcoming_sleep >= left)

        def announce(state: tenacity.RetryCallState) -> None:
            self.tell(Retry(method=method, url=redacted(url), attempt=state.attempt_number, pause=state.upcoming_sleep))

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(
                lambda error: policy.is_worthwhile(error, repeatable=repeatable, empty=empty)
            ),
            wait=lambda state: policy.pause(state.attempt_number, failure(state), self._random()),
            stop=enough,
            before_sleep=announce,
            sleep=self._sleep,
            reraise=True,
        )

    def _warn(self, answer: Answer) -> None:
        if Origin.of_url(answer.url) == self.origin:
            for text in self._notices.fresh(answer.headers):
                _log.debug("%s warns: %s", self.origin.netloc, text)
                self.tell(Warned(registry=self.origin.netloc, text=text))

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self._observer is not None:
            self._observer.on(event)


class _Call:
    """One request on its way: what has to be known from one attempt to the next."""

    def __init__(self, request: Request, url: str) -> None:
        self.request = request
        self.url = url
        self.authorization: str | None = None
        self.answered = 0


def _content(answer: Answer, *, whole: bool = False) -> bytes:
    """What an answer that is no success says, up to a limit; closes it.

    Args:
        answer: What came.
        whole: Whether anything short of all of it is an error.

    Raises:
        ProtocolError: There is more than the limit, and the whole was wanted.
        Unavailable: It broke off, and the whole was wanted.
    """
    parts: list[bytes] = []
    left = CONTENT_LIMIT + 1
    with answer:
        try:
            while left and (data := answer.reader.read(left)):
                parts.append(data)
                left -= len(data)
        except TransportError:
            if whole:
                raise
    if whole and not left:
        raise ProtocolError(f"{redacted(answer.url)} said more than {CONTENT_LIMIT} bytes", url=redacted(answer.url))
    return b"".join(parts)[:CONTENT_LIMIT]


def _problem(answer: Answer, request: Request) -> RegistryError:
    return problem(answer.status, answer.headers, _content(answer), request, url=answer.url)
