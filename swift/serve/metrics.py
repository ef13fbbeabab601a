"""The server's metrics, in Prometheus' text format. Knows no request.

What vLLM's server measures too has the name, the labels and the unit that vLLM gives it, so that its dashboards and
alerts work unchanged; what it does not measure begins with `swift_`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from swift.chat import Draft, Usage
from swift.engine.interface import EngineFigures
from swift.serve.reply_threads import ReplyCounter

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_FIRST_SECONDS = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0]
_FIRST_SECONDS += [40.0, 80.0, 160.0, 640.0, 2560.0]
_TOKEN_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0]
_TOKEN_SECONDS += [7.5, 10.0, 20.0, 40.0, 80.0]
_REPLY_SECONDS = [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0]
_REPLY_SECONDS += [480.0, 960.0, 1920.0, 7680.0]
_TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
_FINISHED = {"tool_calls": "stop", "cancelled": "abort"}  # our reasons -> vLLM's; others are the same

ReadFigures = Callable[[], EngineFigures]


class Metrics:
    """One server's metrics. `replies` has the numbers of waiting and running replies, `figures` those of the engine.

    `model_name` labels everything of vLLM's; replies of adapters count as those of their base model, as vLLM's do.
    """

    def __init__(self, replies: ReplyCounter, model_name: str, figures: ReadFigures | None = None) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._requests = Counter("swift_requests", "Requests answered", ["route", "status"], registry=registry)
        self._seconds = Histogram(
            "swift_request_seconds",
            "Seconds from request to end of response",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        without_token = "Replies without a first token, which --max_queue limits"
        Gauge("swift_replies_waiting", without_token, registry=registry).set_function(lambda: replies.waiting)

        def counter(name: str, what: str) -> Counter:
            return Counter(f"vllm:{name}", what, ["model_name"], registry=registry).labels(model_name)

        def histogram(name: str, what: str, buckets: Sequence[float]) -> Histogram:
            made = Histogram(f"vllm:{name}", what, ["model_name"], buckets=buckets, registry=registry)
            return made.labels(model_name)

        self._prompt = counter("prompt_tokens", "Prompt tokens")
        self._generated = counter("generation_tokens", "Generated tokens")
        finished = Counter("vllm:request_success", "Replies", ["model_name", "finished_reason"], registry=registry)
        self._finished = {
            reason: finished.labels(model_name, reason) for reason in ("stop", "length", "abort", "error")
        }
        self._first = histogram("time_to_first_token_seconds", "Seconds from request to first text", _FIRST_SECONDS)
        self._gaps = histogram("inter_token_latency_seconds", "Seconds between two texts of a reply", _TOKEN_SECONDS)
        self._mean_gaps = histogram(
            "request_time_per_output_token_seconds", "Mean seconds between two tokens of a reply", _TOKEN_SECONDS
        )
        self._decode = histogram("request_decode_time_seconds", "Seconds from first text to end", _REPLY_SECONDS)
        self._replies = histogram("e2e_request_latency_seconds", "Seconds from request to end of reply", _REPLY_SECONDS)
        self._prompts = histogram("request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self._lengths = histogram("request_generation_tokens", "Generated tokens of a reply", _TOKENS)
        registry.register(_Engine(model_name, replies, figures))

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def gap(self, seconds: float) -> None:
        """Seconds between two deltas of a reply. Safe to call from any thread."""
        self._gaps.observe(seconds)

    def reply(self, usage: Usage, drafts: Iterable[Draft], first: float, seconds: float, disconnected: bool) -> None:
        """A request that was answered. `first`, `seconds`: from the request to the first text and to the end."""
        self._prompt.inc(usage.prompt_tokens)
        self._generated.inc(usage.completion_tokens)
        self._prompts.observe(usage.prompt_tokens)
        self._first.observe(first)
        self._replies.observe(seconds)
        self._decode.observe(seconds - first)
        for draft in drafts:
            tokens = draft.usage.completion_tokens
            self._lengths.observe(tokens)
            if tokens > 1:
                self._mean_gaps.observe((seconds - first) / (tokens - 1))
            reason = draft.finish or ("cancelled" if disconnected else "error")
            self._finished[_FINISHED.get(reason, reason)].inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _Engine(Collector):
    """What is counted elsewhere, read whenever the metrics are."""

    def __init__(self, model_name: str, replies: ReplyCounter, figures: ReadFigures | None) -> None:
        self._model_name, self._replies, self._figures = model_name, replies, figures

    def collect(self) -> Iterator[Metric]:
        if self._figures is None:
            yield self._gauge("num_requests_running", "Replies that are being generated", self._replies.running)
            yield self._gauge("num_requests_waiting", "Replies without a first token", self._replies.waiting)
            return
        figures = self._figures()
        yield self._gauge("num_requests_running", "Replies in the engine's batch", figures.running)
        yield self._gauge("num_requests_waiting", "Replies in the engine's queue", figures.waiting)
        yield self._gauge("kv_cache_usage_perc", "Used part of the KV cache, 1 is all", figures.cache_usage)
        yield self._counter("prefix_cache_queries", "Tokens looked up in the prefix cache", figures.prefix_queries)
        yield self._counter("prefix_cache_hits", "Tokens found in the prefix cache", figures.prefix_hits)
        yield self._counter("num_preemptions", "Replies that gave their memory to others", figures.preemptions)

    def _gauge(self, name: str, what: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", what, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _counter(self, name: str, what: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", what, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family
