"""One fetches, the others wait (R-039)."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import pytest

from registry_adapters.auth.single_flight import SingleFlight
from registry_core.cancellation import CancelScope, fail_after
from registry_core.errors import (
    AccessDenied,
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    ProtocolError,
    RateLimited,
    RegistryError,
    Unauthorized,
    Unavailable,
)

KEY = "token"


class Row:
    """Threads that queue for the same turn: the first holds it until all others wait."""

    def __init__(self, turns: SingleFlight, work: Callable[[int], None]) -> None:
        self.turns = turns
        self.work = work
        self.tried: list[int] = []
        self.lock = threading.Lock()
        self.waiting = threading.Semaphore(0)

    def take(self, number: int) -> None:
        if number:
            self.waiting.release()
        with self.turns.lock(KEY):
            with self.lock:
                self.tried.append(number)
            self.work(number)

    def run(self, others: int) -> list[BaseException | None]:
        entered, go = threading.Event(), threading.Event()

        def lead() -> None:
            with self.turns.lock(KEY):
                entered.set()
                go.wait(30)
                self.tried.append(0)
                self.work(0)

        with ThreadPoolExecutor(others + 1) as pool:
            futures: list[Future[None]] = [pool.submit(lead)]
            entered.wait(30)
            futures += [pool.submit(self.take, number) for number in range(1, others + 1)]
            for _ in range(others):
                self.waiting.acquire(timeout=30)
            # Each has announced itself; now let each come to its wait.
            while len(self.turns._changed._waiters) < others:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            go.set()
            return [future.exception(timeout=30) for future in futures]


@pytest.fixture
def turns() -> SingleFlight:
    return SingleFlight(AccessDenied)


def test_one_at_a_time_has_the_turn_for_one_key(turns: SingleFlight) -> None:
    inside = 0
    most = 0
    lock = threading.Lock()

    def take(_: int) -> None:
        nonlocal inside, most
        with turns.lock(KEY):
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(take, range(200)))

    assert most == 1


def test_another_key_has_a_turn_of_its_own(turns: SingleFlight) -> None:
    with turns.lock("a"), turns.lock("b"), turns.lock(("a", "b")):
        entered = True

    assert entered


def test_a_turn_ends_with_any_error(turns: SingleFlight) -> None:
    for error in (ValueError("broken"), Unavailable("gone"), KeyboardInterrupt()):
        with pytest.raises(type(error)), turns.lock(KEY):
            raise error

    with turns.lock(KEY):
        entered = True
    assert entered


@pytest.mark.parametrize("error", [Unauthorized("wrong password"), Forbidden("not you")])
def test_a_refusal_is_the_answer_for_all_that_wait(turns: SingleFlight, error: RegistryError) -> None:
    """A wrong password is tried once and not by each thread: accounts get locked."""

    def refuse(_: int) -> None:
        raise error

    row = Row(turns, refuse)

    outcomes = row.run(8)

    assert row.tried == [0]
    assert [type(one) for one in outcomes] == [type(error)] * 9
    assert len({id(one) for one in outcomes}) == 9


@pytest.mark.parametrize("error", [Unavailable("down"), RateLimited("slowly")])
def test_an_outage_is_tried_by_two_and_then_the_answer_for_all(turns: SingleFlight, error: RegistryError) -> None:
    def fail(_: int) -> None:
        raise error

    row = Row(turns, fail)

    outcomes = row.run(8)

    assert len(row.tried) == 2
    assert [type(one) for one in outcomes] == [type(error)] * 9


@pytest.mark.parametrize(
    "error",
    [Unavailable("down"), Cancelled("by its caller"), DeadlineExceeded("its own"), ProtocolError("odd"), KeyError("?")],
)
def test_where_the_first_fails_the_next_one_tries_and_nobody_else_fails(turns: SingleFlight, error: Exception) -> None:
    def fail_first(number: int) -> None:
        if number == 0:
            raise error

    row = Row(turns, fail_first)

    outcomes = row.run(8)

    assert len(row.tried) == 9
    assert type(outcomes[0]) is type(error)
    assert outcomes[1:] == [None] * 8


@pytest.mark.parametrize("own", [Cancelled("by its caller"), DeadlineExceeded("its own"), ProtocolError("odd")])
def test_who_waits_gets_the_refusal_and_not_what_befell_another_in_between(
    turns: SingleFlight, own: RegistryError
) -> None:
    def wait() -> None:
        with turns.lock(KEY):
            pass

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Unauthorized), turns.lock(KEY):
            waiting = pool.submit(wait)
            while not turns._changed._waiters:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            # The one that waits cannot wake before the next one is through as well.
            turns._changed.acquire()
            raise Unauthorized("wrong password")
        with pytest.raises(type(own)), turns.lock(KEY):
            raise own
        turns._changed.release()

        assert type(waiting.exception(30)) is Unauthorized


def test_who_comes_later_has_not_seen_the_outages_before(turns: SingleFlight) -> None:
    tried: list[str] = []

    def late() -> None:
        with turns.lock(KEY):
            tried.append("late")

    def wait_for(count: int) -> None:
        while len(turns._changed._waiters) < count:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)

    def second() -> None:
        with turns.lock(KEY):
            third.append(pool.submit(late))
            wait_for(1)
            raise Unavailable("still down")

    third: list[Future[None]] = []
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(Unavailable), turns.lock(KEY):
            waiting = pool.submit(second)
            wait_for(1)
            raise Unavailable("down")
        assert isinstance(waiting.exception(30), Unavailable)
        third[0].result(30)

    assert tried == ["late"]


def test_without_shared_errors_each_tries_for_itself() -> None:
    def refuse(_: int) -> None:
        raise Unauthorized("wrong")

    row = Row(SingleFlight(), refuse)

    row.run(4)

    assert sorted(row.tried) == [0, 1, 2, 3, 4]


def test_waiting_for_a_turn_can_be_cancelled(turns: SingleFlight) -> None:
    def wait() -> None:
        with turns.lock(KEY):
            pass

    with CancelScope() as scope, turns.lock(KEY), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(copy_context().run, wait)
        scope.cancel()

        with pytest.raises(Cancelled):
            waiting.result(timeout=30)


def test_waiting_for_a_turn_ends_at_the_deadline(turns: SingleFlight) -> None:
    def wait() -> None:
        with fail_after(0.01), turns.lock(KEY):
            pass

    with turns.lock(KEY), ThreadPoolExecutor(1) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(wait).result(timeout=30)


def test_they_are_not_pickled(turns: SingleFlight) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(turns)
