"""Which rows are trained on: uniform, seeded, and told."""

import json
from collections import Counter
from random import Random

import pytest

from swift.data.mix import DataPlan, choose, load_datasets, sample, split


@pytest.fixture
def file(tmp_path):
    def write(name: str, count: int) -> str:
        rows = ({"query": f"{name} {number}", "response": "r"} for number in range(count))
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    return write


def load(*dataset: str, **fields):
    train, val, report = load_datasets(DataPlan(dataset, **fields), lambda line: None)
    return list(train), list(val), report


def lines(rows):
    return [row.line for row in rows]


NAMED = {"model_name": ("小智", "Smarty"), "model_author": ("某某", "Someone")}

# --- the pure functions


def test_a_sample_is_uniform_and_not_the_first_rows():
    drawn = Counter(row for seed in range(2000) for row in sample(range(10), 3, Random(seed)))
    assert set(drawn) == set(range(10))
    assert all(480 < count < 720 for count in drawn.values())  # 600 each, within six standard deviations


def test_a_sample_keeps_the_order_and_holds_no_row_twice():
    drawn = sample(range(1000), 500, Random(1))
    assert drawn == sorted(set(drawn)) and len(drawn) == 500


def test_a_sample_beyond_the_size_is_whole_copies_and_a_rest():
    counts = Counter(sample(range(10), 34, Random(1)))
    assert sorted(counts.values()) == [3] * 6 + [4] * 4


@pytest.mark.parametrize(("size", "ratio", "held"), [(100, 0.01, 1), (1000, 0.01, 10), (10, 0.01, 1), (10, 0.0, 0)])
def test_a_split_holds_out_its_share_and_at_least_one_row(size, ratio, held):
    train, val = split(range(size), ratio, Random(1))
    assert len(val) == held and sorted(train + val) == list(range(size))


def test_a_split_never_takes_the_last_row_from_training():
    assert split([1], 0.5, Random(1)) == ([1], [])
    assert split([], 0.5, Random(1)) == ([], [])
    assert len(split([1, 2], 0.99, Random(1))[0]) == 1


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 2])
def test_a_ratio_outside_its_range_is_refused(ratio):
    with pytest.raises(ValueError, match="dataset_test_ratio"):
        split([1, 2], ratio, Random(1))


def test_a_repeated_row_is_never_held_out_and_trained_on():
    train, val = choose(range(100), 1000, 0.1, Random(1))
    assert len(train) + len(val) == 1000 and len(val) == 10
    assert not set(train) & set(val)


# --- the front door


def test_every_row_is_either_trained_on_or_held_out(file):
    train, val, _ = load(file("a.jsonl", 200), file("b.jsonl", 100))
    assert Counter(row.source[-7:] for row in train) == {"a.jsonl": 198, "b.jsonl": 99}
    assert len({(row.source, row.line) for row in train + val}) == 300


def test_the_same_plan_gives_the_same_rows_and_another_seed_others(file):
    path = file("a.jsonl", 200)
    first, again, other = (load(f"{path}#50", dataset_seed=seed) for seed in (1, 1, 2))
    assert first[:2] == again[:2]
    assert lines(first[0]) != lines(other[0])


def test_one_data_set_more_leaves_the_choice_from_the_others_as_it_was(file):
    a, b = file("a.jsonl", 200), file("b.jsonl", 200)
    alone, beside = load(f"{a}#50"), load(f"{b}#50", f"{a}#50")
    assert [row for row in beside[0] if row.source == a] == alone[0]


def test_a_count_beyond_the_size_repeats_and_says_so(file):
    path = file("a.jsonl", 100)
    train, val, report = load(f"{path}#250")
    assert len(train) + len(val) == 250
    assert not set(lines(train)) & set(lines(val))
    assert report.notes == [f"{path}#250 is more than the 100 rows: rows are repeated"]


def test_a_validation_set_of_its_own_leaves_the_training_rows_whole(file):
    train, val, _ = load(file("a.jsonl", 100), val_dataset=(file("v.jsonl", 30),), dataset_test_ratio=0.5)
    assert (len(train), len(val)) == (100, 30)


def test_a_validation_set_alone_is_read_for_predictions(file):
    train, val, _ = load_datasets(DataPlan(val_dataset=(file("v.jsonl", 30),)), print)
    assert (len(train), len(val)) == (0, 30)


def test_sampling_the_training_rows_leaves_the_validation_rows(file):
    path = file("a.jsonl", 1000)
    train, val, _ = load(path, train_dataset_sample=50)
    assert (len(train), len(val)) == (50, 10)
    assert lines(train) != list(range(1, 51))
    assert len(load(path, train_dataset_sample=-1)[0]) == 990
    assert len(load(path, train_dataset_sample=2000)[0]) == 2000
    assert len(load(path, val_dataset_sample=3)[1]) == 3
    assert len(load(path, val_dataset_sample=-1)[1]) == 10


