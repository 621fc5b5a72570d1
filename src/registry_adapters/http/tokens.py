"""Exchanges with token servers, on behalf of an authenticator."""

from __future__ import annotations

import time
from collections.abc import Callable

from registry_adapters.http.attempts import Attempts
from registry_adapters.http.exchange import Body, Request
from registry_adapters.http.exchanges import Call, Exchanges, excerpt
from registry_adapters.http.problems import problem
from registry_adapters.http.retry import TRANSIENT
from registry_core.content.source import BytesSource
from registry_core.domain.access import TokenReply, TokenRequest
from registry_core.domain.errands import Errand, judge
from registry_core.domain.origin import Origin, redacted
from registry_core.ports.observer import TokenRequested

__all__ = ["Tokens"]


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
        exchanges: Exchanges,
        attempts: Attempts,
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
        """What a token server says: no redirect is followed, for the request holds secrets (R-036).

        Args:
            asked: What to ask.
            request: What the token is for.

        Raises:
            TransportError: It cannot be reached, or is out of order for too long.
            ProtocolError: It must not be asked, or says more than any token needs (R-039).
        """
        # Which hosts to trust with a password, the authenticator knows; never from https to http, is known here, too.
        judge(Errand.REALM, self._home, asked.url, listed=(Origin.of_url(asked.url).netloc,))
        body = None if asked.body is None else Body(BytesSource(asked.body), 0, len(asked.body))
        call = Call(asked.method, asked.url, body, repeatable=True)
        about = Request(
            method=asked.method, target=asked.url, success=(200,), reference=request.reference, missing="repository"
        )

        def attempt() -> TokenReply:
            started, status = self._clock(), 0
            try:
                answer = self._exchanges.send(call, asked.method, asked.url, asked.headers)
                status, content = answer.status, excerpt(answer, whole=True)
            finally:
                event = TokenRequested(
                    registry=self._home.netloc,
                    url=redacted(asked.url),
                    scopes=tuple(str(scope) for scope in asked.scopes or request.scopes),
                    status=status,
                    seconds=self._clock() - started,
                )
                self._exchanges.tell(event)
            if status in TRANSIENT:
                raise problem(status, answer.headers, b"", about, url=answer.url, now=self._now())
            return TokenReply(status=status, content=content)

        return self._attempts.run(call, attempt)
