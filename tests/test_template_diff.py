"""`swift data show --against_template true`: where our tokens and those of the model's chat template first differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dialogues import dialogues
from published_templates import model_folder, tokenizer
from tiny import tiny_model_folder
from tiny_images import png, tiny_image_model

from swift import cli
from swift.assembly.rendering import make_renderer
from swift.chat import PLACE, Conversation, Image, Message
from swift.flag_groups import TemplateFlags
from swift.template import Renderer
from swift.template.template_diff import TemplateDiff

TOOL = {"name": "look", "description": "Looks", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
ASK, SAY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
THINK = {"role": "assistant", "reasoning_content": "Hm.", "content": "A"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny model with a published template."""
    return partial(model_folder, tmp_path_factory.mktemp("models"))


def show(model: str, rows: list[dict[str, Any]], path: Path, *flags: str) -> int:
    file = path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cli.main(["data", "show", str(file), "--model", model, "--against_template", "true", *flags])


def beside(capsys: pytest.CaptureFixture[str]) -> list[list[dict[str, Any]]]:
    """The comparisons of each sample."""
    return [json.loads(line)["against_template"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", ["qwen3_5_think", "glm4moe", "gptoss", "qwen3", "qwen3_8"])
def test_prompts_by_the_models_own_template_are_the_same(name: str) -> None:
    renderer = Renderer(tokenizer(name), None)
    against = TemplateDiff(renderer, renderer.layout)
    for dialogue in dialogues():
        parallel = any(len(message.tool_calls) > 1 for message in dialogue.conversation.messages)
        if parallel and not renderer.layout.traits.parallel:
            continue
        *prompts, whole = against.compare(dialogue.conversation)
        assert len(prompts) == len(dialogue.asks)
        assert not any(each.difference for each in prompts), dialogue.name
        assert not whole.difference or whole.leaves_prompt, dialogue.name


def test_it_says_that_all_is_the_same_and_counts(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(folder("qwen3_5_think"), [{"messages": [ASK, THINK, ASK, THINK]}], tmp_path) == 0
    out, err = capsys.readouterr()
    assert "chat template: the same (round 1, prompt of message 2)\n" in out
    assert "chat template: the same (round 2, prompt of message 4; the whole dialogue)\n" in out
    assert err.splitlines()[-1] == "prompts and dialogues beside the chat template: 3 same"


def test_the_first_difference_of_a_table_template_is_shown_from_both_sides(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    model = folder("qwen3_5_think")
    words = [model, [{"messages": [ASK, SAY, ASK, SAY]}], tmp_path, "--template_type", "chatml", "--system", ""]
    assert show(*words) == 0
    out, err = capsys.readouterr()
    tok = tokenizer("qwen3_5_think")
    ours = tok.encode("<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    told = tok.apply_chat_template([ASK], add_generation_prompt=True, return_dict=False)
    assert told[: len(ours)] == ours
    assert f"round 1, prompt of message 2: the first difference is token {len(ours) + 1}\n" in out
    assert "    ours      ends here\n    template  '<think>\\n'\n" in out
    assert "round 2, prompt of message 4: the first difference" in out
    assert err.splitlines()[-1].endswith("chat template: 3 different")

    assert show(*words, "--json", "true") == 0
    [[first, second, whole]] = beside(capsys)
    assert (first["message"], first["round"], first["same"], first["at"]) == (2, 1, False, len(ours))
    assert first["ours"] == {"text": "", "tokens": []}
    assert first["template"] == {"text": "<think>\n", "tokens": told[len(ours) :]}
    assert (second["message"], second["round"], second["same"]) == (4, 2, False)
    assert (whole["message"], whole["same"]) == (None, False)


def test_prompts_that_differ_alike_are_told_once(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": [{"role": "system", "content": "S"}, ASK, SAY, ASK, SAY]}]
    assert show(folder("llama3_2"), rows, tmp_path, "--template_type", "llama3") == 0
    out = capsys.readouterr().out
    assert out.count("    template ") == 1 and out.count("the same difference, at token") == 2


def test_thoughts_that_are_kept_against_the_template_are_a_difference(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [folder("qwen3_6"), [{"messages": [ASK, THINK, ASK, THINK]}], tmp_path, "--history_reasoning", "keep"]
    assert show(*words, "--json", "true") == 0
    [[first, second, _]] = beside(capsys)
    assert first["same"] and not second["same"]
    assert second["ours"]["text"].startswith("<think>\nHm.") and second["template"]["text"].startswith("A<|im_end|>")


def test_a_finished_reply_that_the_template_writes_otherwise_than_its_prompt_is_told_apart(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(folder("nemotron_3_nano"), [{"messages": [ASK, SAY]}], tmp_path) == 0
    out, err = capsys.readouterr()
    assert ", where the template leaves its own prompt for the last reply\n" in out
    assert err.splitlines()[-1].endswith(": 1 same, 1 different as the template leaves its own prompt")


def test_the_template_sees_the_date_and_the_system_text_of_the_flags(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--template_date", "2020-02-03", "--system", "Be kind."]
    assert show(folder("llama3_2"), [{"messages": [ASK, SAY]}], tmp_path, *flags) == 0
    out, err = capsys.readouterr()
    assert "03 Feb 2020" in out and "Be kind." in out
    assert err.splitlines()[-1].endswith(": 2 same")


def test_variables_of_the_row_reach_both_sides(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(folder("qwen3_5_think"), [{"messages": [ASK, SAY], "enable_thinking": False}], tmp_path) == 0
    out, err = capsys.readouterr()
    assert "'</think>\\n\\n'" in out and err.splitlines()[-1].endswith(": 2 same")


def test_a_special_token_that_somebody_typed_is_the_same_text_in_other_tokens(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"messages": [{"role": "user", "content": "What is <|im_end|>"}, SAY]}
    assert show(folder("qwen3"), [row], tmp_path, "--json", "true") == 0
    [[prompt, _]] = beside(capsys)
    assert prompt["before"].endswith("What is ")
    assert prompt["ours"]["text"].startswith("<|im_end|>") and prompt["template"]["text"].startswith("<|im_end|>")
    assert prompt["ours"]["tokens"][0] != prompt["template"]["tokens"][0]
    assert show(folder("qwen3"), [row], tmp_path) == 0
    tokens = prompt["ours"]["tokens"]
    assert f"    ours      {prompt['ours']['text']!r}, in tokens {tokens}\n" in capsys.readouterr().out


def test_a_refusal_names_the_message_and_the_rest_is_compared(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    twice = {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "1"}, {**CALL, "id": "2"}]}
    results = [{"role": "tool", "tool_call_id": number, "content": "r"} for number in ("1", "2")]
    row = {"messages": [ASK, twice, *results, SAY], "tools": [TOOL]}
    assert show(folder("llama3_1"), [row, {"query": "Q", "response": "R"}], tmp_path) == 0
    out, err = capsys.readouterr()
    assert "round 1, prompt of message 2: the same\n" in out
    refusal = "the chat template rejects message 2: This model only supports single tool-calls at once!"
    assert f"round 1, prompt of message 5: {refusal}\n  the whole dialogue: {refusal}\n" in out
    assert err.splitlines()[-1].endswith(": 3 same, 2 refused")


def test_a_refused_system_text_is_named(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    system = {"role": "system", "content": "S"}
    assert show(folder("gemma"), [{"messages": [system, ASK, SAY]}], tmp_path) == 0
    assert "prompt of message 3: the chat template rejects message 1: System role not supported\n" in (
        capsys.readouterr().out
    )
    assert show(folder("gemma"), [{"messages": [ASK, SAY]}], tmp_path, "--system", "S") == 0
    assert "prompt of message 2: the chat template rejects the system prompt: System role" in capsys.readouterr().out


def test_each_sample_has_the_comparisons_of_its_own_replies(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"messages": [ASK, THINK, ASK, THINK, ASK, THINK]}
    assert show(folder("qwen3_5_think"), [row], tmp_path, "--json", "true") == 0
    assert [[each["message"] for each in sample] for sample in beside(capsys)] == [[2], [4], [6, None]]


def test_rows_without_a_dialogue_have_nothing_beside_them(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(folder("qwen3_5_think"), [{"text": "Plain."}], tmp_path) == 0
    out, err = capsys.readouterr()
    assert "chat template: plain text has none\n" in out
    assert err.splitlines()[-1].endswith("chat template: none")


def test_a_tokenizer_without_a_chat_template_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model_folder(tmp_path / "tiny")
    model = str(tmp_path / "tiny")
    assert show(model, [{"query": "Q", "response": "R"}], tmp_path, "--template_type", "chatml") == 2
    error = f"--against_template: the tokenizer of {model} has no chat template: leave it out"
    assert capsys.readouterr().err.splitlines()[-1] == f"swift: error: {error}"


def test_a_reply_for_which_the_template_has_no_prompt_is_history_of_the_next(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"messages": [{"role": "assistant", "content": "Welcome!"}, ASK, SAY]}
    assert show(folder("qwen3_5_think"), [row], tmp_path, "--json", "true") == 0
    [line] = capsys.readouterr().out.splitlines()
    shown = json.loads(line)
    [before, reply] = shown["pieces"]
    assert before[0].startswith("<|im_start|>assistant\nWelcome!<|im_end|>\n<|im_start|>user\nQ") and before[1] == 0
    assert reply == ["\n</think>\n\nA<|im_end|>", 1.0]
    assert [(each["message"], each["same"]) for each in shown["against_template"]] == [(3, True), (None, True)]


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "smolvlm"])
def test_images_are_as_many_tokens_on_both_sides(tmp_path: Path, family: str) -> None:
    renderer = make_renderer(tiny_image_model(tmp_path / family, family), TemplateFlags(), None)
    first, second = Image("first", png((60, 40), 1)), Image("second", png((30, 70), 2))
    told = [Message("user", f"{PLACE}this", images=(first,)), Message("assistant", "noise")]
    told += [Message("user", f"and {PLACE} this?", images=(second,)), Message("assistant", "more")]
    compared = TemplateDiff(renderer, renderer.layout).compare(Conversation(tuple(told)))
    assert len(compared) == 3 and all(each.is_same for each in compared), compared


def test_calls_have_the_shape_that_a_template_reads_which_tells_of_no_tools(
    tmp_path: Path, folder: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    call = {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "1"}]}
    row = {"messages": [ASK, call, {"role": "tool", "tool_call_id": "1", "content": "r"}, SAY], "tools": [TOOL]}
    assert show(folder("deepseekv3"), [row], tmp_path, "--json", "true") == 0
    first, second, whole = (each for sample in beside(capsys) for each in sample)
    assert first["ours"]["text"] == second["ours"]["text"] == "Answer the f"  # ReAct offers the tools
    assert "refusal" not in second and "refusal" not in whole
