"""Requests to one registry, carried to their end: the only place that puts auth, retry, redirect and problem in order.

The decisions are made elsewhere, without I/O: by the authenticator, ``retry``, ``redirects`` and ``problems``.
"""

from __future__ import annotations

import random as chance
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from registry_adapters.http.answers import check_identity
from registry_adapters.http.attempts import Attempts
from registry_adapters.http.challenges import challenges
from registry_adapters.http.echoes import Echoes
from registry_adapters.http.exchange import Answer, Document, Request
from registry_adapters.http.exchanges import Call, Exchanges, excerpt
from registry_adapters.http.middleware import Middleware
from registry_adapters.http.pieces import SourceFailed
from registry_adapters.http.problems import problem
from registry_adapters.http.redirects import MAX_HOPS, Hop, is_redirect, next_hop
from registry_adapters.http.retry import RetryPolicy
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.throttle import Gates
from registry_adapters.http.tokens import Tokens
from registry_adapters.http.transport import Transport, Urllib3Transport
from registry_core.domain.access import Challenge
from registry_core.domain.errands import Errand, judge
from registry_core.domain.origin import Origin, redacted
from registry_core.errors import ProtocolError, RegistryError
from registry_core.ports.authenticator import Authenticator
from registry_core.ports.observer import Event, Observer
from registry_core.scope import pause

__all__ = ["Session"]

# one for a token that ran out, one more for a registry that asks for another scope only then.
_ANSWERS: Final = 2
_API: Final = "/v2/"
Result = TypeVar("Result")


class Session:
    """Sends requests to one registry; safe for many threads.

    All threads share what the registry asks for: while it wants to be left alone, every ``send`` waits. What an
    observer or a middleware raises ends the request, unchanged, and leaves no connection behind.

    Args:
        origin: The registry; credentials go there and nowhere else (R-030).
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
        sleep: Callable[[float], None] = pause,
        random: Callable[[], float] = chance.random,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self.settings = settings
        self.policy = RetryPolicy(retries=settings.retries, base=settings.backoff)
        self._authenticator = authenticator
        self._now = now
        self._exchanges = Exchanges(
            origin,
            Urllib3Transport(settings, origin) if transport is None else transport,
            Gates(maximum=settings.max_connections, rate=settings.requests_per_second, clock=clock, sleep=sleep),
            policy=self.policy,
            middleware=middleware,
            observer=observer,
            random=random,
            clock=clock,
            now=now,
        )
        self._attempts = Attempts(self.policy, self.tell, sleep=sleep, random=random)
        self._tokens = Tokens(origin, self._exchanges, self._attempts, clock=clock, now=now)

    def send(self, request: Request) -> Answer:
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

    def fetch(self, request: Request, limit: int, *, what: str = "the answer") -> Document:
        """The whole answer to a request that can be repeated: also if its body breaks off.

        Args:
            request: What to ask.
            limit: How many bytes it may have.
            what: What it is called in errors.

        Raises:
            TooLarge: It has more.
            ProtocolError: It is encoded (R-056).
            RegistryError: As ``send`` does.
        """

        def whole(answer: Answer) -> Document:
            check_identity(answer, reference=request.reference)
            return Document(headers=answer.headers, url=answer.url, content=answer.content(limit, what=what))

        return self._carried_out(request, whole)

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        self._exchanges.tell(event)

    def close(self) -> None:
        """Close idle connections; what is sent afterwards opens new ones. Idempotent."""
        self._exchanges.close()

    def _carried_out(self, request: Request, taken: Callable[[Answer], Result]) -> Result:
        """What is made of a request's answer; making it is a part of the attempt."""
        call = _Call(request, self._url(request.target))
        if self._authenticator is not None:
            call.authorization = self._authenticator.remembered(self.origin, request.scopes)

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
        judge(Errand.REDIRECT, self.origin, target)
        return target

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
        steps = authenticator.answer(self.origin, offers, call.request.scopes, rejected=call.authorization)
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

    def _followed(self, call: _Call) -> Answer:
        """The answer at the end of all redirects; the registry's credentials stay with it."""
        request = call.request
        hop = Hop(request.method, call.url, Origin.of_url(call.url))
        for _ in range(MAX_HOPS + 1):
            headers = dict(request.headers)
            if call.authorization is not None and hop.origin == self.origin:
                headers["Authorization"] = call.authorization
            answer = self._exchanges.send(call, hop.method, hop.url, headers)
            if not is_redirect(answer.status):
                return answer
            excerpt(answer)
            try:
                hop = next_hop(self.origin, hop, answer.status, answer.headers.get("location"))
            except ProtocolError as error:
                error.status, error.method, error.url = answer.status, hop.method, redacted(hop.url)
                raise
        raise ProtocolError(
            f"more than {MAX_HOPS} redirects from {redacted(call.url)}", method=request.method, url=redacted(call.url)
        )

    def _problem(self, answer: Answer, call: _Call) -> RegistryError:
        content = Echoes(call.authorization or "").masked(excerpt(answer))
        return problem(answer.status, answer.headers, content, call.request, url=answer.url, now=self._now())


class _Call(Call):
    """A request to the registry on its way, with what authorises it."""

    def __init__(self, request: Request, url: str) -> None:
        super().__init__(request.method, url, request.body, repeatable=request.repeatable)
        self.request = request
        self.authorization: str | None = None
        self.answered = 0


def _was_done(call: Call, answer: Answer) -> bool:
    return call.method == "DELETE" and call.doubtful and answer.status == 404
