"""The server's metrics, in Prometheus' text format. Knows no request."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from swift.serve.reply_threads import ReplyCounter

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """One server's metrics; `replies` has the numbers of waiting and running replies."""

    def __init__(self, replies: ReplyCounter) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter("swift_requests", "Requests answered", ["route", "status"], registry=registry)
        self._prompt = Counter("swift_prompt_tokens", "Prompt tokens", registry=registry)
        self._completion = Counter("swift_completion_tokens", "Generated tokens", registry=registry)
        self._seconds = Histogram(
            "swift_request_seconds",
            "Seconds from request to end of response",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first = Histogram(
            "swift_first_token_seconds", "Seconds from request to first text", buckets=_SECONDS, registry=registry
        )
        self._token = Histogram(
            "swift_token_seconds",
            "Mean seconds between two tokens of a choice",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        waiting = Gauge("swift_replies_waiting", "Replies that wait for their first token", registry=registry)
        waiting.set_function(lambda: replies.waiting)
        running = Gauge("swift_replies_running", "Replies that are being generated", registry=registry)
        running.set_function(lambda: replies.running)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def reply(self, prompt: int, completion: int, first: float, rest: float, longest: int) -> None:
        """`first`: seconds to the first text; `rest`: seconds after it; `longest`: tokens of the longest choice."""
        self._prompt.inc(prompt)
        self._completion.inc(completion)
        self._first.observe(first)
        if longest > 1:
            self._token.observe(rest / (longest - 1))

    def text(self) -> bytes:
        return generate_latest(self._registry)
