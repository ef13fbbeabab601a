"""Rows are many objects that stay: Python looks for cycles among them seldom, and as before afterwards."""

import gc

from test_render import PLAIN, make
from tiny import tiny_tokenizer

from swift.chat import Conversation
from swift.data.mix import DataPlan, load_datasets
from swift.garbage import SELDOM
from swift.template.fit import Lengths, fit_all


def test_while_rows_are_tokenised_and_no_longer() -> None:
    before = gc.get_threshold()
    rows = [Conversation(tuple(PLAIN), source="a")] * 3
    samples = fit_all(make(tiny_tokenizer()), rows, -1, "delete", Lengths())
    next(samples)
    assert gc.get_threshold() == (SELDOM, *before[1:])
    samples.close()
    assert gc.get_threshold() == before


def test_while_rows_are_read_and_no_longer(tmp_path) -> None:
    before, during = gc.get_threshold(), []
    file = tmp_path / "rows.jsonl"
    file.write_text('{"query": "a", "response": "b"}\n{"query": "a"}\n')
    load_datasets(
        DataPlan(dataset=(str(file),), check_dataset_strategy="warning"), lambda line: during.append(gc.get_threshold())
    )
    assert during and set(during) == {(SELDOM, *before[1:])}
    assert gc.get_threshold() == before
