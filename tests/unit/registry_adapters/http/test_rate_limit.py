from __future__ import annotations

import contextlib
import gc
import io
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from registry_adapters.http import rate_limit
from registry_adapters.http.messages import Body, Headers, Request, Response
from registry_adapters.http.rate_limit import OriginLimiter, Permit, RateLimiter, Throttling
from registry_adapters.http.retry import StaleConnection
from registry_adapters.http.session import Session
from registry_adapters.http.settings import HttpSettings
from registry_adapters.http.transport.body import SourceFailed
from registry_core.cancellation import CancelScope, fail_after, sleep
from registry_core.content.streams import ByteReader, BytesSource, CallableSource, FileObjectReader
from registry_core.domain.origin import Origin
from registry_core.errors import Cancelled, DeadlineExceeded, RateLimited, Unavailable

if TYPE_CHECKING:
    from tests.unit.registry_adapters.http.conftest import Peer, Wire

    Serve = Callable[[Callable[[Peer], None]], Wire]
    Say = Callable[..., bytes]

HOME = Origin.of("registry.example.com")


class Clock:
    """A clock that goes forward only where somebody sleeps."""

    def __init__(self) -> None:
        self.time = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Callable[..., OriginLimiter]:
    def build(maximum: int = 8, rate: float | None = None) -> OriginLimiter:
        return OriginLimiter(HOME, maximum=maximum, rate=rate, clock=clock, sleep=clock.sleep)

    return build


def body(content: bytes = b"body") -> FileObjectReader:
    return FileObjectReader(io.BytesIO(content))


def backoff(failures: int) -> float:
    return float(failures)


@contextmanager
def elsewhere(work: Callable[[], object]) -> Iterator[threading.Event]:
    """Work done by another thread; the event tells that it is done."""
    done = threading.Event()

    def run() -> None:
        work()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        thread.join()


def refused(build: OriginLimiter, *, status: int = 429, asked: float | None = None) -> Throttling | None:
    slot = build.acquire()
    slot.release()
    return build.on_throttled(slot, status, asked, backoff)


