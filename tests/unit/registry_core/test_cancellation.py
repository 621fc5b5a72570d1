from __future__ import annotations

import contextvars
import math
import threading
import time

import pytest

from registry_core.cancellation import (
    CancellableLock,
    CancelScope,
    backoff,
    checkpoint,
    fail_after,
    on_cancel,
    poll_until,
    remaining,
    sleep,
    wait_until,
)
from registry_core.errors import Cancelled, DeadlineExceeded, InvalidValue


def test_without_a_scope_there_is_no_limit() -> None:
    checkpoint()

    assert remaining() is None


def test_cancelled_work_ends_at_its_next_checkpoint() -> None:
    with CancelScope() as scope:
        checkpoint()
        scope.cancel()

        with pytest.raises(Cancelled):
            checkpoint()

    checkpoint()


def test_sleep_is_ended_by_another_thread() -> None:
    with CancelScope() as scope:
        canceller = threading.Timer(0.01, scope.cancel)
        canceller.start()
        started = time.monotonic()

        with pytest.raises(Cancelled):
            sleep(60)

        canceller.join()
    assert time.monotonic() - started < 30


def test_sleep_ends_at_the_deadline() -> None:
    started = time.monotonic()

    with fail_after(0.01), pytest.raises(DeadlineExceeded):
        sleep(60)

    assert time.monotonic() - started < 30


def test_after_the_deadline_a_checkpoint_raises() -> None:
    with fail_after(0):
        assert remaining() == 0.0
        with pytest.raises(DeadlineExceeded):
            checkpoint()
        with pytest.raises(DeadlineExceeded):
            sleep(0)


@pytest.mark.parametrize("seconds", [math.inf, 1e300])
def test_an_infinite_deadline_is_allowed(seconds: float) -> None:
    woken = threading.Event()
    woken.set()

    with fail_after(seconds):
        left = remaining()
        ended = woken.wait(left)

    assert left is not None
    assert left > 1e6
    assert ended


@pytest.mark.parametrize(("outer", "inner"), [(1000, 2000), (2000, 1000)])
def test_the_earliest_of_nested_deadlines_applies(outer: float, inner: float) -> None:
    with fail_after(outer), fail_after(inner):
        left = remaining()

    assert left is not None
    assert 900 < left <= 1000


def test_cancelling_the_outer_scope_ends_the_inner_work() -> None:
    with CancelScope() as outer, CancelScope() as inner:
        outer.cancel()

        assert inner.cancelled
        with pytest.raises(Cancelled):
            checkpoint()


def test_cancelling_the_inner_scope_does_not_cancel_the_outer() -> None:
    with CancelScope() as outer:
        with CancelScope() as inner:
            inner.cancel()

        checkpoint()
        assert not outer.cancelled


def test_cancellation_takes_precedence_over_the_deadline() -> None:
    with fail_after(0) as scope:
        scope.cancel()

        with pytest.raises(Cancelled):
            checkpoint()


def test_a_scope_can_be_entered_once() -> None:
    scope = CancelScope()
    with scope:
        pass

    with pytest.raises(RuntimeError), scope:
        pass


def test_on_cancel_calls_back_only_inside_its_block() -> None:
    calls: list[str] = []
    with CancelScope() as outer, CancelScope():
        with on_cancel(lambda: calls.append("early")):
            pass
        with on_cancel(lambda: calls.append("woken")):
            outer.cancel()

    assert calls == ["woken"]


def test_on_cancel_raises_in_a_cancelled_scope() -> None:
    begun = False
    with CancelScope() as scope:
        scope.cancel()

        with pytest.raises(Cancelled), on_cancel(lambda: None):
            begun = True

    assert not begun
    assert not scope._wakers


def test_on_cancel_is_detached_after_an_error() -> None:
    calls: list[int] = []
    with CancelScope() as scope:
        with pytest.raises(KeyError), on_cancel(lambda: calls.append(1)):
            raise KeyError
        scope.cancel()

    assert calls == []


def test_a_thread_in_a_copy_of_the_context_is_in_the_scope() -> None:
    seen: list[type[BaseException]] = []

    def work() -> None:
        try:
            sleep(60)
        except Cancelled as error:
            seen.append(type(error))

    with CancelScope() as scope:
        context = contextvars.copy_context()
        worker = threading.Thread(target=context.run, args=(work,))
        worker.start()
        scope.cancel()
        worker.join(30)

    assert seen == [Cancelled]


def test_a_new_thread_is_in_no_scope() -> None:
    seen: list[float | None] = []

    with fail_after(0):
        worker = threading.Thread(target=contextvars.Context().run, args=(lambda: seen.append(remaining()),))
        worker.start()
        worker.join(30)

    assert seen == [None]


