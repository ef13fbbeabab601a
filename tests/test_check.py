"""Bad rows are named, counted, and never lost in silence."""

import csv
import json
from dataclasses import replace

import pyarrow as pa
import pytest
from pyarrow import parquet

from swift.data import disk_list
from swift.data.linting import STRATEGIES, Report, checked, lint
from swift.data.mix import DataPlan, load_datasets
from swift.data.sources import resolve

GOOD = '{"query": "q", "response": "r"}'
NO_REPLY = '{"query": "where is the answer?"}'
NONSENSE = json.dumps({"messages": [{"role": role, "content": "x"} for role in ("user", "assistant", "tool", "bot")]})
LINES = [GOOD, NO_REPLY, "{oops", NONSENSE, GOOD]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(LINES))
    return path


def run(path, strategy):
    report, said = Report(), []
    return list(checked(resolve(str(path)), strategy, report, said.append)), report, said


def test_a_row_without_a_reply_is_named_with_file_line_rule_and_excerpt(path):
    _, _, said = run(path, "warning")
    assert said[0].startswith(f"{path}:2: no-reply: ") and "where is the answer?" in said[0]
    assert said[1].startswith(f"{path}:3: bad-json: ") and "{oops" in said[1]
    assert said[2].startswith(f"{path}:4: result-without-call: ")
    assert len(said) == 3 and not any("\n" in line for line in said)


def test_bad_rows_are_counted_by_source_and_rule(path):
    good, report, _ = run(path, "warning")
    assert [(row.source, row.line) for row in good] == [(str(path), 1), (str(path), 5)]
    assert dict(report.rows[str(path)]) == {"read": 5, "kept": 2, "bad": 3}
    assert report.rules == {"no-reply": 1, "bad-json": 1, "result-without-call": 1}
    assert report.lines()[0] == f"{path}: 5 read, 2 kept, 3 bad"


def test_discard_counts_without_a_word(path):
    good, report, said = run(path, "discard")
    assert (len(good), report.total("bad"), said) == (2, 3, [])
    assert len(report.findings) == 3


def test_error_stops_at_the_first_bad_row(path):
    with pytest.raises(ValueError, match=r"a\.jsonl:2: no-reply"):
        run(path, "error")


def test_none_keeps_a_dialogue_that_makes_no_sense_but_still_names_what_is_no_dialogue(path):
    good, report, said = run(path, "none")
    assert [row.line for row in good] == [1, 4, 5]
    assert [line.split(": ")[1] for line in said] == ["no-reply", "bad-json"]
    assert report.total("bad") == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_good_rows_pass_every_strategy_in_silence(tmp_path, strategy):
    (tmp_path / "a.jsonl").write_text(GOOD + "\n" + GOOD)
    good, report, said = run(tmp_path / "a.jsonl", strategy)
    assert (len(good), report.total("bad"), said) == (2, 0, [])


def test_an_unknown_strategy_lists_the_known_ones(path):
    with pytest.raises(ValueError, match="none, discard, error, warning"):
        run(path, "warn")


@pytest.mark.parametrize("strategy", ["none", "discard", "warning"])
def test_losing_every_row_is_an_error_that_shows_the_first(tmp_path, strategy):
    (tmp_path / "a.jsonl").write_text(NO_REPLY)
    with pytest.raises(ValueError, match=r"no rows of .* are left.*a\.jsonl:1: no-reply"):
        load_datasets(DataPlan((str(tmp_path / "a.jsonl"),), check_dataset_strategy=strategy), lambda line: None)


def test_a_source_that_loses_every_row_is_told_beside_others(tmp_path):
    (tmp_path / "a.jsonl").write_text(NO_REPLY)
    (tmp_path / "b.jsonl").write_text(GOOD)
    plan = DataPlan((str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")), check_dataset_strategy="discard")
    train, _, report = load_datasets(plan, lambda line: None)
    assert len(train) == 1
    assert report.notes == [f"{tmp_path / 'a.jsonl'}: no rows are left"]


def test_rows_that_a_set_filters_out_are_counted_and_are_not_bad(tmp_path, monkeypatch):
    folder = tmp_path / "hub" / "datasets" / "iic" / "ms_bench"
    folder.mkdir(parents=True)
    rows = [[{"from": "user", "value": "q"}, {"from": "assistant", "value": reply}] for reply in ("r", "I am moss")]
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"conversations": str(row)}) for row in rows))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    report = Report()
    assert len(list(checked(resolve("ms-bench"), "error", report, print))) == 1
    assert report.rows["ms-bench"] == {"read": 2, "kept": 1, "filtered": 1}