class TestSlots:
    def test_no_more_than_the_maximum_are_under_way(self, gate: Callable[..., OriginLimiter]) -> None:
        narrow = gate(1)
        slot = narrow.acquire()
        order: list[str] = []

        def work() -> None:
            with closing(narrow.acquire().held_by_body(body())):
                order.append("second")

        with elsewhere(work):
            order.append("first")
            slot.release()

        assert order == ["first", "second"]

    def test_a_thread_that_has_one_gets_another_at_once(self, gate: Callable[..., OriginLimiter]) -> None:
        """Copying within a registry reads a body while it sends it."""
        narrow = gate(1)

        first = narrow.acquire()
        second = narrow.acquire()

        assert narrow.under_way == 2
        first.release()
        second.release()
        assert narrow.under_way == 0

    def test_who_reads_a_body_is_who_has_the_slot(self, gate: Callable[..., OriginLimiter]) -> None:
        narrow = gate(1)
        reader = narrow.acquire().held_by_body(body())

        def work() -> None:
            reader.read(1)
            narrow.acquire().release()

        with elsewhere(work) as done:
            assert done.wait(10)

        reader.close()

    def test_a_body_nobody_reads_does_not_count(self, gate: Callable[..., OriginLimiter], clock: Clock) -> None:
        narrow = gate(1)
        reader = narrow.acquire().held_by_body(body())
        clock.time += 1.0

        with elsewhere(lambda: narrow.acquire().release()) as done:
            assert done.wait(10)

        reader.close()

    def test_a_request_whose_bytes_do_not_come_does_not_count(
        self, gate: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        """They may come from where somebody waits for this very slot."""
        narrow = gate(1)
        slot = narrow.acquire()
        counts: list[int] = []

        class Slow(FileObjectReader):
            def read(self, size: int = -1, /) -> bytes:
                clock.time += 1.0
                counts.append(narrow.under_way)
                return super().read(size)

        def opened(start: int) -> FileObjectReader:
            clock.time += 1.0
            counts.append(narrow.under_way)
            return Slow(io.BytesIO(b"body"[start:]))

        with slot.paused_while_reading(CallableSource(opened)).open(1) as reader:
            counts.append(narrow.under_way)
            content = reader.read(3)
            counts.append(narrow.under_way)

        assert content == b"ody"
        assert counts == [0, 1, 0, 1]
        slot.release()

    def test_bytes_that_come_too_late_do_not_take_a_slot_back(self, gate: Callable[..., OriginLimiter]) -> None:
        narrow = gate(1)
        slot = narrow.acquire()
        reader = slot.paused_while_reading(BytesSource(b"body")).open()
        slot.release()

        reader.read(1)

        assert narrow.under_way == 0
        reader.close()

    def test_until_it_is_read_again(self, gate: Callable[..., OriginLimiter], clock: Clock) -> None:
        narrow = gate(1)
        reader = narrow.acquire().held_by_body(body())
        clock.time += 1.0
        idle = narrow.under_way

        reader.read(1)

        assert (idle, narrow.under_way) == (0, 1)
        reader.close()

    def test_a_request_without_an_answer_counts_however_long_it_takes(
        self, gate: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        narrow = gate(1)
        slot = narrow.acquire()

        clock.time += 3600

        assert narrow.under_way == 1
        slot.release()

    @pytest.mark.parametrize(
        "end",
        [
            lambda reader: reader.close(),
            lambda reader: [reader.read(2), reader.read(2), reader.read(1)],
            lambda reader: reader.read(),
            lambda reader: [reader.readinto(bytearray(4)), reader.readinto(bytearray(1))],
        ],
        ids=["close", "read", "read all", "readinto"],
    )
    def test_a_body_that_is_closed_or_at_its_end_gives_its_slot_back(
        self, gate: Callable[..., OriginLimiter], end: Callable[[object], object]
    ) -> None:
        narrow = gate(1)
        reader = narrow.acquire().held_by_body(body())
        held = narrow.under_way

        end(reader)

        assert (held, narrow.under_way) == (1, 0)
        reader.close()

    def test_a_body_that_is_dropped_gives_its_slot_back(self, gate: Callable[..., OriginLimiter]) -> None:
        narrow = gate(1)
        reader = narrow.acquire().held_by_body(body())
        held = narrow.under_way

        del reader
        gc.collect()

        assert (held, narrow.under_way) == (1, 0)

    def test_a_body_that_breaks_off_keeps_its_slot_until_it_is_closed(self, gate: Callable[..., OriginLimiter]) -> None:
        class Broken(FileObjectReader):
            def read(self, size: int = -1, /) -> bytes:
                raise Unavailable("cut")

        narrow = gate(1)
        reader = narrow.acquire().held_by_body(Broken(io.BytesIO()))

        with pytest.raises(Unavailable):
            reader.read(1)

        assert narrow.under_way == 1
        reader.close()
        assert narrow.under_way == 0

    @pytest.mark.parametrize("count", [2, 16])
    def test_waiters_are_served_in_order(self, gate: Callable[..., OriginLimiter], count: int) -> None:
        narrow = gate(1)
        slot = narrow.acquire()
        order: list[int] = []
        threads = []

        def work(number: int) -> None:
            mine = narrow.acquire()
            order.append(number)
            mine.release()

        for number in range(count):
            thread = threading.Thread(target=work, args=(number,))
            threads.append(thread)
            thread.start()
            while narrow.waiting <= number:
                sleep(0.001)
        slot.release()
        for thread in threads:
            thread.join()

        assert order == list(range(count))

    @pytest.mark.parametrize("first", ["is cancelled", "goes on"])
    def test_the_next_one_is_woken_and_does_not_find_out_by_itself(
        self, gate: Callable[..., OriginLimiter], monkeypatch: pytest.MonkeyPatch, first: str
    ) -> None:
        monkeypatch.setattr(rate_limit, "_IDLE", 60.0)
        narrow = gate(2)
        slots = [narrow.acquire(), narrow.acquire()]
        narrow.on_throttled(slots[1], 429, 0.0, backoff)
        scope = CancelScope()
        ends: list[str] = []

        def wait_in_scope() -> None:
            with scope:
                narrow.acquire().release()

        def work() -> None:
            with contextlib.suppress(Cancelled):
                wait_in_scope()
            ends.append("first")

        with elsewhere(work) as one:
            while narrow.waiting < 1:
                sleep(0.001)
            with elsewhere(lambda: narrow.acquire().release()) as other:
                while narrow.waiting < 2:
                    sleep(0.001)
                slots[0].release()
                if first == "is cancelled":
                    scope.cancel()
                slots[1].release()

                assert one.wait(10)
                assert other.wait(10)

        assert ends == ["first"]

    def test_cancelling_ends_the_wait_and_lets_the_next_one_in(self, gate: Callable[..., OriginLimiter]) -> None:
        """R-052."""
        narrow = gate(1)
        slot = narrow.acquire()
        scope = CancelScope()
        ends: list[str] = []

        def work() -> None:
            with scope, pytest.raises(Cancelled):
                narrow.acquire()
            ends.append("cancelled")

        with elsewhere(work) as done:
            while not narrow.waiting:
                sleep(0.001)
            scope.cancel()
            assert done.wait(10)
        slot.release()

        assert (ends, narrow.waiting) == (["cancelled"], 0)
        narrow.acquire().release()

    def test_the_deadline_ends_the_wait(self, gate: Callable[..., OriginLimiter]) -> None:
        """R-052."""
        narrow = gate(1)
        slot = narrow.acquire()

        def work() -> None:
            with fail_after(0.05), pytest.raises(DeadlineExceeded):
                narrow.acquire()

        with elsewhere(work) as done:
            assert done.wait(10)

        slot.release()


class TestPauses:
    def test_everybody_keeps_the_pause(self, gate: Callable[..., OriginLimiter], clock: Clock) -> None:
        """R-054."""
        opened = gate()
        brake = refused(opened, asked=7.0)

        opened.acquire().release()

        assert (brake, clock.pauses) == (Throttling(7.0, 4), [7.0])

    def test_without_a_word_of_the_registry_it_grows(self, gate: Callable[..., OriginLimiter]) -> None:
        """R-054."""
        opened = gate()

        pauses = [brake.pause for _ in range(3) if (brake := refused(opened)) is not None]

        assert pauses == [1.0, 2.0, 3.0]

    def test_an_answer_without_a_complaint_begins_it_anew(self, gate: Callable[..., OriginLimiter]) -> None:
        """R-054."""
        opened = gate()
        refused(opened)

        opened.on_success()

        assert refused(opened) == Throttling(1.0, 2)

    def test_nothing_is_held_during_it(self, gate: Callable[..., OriginLimiter], clock: Clock) -> None:
        held: list[int] = []

        def sleep(seconds: float) -> None:
            held.append(opened.under_way)
            clock.sleep(seconds)

        opened = OriginLimiter(HOME, maximum=2, rate=1.0, clock=clock, sleep=sleep)
        refused(opened, asked=7.0)

        opened.acquire().release()
        opened.acquire().release()

        assert held == [0, 0]

    @pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, Unavailable)])
    def test_one_that_goes_beyond_the_deadline_is_an_error_at_once(
        self, gate: Callable[..., OriginLimiter], clock: Clock, status: int, kind: type[RateLimited] | type[Unavailable]
    ) -> None:
        """R-052, R-054."""
        opened = gate()
        refused(opened, status=status, asked=30.0)

        with fail_after(20), pytest.raises(kind) as caught:
            opened.acquire()

        assert (caught.value.status, caught.value.retry_after, clock.pauses) == (status, 30.0, [])

    def test_a_shorter_one_does_not_end_a_longer_one(self, gate: Callable[..., OriginLimiter]) -> None:
        opened = gate()
        first, second = opened.acquire(), opened.acquire()
        opened.on_throttled(first, 429, 30.0, backoff)

        news = opened.on_throttled(second, 429, 2.0, backoff)

        assert (news, opened.left()) == (None, 30.0)

    def test_a_longer_one_extends_it(self, gate: Callable[..., OriginLimiter]) -> None:
        opened = gate()
        first, second = opened.acquire(), opened.acquire()
        opened.on_throttled(first, 429, 2.0, backoff)

        news = opened.on_throttled(second, 429, 30.0, backoff)

        assert (news, opened.left()) == (Throttling(30.0, 4), 30.0)