def test_a_deadline_of_nan_is_refused() -> None:
    with pytest.raises(InvalidValue):
        fail_after(float("nan"))


def test_the_cause_of_a_cancellation_is_the_cause_of_its_errors() -> None:
    cause = KeyError("a neighbour failed")
    with CancelScope(), CancelScope() as scope, CancelScope():
        scope.cancel(cause=cause)
        scope.cancel(cause=KeyError("later"))
        scope.cancel()

        with pytest.raises(Cancelled) as caught:
            checkpoint()

    assert caught.value.__cause__ is cause


def test_a_cancel_without_a_cause_gives_errors_without_a_cause() -> None:
    with CancelScope() as scope, pytest.raises(Cancelled) as caught:
        scope.cancel()
        checkpoint()

    assert caught.value.__cause__ is None


def test_a_cancel_without_a_cause_takes_precedence_over_one_with_a_cause() -> None:
    with CancelScope() as outer, CancelScope() as inner, pytest.raises(Cancelled) as caught:
        inner.cancel(cause=KeyError("a neighbour failed"))
        outer.cancel()
        checkpoint()

    assert caught.value.__cause__ is None


class TestCancellableLock:
    def test_one_thread_at_a_time_holds_it(self) -> None:
        lock = CancellableLock()
        holders = 0
        most = 0

        def work() -> None:
            nonlocal holders, most
            for _ in range(20):
                with lock:
                    holders += 1
                    most = max(most, holders)
                    time.sleep(0.0001)
                    holders -= 1

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(30)

        assert most == 1
        assert holders == 0

    def test_an_error_in_the_block_releases_it(self) -> None:
        lock = CancellableLock()

        with pytest.raises(KeyError), lock:
            raise KeyError

        with fail_after(30), lock:
            pass

    def test_a_free_lock_is_taken_even_by_cancelled_work(self) -> None:
        lock = CancellableLock()
        taken = False

        with CancelScope() as scope:
            scope.cancel()
            with lock:
                taken = True

        assert taken

    def test_waiting_ends_at_the_deadline_and_the_lock_stays_with_its_holder(self) -> None:
        lock = CancellableLock()
        started = time.monotonic()

        with lock:
            with fail_after(0.01), pytest.raises(DeadlineExceeded), lock:
                pass
            with fail_after(0), pytest.raises(DeadlineExceeded), lock:
                pass

        assert time.monotonic() - started < 30

    def test_waiting_is_ended_by_another_thread(self) -> None:
        lock = CancellableLock()
        started = time.monotonic()

        with lock, CancelScope() as scope:
            canceller = threading.Timer(0.01, scope.cancel)
            canceller.start()
            with pytest.raises(Cancelled), lock:
                pass
            canceller.join()

        assert time.monotonic() - started < 30
        assert not scope._wakers

    def test_the_next_thread_continues_as_soon_as_the_lock_is_released(self) -> None:
        lock = CancellableLock()
        order: list[str] = []

        def work() -> None:
            with lock:
                order.append("second")

        with lock:
            worker = threading.Thread(target=work)
            worker.start()
            time.sleep(0.01)
            order.append("first")
        worker.join(30)

        assert order == ["first", "second"]


def test_a_wait_ends_with_the_error_of_its_predicate() -> None:
    condition = threading.Condition()

    def predicate() -> bool:
        raise KeyError

    with condition, pytest.raises(KeyError):
        wait_until(condition, predicate)


def test_a_predicate_that_holds_already_needs_no_scope() -> None:
    condition = threading.Condition()

    with CancelScope() as scope, condition:
        scope.cancel()
        wait_until(condition, lambda: True)


def test_pauses_double_with_each_failure_up_to_the_cap() -> None:
    pauses = [backoff(failures, 1.0, base=0.5, cap=10.0) for failures in (1, 2, 3, 4, 5, 6, 7, 10_000)]

    assert pauses == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_pauses_are_spread_over_their_range() -> None:
    assert [backoff(3, jitter, base=0.5, cap=10.0) for jitter in (0.0, 0.25, 1.0)] == [0.0, 0.5, 2.0]


def test_an_attempt_is_repeated_until_it_succeeds() -> None:
    answers = [False, False, True]

    poll_until(lambda: answers.pop(0), interval=0.001)

    assert answers == []


def test_attempts_end_at_the_deadline() -> None:
    started = time.monotonic()

    with fail_after(0.02), pytest.raises(DeadlineExceeded):
        poll_until(lambda: False, interval=0.001)

    assert time.monotonic() - started < 30


def test_cancelled_work_makes_no_attempt() -> None:
    answers = [True]

    with CancelScope() as scope, pytest.raises(Cancelled):
        scope.cancel()
        poll_until(lambda: answers.pop(0), interval=0.001)

    assert answers == [True]
