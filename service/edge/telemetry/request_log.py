"""A line of the log for each request, where the operator asks for it (`--log-requests`)."""

import logging
import time

from service.edge.http.call import MONITOR_ROUTES, Call, Outcome

log = logging.getLogger("valence.access")


def log_request(call: Call, outcome: Outcome) -> None:
    """Logs what was asked for and how it went, never a text.

    A field is null if the request did not come so far. Requests of monitors are left out unless they fail."""
    if outcome.route in MONITOR_ROUTES and not call.error_type:
        return
    tokenization_s = call.tokenized_at - call.tokenization_started_at if call.tokenized_at else None
    log.info(
        "request",
        extra={
            "request_id": outcome.request_id,
            "route": outcome.route,
            "model": call.model or None,
            "status": outcome.status,
            "error_type": call.error_type or None,
            "texts": call.texts,
            "tokens": call.tokens,
            "total_ms": milliseconds(time.perf_counter() - call.started_at),
            "tokenization_ms": milliseconds(tokenization_s),
            "queue_ms": milliseconds(call.queue_s if call.scored_at else None),
            "inference_ms": milliseconds(call.inference_s if call.scored_at else None),
        },
    )


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
