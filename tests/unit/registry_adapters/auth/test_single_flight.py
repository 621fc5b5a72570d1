"""One thread fetches, the others wait (R-039)."""

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


class Contention:
    """Threads that take the same lock: the first one holds it until all others wait."""

    def __init__(self, single_flight: SingleFlight, work: Callable[[int], None]) -> None:
        self.single_flight = single_flight
        self.work = work
        self.tried: list[int] = []
        self.lock = threading.Lock()
        self.waiting = threading.Semaphore(0)

    def take(self, number: int) -> None:
        if number:
            self.waiting.release()
        with self.single_flight.lock(KEY):
            with self.lock:
                self.tried.append(number)
            self.work(number)

    def run(self, others: int) -> list[BaseException | None]:
        entered, go = threading.Event(), threading.Event()

        def lead() -> None:
            with self.single_flight.lock(KEY):
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
            while len(self.single_flight._changed._waiters) < others:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            go.set()
            return [future.exception(timeout=30) for future in futures]


@pytest.fixture
def single_flight() -> SingleFlight:
    return SingleFlight(AccessDenied)


def test_one_thread_at_a_time_holds_the_lock_of_a_key(single_flight: SingleFlight) -> None:
    inside = 0
    most = 0
    lock = threading.Lock()

    def take(_: int) -> None:
        nonlocal inside, most
        with single_flight.lock(KEY):
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(take, range(200)))

    assert most == 1


def test_another_key_has_another_lock(single_flight: SingleFlight) -> None:
    with single_flight.lock("a"), single_flight.lock("b"), single_flight.lock(("a", "b")):
        entered = True

    assert entered


def test_any_error_releases_the_lock(single_flight: SingleFlight) -> None:
    for error in (ValueError("broken"), Unavailable("gone"), KeyboardInterrupt()):
        with pytest.raises(type(error)), single_flight.lock(KEY):
            raise error

    with single_flight.lock(KEY):
        entered = True
    assert entered


@pytest.mark.parametrize("error", [Unauthorized("wrong password"), Forbidden("not you")])
def test_a_refusal_is_raised_in_all_waiting_threads(single_flight: SingleFlight, error: RegistryError) -> None:
    """A wrong password is sent once, not by each thread: repeated attempts lock accounts."""

    def refuse(_: int) -> None:
        raise error

    contention = Contention(single_flight, refuse)

    outcomes = contention.run(8)

    assert contention.tried == [0]
    assert [type(one) for one in outcomes] == [type(error)] * 9
    assert len({id(one) for one in outcomes}) == 9


@pytest.mark.parametrize("error", [Unavailable("down"), RateLimited("slowly")])
def test_the_second_outage_is_raised_in_all_waiting_threads(single_flight: SingleFlight, error: RegistryError) -> None:
    def fail(_: int) -> None:
        raise error

    contention = Contention(single_flight, fail)

    outcomes = contention.run(8)

    assert len(contention.tried) == 2
    assert [type(one) for one in outcomes] == [type(error)] * 9


@pytest.mark.parametrize(
    "error",
    [Unavailable("down"), Cancelled("by its caller"), DeadlineExceeded("its own"), ProtocolError("odd"), KeyError("?")],
)
def test_after_other_errors_the_next_thread_tries(single_flight: SingleFlight, error: Exception) -> None:
    def fail_first(number: int) -> None:
        if number == 0:
            raise error

    contention = Contention(single_flight, fail_first)

    outcomes = contention.run(8)

    assert len(contention.tried) == 9
    assert type(outcomes[0]) is type(error)
    assert outcomes[1:] == [None] * 8


@pytest.mark.parametrize("own", [Cancelled("by its caller"), DeadlineExceeded("its own"), ProtocolError("odd")])
def test_a_waiting_thread_raises_the_refusal_and_not_a_later_error(
    single_flight: SingleFlight, own: RegistryError
) -> None:
    def wait() -> None:
        with single_flight.lock(KEY):
            pass

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Unauthorized), single_flight.lock(KEY):
            waiting = pool.submit(wait)
            while not single_flight._changed._waiters:  # type: ignore[attr-defined]
                threading.Event().wait(0.001)
            # The one that waits cannot wake before the next one is through as well.
            single_flight._changed.acquire()
            raise Unauthorized("wrong password")
        with pytest.raises(type(own)), single_flight.lock(KEY):
            raise own
        single_flight._changed.release()

        assert type(waiting.exception(30)) is Unauthorized


def test_a_later_thread_does_not_raise_earlier_outages(single_flight: SingleFlight) -> None:
    tried: list[str] = []

    def late() -> None:
        with single_flight.lock(KEY):
            tried.append("late")

    def wait_for(count: int) -> None:
        while len(single_flight._changed._waiters) < count:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)

    def second() -> None:
        with single_flight.lock(KEY):
            third.append(pool.submit(late))
            wait_for(1)
            raise Unavailable("still down")

    third: list[Future[None]] = []
    with ThreadPoolExecutor(2) as pool:
        with pytest.raises(Unavailable), single_flight.lock(KEY):
            waiting = pool.submit(second)
            wait_for(1)
            raise Unavailable("down")
        assert isinstance(waiting.exception(30), Unavailable)
        third[0].result(30)

    assert tried == ["late"]


def test_without_shared_errors_each_thread_tries() -> None:
    def refuse(_: int) -> None:
        raise Unauthorized("wrong")

    contention = Contention(SingleFlight(), refuse)

    contention.run(4)

    assert sorted(contention.tried) == [0, 1, 2, 3, 4]


def test_waiting_can_be_cancelled(single_flight: SingleFlight) -> None:
    def wait() -> None:
        with single_flight.lock(KEY):
            pass

    with CancelScope() as scope, single_flight.lock(KEY), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(copy_context().run, wait)
        scope.cancel()

        with pytest.raises(Cancelled):
            waiting.result(timeout=30)


def test_waiting_ends_at_the_deadline(single_flight: SingleFlight) -> None:
    def wait() -> None:
        with fail_after(0.01), single_flight.lock(KEY):
            pass

    with single_flight.lock(KEY), ThreadPoolExecutor(1) as pool, pytest.raises(DeadlineExceeded):
        pool.submit(wait).result(timeout=30)


def test_a_single_flight_cannot_be_pickled(single_flight: SingleFlight) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(single_flight)
