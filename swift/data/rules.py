"""The validation rules of dialogues for the docs: error or warning, meaning, remedy. Applies none of them."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Rule(NamedTuple):
    name: str
    kind: Literal["error", "warning"]
    meaning: str
    remedy: str


IN_TEXT = (
    Rule(
        "misspelt-keyword",
        "error",
        "`Action Imput:`, `Observations:`, `Final answer:`, `Action：`, `**Action:**`, a missing colon, `观察：`, "
        "`✿参数✿:` in place of the keyword. The call is not parsed, or the result is trained as the model's text",
        "use the keyword that the message names",
    ),
    Rule(
        "unknown-tool",
        "error",
        "a call to a tool that neither the system prompt nor `tools` offers",
        "use the name that the message suggests, or offer the tool",
    ),
    Rule(
        "action-without-input",
        "error",
        "`Action:` without `Action Input:` on a line of its own: no call is parsed",
        "`Action Input: {}` for a call without arguments",
    ),
    Rule(
        "input-without-action",
        "error",
        "`Action Input:` without `Action:`",
        "add the action",
    ),
    Rule(
        "bad-call",
        "error",
        "`Action:` without a name, or a line between it and `Action Input:`",
        "fix the lines",
    ),
    Rule(
        "bad-arguments",
        "error",
        "the input begins like an object, but is neither JSON nor a Python literal; arguments of a structured "
        "call that are not a JSON object",
        "fix the quotes and brackets",
    ),
    Rule(
        "plain-input",
        "warning",
        "the input is plain text, a list or a number (`Action Input: /tmp/1.jpg`). Some runtimes call tools with one "
        "string argument like this, but `swift infer --tools` and the server accept only objects",
        '`{"image": "/tmp/1.jpg"}`, unless your own runtime accepts text',
    ),
    Rule(
        "result-without-call",
        "error",
        "`Observation:` without a pending call, also within a line: the rest is read as a result and never trained",
        "remove it, or rephrase it",
    ),
    Rule(
        "call-without-result",
        "error",
        "the reply continues with `Thought:` or `Final Answer:` after a call: the model learns to invent results",
        "add the result",
    ),
    Rule(
        "empty-reply",
        "error",
        "nothing follows `Final Answer:`; a reply is empty, or has only reasoning",
        "add the answer",
    ),
    Rule(
        "ends-in-result",
        "warning",
        "the reply ends within a result, which is never trained. An answer without its keyword is part of the result",
        "begin the answer with `Final Answer:`",
    ),
    Rule(
        "open-call",
        "warning",
        "the reply ends with a call or with `Observation:`, and no result follows. The call is trained, but there "
        "is no answer",
        "intended in rows of single steps",
    ),
    Rule(
        "no-final-answer",
        "warning",
        "the reply ends with a thought",
        "begin the answer with `Final Answer:`",
    ),
)
OF_TOOLS = (
    Rule(
        "misfit-arguments",
        "error",
        "a wrong type, a value that is not in the enum, a missing argument, one that `additionalProperties: "
        "false` forbids. `swift infer --tools` rejects such a call",
        "fix the call or the schema",
    ),
    Rule(
        "odd-arguments",
        "warning",
        "an argument that the schema does not list, null for an optional one, a mismatch with a description in prose",
        "use the name that the message suggests",
    ),
    Rule(
        "bad-schema",
        "warning",
        'parameters that are not a JSON schema (`"type": "str"`). The model sees them unchanged; arguments are not '
        "validated against them",
        "use the type that the message names",
    ),
    Rule(
        "tool-twice",
        "warning",
        "two tools have the same name",
        "rename one",
    ),
)
OF_REASONING = (
    Rule(
        "two-thoughts",
        "error",
        "`reasoning_content`, and `<think>` at the beginning of the content",
        "remove one of them",
    ),
    Rule(
        "thought-tag",
        "error",
        "`<think>` or `</think>` within `reasoning_content`: the chat template adds them",
        "remove the tags",
    ),
    Rule(
        "open-thought",
        "warning",
        "the content opens `<think>` and never closes it: the model learns to reason without an end",
        "close it, or remove replies that were truncated",
    ),
    Rule(
        "thought-alone",
        "warning",
        "nothing follows `</think>`: the model learns to end after its reasoning",
        "add the answer",
    ),
    Rule(
        "call-in-thought",
        "warning",
        "a call as text within `reasoning_content`, such as `<tool_call>`: it is not parsed. With ReAct's keywords it "
        "would be a call",
        "move it to `tool_calls`, or to the content",
    ),
)
OF_DIALOGUES = (
    Rule(
        "unanswered-run",
        "warning",
        "a row of `swift agent run` whose run ended without an answer. It is not trained",
        "`swift data review`: keep, correct or drop it ([docs/agents.md](agents.md))",
    ),
    Rule("weight-on-prompt", "error", "a weight on a question or a result, which are never trained", "remove it"),
    Rule("bad-image", "error", "a missing, truncated or invalid image", "see docs/images.md"),
    Rule(
        "duplicate-row",
        "warning",
        "the same dialogue with the same tools is in an earlier row of any file of the run (of the first million)",
        "remove it, or repeat rows with `name#N`",
    ),
    Rule(
        "assistant-first",
        "warning",
        "the dialogue begins with the assistant; some chat templates cannot render that",
        "add the question",
    ),
    Rule(
        "empty-user",
        "warning",
        "a user message is empty",
        "check whether a column is missing",
    ),
)

RULES = (*IN_TEXT, *OF_TOOLS, *OF_REASONING, *OF_DIALOGUES)


_PAGE = """\
## Validation rules

