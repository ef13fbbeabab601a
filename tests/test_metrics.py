"""What /metrics shows: vLLM's names for what vLLM's server measures too, and a dashboard over them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from tiny import tiny_model_folder
from transformers import AutoModelForCausalLM

from swift.chat import Delta, Message, Tool, Usage
from swift.engine.interface import EngineFigures
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.serve.server import create_app

PLAIN = SamplingParams()
DASHBOARD = Path(__file__).parents[1] / "examples" / "grafana" / "swift.json"
USER = {"role": "user", "content": "hi"}


def chat(
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    params: SamplingParams = PLAIN,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Iterator[Delta]:
    """Says three texts of one token each, ends as the message says, and fails if it says so."""
    how = messages[-1].content
    yield Delta("a")
    yield Delta("b")
    if how == "fail":
        raise RuntimeError("broken")
    yield Delta("c", finish=how if how != "hi" else "stop", usage=Usage(7, 3))  # type: ignore[arg-type]


def client(**options: Any) -> TestClient:
    return TestClient(create_app(chat, "tiny", **options), raise_server_exceptions=False)


def ask(http: TestClient, text: str = "hi", **fields: Any) -> Any:
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], **fields}
    return http.post("/v1/chat/completions", json=body)


def samples(http: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels without model_name) -> value."""
    found = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for each in family.samples:
            if each.name.startswith("vllm:"):
                assert each.labels.pop("model_name") == "tiny", each
            found[each.name, tuple(sorted(each.labels.items()))] = each.value
    return found


def test_requests_tokens_and_latencies_are_counted_under_the_names_of_vllm() -> None:
    http = client()
    ask(http), ask(http, stream=True), ask(http, model="x"), http.get("/nowhere")
    found = samples(http)

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    assert value("vllm:prompt_tokens_total") == 14 and value("vllm:generation_tokens_total") == 6
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_decode_time_seconds"):
        assert value(f"vllm:{name}_count") == 2, name
    assert value("vllm:request_time_per_output_token_seconds_count") == 2
    assert value("vllm:inter_token_latency_seconds_count") == 2, "the gap before a last delta is that of its usage"
    assert value("vllm:request_prompt_tokens_bucket", le="5.0") == 0
    assert value("vllm:request_prompt_tokens_bucket", le="10.0") == 2
    assert value("vllm:request_generation_tokens_bucket", le="5.0") == 2
    assert value("vllm:num_requests_running") == value("vllm:num_requests_waiting") == 0
    assert value("swift_replies_waiting") == 0
    route = "/v1/chat/completions"
    assert value("swift_requests_total", route=route, status="200") == 2
    assert value("swift_requests_total", route=route, status="404") == 1
    assert value("swift_requests_total", route="none", status="404") == 1
    assert value("swift_request_seconds_count", route=route) == 3


def test_replies_are_counted_by_the_reason_they_ended_for_in_vllms_words() -> None:
    http = client()
    for how in ("stop", "length", "tool_calls", "cancelled", "fail"):
        ask(http, how, stream=True)
    ask(http, n=2)
    found = samples(http)
    counted = {labels[0][1]: value for (name, labels), value in found.items() if name == "vllm:request_success_total"}
    assert counted == {"stop": 4, "length": 1, "abort": 1, "error": 1}
    assert found["vllm:request_prompt_tokens_count", ()] == 6, "a prompt of two choices is one prompt"
    assert found["vllm:request_generation_tokens_count", ()] == 7


def test_what_the_engine_knows_is_shown_where_it_knows_it() -> None:
    engine = EngineFigures(3, 2, 0.25, 100, 40, 1)
    found = samples(client(figures=lambda: engine))
    assert found["vllm:num_requests_running", ()] == 3 and found["vllm:num_requests_waiting", ()] == 2
    assert found["vllm:kv_cache_usage_perc", ()] == 0.25
    assert found["vllm:prefix_cache_queries_total", ()] == 100 and found["vllm:prefix_cache_hits_total", ()] == 40
    assert found["vllm:num_preemptions_total", ()] == 1
    assert ("vllm:kv_cache_usage_perc", ()) not in samples(client())


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchEngine]:
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"))
    made = TorchEngine(AutoModelForCausalLM.from_pretrained(folder), [2])
    yield made
    made.close()


def test_the_engine_counts_its_batch_its_cache_and_reused_prefixes(engine: TorchEngine) -> None:
    params = SamplingParams(max_tokens=200, temperature=0, ignore_eos=True)
    assert engine.figures() == EngineFigures(0, 0, 0.0, 0, 0, 0)
    first = engine.submit(range(3, 103), params)
    next(first)
    running = engine.figures()
    assert running.running == 1 and running.waiting == 0 and running.cache_usage > 0
    assert (running.prefix_queries, running.prefix_hits) == (100, 0)
    assert sum(1 for _ in first) == 199
    assert sum(1 for _ in engine.submit(range(3, 103), params)) == 200
    after = engine.figures()
    assert (after.prefix_queries, after.prefix_hits) == (200, 96), "three blocks of 32 tokens"
    assert after.running == 0 and after.cache_usage == 0


def queries() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@pytest.mark.parametrize("query", queries(), ids=range(len(queries())))
def test_each_query_of_the_dashboard_names_metrics_that_the_server_shows(query: str) -> None:
    http = client(figures=lambda: EngineFigures(0, 0, 0, 0, 0, 0))
    ask(http)
    shown = samples(http)
    names = re.findall(r"(?:vllm:|swift_)\w+", query)
    assert names
    for name in names:
        assert any(name == each for each, _ in shown), name
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
    labels = {label for (each, pairs) in shown for label, _ in pairs if each in names}
    assert grouped <= labels
    assert query.count("(") == query.count(")") and query.count("{") == query.count("}")


def test_the_dashboard_asks_for_its_data_source_and_its_model() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    assert variables["model_name"]["query"]["query"] == "label_values(vllm:num_requests_running, model_name)"
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert all('model_name=~"$model_name"' in each for each in re.findall(r"vllm:\w+\{([^}]*)\}", str(panel)))