class TestLimit:
    def test_refusals_halve_it_down_to_one(self, gate: Callable[..., OriginLimiter]) -> None:
        opened = gate(8)

        limits = [brake.limit for _ in range(5) if (brake := refused(opened)) is not None]

        assert limits == [4, 2, 1, 1, 1]

    def test_requests_refused_together_count_once(self, gate: Callable[..., OriginLimiter]) -> None:
        opened = gate(8)
        slots = [opened.acquire() for _ in range(8)]

        news = [opened.on_throttled(slot, 429, None, backoff) for slot in slots]

        assert news == [Throttling(1.0, 4)] + [None] * 7
        assert opened.limit == 4

    def test_it_recovers_one_by_one_up_to_the_maximum(self, gate: Callable[..., OriginLimiter]) -> None:
        opened = gate(4)
        refused(opened)
        limits = []

        for _ in range(4):
            limits.append(opened.limit)
            for _ in range(10):
                opened.on_success()

        assert limits == [2, 3, 4, 4]

    def test_a_refusal_forgets_the_answers_before_it(self, gate: Callable[..., OriginLimiter]) -> None:
        wide = gate(8)
        refused(wide, asked=0.0)
        for _ in range(9):
            wide.on_success()

        refused(wide, asked=0.0)
        for _ in range(9):
            wide.on_success()

        assert wide.limit == 2

    def test_who_waits_is_woken_when_it_recovers(
        self, gate: Callable[..., OriginLimiter], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rate_limit, "_IDLE", 60.0)
        narrow = gate(2)
        refused(narrow, asked=0.0)
        slot = narrow.acquire()

        with elsewhere(lambda: narrow.acquire().release()) as done:
            while not narrow.waiting:
                sleep(0.001)
            for _ in range(10):
                narrow.on_success()

            assert done.wait(10)

        slot.release()

    def test_a_lower_limit_holds_for_who_comes_next(self, gate: Callable[..., OriginLimiter]) -> None:
        opened = gate(2)
        refused(opened)
        slot = opened.acquire()

        def work() -> None:
            with fail_after(0.05), pytest.raises(DeadlineExceeded):
                opened.acquire()

        with elsewhere(work) as done:
            assert done.wait(10)

        slot.release()


