"""What happens, told to tools that watch programs: observers to be given to ``open_client``."""

from __future__ import annotations

from registry_adapters.telemetry.otel import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]
