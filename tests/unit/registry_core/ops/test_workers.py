"""Threads that work together, stop together, and keep nobody waiting."""

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
from registry_core.ops.workers import WorkerPool, Workers

PROMPT = 1.0


class Stuck:
    """Work that hangs where no scope reaches it, until the test lets it go."""

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


def _each(work: Callable[[str], None], *parts: str, jobs: int = 2) -> None:
    with CancelScope() as scope, Workers(jobs, scope) as crew:
        crew.run_each(work, parts)


def test_each_part_is_worked_on_once() -> None:
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


def test_after_an_error_nothing_new_is_begun() -> None:
    seen: list[str] = []

    def work(part: str) -> None:
        seen.append(part)
        raise Unavailable(part)

    with pytest.raises(Unavailable):
        _each(work, *map(str, range(50)), jobs=2)

    assert len(seen) <= 2


def test_whoever_waits_is_woken_by_a_cancel_though_a_worker_hangs(stuck: Stuck) -> None:
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


def test_whoever_waits_is_woken_by_a_deadline_though_a_worker_hangs(stuck: Stuck) -> None:
    start = time.monotonic()

    with fail_after(0.1), pytest.raises(DeadlineExceeded):
        _each(stuck, "stuck", "done")

    assert time.monotonic() - start < PROMPT


def test_a_thread_that_hangs_does_not_keep_the_program_from_ending(stuck: Stuck) -> None:
    with fail_after(0.1), pytest.raises(DeadlineExceeded):
        _each(stuck, "stuck", "done")

    assert [thread.daemon for thread in stuck.threads] == [True]


def test_an_error_is_raised_though_another_worker_hangs(stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, but not for ever."""
    monkeypatch.setattr(workers, "_PATIENCE", 0.1)

    def work(part: str) -> None:
        if part == "fails":
            stuck.started.wait(30)
            raise Unavailable("gone")
        stuck(part)

    with pytest.raises(Unavailable):
        _each(work, "stuck", "fails")


def test_a_cancelled_worker_that_ends_is_waited_for() -> None:
    """So that nothing of it is left when the caller goes on."""
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


def test_what_is_no_error_of_the_library_comes_through() -> None:
    def work(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _each(work, "one", "two")


def test_a_thread_that_cannot_be_started_is_said_so_and_the_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_nobody_begins_in_a_cancelled_scope() -> None:
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
def test_work_begets_work_until_there_is_none(jobs: int) -> None:
    done: list[int] = []

    with CancelScope() as scope, fail_after(60):
        crew = WorkerPool(jobs, scope)

        def work(number: int) -> None:
            done.append(number)
            for below in (2 * number, 2 * number + 1):
                if below < 512:
                    crew.add(partial(work, below))

        crew.add(partial(work, 1))
        crew.run()

    assert sorted(done) == list(range(1, 512))


def test_of_what_is_ready_the_lowest_rank_comes_first_and_then_the_oldest() -> None:
    done: list[str] = []
    with CancelScope() as scope:
        crew = WorkerPool(1, scope)
        for name, rank in (("c", (1, 0)), ("b", (1, -5)), ("d", (1, 0)), ("a", (0, 0))):
            crew.add(partial(done.append, name), rank)

        crew.run()

    assert done == ["a", "b", "c", "d"]


def test_hands_that_were_let_go_come_back_for_new_work() -> None:
    begun = threading.Barrier(3)
    with CancelScope() as scope, fail_after(60):
        crew = WorkerPool(3, scope)

        def meet() -> None:
            begun.wait(30)

        def many() -> None:
            for _ in range(3):
                crew.add(meet)

        crew.add(many)
        crew.run()

    assert not begun.broken


def test_no_work_is_done_at_once() -> None:
    with CancelScope() as scope:
        WorkerPool(4, scope).run()

        checkpoint()