class TestRate:
    def test_requests_begin_evenly_spread(self, gate: Callable[..., OriginLimiter], clock: Clock) -> None:
        opened = gate(rate=4.0)
        begun = []

        for _ in range(4):
            opened.acquire().release()
            begun.append(clock.time)

        assert begun == [100.0, 100.25, 100.5, 100.75]

    def test_time_that_passed_is_not_saved_up(self, gate: Callable[..., OriginLimiter], clock: Clock) -> None:
        opened = gate(rate=4.0)
        opened.acquire().release()
        clock.time += 10.0

        opened.acquire().release()
        opened.acquire().release()

        assert clock.pauses == [0.25]

    def test_a_turn_beyond_the_deadline_is_not_waited_for(
        self, gate: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        """R-052."""
        opened = gate(rate=0.01)
        opened.acquire().release()

        with fail_after(20), pytest.raises(DeadlineExceeded):
            opened.acquire()

        assert clock.pauses == []


class TestGates:
    def test_each_origin_has_one(self, clock: Clock) -> None:
        gates = RateLimiter(maximum=8, rate=None, clock=clock, sleep=clock.sleep)

        assert gates.of(HOME) is gates.of(Origin.of("registry.example.com:443"))
        assert gates.of(HOME) is not gates.of(Origin.of("cdn.example.net"))

    def test_hosts_without_end_are_forgotten_but_for_those_in_use(self, clock: Clock) -> None:
        gates = RateLimiter(maximum=8, rate=None, clock=clock, sleep=clock.sleep)
        paused, used = gates.of(HOME), gates.of(Origin.of("cdn.example.net"))
        refused(paused, asked=60.0)
        slowed = gates.of(Origin.of("slowed.example.net"))
        refused(slowed, asked=0.0)
        slot = used.acquire()
        first = gates.of(Origin.of("h0.example.net"))

        for number in range(1, 200):
            gates.of(Origin.of(f"h{number}.example.net"))

        assert gates.of(HOME) is paused
        assert gates.of(Origin.of("cdn.example.net")) is used
        assert gates.of(Origin.of("h0.example.net")) is not first
        assert gates.of(Origin.of("slowed.example.net")) is not slowed
        slot.release()

    def test_a_child_process_begins_anew(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of what its parent had under way, nothing will ever be given back there."""
        gates = RateLimiter(maximum=1, rate=None, clock=clock, sleep=clock.sleep)
        slot = gates.of(HOME).acquire()
        process = os.getpid()

        monkeypatch.setattr(os, "getpid", lambda: process + 1)

        assert gates.of(HOME).under_way == 0
        slot.release()


class Echoing:
    """Reads what is sent, and says what is four bytes long; before that, it may fail."""

    def __init__(self, failures: Sequence[Exception] = ()) -> None:
        self._failures = list(failures)

    def send(self, method: str, url: str, headers: Mapping[str, str], body: Body | None) -> Response:
        if self._failures:
            raise self._failures.pop(0)
        if body is not None:
            with body.source.open(body.start) as reader:
                reader.read(body.length)
        return Response(status=200, headers=Headers([]), url=url, reader=FileObjectReader(io.BytesIO(b"body")))

    def close(self) -> None:
        """Nothing is kept open."""


class Counting:
    """A server's script: how many requests it has at a time, at most."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.served = 0

    def __call__(self, peer: Peer) -> None:
        while peer.receive() is not None:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
                self.served += 1
            sleep(0.002)
            with self._lock:
                self._now -= 1
            peer.send(self._say(200, b"body"))


def test_64_threads_share_the_connections_of_the_pool(serve: Serve, say: Say) -> None:
    script = Counting(say)
    wire = serve(script)
    contents: list[bytes] = []
    request = Request(method="GET", target="/v2/a/blobs/x", success=(200,))

    def work(session: Session) -> None:
        for _ in range(4):
            with session.send(request) as answer:
                contents.append(answer.content(100))

    with closing(Session(wire.origin, HttpSettings(plain_http=True, proxy="", max_connections=4))) as session:
        threads = [threading.Thread(target=work, args=(session,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert contents == [b"body"] * 256
    assert script.served == 256
    assert script.most <= 4
    assert wire.connections <= 4


def test_bodies_that_all_threads_hold_do_not_block_them(serve: Serve, say: Say) -> None:
    """Each thread reads a body to its end only after it has got another."""
    wire = serve(Counting(say))
    request = Request(method="GET", target="/v2/a/blobs/x", success=(200,))
    barrier = threading.Barrier(4)
    contents: list[bytes] = []

    def work(session: Session) -> None:
        with session.send(request) as held:
            barrier.wait(20)
            with session.send(request) as answer:
                contents.append(answer.content(100))
            contents.append(held.content(100))

    with closing(Session(wire.origin, HttpSettings(plain_http=True, proxy="", max_connections=4))) as session:
        threads = [threading.Thread(target=work, args=(session,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert contents == [b"body"] * 8


@pytest.mark.parametrize(
    "failure", [Unavailable("cut"), StaleConnection("cut"), SourceFailed(OSError("gone")), Cancelled("enough")]
)
def test_a_request_that_fails_gives_its_slot_back(failure: Exception) -> None:
    """Whoever comes next is another thread, which has none."""
    session = Session(HOME, HttpSettings(max_connections=1, retries=0), transport=Echoing(failures=[failure]))
    request = Request(method="PUT", target="/v2/", success=(200,), repeatable=False)
    statuses: list[int] = []

    def send() -> None:
        with fail_after(5), session.send(request) as answer:
            statuses.append(answer.status)

    with pytest.raises((Unavailable, OSError, Cancelled)):
        session.send(request)
    with elsewhere(send) as done:
        assert done.wait(10)

    assert statuses == [200]


def test_two_that_copy_towards_each_other_do_not_block() -> None:
    """Each sends to where the other one reads, by the only slot there is."""
    first, second = (Session(HOME, HttpSettings(max_connections=1), transport=Echoing()) for _ in range(2))
    both = threading.Barrier(2)

    def copy(source: Session, target: Session) -> None:
        def opened(start: int) -> ByteReader:
            both.wait(10)
            return source.send(Request(method="GET", target="/v2/", success=(200,))).reader

        body = Body(CallableSource(opened), 0, 4)
        target.send(Request(method="PUT", target="/v2/", success=(200,), body=body)).close()

    with fail_after(8), elsewhere(lambda: copy(first, second)) as done:
        copy(second, first)

        assert done.wait(10)


def test_readers_opened_in_any_number_do_not_block(serve: Serve, say: Say) -> None:
    wire = serve(Counting(say))
    request = Request(method="GET", target="/v2/a/blobs/x", success=(200,))

    with closing(Session(wire.origin, HttpSettings(plain_http=True, proxy="", max_connections=2))) as session:
        answers = [session.send(request) for _ in range(6)]
        contents = [answer.content(100) for answer in answers]

    assert contents == [b"body"] * 6


def test_a_slot_can_be_given_back_twice(gate: Callable[..., OriginLimiter]) -> None:
    narrow = gate(1)
    slot: Permit = narrow.acquire()

    slot.release()
    slot.release()

    assert narrow.under_way == 0
