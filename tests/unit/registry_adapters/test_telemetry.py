"""Spans and metrics, collected by the SDK of OpenTelemetry."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from registry_adapters import MemoryCatalog, open_client
from registry_adapters.telemetry import OpenTelemetryObserver
from registry_adapters.wsgi import registry_server
from registry_core import Digest, ImageBuilder
from registry_core.ports.observer import (
    BlobCopied,
    BlobMounted,
    BlobProgress,
    BlobRestarted,
    BlobSkipped,
    RequestCompleted,
    RequestRetried,
    Throttled,
    TokenRequested,
    TransferResumed,
    WarningReceived,
)

SECOND = 10**9
URL = "https://registry.example.com/v2/org/app/manifests/v1?…"
DIGEST = Digest.of(b"content")

Point = NumberDataPoint | HistogramDataPoint


class Telemetry:
    """An observer with exporters of the SDK, and a clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000 * SECOND
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.observer = OpenTelemetryObserver(
            tracer_provider=self.tracers, meter_provider=self.meters, clock=lambda: self.now
        )

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self, name: str) -> list[Point]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint | HistogramDataPoint)
        ]

    def counts_by(self, name: str, attribute: str) -> dict[object, float]:
        return {
            (point.attributes or {})[attribute]: point.value
            for point in self.points(name)
            if isinstance(point, NumberDataPoint)
        }

    def close(self) -> None:
        self.tracers.shutdown()
        self.meters.shutdown()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.close()


def request_completed(status: int = 200, url: str = URL) -> RequestCompleted:
    return RequestCompleted(method="GET", url=url, status=status, seconds=0.25)


