"""Session events in OpenTelemetry: counted, and noted on the span of the request.

SessionMiddleware(..., on_event=Telemetry())
"""

from __future__ import annotations

from async_session.errors import ConfigurationError
from async_session.events import SessionEvent

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    message = "OpenTelemetry is missing: pip install 'async_session[otel]'"
    raise ConfigurationError(message) from error

__all__ = ["Telemetry"]


class Telemetry:
    """A listener that hands session events on to OpenTelemetry.

    Each is counted by ``async_session.events``, with its name and its reason as the attributes
    ``event`` and ``reason``. The span that it happens in gets an event such as
    ``session.created``, with ``session.handle``, ``session.reason``, ``session.previous_handle``
    and ``error.type`` where there are such. Neither owners nor session ids are handed on.

    Args:
        meter_provider: whose counter it is; None for the one that is set globally.
    """

    def __init__(self, *, meter_provider: metrics.MeterProvider | None = None) -> None:
        meter = metrics.get_meter("async_session", meter_provider=meter_provider)
        self._events = meter.create_counter(
            "async_session.events", unit="{event}", description="What happened to sessions."
        )

    def __call__(self, event: SessionEvent) -> None:
        self._events.add(1, {"event": event.name, "reason": event.reason})
        span = trace.get_current_span()
        if span.is_recording():
            attributes = {
                "session.handle": event.handle,
                "session.reason": event.reason,
                "session.previous_handle": event.previous,
                "error.type": event.error and type(event.error).__qualname__,
            }
            given = {name: value for name, value in attributes.items() if value}
            span.add_event(f"session.{event.name}", given)
