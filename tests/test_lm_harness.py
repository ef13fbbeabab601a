"""Tasks of lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from swift import cli
from swift.eval import registry
from swift.eval.task import Settings
from swift.eval.tasks import lm_harness

installed = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not installed, reason="lm-evaluation-harness (lm_eval) is not installed")

SUMS = """task: sums
dataset_path: json
dataset_kwargs:
  data_files: {file}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""


def test_the_scores_of_a_row_are_the_harness_s_own() -> None:
    logged = {"doc_id": 3, "filtered_resps": ["7"], "metrics": ["acc", "words"], "acc": 1, "words": (2.5, 3)}
    samples = {
        "sums": [{**logged, "filter": "none"}],
        "gsm8k": [
            {"doc_id": 0, "filtered_resps": ["9"], "metrics": ["exact_match"], "exact_match": score, "filter": name}
            for name, score in (("strict-match", 0.0), ("flexible-extract", 1.0))
        ],
    }
    found = lm_harness.answers(samples)
    assert {key: answer.values["scores"] for key, answer in found.items()} == {
        "sums-3": {"acc": 1.0},
        "gsm8k-0": {"exact_match (strict-match)": 0.0, "exact_match (flexible-extract)": 1.0},
    }


@pytest.mark.skipif(installed, reason="lm-evaluation-harness is installed")
def test_a_missing_package_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(ValueError, match=r"needs lm-evaluation-harness: pip install 'swift-agents\[lm-eval\]'"):
        registry.load("lm_eval:arc_easy", Settings())


@needs_harness
def test_an_unknown_task_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lm_eval:arc_esy: .* has no such task: did you mean arc_easy"):
        registry.load("lm_eval:arc_esy", Settings())
    with pytest.raises(ValueError, match="no such file"):
        registry.load(f"lm_eval:{tmp_path / 'none.yaml'}", Settings())
    (tmp_path / "empty.yaml").write_text("group: x\n")
    with pytest.raises(ValueError, match="names no task"):
        registry.load(f"lm_eval:{tmp_path / 'empty.yaml'}", Settings())
    with pytest.raises(ValueError, match="needs the name of a task"):
        registry.load("lm_eval", Settings())


@needs_harness
@pytest.mark.model
def test_a_task_of_a_yaml_file_runs_on_the_bundled_model(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "choices": [str(n + 1), "none"], "gold": 0} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (tmp_path / "sums.yaml").write_text(SUMS.format(file=tmp_path / "rows.jsonl"))
    words = ["eval", "--model", "smollm2-135m-instruct", "--limit", "3", "--report"]
    task = f"lm_eval:{tmp_path / 'sums.yaml'}"
    assert cli.main([*words, str(tmp_path / "report"), "--tasks", task]) == 0
    answers = [json.loads(line) for line in (tmp_path / "report" / "answers.jsonl").read_text().splitlines()]
    assert {tuple(answer["scores"]) for answer in answers} == {("acc",)}
    assert len(answers) == 3