`swift data lint FILE...` reports every error and warning by file, line and rule, and exits with 1 if there is an error.
`swift data show FILE --model NAME` shows what is trained, and with `--against_template true` where that first differs
from the output of the model's own chat template. `--html page.html` writes a page: findings with their remedies,
lengths, and each row as a chat in which every token has the colour of its loss weight.

`swift sft` applies the same rules: `--check_dataset_strategy warning` (the default) drops bad rows and reports them,
`discard` reports their number, `error` stops at the first, `none` skips the validation of dialogues.

An **error** makes a bad row: it would train something wrong. A **warning** keeps the row, because it may be intended;
training reports each rule once, with the number of rows and the first of them. Replies that are not trained
(`"loss": false`) may contain anything.

**Calls in text.** A row is an agent row if its system prompt describes ReAct's or Qwen's format, if a reply contains a
call (`Action:` and `Action Input:`, `✿FUNCTION✿:`), or if it offers tools and a reply has `Thought:` or
`Final Answer:`. These rules apply only to agent rows, and only to lines that begin with a keyword. The same words are
allowed in prose, in answers and in results.

{IN_TEXT}

**Tools and structured calls.** Arguments are validated against the tool's schema. If only a system prompt describes the
tool (`1. a: Call this tool ... Parameters: [...]`), a mismatch is a warning, never an error.

{OF_TOOLS}

**Reasoning.** Reasoning is a field of its own, or part of the content between `<think>` and `</think>`.

{OF_THOUGHTS}

**Dialogues.**

{OF_DIALOGUES}

A tool result may be empty.
"""


def page() -> str:
    """The rules in Markdown."""
    text = _PAGE
    tables = {
        "{IN_TEXT}": IN_TEXT,
        "{OF_TOOLS}": OF_TOOLS,
        "{OF_THOUGHTS}": OF_REASONING,
        "{OF_DIALOGUES}": OF_DIALOGUES,
    }
    for place, rules in tables.items():
        lines = [f"| `{name}` | {kind} | {meaning} | {remedy} |" for name, kind, meaning, remedy in rules]
        head = "| rule | | meaning | remedy |\n|---|---|---|---|"
        text = text.replace(place, "\n".join([head, *lines]))
    return text