class TestRequests:
    def test_a_request_is_a_client_span_by_the_conventions(self, telemetry: Telemetry) -> None:
        telemetry.observer.on(request_completed())

        (span,) = telemetry.spans()
        assert (span.name, span.kind) == ("GET", SpanKind.CLIENT)
        assert (span.start_time, span.end_time) == (telemetry.now - SECOND // 4, telemetry.now)
        assert dict(span.attributes or {}) == {
            "http.request.method": "GET",
            "server.address": "registry.example.com",
            "server.port": 443,
            "http.response.status_code": 200,
            "url.full": URL,
        }
        assert span.status.status_code is StatusCode.UNSET

    @pytest.mark.parametrize(("status", "kind"), [(404, "404"), (503, "503"), (0, "_OTHER")])
    def test_the_span_of_a_failed_request_has_an_error_status(
        self, telemetry: Telemetry, status: int, kind: str
    ) -> None:
        telemetry.observer.on(request_completed(status))

        (span,) = telemetry.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert (span.attributes or {})["error.type"] == kind

    def test_the_parent_of_a_request_span_is_the_current_span(self, telemetry: Telemetry) -> None:
        with telemetry.tracers.get_tracer("host").start_as_current_span("deploy") as parent:
            telemetry.observer.on(request_completed())

        span = telemetry.spans()[0]
        assert span.parent is not None
        assert span.parent.span_id == parent.get_span_context().span_id

    def test_durations_are_measured_by_host_method_and_status(self, telemetry: Telemetry) -> None:
        for status in (200, 200, 503):
            telemetry.observer.on(request_completed(status))

        points = telemetry.points("http.client.request.duration")
        assert {(point.attributes or {})["http.response.status_code"]: point.count for point in points} == {  # type: ignore[union-attr]
            200: 2,
            503: 1,
        }

    def test_paths_are_not_attributes_of_metrics(self, telemetry: Telemetry) -> None:
        """The number of time series must not grow with the number of paths."""
        for number in range(50):
            telemetry.observer.on(request_completed(url=f"https://registry.example.com/v2/app/blobs/{number}"))

        assert len(telemetry.points("http.client.request.duration")) == 1

    def test_the_span_of_a_malformed_url_has_no_server_address(self, telemetry: Telemetry) -> None:
        telemetry.observer.on(request_completed(url="<malformed URL>"))

        assert "server.address" not in (telemetry.spans()[0].attributes or {})


class TestTokens:
    def test_a_token_is_a_span_with_its_scopes(self, telemetry: Telemetry) -> None:
        event = TokenRequested(
            registry="registry.example.com",
            url="https://auth.example.com/token?…",
            scopes=("repository:org/app:pull",),
            status=200,
            seconds=0.5,
        )

        telemetry.observer.on(event)

        (span,) = telemetry.spans()
        assert (span.name, span.kind) == ("ociport.token", SpanKind.INTERNAL)
        assert span.start_time == telemetry.now - SECOND // 2
        assert (span.attributes or {})["ociport.scopes"] == ("repository:org/app:pull",)
        assert len(telemetry.points("ociport.token.duration")) == 1


class TestBlobs:
    def test_the_span_of_a_blob_begins_at_its_first_progress(self, telemetry: Telemetry) -> None:
        started = telemetry.now
        telemetry.observer.on(BlobProgress(digest=DIGEST, done=2, size=7))
        telemetry.now += SECOND
        telemetry.observer.on(BlobProgress(digest=DIGEST, done=7, size=7))
        telemetry.observer.on(BlobCopied(digest=DIGEST, size=7))

        (span,) = telemetry.spans()
        assert (span.name, span.start_time, span.end_time) == ("ociport.blob", started, started + SECOND)
        assert (span.attributes or {})["ociport.blob.digest"] == str(DIGEST)

    def test_a_restart_belongs_to_the_same_transfer(self, telemetry: Telemetry) -> None:
        started = telemetry.now
        telemetry.observer.on(BlobProgress(digest=DIGEST, done=5, size=7))
        telemetry.now += SECOND
        telemetry.observer.on(BlobRestarted(digest=DIGEST, done=0, size=7))
        telemetry.observer.on(BlobProgress(digest=DIGEST, done=3, size=7))
        telemetry.observer.on(BlobCopied(digest=DIGEST, size=7))

        assert telemetry.spans()[0].start_time == started

    def test_a_failed_transfer_does_not_lengthen_the_next_one(self, telemetry: Telemetry) -> None:
        telemetry.observer.on(BlobProgress(digest=DIGEST, done=5, size=7))
        telemetry.now += SECOND
        telemetry.observer.on(BlobProgress(digest=DIGEST, done=5, size=7))
        telemetry.observer.on(BlobCopied(digest=DIGEST, size=7))

        assert telemetry.spans()[0].start_time == telemetry.now

    def test_blobs_and_bytes_are_counted_by_outcome(self, telemetry: Telemetry) -> None:
        for event in (BlobCopied(digest=DIGEST, size=7), BlobCopied(digest=DIGEST, size=7)):
            telemetry.observer.on(event)
        telemetry.observer.on(BlobMounted(digest=DIGEST, size=3))
        telemetry.observer.on(BlobSkipped(digest=DIGEST, size=2))

        assert telemetry.counts_by("ociport.blobs", "ociport.blob.outcome") == {"copied": 2, "mounted": 1, "skipped": 1}
        assert telemetry.counts_by("ociport.blob.io", "ociport.blob.outcome") == {
            "copied": 14,
            "mounted": 3,
            "skipped": 2,
        }

    def test_the_number_of_unfinished_transfers_is_bounded(self, telemetry: Telemetry) -> None:
        started = telemetry.now
        for number in range(5000):
            telemetry.observer.on(BlobProgress(digest=Digest.of(str(number).encode()), done=1, size=2))
        telemetry.now += SECOND

        telemetry.observer.on(BlobCopied(digest=Digest.of(b"0"), size=2))
        telemetry.observer.on(BlobCopied(digest=Digest.of(b"4999"), size=2))

        assert [span.start_time for span in telemetry.spans()] == [started + SECOND, started]


class TestEventsWithoutDuration:
    def test_events_without_duration_are_events_of_the_current_span(self, telemetry: Telemetry) -> None:
        with telemetry.tracers.get_tracer("host").start_as_current_span("deploy"):
            telemetry.observer.on(RequestRetried(method="GET", url=URL, attempt=1, pause=0.5, reason="Unavailable 503"))
            telemetry.observer.on(TransferResumed(method="GET", url=URL, offset=100))
            telemetry.observer.on(Throttled(registry="registry.example.com", pause=2.0, limit=4))
            telemetry.observer.on(WarningReceived(registry="registry.example.com", text="soon gone"))
            telemetry.observer.on(BlobRestarted(digest=DIGEST, done=0, size=7))

        (span,) = telemetry.spans()
        assert [event.name for event in span.events] == [
            "ociport.retry",
            "ociport.resume",
            "ociport.throttle",
            "ociport.warning",
            "ociport.blob.restart",
        ]
        assert (span.events[0].attributes or {})["ociport.reason"] == "Unavailable 503"
        assert {event.timestamp for event in span.events} == {telemetry.now}

    def test_events_without_duration_are_counted(self, telemetry: Telemetry) -> None:
        for pause in (0.5, 1.0):
            telemetry.observer.on(
                RequestRetried(method="GET", url=URL, attempt=1, pause=pause, reason="Unavailable 503")
            )
        telemetry.observer.on(TransferResumed(method="GET", url=URL, offset=100))
        telemetry.observer.on(Throttled(registry="registry.example.com", pause=2.0, limit=4))
        telemetry.observer.on(WarningReceived(registry="registry.example.com", text="soon gone"))

        assert telemetry.counts_by("ociport.retries", "error.type") == {"Unavailable": 2}
        assert telemetry.counts_by("ociport.resumes", "http.request.method") == {"GET": 1}
        assert telemetry.counts_by("ociport.throttles", "ociport.registry") == {"registry.example.com": 1}
        assert telemetry.counts_by("ociport.warnings", "ociport.registry") == {"registry.example.com": 1}


def test_a_push_over_http_is_reported_completely(telemetry: Telemetry) -> None:
    image = ImageBuilder(platform="linux/amd64").add_files({"a": "b"}).build()

    with registry_server(MemoryCatalog()) as server, open_client(server.url, observer=telemetry.observer) as client:
        with telemetry.tracers.get_tracer("host").start_as_current_span("deploy") as parent:
            client.with_segment("app").push_image("v1", image)

    inner = [span for span in telemetry.spans() if span.name != "deploy"]
    assert {span.name for span in inner} >= {"HEAD", "POST", "PUT", "ociport.blob"}
    assert all(span.parent and span.parent.span_id == parent.get_span_context().span_id for span in inner)
    assert telemetry.counts_by("ociport.blobs", "ociport.blob.outcome") == {"copied": 2}


def test_the_error_without_the_api_names_the_extra() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from registry_adapters.telemetry import OpenTelemetryObserver
from registry_core import ConfigError
try:
    OpenTelemetryObserver()
except ConfigError as error:
    assert "ociport[otel]" in str(error), error
else:
    raise AssertionError("made without the API")
"""

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_repr_is_the_name_of_the_class(telemetry: Telemetry) -> None:
    assert repr(telemetry.observer) == "OpenTelemetryObserver()"
