"""The demo as a whole, on a model that is too small to learn: what it leaves, not how good it gets."""

import json
from pathlib import Path
from types import SimpleNamespace

from tiny import tiny_model_folder

from swift.agent import tool_format
from swift.chat import Delta, Usage
from swift.commands import demo


def test_the_demo_measures_trains_measures_and_leaves_its_figures(tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "tiny", max_position_embeddings=8192)
    cfg = demo.Config(
        output_dir=str(tmp_path / "out"),
        model=str(tmp_path / "tiny"),
        template_type="chatml",
        agent_rows=4,
        self_cognition_sample=2,
        eval_cases=2,
        max_length=8192,
    )
    summary = demo.main(cfg)
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(summary)
    )
    for model in ("base", "tuned"):
        for share in ("format_valid", "tool_correct", "arguments_correct", "self_cognition"):
            assert 0 <= summary[model][share] <= 1
        assert summary[model]["general_loss"] > 0
        assert summary[model]["scenario"][0]["role"] == "user"
        assert len(summary[model]["replies"]) == 2
    page = (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page and "http" not in page.replace("http://www.w3.org", "")
    told, given = (
        (tmp_path / "out" / "data" / name).read_text(encoding="utf-8").splitlines()
        for name in ("agent.jsonl", "tools.jsonl")
    )
    assert (len(told), len(given)) == (2, 2)
    assert "fire_recognition" not in "".join(told + given)


def test_the_scenario_runs_real_tools_and_nobody_types_what_they_return(tmp_path: Path) -> None:
    texts = [
        f'Thought: look\nAction: fire_recognition\nAction Input: {{"image": "{tmp_path / "1.jpg"}"}}\nObservation:',
        "Thought: call\nAction: call_fireman\nAction Input: {}\nObservation:",
        "Final Answer: there is fire",
    ]
    replies = iter(texts)

    class Model:
        renderer = SimpleNamespace(tool_format=tool_format("react_en"))

        def __call__(self, messages, tools, params):
            assert not tools and params.stop == ("Observation:",)
            yield Delta(next(replies), finish="stop", usage=Usage(1, 1))

    turns = demo._scenario(Model(), tmp_path)
    assert [turn["content"] for turn in turns if turn["role"] == "assistant"] == texts
    seen, called = (turn["content"] for turn in turns if turn["role"] == "tool")
    assert json.loads(seen) == [{"coordinate": [51.6, 82.5], "on_fire": True}]
    assert called == "119 is called" and "call_fireman" in (tmp_path / "fire_alarm.log").read_text()
    assert turns[0]["content"].startswith(f"输入图片是{tmp_path}")


def test_one_dialogue_and_one_question_are_enough(tmp_path: Path) -> None:
    tiny_model_folder(tmp_path / "tiny", max_position_embeddings=8192)
    few = {"agent_rows": 1, "eval_cases": 1, "self_cognition_sample": 1, "max_length": 8192}
    cfg = demo.Config(str(tmp_path / "out"), str(tmp_path / "tiny"), "chatml", **few)
    assert len(demo.main(cfg)["tuned"]["replies"]) == 1


def test_no_tool_that_is_asked_about_was_trained_on() -> None:
    from swift.data.demo_rows import agent_rows, evaluation_cases

    rows = agent_rows(60, seed=42) + agent_rows(60, seed=43, style="messages")
    trained = {call.name for row in rows for message in row.messages for call in message.tool_calls}
    told = "".join(message.content for row in rows for message in row.messages)
    cases = evaluation_cases(40, seed=42) + evaluation_cases(40, seed=43, style="messages")
    for case, call in cases:
        assert call.name not in trained and f"Action: {call.name}\n" not in told
        assert case.messages[-1].role == "user"
