"""Pools of threads: order, errors, cancellation and hanging tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from registry_core.cancellation import CancelScope, checkpoint, fail_after, sleep
from registry_core.errors import Cancelled, DeadlineExceeded, Unavailable
from registry_core.ops import workers
from registry_core.ops.workers import WorkerPool, run_each

PROMPT = 1.0


class Stuck:
    """Work that hangs without checking its scope, until the test releases it."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()
        self.threads: list[threading.Thread] = []

    def __call__(self, part: str) -> None:
        if part == "stuck":
            self.threads.append(threading.current_thread())
            self.started.set()
            self.release.wait(60)
            checkpoint()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    work = Stuck()
    yield work
    work.release.set()
    for thread in work.threads:
        thread.join(30)


@contextmanager
def _when(event: threading.Event, act: Callable[[], None]) -> Iterator[None]:
    def wait() -> None:
        event.wait(30)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    yield
    thread.join(30)


def _each(work: Callable[[str], None], *items: str, jobs: int = 2) -> None:
    run_each(work, items, jobs=jobs)


def test_each_item_is_worked_on_once() -> None:
    lock, seen = threading.Lock(), list[str]()

    def work(part: str) -> None:
        with lock:
            seen.append(part)

    parts = [f"{number:03}" for number in range(200)]
    _each(work, *parts, jobs=8)

    assert sorted(seen) == parts


def test_no_more_work_at_a_time_than_there_are_jobs() -> None:
    lock, busy, most = threading.Lock(), 0, 0

    def work(_: str) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        sleep(0.001)
        with lock:
            busy -= 1

    _each(work, *map(str, range(40)), jobs=3)

    assert most <= 3


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())

    _each(lambda _: None, *map(str, range(20)), jobs=8)

    assert set(threading.enumerate()) == before


def test_the_first_error_ends_the_others_and_is_raised_with_its_cause() -> None:
    waiting = threading.Event()
    ended: list[BaseException] = []

    def work(part: str) -> None:
        if part == "fails":
            waiting.wait(30)
            raise Unavailable("gone") from KeyError("why")
        try:
            waiting.set()
            sleep(60)
        except Cancelled as error:
            ended.append(error)
            raise

    with pytest.raises(Unavailable) as caught:
        _each(work, "waits", "fails", "never begun")

    assert isinstance(caught.value.__cause__, KeyError)
    assert [error.__cause__ for error in ended] == [caught.value]


def test_after_an_error_no_new_work_starts() -> None:
    seen: list[str] = []

    def work(part: str) -> None:
        seen.append(part)
        raise Unavailable(part)

    with pytest.raises(Unavailable):
        _each(work, *map(str, range(50)), jobs=2)

    assert len(seen) <= 2


def test_a_cancel_wakes_the_caller_though_a_thread_hangs(stuck: Stuck) -> None:
    with CancelScope() as outer:
        moment: list[float] = []

        def cancel() -> None:
            moment.append(time.monotonic())
            outer.cancel()

        with _when(stuck.started, cancel), pytest.raises(Cancelled):
            _each(stuck, "stuck", "done")
        taken = time.monotonic() - moment[0]

    assert taken < PROMPT
    stuck.release.set()
    stuck.threads[0].join(30)
    assert not stuck.threads[0].is_alive()


def test_a_deadline_wakes_the_caller_though_a_thread_hangs(stuck: Stuck) -> None:
    start = time.monotonic()

    with fail_after(0.1), pytest.raises(DeadlineExceeded):
        _each(stuck, "stuck", "done")

    assert time.monotonic() - start < PROMPT


def test_a_thread_that_hangs_does_not_keep_the_program_from_ending(stuck: Stuck) -> None:
    with fail_after(0.1), pytest.raises(DeadlineExceeded):
        _each(stuck, "stuck", "done")

    assert [thread.daemon for thread in stuck.threads] == [True]


def test_an_error_is_raised_though_another_worker_hangs(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hanging thread is waited for, but not forever."""
    monkeypatch.setattr(workers, "_ERROR_WAIT", 0.1)

    def work(part: str) -> None:
        if part == "fails":
            stuck.started.wait(30)
            raise Unavailable("gone")
        stuck(part)

    with pytest.raises(Unavailable):
        _each(work, "stuck", "fails")


def test_a_cancelled_worker_that_ends_is_waited_for() -> None:
    """No thread of the pool runs on after the call."""
    started, ended = threading.Event(), threading.Event()

    def work(_: str) -> None:
        started.set()
        try:
            sleep(60)
        finally:
            ended.set()

    with CancelScope() as outer, _when(started, outer.cancel), pytest.raises(Cancelled):
        _each(work, "one", "two")

    assert ended.is_set()


def test_exceptions_of_other_kinds_are_raised_too() -> None:
    def work(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _each(work, "one", "two")


def test_an_error_when_a_thread_is_started_is_raised_and_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    really_start = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name == "registry-copy-1":
            raise RuntimeError("no more threads")
        really_start(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    with pytest.raises(RuntimeError, match="no more"):
        _each(lambda _: sleep(60), "one", "two")

    assert set(threading.enumerate()) == before


def test_no_work_starts_in_a_cancelled_scope() -> None:
    seen: list[str] = []

    def work(part: str) -> None:
        checkpoint()
        seen.append(part)

    with CancelScope() as outer:
        outer.cancel()
        with pytest.raises(Cancelled):
            _each(work, "one", "two")

    assert seen == []


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_tasks_add_tasks_until_none_is_left(jobs: int) -> None:
    done: list[int] = []

    with CancelScope() as scope, fail_after(60):
        pool = WorkerPool(jobs, scope)

        def work(number: int) -> None:
            done.append(number)
            for below in (2 * number, 2 * number + 1):
                if below < 512:
                    pool.add(partial(work, below))

        pool.add(partial(work, 1))
        pool.run()

    assert sorted(done) == list(range(1, 512))


def test_ready_tasks_run_by_rank_and_then_by_age() -> None:
    done: list[str] = []
    with CancelScope() as scope:
        pool = WorkerPool(1, scope)
        for name, rank in (("c", (1, 0)), ("b", (1, -5)), ("d", (1, 0)), ("a", (0, 0))):
            pool.add(partial(done.append, name), rank)

        pool.run()

    assert done == ["a", "b", "c", "d"]


def test_threads_that_ended_are_replaced_when_new_tasks_come() -> None:
    begun = threading.Barrier(3)
    with CancelScope() as scope, fail_after(60):
        pool = WorkerPool(3, scope)

        def meet() -> None:
            begun.wait(30)

        def many() -> None:
            for _ in range(3):
                pool.add(meet)

        pool.add(many)
        pool.run()

    assert not begun.broken


def test_a_run_without_tasks_returns_at_once() -> None:
    with CancelScope() as scope:
        WorkerPool(4, scope).run()

        checkpoint()
