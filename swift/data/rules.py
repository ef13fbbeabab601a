"""The rules for what dialogues say: error or warning, what each means and what to do. Applies none of them."""

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
        "`✿参数✿:` where the keyword belongs. The call is not read, or the result is trained as the model's "
        "text",
        "write the keyword that is named",
    ),
    Rule(
        "unknown-tool",
        "error",
        "a call of what neither the system text nor `tools` offers",
        "take the name that is named, or offer the tool",
    ),
    Rule(
        "action-without-input",
        "error",
        "`Action:` without `Action Input:` on a line of its own: no call is read",
        "`Action Input: {}` for no arguments",
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
        "`Action:` names nothing, or a line stands between it and `Action Input:`",
        "mend the lines",
    ),
    Rule(
        "bad-arguments",
        "error",
        "the input opens like an object, but is neither JSON nor a Python literal; arguments of a structured "
        "call are no JSON object",
        "mend the quotes and brackets",
    ),
    Rule(
        "plain-input",
        "warning",
        "the input is words, a list or a number (`Action Input: /tmp/1.jpg`). Tools that take one text are "
        "called like this, but `swift infer --tools` and the server take objects alone",
        '`{"image": "/tmp/1.jpg"}`, unless your own runtime takes text',
    ),
    Rule(
        "result-without-call",
        "error",
        "`Observation:` where no call waits, also within a line: the rest is taken for a result and never trained",
        "remove it, or write it otherwise",
    ),
    Rule(
        "call-without-result",
        "error",
        "the reply goes on with `Thought:` or `Final Answer:` though a call waits: the model learns to make results up",
        "add the result",
    ),
    Rule(
        "empty-reply",
        "error",
        "nothing follows `Final Answer:`; a reply is empty, or has a thought alone",
        "add the answer",
    ),
    Rule(
        "ends-in-result",
        "warning",
        "the reply ends within a result, which is never trained. An answer without its keyword is part of it",
        "open the answer with `Final Answer:`",
    ),
    Rule(
        "open-call",
        "warning",
        "the reply ends with a call or with `Observation:`, and no result follows. The call is trained, an "
        "answer is not",
        "fine for rows of single steps",
    ),
    Rule(
        "no-final-answer",
        "warning",
        "the reply ends with a thought",
        "open the answer with `Final Answer:`",
    ),
)
OF_TOOLS = (
    Rule(
        "misfit-arguments",
        "error",
        "a wrong type, a value that is not in the enum, a missing argument, one that `additionalProperties: "
        "false` forbids. The product itself refuses such a call",
        "mend the call or the schema",
    ),
    Rule(
        "odd-arguments",
        "warning",
        "an argument that the schema does not list, null for one that may be left out, a misfit with a "
        "description in words",
        "take the name that is named",
    ),
    Rule(
        "bad-schema",
        "warning",
        'parameters that are no JSON schema (`"type": "str"`). They are shown to the model as they are; '
        "arguments are not compared with them",
        "take the type that is named",
    ),
    Rule(
        "tool-twice",
        "warning",
        "two tools have one name",
        "rename one",
    ),
)
OF_THOUGHTS = (
    Rule(
        "two-thoughts",
        "error",
        "a thought beside the content, and `<think>` at the beginning of the content",
        "leave one of them out",
    ),
    Rule(
        "thought-tag",
        "error",
        "`<think>` or `</think>` within `reasoning_content`: the chat template writes them around it",
        "leave the tags out",
    ),
    Rule(
        "open-thought",
        "warning",
        "the content opens `<think>` and never closes it: the model learns to think without an end",
        "close it, or leave out replies that were cut short",
    ),
    Rule(
        "thought-alone",
        "warning",
        "nothing follows `</think>`: the model learns to end with its thought",
        "add the answer",
    ),
    Rule(
        "call-in-thought",
        "warning",
        "a call as text within `reasoning_content`, such as `<tool_call>`: it is no call. ReAct's words would make one "
        "of it",
        "write it into `tool_calls`, or as the content",
    ),
)
OF_DIALOGUES = (
    Rule("weight-on-prompt", "error", "a weight on a question or a result, which are never trained", "take it away"),
    Rule("bad-image", "error", "an image that is missing, cut short or none", "see docs/images.md"),
    Rule(
        "duplicate-row",
        "warning",
        "the same dialogue with the same tools stands in an earlier row of any file of the run (of the first million)",
        "leave it out, or repeat rows with `name#N`",
    ),
    Rule(
        "assistant-first",
        "warning",
        "the dialogue begins with the assistant; some chat templates cannot show that",
        "add what was asked",
    ),
    Rule(
        "empty-user",
        "warning",
        "a user's message is empty",
        "check whether a column is missing",
    ),
)

RULES = (*IN_TEXT, *OF_TOOLS, *OF_THOUGHTS, *OF_DIALOGUES)


_PAGE = """\
## What is wrong with rows

`swift data lint FILE...` names every bad row and everything odd by file, line and rule, and exits with 1 if there is a
bad row; `swift data show FILE --model NAME` shows what is trained, and with `--against_template true` where that first
differs from what the model's own chat template gives. `swift sft` applies the same rules:
`--check_dataset_strategy warning` (the default) leaves bad rows out and names them, `discard` counts them, `error`
stops at the first, `none` looks at no dialogue.

An **error** makes a bad row: it would train something wrong. A **warning** keeps the row, because it may be meant;
training tells each rule once, with the number of rows and the first of them. Replies that are not trained
(`"loss": false`) may hold anything.

**Calls in text.** A row is an agent's if its system text shows ReAct's or Qwen's format, if a reply holds a call
(`Action:` and `Action Input:`, `✿FUNCTION✿:`), or if it offers tools and a reply has `Thought:` or `Final Answer:`.
The rules apply to such rows alone, to lines that open with a keyword. In prose, in answers and in results the same
words are free.

{IN_TEXT}

**Tools and structured calls.** Arguments are compared with the tool's schema; where only a system text describes the
tool (`1. a: Call this tool ... Parameters: [...]`), a misfit is odd, never an error.

{OF_TOOLS}

**Thoughts.** A thought stands beside the content, or in it between `<think>` and `</think>`.

{OF_THOUGHTS}

**Dialogues.**

{OF_DIALOGUES}

A tool's result may be empty.
"""


def page() -> str:
    """The rules in Markdown."""
    text = _PAGE
    tables = {
        "{IN_TEXT}": IN_TEXT,
        "{OF_TOOLS}": OF_TOOLS,
        "{OF_THOUGHTS}": OF_THOUGHTS,
        "{OF_DIALOGUES}": OF_DIALOGUES,
    }
    for place, rules in tables.items():
        lines = [f"| `{name}` | {kind} | {meaning} | {remedy} |" for name, kind, meaning, remedy in rules]
        head = "| rule | | what it means | what to do |\n|---|---|---|---|"
        text = text.replace(place, "\n".join([head, *lines]))
    return text
