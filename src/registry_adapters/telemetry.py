"""What happens, told to tools that watch programs: observers to be given to ``open_client``.

Spans and metrics for OpenTelemetry (extra ``ociport[otel]``), named by its semantic conventions where there are any.

Events come when things are over, so a span is begun in the past and ended at once; its parent is the span that is
current in the thread that tells, which for a copy's threads is the caller's. What has no duration becomes an event of
the current span. Metrics are told hosts, methods and statuses only: paths and digests have no end.
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

# Transfers that broke off are never told to be over; no more of them than this are remembered.
_BEGUN: Final = 1024


class OpenTelemetryObserver(Observer):
    """An observer that makes spans and metrics of what it is told; safe for many threads.

    Spans: each exchange, as one of an HTTP client; ``ociport.token`` for each token; ``ociport.blob`` for each blob
    that was moved, from its first progress on. Metrics: ``http.client.request.duration``; ``ociport.token.duration``;
    and the counters ``ociport.retries``, ``ociport.resumes``, ``ociport.throttles``, ``ociport.warnings``,
    ``ociport.blobs`` and ``ociport.blob.io``, the last two by ``ociport.blob.outcome``: ``copied``, ``mounted`` or
    ``skipped``.

    Args:
        tracer_provider: Where spans go; the process's own by default.
        meter_provider: Where metrics go; the process's own by default.
        clock: Nanoseconds since the epoch.

    Raises:
        ConfigError: OpenTelemetry's API is not installed.
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
            raise ConfigError(f"telemetry needs the extra ociport[otel]: {error}") from error

        self._trace = trace
        self._tracer = trace.get_tracer("ociport", tracer_provider=tracer_provider)
        meter = metrics.get_meter("ociport", meter_provider=meter_provider)
        self._exchanges = meter.create_histogram(
            "http.client.request.duration", unit="s", description="Until the head of an answer was read."
        )
        self._tokens = meter.create_histogram(
            "ociport.token.duration", unit="s", description="Until a token server answered."
        )
        self._retries = meter.create_counter("ociport.retries", unit="{retry}")
        self._resumes = meter.create_counter("ociport.resumes", unit="{resume}")
        self._throttles = meter.create_counter("ociport.throttles", unit="{throttle}")
        self._warnings = meter.create_counter("ociport.warnings", unit="{warning}")
        self._blobs = meter.create_counter("ociport.blobs", unit="{blob}")
        self._bytes = meter.create_counter("ociport.blob.io", unit="By")
        self._clock = clock
        self._begun: dict[Digest, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def on(self, event: Event) -> None:
        """Make of an event what it calls for."""
        match event:
            case RequestCompleted():
                self._exchange(event)
            case TokenRequested():
                self._token(event)
            case RequestRetried():
                self._retry(event)
            case TransferResumed():
                self._resumes.add(1, {"http.request.method": event.method, **_server(event.url)})
                self._note("ociport.resume", {"url.full": event.url, "ociport.offset": event.offset})
            case Throttled():
                self._throttles.add(1, {"ociport.registry": event.registry})
                self._note("ociport.throttle", {"ociport.pause": event.pause, "ociport.limit": event.limit})
            case WarningReceived():
                self._warnings.add(1, {"ociport.registry": event.registry})
                self._note("ociport.warning", {"ociport.registry": event.registry, "ociport.text": event.text})
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
        """What it is."""
        return "OpenTelemetryObserver()"

    def _exchange(self, event: RequestCompleted) -> None:
        measured = {"http.request.method": event.method, **_server(event.url), **_outcome(event.status)}
        self._exchanges.record(event.seconds, measured)
        self._span(
            event.method,
            {**measured, "url.full": event.url},
            started=self._clock() - _nanoseconds(event.seconds),
            kind=self._trace.SpanKind.CLIENT,
        )

    def _token(self, event: TokenRequested) -> None:
        measured = {"ociport.registry": event.registry, **_outcome(event.status)}
        self._tokens.record(event.seconds, measured)
        self._span(
            "ociport.token",
            {**measured, "url.full": event.url, "ociport.scopes": event.scopes},
            started=self._clock() - _nanoseconds(event.seconds),
        )

    def _retry(self, event: RequestRetried) -> None:
        kind = event.reason.partition(" ")[0]
        self._retries.add(
            1, {"http.request.method": event.method, **_server(event.url), "error.type": kind or "_OTHER"}
        )
        self._note(
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
        """Note when a transfer began: one that has no more than before, and was not restarted, is another."""
        now = self._clock()
        with self._lock:
            started, before = self._begun.pop(digest, (now, 0))
            self._begun[digest] = (now if done <= before else started, done)
            if len(self._begun) > _BEGUN:
                del self._begun[next(iter(self._begun))]

    def _restart(self, event: BlobRestarted) -> None:
        with self._lock:
            if event.digest in self._begun:
                self._begun[event.digest] = (self._begun[event.digest][0], event.done)
        self._note("ociport.blob.restart", {"ociport.blob.digest": event.digest, "ociport.offset": event.done})

    def _copied(self, event: BlobCopied) -> None:
        now = self._clock()
        with self._lock:
            started, _ = self._begun.pop(event.digest, (now, 0))
        self._count("copied", event.size)
        self._span(
            "ociport.blob", {"ociport.blob.digest": event.digest, "ociport.blob.size": event.size}, started=started
        )

    def _blob(self, outcome: str, digest: Digest, size: int) -> None:
        self._count(outcome, size)
        self._note(f"ociport.blob.{outcome}", {"ociport.blob.digest": digest, "ociport.blob.size": size})

    def _count(self, outcome: str, size: int) -> None:
        self._blobs.add(1, {"ociport.blob.outcome": outcome})
        self._bytes.add(size, {"ociport.blob.outcome": outcome})

    def _span(self, name: str, attributes: Mapping[str, _Value], *, started: int, kind: SpanKind | None = None) -> None:
        span = self._tracer.start_span(
            name, kind=kind or self._trace.SpanKind.INTERNAL, attributes=_plain(attributes), start_time=started
        )
        if "error.type" in attributes:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(self._clock())

    def _note(self, name: str, attributes: Mapping[str, _Value]) -> None:
        self._trace.get_current_span().add_event(name, _plain(attributes), timestamp=self._clock())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _server(url: str) -> dict[str, _Value]:
    """The host and port of a URL, if it is one."""
    try:
        origin = Origin.of_url(url)
    except ProtocolError:
        return {}
    return {"server.address": origin.host, "server.port": origin.port}


def _outcome(status: int) -> dict[str, _Value]:
    """The status, where there is one, and what is an error by the conventions for clients."""
    if not status:
        return {"error.type": "_OTHER"}
    if status < 400:
        return {"http.response.status_code": status}
    return {"http.response.status_code": status, "error.type": str(status)}


def _plain(attributes: Mapping[str, _Value]) -> dict[str, _Value]:
    """Digests and names as plain text: a subclass of ``str`` is not everywhere taken for one."""
    return {name: str(value) if isinstance(value, str) else value for name, value in attributes.items()}
