"""An observer that reports to OpenTelemetry (extra ``ociport[otel]``).

Names follow the semantic conventions of OpenTelemetry where they exist. An event of an observer comes at the end of an
operation, so its span starts in the past and ends at once. The parent is the current span of the thread that sends the
event; for worker threads of a copy, that of the caller. An event without a duration becomes an event of the current
span. Attributes of metrics are hosts, methods and statuses only: there is no limit on the number of paths and digests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from registry_core.domain.digest import Digest
from registry_core.domain.origin import Origin
from registry_core.errors import ConfigError, ProtocolError
from registry_core.ports.observer import (
    BlobCopied,
    BlobMounted,
    BlobProgress,
    BlobRestarted,
    BlobSkipped,
    CopyWarning,
    Event,
    Observer,
    RequestCompleted,
    RequestRetried,
    Throttled,
    TokenRequested,
    TransferResumed,
    WarningReceived,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanKind, TracerProvider

__all__ = ["OpenTelemetryObserver"]


_Value = str | int | float | tuple[str, ...]

# Start times of blobs in progress. A failed transfer sends no final event, so their number is bounded.
_STARTED_LIMIT: Final = 1024


class OpenTelemetryObserver(Observer):
    """Create spans and metrics from events. Safe for many threads.

    Spans: one for each HTTP request; ``ociport.token`` for each token request; ``ociport.blob`` for each transferred
    blob, from its first progress event on. Metrics: ``http.client.request.duration``; ``ociport.token.duration``;
    and the counters ``ociport.retries``, ``ociport.resumes``, ``ociport.throttles``, ``ociport.warnings``,
    ``ociport.blobs`` and ``ociport.blob.io``, the last two by ``ociport.blob.outcome``: ``copied``, ``mounted`` or
    ``skipped``.

    Args:
        tracer_provider: Provider for spans; the global one by default.
        meter_provider: Provider for metrics; the global one by default.
        clock: Nanoseconds since the epoch.

    Raises:
        ConfigError: The extra is not installed.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise ConfigError(f"OpenTelemetryObserver needs an extra: pip install 'ociport[otel]' ({error})") from error

        self._trace = trace
        self._tracer = trace.get_tracer("ociport", tracer_provider=tracer_provider)
        meter = metrics.get_meter("ociport", meter_provider=meter_provider)
        self._request_durations = meter.create_histogram(
            "http.client.request.duration", unit="s", description="Duration until the response's headers were read."
        )
        self._token_durations = meter.create_histogram(
            "ociport.token.duration", unit="s", description="Duration of token requests."
        )
        self._retries = meter.create_counter("ociport.retries", unit="{retry}")
        self._resumes = meter.create_counter("ociport.resumes", unit="{resume}")
        self._throttles = meter.create_counter("ociport.throttles", unit="{throttle}")
        self._warnings = meter.create_counter("ociport.warnings", unit="{warning}")
        self._blobs = meter.create_counter("ociport.blobs", unit="{blob}")
        self._bytes = meter.create_counter("ociport.blob.io", unit="By")
        self._clock = clock
        self._started: dict[Digest, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def on(self, event: Event) -> None:
        """Report an event."""
        match event:
            case RequestCompleted():
                self._request(event)
            case TokenRequested():
                self._token(event)
            case RequestRetried():
                self._retry(event)
            case TransferResumed():
                self._resumes.add(1, {"http.request.method": event.method, **_server(event.url)})
                self._span_event("ociport.resume", {"url.full": event.url, "ociport.offset": event.offset})
            case Throttled():
                self._throttles.add(1, {"ociport.registry": event.registry})
                self._span_event("ociport.throttle", {"ociport.pause": event.pause, "ociport.limit": event.limit})
            case WarningReceived():
                self._warnings.add(1, {"ociport.registry": event.registry})
                self._span_event("ociport.warning", {"ociport.registry": event.registry, "ociport.text": event.text})
            case CopyWarning():
                self._span_event(
                    "ociport.copy_warning", {"ociport.reference": event.reference, "ociport.text": event.text}
                )
            case BlobProgress():
                self._progress(event.digest, event.done)
            case BlobRestarted():
                self._restart(event)
            case BlobCopied():
                self._copied(event)
            case BlobMounted():
                self._blob("mounted", event.digest, event.size)
            case BlobSkipped():
                self._blob("skipped", event.digest, event.size)

    def __repr__(self) -> str:
        """The name of the class."""
        return "OpenTelemetryObserver()"

    def _request(self, event: RequestCompleted) -> None:
        attributes = {"http.request.method": event.method, **_server(event.url), **_status(event.status)}
        self._request_durations.record(event.seconds, attributes)
        self._span(
            event.method,
            {**attributes, "url.full": event.url},
            started=self._clock() - _nanoseconds(event.seconds),
            kind=self._trace.SpanKind.CLIENT,
        )

    def _token(self, event: TokenRequested) -> None:
        attributes = {"ociport.registry": event.registry, **_status(event.status)}
        self._token_durations.record(event.seconds, attributes)
        self._span(
            "ociport.token",
            {**attributes, "url.full": event.url, "ociport.scopes": event.scopes},
            started=self._clock() - _nanoseconds(event.seconds),
        )

    def _retry(self, event: RequestRetried) -> None:
        kind = event.reason.partition(" ")[0]
        self._retries.add(
            1, {"http.request.method": event.method, **_server(event.url), "error.type": kind or "_OTHER"}
        )
        self._span_event(
            "ociport.retry",
            {
                "http.request.method": event.method,
                "url.full": event.url,
                "http.request.resend_count": event.attempt,
                "ociport.pause": event.pause,
                "ociport.reason": event.reason,
            },
        )

    def _progress(self, digest: Digest, done: int) -> None:
        """Record the start of a transfer. Progress that does not grow, without a restart event, is a new transfer."""
        now = self._clock()
        with self._lock:
            started, before = self._started.pop(digest, (now, 0))
            self._started[digest] = (now if done <= before else started, done)
            if len(self._started) > _STARTED_LIMIT:
                del self._started[next(iter(self._started))]

    def _restart(self, event: BlobRestarted) -> None:
        with self._lock:
            if event.digest in self._started:
                self._started[event.digest] = (self._started[event.digest][0], event.done)
        self._span_event("ociport.blob.restart", {"ociport.blob.digest": event.digest, "ociport.offset": event.done})

    def _copied(self, event: BlobCopied) -> None:
        now = self._clock()
        with self._lock:
            started, _ = self._started.pop(event.digest, (now, 0))
        self._count("copied", event.size)
        self._span(
            "ociport.blob", {"ociport.blob.digest": event.digest, "ociport.blob.size": event.size}, started=started
        )

    def _blob(self, outcome: str, digest: Digest, size: int) -> None:
        self._count(outcome, size)
        self._span_event(f"ociport.blob.{outcome}", {"ociport.blob.digest": digest, "ociport.blob.size": size})

    def _count(self, outcome: str, size: int) -> None:
        self._blobs.add(1, {"ociport.blob.outcome": outcome})
        self._bytes.add(size, {"ociport.blob.outcome": outcome})

    def _span(self, name: str, attributes: Mapping[str, _Value], *, started: int, kind: SpanKind | None = None) -> None:
        span = self._tracer.start_span(
            name, kind=kind or self._trace.SpanKind.INTERNAL, attributes=_to_plain(attributes), start_time=started
        )
        if "error.type" in attributes:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(self._clock())

    def _span_event(self, name: str, attributes: Mapping[str, _Value]) -> None:
        self._trace.get_current_span().add_event(name, _to_plain(attributes), timestamp=self._clock())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _server(url: str) -> dict[str, _Value]:
    """Host and port of a URL; empty if it is malformed."""
    try:
        origin = Origin.of_url(url)
    except ProtocolError:
        return {}
    return {"server.address": origin.host, "server.port": origin.port}


def _status(status: int) -> dict[str, _Value]:
    """Status and error type, by the conventions for HTTP clients; a status of 0 means that there was no response."""
    if not status:
        return {"error.type": "_OTHER"}
    if status < 400:
        return {"http.response.status_code": status}
    return {"http.response.status_code": status, "error.type": str(status)}


def _to_plain(attributes: Mapping[str, _Value]) -> dict[str, _Value]:
    """Convert subclasses of ``str``, such as ``Digest``: not every exporter accepts them."""
    return {name: str(value) if isinstance(value, str) else value for name, value in attributes.items()}
