"""The evaluator of the package bfcl-eval itself, for comparison: its handler of OpenAI's replies and its judgements."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from swift.chat import Message
from swift.eval.tasks.bfcl import official


class Evaluator:
    """The evaluation of bfcl-eval itself: its handler of OpenAI's replies and its judgement of one row."""

    def __init__(self) -> None:
        runner = import_module("bfcl_eval.eval_checker.eval_runner")
        openai = import_module("bfcl_eval.model_handler.api_inference.openai_completion")
        enums = import_module("bfcl_eval.constants.enums")
        utils = import_module("bfcl_eval.utils")
        types = import_module("bfcl_eval.constants.type_mappings").GORILLA_TO_OPENAPI
        self.averages = import_module("bfcl_eval.eval_checker.eval_runner_helper")
        handler = object.__new__(openai.OpenAICompletionsHandler)
        handler.is_fc_model = True
        self._ast, self._relevance = runner._evaluate_single_ast_entry, runner._evaluate_single_relevance_entry
        self._multi_turn = runner._evaluate_single_multi_turn_entry
        self._handler, self._enums = handler, enums
        self._load, self._answers = utils.load_dataset_entry, utils.load_ground_truth_entry
        self._convert = lambda functions: openai.convert_to_tool(functions, types, enums.ModelStyle.OPENAI_COMPLETIONS)

    def tools(self, category: str) -> dict[str, list[dict[str, Any]]]:
        return {row["id"]: self._convert(row["function"]) for row in self._load(category)}

    def dialogue_is_correct(self, category: str, id: str, replies: Sequence[Sequence[Message]]) -> bool:
        """`replies`: those of each turn."""
        row, answer = self.rows(category)[id]
        results = [[_result(reply) for reply in turn] for turn in replies]
        judge = self._multi_turn
        return judge(self._handler, id, results, answer["ground_truth"], dict(row), official.MODEL, category)["valid"]

    @cache  # noqa: B019
    def rows(self, category: str) -> dict[str, tuple[dict[str, Any], Any]]:
        rows = self._load(category, include_language_specific_hint=False)
        answers = [None] * len(rows) if "relevance" in category else self._answers(category)
        return {row["id"]: (row, answer) for row, answer in zip(rows, answers, strict=True)}

    def correct(self, category: str, id: str, reply: Message) -> bool:
        row, answer = self.rows(category)[id]
        result = _result(reply)
        if answer is None:
            return self._relevance(self._handler, id, result, row, official.MODEL, category)["valid"]
        language = {"simple_java": "JAVA", "simple_javascript": "JAVASCRIPT"}.get(category, "PYTHON")
        return self._ast(
            self._handler,
            id,
            result,
            answer["ground_truth"],
            row,
            official.MODEL,
            category,
            self._enums.Language[language],
            self._enums.ReturnFormat[language],
        )["valid"]


def _result(reply: Message) -> Any:
    """A reply as the handler takes it from OpenAI's API."""
    return [{call.name: call.arguments} for call in reply.tool_calls] or reply.content


@contextmanager
def official_evaluator(folder: Path) -> Iterator[Evaluator]:
    """The package imported with stand-ins for what its evaluation of one row does not use. `folder`: for its files."""
    registry = {official.MODEL: SimpleNamespace(underscore_to_dot=True)}
    stand_ins: dict[str, dict[str, Any]] = {
        "bfcl_eval.constants.model_config": {"MODEL_CONFIG_MAPPING": registry},
        "bfcl_eval.model_handler.base_handler": {"BaseHandler": object},
        "bfcl_eval.model_handler.parser.java_parser": {"parse_java_function_call": None},
        "bfcl_eval.model_handler.parser.js_parser": {"parse_javascript_function_call": None},
        "pandas": {},
        "dotenv": {"load_dotenv": None},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BFCL_PROJECT_ROOT", str(folder))
        for name, values in stand_ins.items():
            module = ModuleType(name)
            module.__dict__.update(values)
            patch.setitem(sys.modules, name, module)
        before = set(sys.modules)
        yield Evaluator()
        for name in set(sys.modules) - before:
            if name.startswith("bfcl_eval"):
                del sys.modules[name]
