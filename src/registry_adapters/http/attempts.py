"""Attempts at a request, until one succeeds or there is no use in another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import tenacity

from registry_adapters.http.exchanges import Call
from registry_adapters.http.retry import REFUSED, Failure, RetryPolicy, Stale, Unreached, cause_of, reason
from registry_core.domain.origin import redacted
from registry_core.errors import Unavailable
from registry_core.ports.observer import Event, Retry
from registry_core.scope import remaining

__all__ = ["Attempts"]

_log = logging.getLogger("registry_adapters.http")
Result = TypeVar("Result")


class Attempts:
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

    def run(self, call: Call, attempt: Callable[[], Result]) -> Result:
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
        except (Stale, Unreached) as error:
            raise Unavailable(error.message, method=error.method, url=error.url) from error.__cause__
        return result

    def _announce(self, call: Call, error: BaseException, state: tenacity.RetryCallState) -> None:
        number, seconds, url, why = state.attempt_number, state.upcoming_sleep, redacted(call.url), reason(error)
        call.doubtful = call.doubtful or cause_of(error) not in (Failure.UNREACHED, 429)
        call.waits = not _held(call, error)
        _log.debug("%s %s: attempt %d failed (%s), again in %.3f s", call.method, url, number, why, seconds)
        self._tell(Retry(method=call.method, url=url, attempt=number, pause=seconds, reason=why))


def _failure(state: tenacity.RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome is not None else None
    return error if error is not None else AssertionError("only failures are repeated")


def _held(call: Call, error: BaseException) -> float:
    """How long the way there is closed to everyone: then each exchange waits, the next of this call as well."""
    return call.gate.left() if call.gate is not None and cause_of(error) in REFUSED else 0.0
