"""The flags of templates that think: what they do to rows, and what is said where they could do nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from published_templates import model_folder, tokenizer
from tiny import tiny_tokenizer

from swift import cli
from swift.chat import Conversation, Message
from swift.template import Renderer, segments, template

ASK, SAY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
FIRST = {"role": "assistant", "reasoning_content": "First thought.", "content": "A"}
SECOND = {"role": "assistant", "reasoning_content": "Second thought.", "content": "B"}
TWO_ROUNDS = {"messages": [ASK, FIRST, ASK, SECOND]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny model with a published template."""
    return partial(model_folder, tmp_path_factory.mktemp("models"))


class Show:
    """`swift data show --json`: the pieces of each sample of a row."""

    def __init__(self, folder: Callable[[str], str], path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._file = path / "rows.jsonl"
        self._capsys = capsys

    def __call__(self, model: str, row: dict[str, Any], *flags: str) -> list[list[tuple[str, float]]]:
        self._file.write_text(json.dumps(row))
        words = ["data", "show", str(self._file), "--json", "true", "--model", self._folder(model), *flags]
        assert cli.main(words) == 0, self._capsys.readouterr().err
        lines = self._capsys.readouterr().out.splitlines()
        return [[(text, weight) for text, weight in json.loads(line)["pieces"]] for line in lines]

    def error(self, model: str, *flags: str) -> str:
        """What the only line says that a wrong flag gives."""
        self._file.write_text(json.dumps(TWO_ROUNDS))
        assert cli.main(["data", "show", str(self._file), "--model", self._folder(model), *flags]) == 2
        out, err = self._capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("swift: error: ")
        return err.removeprefix("swift: error: ").rstrip()


@pytest.fixture
def show(folder: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    return Show(folder, tmp_path, capsys)


def weight_of(text: str, pieces: list[tuple[str, float]]) -> float:
    """The weight of the last place where a text stands."""
    return [weight for piece, weight in pieces if text in piece][-1]


# Weights of thoughts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["qwen3_5_think", "glm4moe", "nemotron_3_nano", "gptoss", "qwen3"])
def test_reasoning_weight_is_that_of_thoughts_alone(show: Show, model: str) -> None:
    for given, wanted in (("1", 1.0), ("0.5", 0.5), ("0", 0.0)):
        samples = show(model, TWO_ROUNDS, "--reasoning_weight", given)
        assert len(samples) == 2
        for pieces, thought, answer in zip(samples, ("First thought.", "Second thought."), "AB", strict=True):
            assert weight_of(thought, pieces) == wanted
            last, weight = pieces[-1]
            assert answer in last and weight == 1.0


def test_reasoning_weight_keeps_tokens_and_closes_thoughts_at_full_weight(show: Show) -> None:
    [_, whole], [_, none] = (show("qwen3_5_think", TWO_ROUNDS, "--reasoning_weight", each) for each in ("1", "0"))
    assert "".join(text for text, _ in whole) == "".join(text for text, _ in none)
    assert none[-1] == ("\n</think>\n\nB<|im_end|>", 1.0)


def test_reasoning_weight_multiplies_a_messages_own(show: Show) -> None:
    row = {"messages": [ASK, {**SECOND, "weight": 0.5}]}
    [pieces] = show("qwen3_5_think", row, "--reasoning_weight", "0.5")
    assert weight_of("Second thought.", pieces) == 0.25
    assert pieces[-1] == ("\n</think>\n\nB<|im_end|>", 0.5)


def test_reasoning_weight_holds_for_a_table_template(show: Show) -> None:
    [pieces] = show("qwen3_5_think", TWO_ROUNDS, "--template_type", "chatml", "--reasoning_weight", "0")
    assert weight_of("First thought.", pieces) == weight_of("Second thought.", pieces) == 0.0
    assert pieces[-1][1] == 1.0 and pieces[-1][0].endswith("B<|im_end|>")


# Thoughts of earlier rounds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["qwen3_5_think", "glm4moe", "nemotron_3_nano", "gptoss"])
def test_earlier_thoughts_are_left_out_as_the_template_does(show: Show, model: str) -> None:
    first, second = show(model, TWO_ROUNDS, "--history_reasoning", "template")
    assert weight_of("First thought.", first) == 1.0
    assert not any("First thought." in piece for piece, _ in second)


@pytest.mark.parametrize("model", ["qwen3_5_think", "glm4moe", "nemotron_3_nano", "qwen3_6"])
def test_earlier_thoughts_that_are_kept_make_one_sample(show: Show, model: str) -> None:
    [pieces] = show(model, TWO_ROUNDS, "--history_reasoning", "keep")
    assert weight_of("First thought.", pieces) == weight_of("Second thought.", pieces) == 1.0
    text = "".join(piece for piece, _ in pieces)
    assert text.count("First thought.") == text.count("Second thought.") == 1


def test_a_template_that_keeps_thoughts_by_a_variable_is_told_so(show: Show) -> None:
    kept = show("nemotron_3_nano", TWO_ROUNDS, "--history_reasoning", "keep")
    told = show("nemotron_3_nano", TWO_ROUNDS, "--chat_template_kwargs", '{"truncate_history_thinking": false}')
    assert kept == told


@pytest.mark.parametrize("model", ["qwen3_6", "nemotron_3_nano"])
def test_stripped_thoughts_stay_away_where_the_template_would_keep_them(show: Show, model: str) -> None:
    name, value = {"qwen3_6": ("preserve_thinking", True), "nemotron_3_nano": ("truncate_history_thinking", False)}[
        model
    ]
    keeping = ["--chat_template_kwargs", json.dumps({name: value})]
    assert len(show(model, TWO_ROUNDS, *keeping)) == 1
    _, second = show(model, TWO_ROUNDS, *keeping, "--history_reasoning", "strip")
    assert not any("First thought." in piece for piece, _ in second)


def test_a_template_without_a_place_for_earlier_thoughts_keeps_none(show: Show) -> None:
    line = show.error("gptoss", "--history_reasoning", "keep")
    assert line.endswith("this chat template cannot render the reasoning of earlier rounds: use template or strip")


# Dates and variables --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "written"), [("gptoss", "%Y-%m-%d"), ("llama3_2", "%d %b %Y")])
def test_the_date_of_training_is_fixed_and_can_be_named(show: Show, model: str, written: str) -> None:
    from datetime import date

    row = {"messages": [ASK, SAY]}
    [pieces] = show(model, row)
    assert date(2025, 1, 1).strftime(written) in pieces[0][0]
    [pieces] = show(model, row, "--template_date", "2031-12-30")
    assert date(2031, 12, 30).strftime(written) in pieces[0][0] and "2025" not in pieces[0][0]


def test_variables_of_a_row_win_over_the_flags(show: Show) -> None:
    row = {"messages": [ASK, SAY], "chat_template_kwargs": {"enable_thinking": True}}
    [off] = show("qwen3_5_think", {"messages": [ASK, SAY]}, "--enable_thinking", "false")
    [on] = show("qwen3_5_think", row, "--enable_thinking", "false")
    assert off[0][0].endswith("<think>\n\n</think>\n\n") and off[-1] == ("A<|im_end|>", 1.0)
    assert on[0][0].endswith("<think>\n") and on[-1] == ("\n</think>\n\nA<|im_end|>", 1.0)

    effort = {"messages": [ASK, SAY], "chat_template_kwargs": {"reasoning_effort": "high"}}
    [pieces] = show(
        "gptoss", effort, "--chat_template_kwargs", '{"reasoning_effort": "low", "model_identity": "I am."}'
    )
    assert "Reasoning: high" in pieces[0][0] and "I am." in pieces[0][0]


def test_the_two_ways_to_set_a_variable_are_one(show: Show) -> None:
    row = {"messages": [ASK, SAY]}
    flag = show("glm4moe", row, "--enable_thinking", "false")
    assert flag == show("glm4moe", row, "--chat_template_kwargs", '{"enable_thinking": false}')
    assert flag != show("glm4moe", row)


def test_a_variable_of_rows_that_the_template_does_not_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    segments.warn_once.cache_clear()
    row = Conversation((Message("user", "Q"), Message("assistant", "A")), template_kwargs={"enable_thinking": False})
    with caplog.at_level(logging.WARNING):
        for renderer in (
            Renderer(tiny_tokenizer(), template("chatml")),
            Renderer(tokenizer("llama3_2"), None),
            Renderer(tokenizer("qwen3"), None),
        ):
            renderer.encode(row)
            renderer.encode(row)
    assert caplog.messages == ["rows set 'enable_thinking', which this chat template ignores"]


# One clear line -------------------------------------------------------------------------------------------------------


TABLE = "the registered template 'chatml' has no"
NOT_READ = "is not read by this model's chat template"


@pytest.mark.parametrize(
    ("model", "flags", "line"),
    [
        ("gptoss", "--enable_thinking true", f" {NOT_READ}: it reads reasoning_effort"),
        ("llama3_2", "--enable_thinking false", f" {NOT_READ}: leave it out"),
        (
            "qwen3",
            '--chat_template_kwargs {"enabel_thinking":1}',
            f": 'enabel_thinking' {NOT_READ}: it reads enable_thinking",
        ),
        (
            "qwen3",
            '--chat_template_kwargs {"enable_thinking":"no"}',
            ': enable_thinking must be true or false, not "no"',
        ),
        ("qwen3", '--chat_template_kwargs {"tools":[]}', ": every template already gets 'tools': leave it out"),
        ("qwen3", "--chat_template_kwargs [1]", ": [1] is not a JSON object"),
        (
            "qwen3",
            '--chat_template_kwargs {"enable_thinking":true} --enable_thinking false',
            " contradicts --chat_template_kwargs: give one of them",
        ),
        ("qwen3", "--enable_thinking=often", ": 'often' is not true or false"),
        ("qwen3", "--history_reasoning kept", ": 'kept' is not one of template, keep, strip: did you mean keep?"),
        ("qwen3", "--reasoning_weight -0.5", " -0.5: must be 0 or more, and finite"),
        ("qwen3", "--reasoning_weight inf", " inf: must be 0 or more, and finite"),
        ("qwen3", "--reasoning_weight all", ": 'all' is not a number"),
        ("gptoss", "--template_date today", " today: not a date, such as 2026-01-31"),
        ("gptoss", "--template_date 20260131", " 20260131: not a date, such as 2026-01-31"),
        ("qwen3", "--template_date 2026-01-31", " 2026-01-31: this model's chat template names no date: leave it out"),
        ("qwen3", "--agent_template auto", " auto: did you mean AUTO?"),
        ("qwen3", "--template_type chatml --enable_thinking true", f": {TABLE} variables: leave it out"),
        ("qwen3", '--template_type chatml --chat_template_kwargs {"a":1}', f": {TABLE} variables: leave it out"),
        (
            "qwen3",
            "--template_type chatml --history_reasoning strip",
            " strip: template 'chatml' keeps all reasoning: use keep",
        ),
        ("qwen3", "--template_type chatml --template_date 2026-01-31", f" 2026-01-31: {TABLE} date: leave it out"),
    ],
)
def test_a_flag_that_is_wrong_or_could_do_nothing_is_one_line(show: Show, model: str, flags: str, line: str) -> None:
    words = flags.split(" ")
    flag = [word for word in words if word.startswith("--")][-1].partition("=")[0]
    assert show.error(model, *words) == flag + line


def test_a_text_form_that_there_is_not_is_named_with_the_nearest(show: Show) -> None:
    assert show.error("qwen3", "--agent_template", "hermess").startswith(
        "unknown agent template 'hermess': did you mean 'hermes'? (known: "
    )
