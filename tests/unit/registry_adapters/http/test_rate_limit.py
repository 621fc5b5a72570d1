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
    from tests.unit.registry_adapters.http.conftest import ScriptedServer, ServerConnection

    StartServer = Callable[[Callable[[ServerConnection], None]], ScriptedServer]
    ResponseBytes = Callable[..., bytes]

REGISTRY = Origin.of("registry.example.com")


class Clock:
    """A clock that advances only by ``sleep``."""

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
def make_limiter(clock: Clock) -> Callable[..., OriginLimiter]:
    def build(maximum: int = 8, rate: float | None = None) -> OriginLimiter:
        return OriginLimiter(REGISTRY, maximum=maximum, rate=rate, clock=clock, sleep=clock.sleep)

    return build


def body(content: bytes = b"body") -> FileObjectReader:
    return FileObjectReader(io.BytesIO(content))


def backoff(failures: int) -> float:
    return float(failures)


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Event]:
    """Run work in another thread; the event is set when it has finished."""
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


def throttle(build: OriginLimiter, *, status: int = 429, retry_after: float | None = None) -> Throttling | None:
    permit = build.acquire()
    permit.release()
    return build.on_throttled(permit, status, retry_after, backoff)


class TestPermits:
    def test_no_more_permits_than_the_maximum_are_issued(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        limiter = make_limiter(1)
        permit = limiter.acquire()
        order: list[str] = []

        def work() -> None:
            with closing(limiter.acquire().held_by_body(body())):
                order.append("second")

        with in_thread(work):
            order.append("first")
            permit.release()

        assert order == ["first", "second"]

    def test_a_thread_with_a_permit_gets_a_second_one_without_waiting(
        self, make_limiter: Callable[..., OriginLimiter]
    ) -> None:
        """A copy within a registry sends a body while it reads it."""
        limiter = make_limiter(1)

        first = limiter.acquire()
        second = limiter.acquire()

        assert limiter.under_way == 2
        first.release()
        second.release()
        assert limiter.under_way == 0

    def test_the_thread_that_reads_a_body_has_its_permit(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        limiter = make_limiter(1)
        reader = limiter.acquire().held_by_body(body())

        def work() -> None:
            reader.read(1)
            limiter.acquire().release()

        with in_thread(work) as done:
            assert done.wait(10)

        reader.close()

    def test_an_idle_body_is_not_counted(self, make_limiter: Callable[..., OriginLimiter], clock: Clock) -> None:
        limiter = make_limiter(1)
        reader = limiter.acquire().held_by_body(body())
        clock.time += 1.0

        with in_thread(lambda: limiter.acquire().release()) as done:
            assert done.wait(10)

        reader.close()

    def test_a_request_is_not_counted_while_it_waits_for_its_source(
        self, make_limiter: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        """The source may get its bytes from a thread that waits for this permit."""
        limiter = make_limiter(1)
        permit = limiter.acquire()
        counts: list[int] = []

        class SlowReader(FileObjectReader):
            def read(self, size: int = -1, /) -> bytes:
                clock.time += 1.0
                counts.append(limiter.under_way)
                return super().read(size)

        def open_source(start: int) -> FileObjectReader:
            clock.time += 1.0
            counts.append(limiter.under_way)
            return SlowReader(io.BytesIO(b"body"[start:]))

        with permit.paused_while_reading(CallableSource(open_source)).open(1) as reader:
            counts.append(limiter.under_way)
            content = reader.read(3)
            counts.append(limiter.under_way)

        assert content == b"ody"
        assert counts == [0, 1, 0, 1]
        permit.release()

    def test_reading_a_source_after_release_does_not_take_the_permit_back(
        self, make_limiter: Callable[..., OriginLimiter]
    ) -> None:
        limiter = make_limiter(1)
        permit = limiter.acquire()
        reader = permit.paused_while_reading(BytesSource(b"body")).open()
        permit.release()

        reader.read(1)

        assert limiter.under_way == 0
        reader.close()

    def test_an_idle_body_is_counted_again_when_it_is_read(
        self, make_limiter: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        limiter = make_limiter(1)
        reader = limiter.acquire().held_by_body(body())
        clock.time += 1.0
        idle = limiter.under_way

        reader.read(1)

        assert (idle, limiter.under_way) == (0, 1)
        reader.close()

    def test_a_request_that_awaits_its_response_is_counted_without_a_time_limit(
        self, make_limiter: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        limiter = make_limiter(1)
        permit = limiter.acquire()

        clock.time += 3600

        assert limiter.under_way == 1
        permit.release()

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
    def test_a_body_that_is_closed_or_read_to_its_end_releases_its_permit(
        self, make_limiter: Callable[..., OriginLimiter], end: Callable[[object], object]
    ) -> None:
        limiter = make_limiter(1)
        reader = limiter.acquire().held_by_body(body())
        held = limiter.under_way

        end(reader)

        assert (held, limiter.under_way) == (1, 0)
        reader.close()

    def test_a_body_that_is_dropped_releases_its_permit(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        limiter = make_limiter(1)
        reader = limiter.acquire().held_by_body(body())
        held = limiter.under_way

        del reader
        gc.collect()

        assert (held, limiter.under_way) == (1, 0)

    def test_a_body_that_breaks_off_keeps_its_permit_until_it_is_closed(
        self, make_limiter: Callable[..., OriginLimiter]
    ) -> None:
        class BrokenReader(FileObjectReader):
            def read(self, size: int = -1, /) -> bytes:
                raise Unavailable("cut")

        limiter = make_limiter(1)
        reader = limiter.acquire().held_by_body(BrokenReader(io.BytesIO()))

        with pytest.raises(Unavailable):
            reader.read(1)

        assert limiter.under_way == 1
        reader.close()
        assert limiter.under_way == 0

    @pytest.mark.parametrize("count", [2, 16])
    def test_waiters_are_served_in_order(self, make_limiter: Callable[..., OriginLimiter], count: int) -> None:
        limiter = make_limiter(1)
        permit = limiter.acquire()
        order: list[int] = []
        threads = []

        def work(number: int) -> None:
            permit_of_thread = limiter.acquire()
            order.append(number)
            permit_of_thread.release()

        for number in range(count):
            thread = threading.Thread(target=work, args=(number,))
            threads.append(thread)
            thread.start()
            while limiter.waiting <= number:
                sleep(0.001)
        permit.release()
        for thread in threads:
            thread.join()

        assert order == list(range(count))

    @pytest.mark.parametrize("first", ["is cancelled", "goes on"])
    def test_the_next_waiter_is_woken_without_polling(
        self, make_limiter: Callable[..., OriginLimiter], monkeypatch: pytest.MonkeyPatch, first: str
    ) -> None:
        monkeypatch.setattr(rate_limit, "_IDLE", 60.0)
        limiter = make_limiter(2)
        permits = [limiter.acquire(), limiter.acquire()]
        limiter.on_throttled(permits[1], 429, 0.0, backoff)
        scope = CancelScope()
        ends: list[str] = []

        def wait_in_scope() -> None:
            with scope:
                limiter.acquire().release()

        def work() -> None:
            with contextlib.suppress(Cancelled):
                wait_in_scope()
            ends.append("first")

        with in_thread(work) as one:
            while limiter.waiting < 1:
                sleep(0.001)
            with in_thread(lambda: limiter.acquire().release()) as other:
                while limiter.waiting < 2:
                    sleep(0.001)
                permits[0].release()
                if first == "is cancelled":
                    scope.cancel()
                permits[1].release()

                assert one.wait(10)
                assert other.wait(10)

        assert ends == ["first"]

    def test_cancellation_ends_the_wait_and_admits_the_next_waiter(
        self, make_limiter: Callable[..., OriginLimiter]
    ) -> None:
        """R-052."""
        limiter = make_limiter(1)
        permit = limiter.acquire()
        scope = CancelScope()
        ends: list[str] = []

        def work() -> None:
            with scope, pytest.raises(Cancelled):
                limiter.acquire()
            ends.append("cancelled")

        with in_thread(work) as done:
            while not limiter.waiting:
                sleep(0.001)
            scope.cancel()
            assert done.wait(10)
        permit.release()

        assert (ends, limiter.waiting) == (["cancelled"], 0)
        limiter.acquire().release()

    def test_the_deadline_ends_the_wait(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        """R-052."""
        limiter = make_limiter(1)
        permit = limiter.acquire()

        def work() -> None:
            with fail_after(0.05), pytest.raises(DeadlineExceeded):
                limiter.acquire()

        with in_thread(work) as done:
            assert done.wait(10)

        permit.release()


class TestPauses:
    def test_all_threads_wait_for_the_end_of_a_pause(
        self, make_limiter: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        """R-054."""
        open_source = make_limiter()
        throttling = throttle(open_source, retry_after=7.0)

        open_source.acquire().release()

        assert (throttling, clock.pauses) == (Throttling(7.0, 4), [7.0])

    def test_without_retry_after_the_pause_grows_with_each_failure(
        self, make_limiter: Callable[..., OriginLimiter]
    ) -> None:
        """R-054."""
        open_source = make_limiter()

        pauses = [throttling.pause for _ in range(3) if (throttling := throttle(open_source)) is not None]

        assert pauses == [1.0, 2.0, 3.0]

    def test_a_success_resets_the_pause(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        """R-054."""
        open_source = make_limiter()
        throttle(open_source)

        open_source.on_success()

        assert throttle(open_source) == Throttling(1.0, 2)

    def test_no_permit_is_held_during_a_pause(self, make_limiter: Callable[..., OriginLimiter], clock: Clock) -> None:
        held: list[int] = []

        def sleep(seconds: float) -> None:
            held.append(open_source.under_way)
            clock.sleep(seconds)

        open_source = OriginLimiter(REGISTRY, maximum=2, rate=1.0, clock=clock, sleep=sleep)
        throttle(open_source, retry_after=7.0)

        open_source.acquire().release()
        open_source.acquire().release()

        assert held == [0, 0]

    @pytest.mark.parametrize(("status", "kind"), [(429, RateLimited), (503, Unavailable)])
    def test_a_pause_that_ends_after_the_deadline_fails_at_once(
        self,
        make_limiter: Callable[..., OriginLimiter],
        clock: Clock,
        status: int,
        kind: type[RateLimited] | type[Unavailable],
    ) -> None:
        """R-052, R-054."""
        open_source = make_limiter()
        throttle(open_source, status=status, retry_after=30.0)

        with fail_after(20), pytest.raises(kind) as caught:
            open_source.acquire()

        assert (caught.value.status, caught.value.retry_after, clock.pauses) == (status, 30.0, [])

    def test_a_shorter_pause_does_not_end_a_longer_one(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        open_source = make_limiter()
        first, second = open_source.acquire(), open_source.acquire()
        open_source.on_throttled(first, 429, 30.0, backoff)

        throttling_events = open_source.on_throttled(second, 429, 2.0, backoff)

        assert (throttling_events, open_source.left()) == (None, 30.0)

    def test_a_longer_pause_extends_a_shorter_one(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        open_source = make_limiter()
        first, second = open_source.acquire(), open_source.acquire()
        open_source.on_throttled(first, 429, 2.0, backoff)

        throttling_events = open_source.on_throttled(second, 429, 30.0, backoff)

        assert (throttling_events, open_source.left()) == (Throttling(30.0, 4), 30.0)


class TestLimit:
    def test_throttling_halves_the_limit_down_to_one(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        open_source = make_limiter(8)

        limits = [throttling.limit for _ in range(5) if (throttling := throttle(open_source)) is not None]

        assert limits == [4, 2, 1, 1, 1]

    def test_requests_throttled_together_halve_the_limit_once(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        open_source = make_limiter(8)
        permits = [open_source.acquire() for _ in range(8)]

        throttling_events = [open_source.on_throttled(permit, 429, None, backoff) for permit in permits]

        assert throttling_events == [Throttling(1.0, 4)] + [None] * 7
        assert open_source.limit == 4

    def test_successes_raise_the_limit_one_by_one_up_to_the_maximum(
        self, make_limiter: Callable[..., OriginLimiter]
    ) -> None:
        open_source = make_limiter(4)
        throttle(open_source)
        limits = []

        for _ in range(4):
            limits.append(open_source.limit)
            for _ in range(10):
                open_source.on_success()

        assert limits == [2, 3, 4, 4]

    def test_throttling_resets_the_count_of_successes(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        limiter = make_limiter(8)
        throttle(limiter, retry_after=0.0)
        for _ in range(9):
            limiter.on_success()

        throttle(limiter, retry_after=0.0)
        for _ in range(9):
            limiter.on_success()

        assert limiter.limit == 2

    def test_a_waiter_is_woken_when_the_limit_rises(
        self, make_limiter: Callable[..., OriginLimiter], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rate_limit, "_IDLE", 60.0)
        limiter = make_limiter(2)
        throttle(limiter, retry_after=0.0)
        permit = limiter.acquire()

        with in_thread(lambda: limiter.acquire().release()) as done:
            while not limiter.waiting:
                sleep(0.001)
            for _ in range(10):
                limiter.on_success()

            assert done.wait(10)

        permit.release()

    def test_a_lower_limit_applies_to_the_next_request(self, make_limiter: Callable[..., OriginLimiter]) -> None:
        open_source = make_limiter(2)
        throttle(open_source)
        permit = open_source.acquire()

        def work() -> None:
            with fail_after(0.05), pytest.raises(DeadlineExceeded):
                open_source.acquire()

        with in_thread(work) as done:
            assert done.wait(10)

        permit.release()


class TestRate:
    def test_requests_begin_at_even_intervals(self, make_limiter: Callable[..., OriginLimiter], clock: Clock) -> None:
        open_source = make_limiter(rate=4.0)
        begun = []

        for _ in range(4):
            open_source.acquire().release()
            begun.append(clock.time)

        assert begun == [100.0, 100.25, 100.5, 100.75]

    def test_idle_time_does_not_allow_a_burst(self, make_limiter: Callable[..., OriginLimiter], clock: Clock) -> None:
        open_source = make_limiter(rate=4.0)
        open_source.acquire().release()
        clock.time += 10.0

        open_source.acquire().release()
        open_source.acquire().release()

        assert clock.pauses == [0.25]

    def test_a_request_that_could_only_begin_after_the_deadline_fails_at_once(
        self, make_limiter: Callable[..., OriginLimiter], clock: Clock
    ) -> None:
        """R-052."""
        open_source = make_limiter(rate=0.01)
        open_source.acquire().release()

        with fail_after(20), pytest.raises(DeadlineExceeded):
            open_source.acquire()

        assert clock.pauses == []


class TestRateLimiter:
    def test_each_origin_has_a_limiter(self, clock: Clock) -> None:
        limiters = RateLimiter(maximum=8, rate=None, clock=clock, sleep=clock.sleep)

        assert limiters.of(REGISTRY) is limiters.of(Origin.of("registry.example.com:443"))
        assert limiters.of(REGISTRY) is not limiters.of(Origin.of("cdn.example.net"))

    def test_limiters_of_many_hosts_are_dropped_unless_in_use(self, clock: Clock) -> None:
        limiters = RateLimiter(maximum=8, rate=None, clock=clock, sleep=clock.sleep)
        paused, used = limiters.of(REGISTRY), limiters.of(Origin.of("cdn.example.net"))
        throttle(paused, retry_after=60.0)
        slowed = limiters.of(Origin.of("slowed.example.net"))
        throttle(slowed, retry_after=0.0)
        permit = used.acquire()
        first = limiters.of(Origin.of("h0.example.net"))

        for number in range(1, 200):
            limiters.of(Origin.of(f"h{number}.example.net"))

        assert limiters.of(REGISTRY) is paused
        assert limiters.of(Origin.of("cdn.example.net")) is used
        assert limiters.of(Origin.of("h0.example.net")) is not first
        assert limiters.of(Origin.of("slowed.example.net")) is not slowed
        permit.release()

    def test_a_child_process_has_separate_limiters(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """The child never releases permits of requests that its parent has under way."""
        limiters = RateLimiter(maximum=1, rate=None, clock=clock, sleep=clock.sleep)
        permit = limiters.of(REGISTRY).acquire()
        process = os.getpid()

        monkeypatch.setattr(os, "getpid", lambda: process + 1)

        assert limiters.of(REGISTRY).under_way == 0
        permit.release()


class EchoTransport:
    """Read each request body and return four bytes; raise the given failures first."""

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
        """Do nothing: no connection is open."""


class ConcurrencyCounter:
    """A script that counts its requests and the maximum number at a time."""

    def __init__(self, response_bytes: ResponseBytes) -> None:
        self._response_bytes = response_bytes
        self._lock = threading.Lock()
        self._current = 0
        self.maximum = 0
        self.served = 0

    def __call__(self, connection: ServerConnection) -> None:
        while connection.receive() is not None:
            with self._lock:
                self._current += 1
                self.maximum = max(self.maximum, self._current)
                self.served += 1
            sleep(0.002)
            with self._lock:
                self._current -= 1
            connection.send(self._response_bytes(200, b"body"))


def test_64_threads_share_the_connections_of_the_pool(start_server: StartServer, response_bytes: ResponseBytes) -> None:
    script = ConcurrencyCounter(response_bytes)
    server = start_server(script)
    contents: list[bytes] = []
    request = Request(method="GET", target="/v2/a/blobs/x", success=(200,))

    def work(session: Session) -> None:
        for _ in range(4):
            with session.send(request) as response:
                contents.append(response.content(100))

    with closing(Session(server.origin, HttpSettings(plain_http=True, proxy="", max_connections=4))) as session:
        threads = [threading.Thread(target=work, args=(session,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert contents == [b"body"] * 256
    assert script.served == 256
    assert script.maximum <= 4
    assert server.connections <= 4


def test_unread_bodies_of_all_threads_do_not_block_them(
    start_server: StartServer, response_bytes: ResponseBytes
) -> None:
    """Each thread reads its first body only after it has received a second response."""
    server = start_server(ConcurrencyCounter(response_bytes))
    request = Request(method="GET", target="/v2/a/blobs/x", success=(200,))
    barrier = threading.Barrier(4)
    contents: list[bytes] = []

    def work(session: Session) -> None:
        with session.send(request) as held:
            barrier.wait(20)
            with session.send(request) as response:
                contents.append(response.content(100))
            contents.append(held.content(100))

    with closing(Session(server.origin, HttpSettings(plain_http=True, proxy="", max_connections=4))) as session:
        threads = [threading.Thread(target=work, args=(session,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert contents == [b"body"] * 8


@pytest.mark.parametrize(
    "failure", [Unavailable("cut"), StaleConnection("cut"), SourceFailed(OSError("gone")), Cancelled("enough")]
)
def test_a_request_that_fails_releases_its_permit(failure: Exception) -> None:
    """The next request comes from another thread, which has no permit."""
    session = Session(REGISTRY, HttpSettings(max_connections=1, retries=0), transport=EchoTransport(failures=[failure]))
    request = Request(method="PUT", target="/v2/", success=(200,), repeatable=False)
    statuses: list[int] = []

    def send() -> None:
        with fail_after(5), session.send(request) as response:
            statuses.append(response.status)

    with pytest.raises((Unavailable, OSError, Cancelled)):
        session.send(request)
    with in_thread(send) as done:
        assert done.wait(10)

    assert statuses == [200]


def test_two_clients_that_copy_to_each_other_do_not_deadlock() -> None:
    """Each client has one permit, and sends to the registry from which the other one reads."""
    first, second = (Session(REGISTRY, HttpSettings(max_connections=1), transport=EchoTransport()) for _ in range(2))
    barrier = threading.Barrier(2)

    def copy(source: Session, target: Session) -> None:
        def open_source(start: int) -> ByteReader:
            barrier.wait(10)
            return source.send(Request(method="GET", target="/v2/", success=(200,))).reader

        body = Body(CallableSource(open_source), 0, 4)
        target.send(Request(method="PUT", target="/v2/", success=(200,), body=body)).close()

    with fail_after(8), in_thread(lambda: copy(first, second)) as done:
        copy(second, first)

        assert done.wait(10)


def test_any_number_of_open_readers_does_not_block(start_server: StartServer, response_bytes: ResponseBytes) -> None:
    server = start_server(ConcurrencyCounter(response_bytes))
    request = Request(method="GET", target="/v2/a/blobs/x", success=(200,))

    with closing(Session(server.origin, HttpSettings(plain_http=True, proxy="", max_connections=2))) as session:
        responses = [session.send(request) for _ in range(6)]
        contents = [response.content(100) for response in responses]

    assert contents == [b"body"] * 6


def test_a_permit_can_be_released_twice(make_limiter: Callable[..., OriginLimiter]) -> None:
    limiter = make_limiter(1)
    permit: Permit = limiter.acquire()

    permit.release()
    permit.release()

    assert limiter.under_way == 0