def test_keys_that_nobody_reads_are_counted_and_told_with_their_first_place(tmp_path):
    rows = [{"query": str(n), "response": "r", **({"train": n} if n else {})} for n in range(3)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _, _, report = load_datasets(DataPlan((str(tmp_path / "a.jsonl"),)), lambda line: None)
    place = f"{tmp_path / 'a.jsonl'}:2"
    assert report.lines()[-1] == f"warning: unread-key: the key 'train' of rows is ignored (2 times, first {place})"
    (saved,) = json.loads(json.dumps(report.as_dict()))["unread_keys"]
    assert (saved["of"], saved["key"], saved["met"], saved["line"]) == ("rows", "train", 2, 2)


def test_keys_of_rows_are_not_told_where_the_set_has_a_row_function(tmp_path):
    (tmp_path / "rows.py").write_text("def turned(row):\n    return row | {'query': row['q']}\n")
    (tmp_path / "a.jsonl").write_text('{"q": "x", "response": "r"}')
    (tmp_path / "my.toml").write_text('[datasets.mine]\npath = "a.jsonl"\nrows = "rows.py:turned"\n')
    _, _, report = load_datasets(DataPlan(("mine",), registry=(str(tmp_path / "my.toml"),)), lambda line: None)
    assert report.unused_keys.found() == []


def test_a_separator_that_is_no_comma_is_said(tmp_path):
    (tmp_path / "a.csv").write_text("query\tresponse\nq\tr\n")
    said = []
    train, _, report = load_datasets(DataPlan((str(tmp_path / "a.csv"),)), said.append)
    assert len(train) == 1
    assert said == report.notes == [f"{tmp_path / 'a.csv'}: columns are separated by a tab"]


def test_the_report_can_be_saved_as_json(path):
    _, report, _ = run(path, "discard")
    saved = json.loads(json.dumps(report.as_dict()))
    assert saved["rows"][str(path)]["bad"] == 3
    assert saved["findings"][0]["line"] == 2


def test_thoughts_and_variables_are_the_same_from_every_kind_of_file_by_way_of_the_disk_and_the_mixture(
    tmp_path, monkeypatch
):
    rows = [
        {"query": f"q{n}", "response": "r", "reasoning_content": f"hm {n}", "enable_thinking": n % 2 == 0}
        for n in range(4)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    with (tmp_path / "c.csv").open("w", newline="") as file:
        cells = csv.DictWriter(file, rows[0])
        cells.writeheader()
        cells.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    monkeypatch.setattr(disk_list, "IN_MEMORY", 1)
    jsonl, array, table, columns = map(str, sorted(tmp_path.iterdir()))
    for dataset, mixed_in in ((jsonl, array), (table, columns)):
        plan = DataPlan((f"{dataset}#9",), train_dataset_mix_ratio=0.5, train_dataset_mix_ds=(mixed_in,))
        train, val, _ = load_datasets(replace(plan, dataset_test_ratio=0.3), lambda line: None)
        assert {row.source for row in train} == {dataset, mixed_in}
        for row in (*train, *val):
            number = int(row.messages[0].content[1:])
            assert row.messages[1].reasoning == f"hm {number}"
            assert row.template_kwargs == {"enable_thinking": number % 2 == 0}


def test_structs_of_parquet_give_thoughts_only_where_there_are_any(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r", "thinking": "hm"}]
    rows = [
        {"messages": turns, "chat_template_kwargs": {"reasoning_effort": "low"}},
        {"messages": [*turns[:1], {"role": "assistant", "content": "r"}], "chat_template_kwargs": {"a": 1}},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    one, other = run(tmp_path / "a.parquet", "error")[0]
    assert (one.messages[1].reasoning, one.template_kwargs) == ("hm", {"reasoning_effort": "low"})
    assert (other.messages[1].reasoning, other.template_kwargs) == ("", {"a": 1})


def test_lint_goes_on_behind_bad_rows_and_bad_files(path, tmp_path):
    (tmp_path / "b.csv").write_text("")
    (tmp_path / "c.jsonl").write_text(GOOD)
    named = lint([path, tmp_path / "gone.jsonl", tmp_path])
    found = [(finding.file, finding.line, finding.rule) for finding in named if not finding.warning]
    bad = [(str(path), 2, "no-reply"), (str(path), 3, "bad-json"), (str(path), 4, "result-without-call")]
    gone, empty = (str(tmp_path / "gone.jsonl"), 0, "unreadable-file"), (str(tmp_path / "b.csv"), 0, "unreadable-file")
    assert found == [*bad, gone, *bad, empty]


def test_lint_knows_renamed_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"frage": "q", "response": "r"}\n{"frage": "q"}')
    assert [finding.line for finding in lint([tmp_path / "a.jsonl"], {"frage": "query"})] == [2]