def test_the_mixture_of_the_tutorial_comes_out_to_the_row(file):
    mixed_in = {"train_dataset_mix_ratio": 2.0, "train_dataset_mix_ds": (file("general.jsonl", 1000),)}
    train, val, _ = load(file("agent.jsonl", 300), self_cognition_sample=30, **mixed_in, **NAMED)
    assert list(Counter(row.source for row in train).values()) == [297, 594, 30]
    assert [row.source[-11:] for row in val] == ["agent.jsonl"] * 3
    assert train[0].source.endswith("agent.jsonl") and train[-1].source == "self-cognition"


def test_a_mix_set_that_is_too_small_is_used_whole_and_its_ratio_told(file):
    mixed_in = {"train_dataset_mix_ratio": 2.0, "train_dataset_mix_ds": (file("b.jsonl", 50),)}
    train, _, report = load(file("a.jsonl", 100), dataset_test_ratio=0.0, **mixed_in)
    assert len(train) == 150
    assert "0.50 instead of 2" in report.notes[0]


def test_the_mix_follows_the_sampled_training_rows(file):
    mixed_in = {"train_dataset_mix_ratio": 0.5, "train_dataset_mix_ds": (file("b.jsonl", 100),)}
    train, _, _ = load(file("a.jsonl", 100), train_dataset_sample=41, **mixed_in)
    assert len(train) == 41 + 20  # round(20.5) is 20: halves go to the even number


@pytest.mark.parametrize("plan", [{"self_cognition_sample": 300}, {"dataset": ("self-cognition#300",)}])
def test_self_cognition_rows_need_no_data_set_and_are_never_held_out(plan):
    train, val, report = load_datasets(DataPlan(**plan, **NAMED), print)
    assert (len(train), len(val)) == (300, 0)
    assert report.rows["self-cognition"]["kept"] == 300


def test_self_cognition_as_a_data_set_is_filled_in_and_whole(file):
    train, val, _ = load(file("a.jsonl", 100), "self-cognition", dataset_test_ratio=0.5, **NAMED)
    told = [row for row in train if row.source == "self-cognition"]
    assert len(told) >= 120 and not any("{{" in message.content for row in told for message in row.messages)
    assert all(row.source != "self-cognition" for row in val)


def test_a_comma_joins_names_too(file):
    a, b = file("a.jsonl", 10), file("b.jsonl", 10)
    assert load(f"{a},{b}#5")[0] == load(a, f"{b}#5")[0]


def test_renamed_columns_reach_the_rows_and_a_column_that_no_row_has_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"frage": "q", "antwort": "r"}')
    path = str(tmp_path / "a.jsonl")
    assert len(load(path, columns={"frage": "query", "antwort": "response"})[0]) == 1
    with pytest.raises(ValueError, match="no row has the column 'fragen'"):
        load(path, columns={"frage": "query", "antwort": "response", "fragen": "system"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no data"),
        ({"dataset": ("A",), "train_dataset_sample": 0}, "train_dataset_sample"),
        ({"dataset": ("A",), "train_dataset_sample": -2}, "train_dataset_sample"),
        ({"dataset": ("A",), "self_cognition_sample": -1}, "self_cognition_sample"),
        ({"dataset": ("A",), "train_dataset_mix_ratio": -1.0}, "train_dataset_mix_ratio"),
        ({"self_cognition_sample": 5, "train_dataset_mix_ratio": 1.0, **NAMED}, "train_dataset_mix_ratio needs"),
        ({"dataset": ("A",), "dataset_test_ratio": 1.0}, "dataset_test_ratio"),
        ({"dataset": ("A",), "self_cognition_sample": 5}, "--model_name"),
        ({"dataset": ("A", "A#5")}, "given twice"),
        ({"dataset": ("A",), "val_dataset": ("A",)}, "given twice"),
        ({"dataset": ("A",), "train_dataset_mix_ds": ("A",), "train_dataset_mix_ratio": 1.0}, "given twice"),
        ({"dataset": ("A",), "val_dataset": ("self-cognition#5",)}, "for training only"),
        ({"dataset": ("A", "self-cognition"), "self_cognition_sample": 5, **NAMED}, "given twice"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(file, fields, message):
    path = file("a.jsonl", 10)
    named = {
        key: tuple(name.replace("A", path) for name in value)
        for key, value in fields.items()
        if "data" in key and isinstance(value, tuple)
    }
    with pytest.raises(ValueError, match=message):
        load_datasets(DataPlan(**{**fields, **named}), lambda line: None)
