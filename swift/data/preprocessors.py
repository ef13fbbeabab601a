"""Preprocessors of published data sets. Knows no file and no hub.

A preprocessor takes a published row and returns the row to read, a list of rows, or None to drop the row. An unexpected
row raises BadRow, or is returned unchanged for the reader to reject.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from swift.data.row_values import BadRow, Row, parsed

Preprocessor = Callable[[Row], "Row | Sequence[Row] | None"]


def unchanged(row: Row) -> Row:
    return row


def as_rows(result: Row | Sequence[Row] | None) -> Sequence[Row]:
    """The result of a preprocessor as a sequence of rows."""
    return () if result is None else (result,) if isinstance(result, dict) else result


# Set in datasets.toml -------------------------------------------------------------------------------------------------


def with_query(query: str) -> Preprocessor:
    """Sets the query from a format string over the row's columns."""
    names = {name for _, name, _, _ in string.Formatter().parse(query) if name}

    def preprocess(row: Row) -> Row:
        return row | {"query": query.format(**{name: _column(row, name) for name in names})}

    return preprocess


def with_labels(labels: Sequence[str]) -> Preprocessor:
    """Sets the response to the class name of `label`. Drops rows without a label (-1 or empty)."""

    def preprocess(row: Row) -> Row | None:
        label = row.get("label")
        if label in (None, "", -1, "-1"):
            return None
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = -1.0
        if number not in range(len(labels)):
            raise BadRow("bad-label", f"'label' must be from 0 to {len(labels) - 1}, not {label!r}")
        return row | {"response": labels[int(number)]}

    return preprocess


# Agents ---------------------------------------------------------------------------------------------------------------


def damo_agent(row: Row) -> Row | None:
    """Drops dialogues of one turn, and those whose system prompt describes fewer than two different tools."""
    return _with_tools(row, r'\d\. \{"(?:plugin_)?name": "(.+?)"')


def damo_agent_mini(row: Row) -> Row | None:
    """Keeps only dialogues whose tools are described as plugins; otherwise like `damo_agent`."""
    return _with_tools(row, r'\d\. \{"plugin_name": "(.+?)"')


def _with_tools(row: Row, tool: str) -> Row | None:
    turns = _turns(row)
    if turns is None:
        return row
    users = (number for number, turn in enumerate(turns) if turn.get("from") == "user")
    first = next(users, None)
    if first is None or len(turns) == 1:
        return None
    offered = re.findall(tool, "\n".join(str(turn.get("value")) for turn in turns[:first]))
    return row | {"conversations": turns} if len(set(offered)) > 1 else None


def agent_instruct(row: Row) -> Row:
    """Adds the missing commas to a dialogue that is the text of an array of dicts separated by line breaks."""
    turns = row.get("conversations")
    return row | {"conversations": re.sub(r"\}\s*\n\s*\{", "},\n{", turns)} if isinstance(turns, str) else row


def toolbench(row: Row) -> Row:
    """Two turns: a task with the role system, and the reply of a caller, planner or summarizer."""
    turns = _turns(row)
    if turns is None or len(turns) != 2:
        raise BadRow("wrong-type", "'conversations' must be a list of two turns")
    return {"query": _column(turns[0], "value"), "response": _column(turns[1], "value")}


def multirole(row: Row) -> Row:
    """A chat room: the last turn is the reply, all turns before it are the question.

    Questions about the next speaker already contain the history.
    """
    turns = _turns(row)
    if turns is None or len(turns) < 2:
        raise BadRow("wrong-type", "'conversations' must be a list of two turns or more")
    role, *said, last = turns
    history = "".join(f"\n{_column(turn, 'from')}: {_column(turn, 'value')}" for turn in said)
    query = _column(role, "value")
    if said and "next_speakers:" not in query:
        query += f"\n\n【对话记录】{history}"
    return {"query": query, "response": _column(last, "value")}


# Dialogue -------------------------------------------------------------------------------------------------------------


def ms_bench(row: Row) -> Row | None:
    """Drops dialogues that name another assistant or contain role labels, and removes the stock system prompt."""
    turns = _turns(row)
    if turns is None:
        return row
    for turn in turns:
        said = str(turn.get("value") or "").lower()
        if any(word in said for word in ("moss", "human:", "assistant:", "user:")):
            return None
    if turns and turns[0].get("from") == "system" and turns[0].get("value") == "You are a helpful assistant.":
        turns = turns[1:]
    return row | {"conversations": turns}


def alpaca_zh(row: Row) -> Row:
    """Removes the label 输入 from inputs."""
    given = row.get("input")
    return row | {"input": given.removeprefix("输入：")} if isinstance(given, str) else row


def long_alpaca(row: Row) -> Row:
    """Removes the label Answer from replies."""
    reply = row.get("output")
    return row | {"output": re.sub(r"^Answer:\s*", "", reply)} if isinstance(reply, str) else row


# Code and mathematics -------------------------------------------------------------------------------------------------


def leetcode(row: Row) -> Row:
    """Splits the column with heading, task and code, and appends the explanation to the code."""
    task, fence, code = _column(row, "code_with_problem").partition("```python")
    if not fence or "```python" in code:
        raise BadRow("wrong-type", "'code_with_problem' must have one block of Python")
    explained = _column(row, "explanation_only")
    return {"query": task.removeprefix("# ").strip(), "response": f"{fence}{code.rstrip()}\n\n{explained}"}


def blossom_math(row: Row) -> Row:
    """Joins the solution and the answer, which are two columns."""
    return {"query": row.get("input"), "response": f"{_column(row, 'output')}\n\nAnswer: {_column(row, 'answer')}"}


# One task -------------------------------------------------------------------------------------------------------------


def hc3(row: Row) -> list[Row]:
    """Turns each answer, by a person or by ChatGPT, into a row that asks who wrote it."""
    question = _column(row, "question")
    answers = [(answer, "Human") for answer in _texts(row, "human_answers")]
    answers += [(answer, "ChatGPT") for answer in _texts(row, "chatgpt_answers")]
    task = "Task: Tell whether a person or ChatGPT wrote the answer\nQuestion: {}\nAnswer: {}\n"
    asks = "Category: Human, ChatGPT\nOutput:"
    return [{"query": task.format(question, answer) + asks, "response": writer} for answer, writer in answers]


def dureader(row: Row) -> Row:
    """Question generation: splits the column with answer and passage; the question is the response."""
    answer, separator, passage = _column(row, "text1").partition("[SEP]")
    if not separator:
        raise BadRow("wrong-type", "'text1' must be an answer, [SEP] and a passage")
    query = f"Task: Question Generation\nContext: {passage}\nAnswer: {answer}\nQuestion:"
    return {"query": query, "response": row.get("text2")}


# Text for pre-training -----------------------------------------------------------------------------------------------


def ruozhiba(row: Row) -> Row | None:
    """Joins title and text, and removes list numbers."""
    title = str(row.get("title") or row.get("content") or "").strip()
    more = str(row.get("abs") or "").strip()
    text = f"{title}，{more}" if more and more != title else title
    text = re.sub(r"^\d+[.,，、．\s]\s*", "", text)
    return {"text": text} if text else None


def tigerbot_law(row: Row) -> Row:
    """Joins the kind of law, the chapters and the article."""
    chapters = (row.get(f"chapter{number}") for number in (1, 2, 3))
    return {"text": f"{_column(row, 'type')}\n" + "".join(filter(None, chapters)) + _column(row, "response")}


# Preferences ----------------------------------------------------------------------------------------------------------


def hh_rlhf(row: Row) -> Row | None:
    """Cuts two dialogues with a common beginning after the first different reply. Red-team rows have one dialogue."""
    if "transcript" in row:
        return _spoken(_said(_column(row, "transcript")))
    chosen, rejected = _said(_column(row, "chosen")), _said(_column(row, "rejected"))
    pairs = list(zip(chosen, rejected, strict=False))
    alike = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
    if alike is None or alike % 2 == 0:  # no difference, or a different user turn
        return None
    return _spoken(chosen[: alike + 1]) | {"rejected_response": rejected[alike]}


def _said(text: str) -> list[str]:
    """The turns of human and assistant; consecutive turns of one speaker are joined."""
    _, *parts = re.split(r"(?:^|\n\n)(Hum|Assistant)(?:an)?:", text.strip())
    turns: list[str] = []
    speakers = parts[::2]
    for number, (speaker, said) in enumerate(zip(speakers, parts[1::2], strict=True)):
        if number and speaker == speakers[number - 1]:
            turns[-1] = f"{turns[-1]}\n\n{said.strip()}"
        else:
            turns.append(said.strip())
    if not turns or speakers[0] != "Hum" or not text.strip().startswith("Hum"):
        raise BadRow("wrong-type", "the dialogue must begin with 'Human:'")
    return turns


def _spoken(turns: list[str]) -> Row:
    last = len(turns) - len(turns) % 2  # without a last turn that has no reply
    if not last:
        raise BadRow("no-reply", "the dialogue has no reply")
    history = [[turns[number], turns[number + 1]] for number in range(0, last - 2, 2)]
    return {"query": turns[last - 2], "response": turns[last - 1], "history": history}


def hh_rlhf_cn(row: Row) -> Row:
    """A dialogue as a list of turns, and two alternative replies."""
    context = [_turn(turn) for turn in _value(row, "context", list)]
    (_, chosen), (_, rejected) = _turn(_value(row, "chosen", dict)), _turn(_value(row, "rejected", dict))
    if [role for role, _ in context] != ["human", *["assistant", "human"] * (len(context) // 2)]:
        raise BadRow("unknown-role", "'context' must be turns of human and assistant, and end with human")
    said = [text for _, text in context]
    history = [[said[number], said[number + 1]] for number in range(0, len(said) - 1, 2)]
    return {"query": said[-1], "response": chosen, "rejected_response": rejected, "history": history}


def _turn(turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise BadRow("wrong-type", "a turn must be an object with 'role' and 'text'")
    return _column(turn, "role"), _column(turn, "text")


# Images and sound -----------------------------------------------------------------------------------------------------


def coco(row: Row) -> Row:
    """Takes the first of an image's captions, which are joined by &&."""
    return _about(row, "image", "images", "Picture 1:<image>\nplease describe the image.", _caption(row))


def coco_plain(row: Row) -> Row:
    """`coco` with a question without a picture number."""
    return _about(row, "image", "images", "<image>please describe the image.", _caption(row))


def _caption(row: Row) -> str:
    return _column(row, "caption").partition("&&")[0]


def captcha(row: Row) -> Row:
    return _about(
        row, "image", "images", "Picture 1:<image>\nrecognize the content of the image.", _column(row, "solution")
    )


def aishell(row: Row) -> Row:
    """Removes the spaces between the words of a transcript."""
    said = _column(row, "Text:LABEL").replace(" ", "")
    return _about(row, "Audio:FILE", "audios", "Audio 1:<audio>\n语音转文本", said)


def _about(row: Row, column: str, kind: str, query: str, response: str) -> Row:
    """A question about a media file: a path, or an object with the path or the bytes."""
    medium = row.get(column)
    if isinstance(medium, dict) and not medium.get("bytes"):
        medium = medium.get("path")
    if not medium:
        raise BadRow("missing-column", f"the row has no {column!r}")
    return {"query": query, "response": response, kind: [medium]}


# Parts of rows --------------------------------------------------------------------------------------------------------


def _column(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        raise BadRow("missing-column", f"the row has no {name!r}")
    return value if isinstance(value, str) else str(value)


def _texts(row: Row, name: str) -> list[str]:
    return [str(text) for text in _value(row, name, list)]


def _value(row: Row, name: str, kind: type) -> Any:
    """A column with a list or an object, or with its text."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = parsed(value)
        except ValueError as error:
            raise BadRow("wrong-type", f"{name!r} is {error}") from None
    if not isinstance(value, kind):
        raise BadRow("wrong-type", f"{name!r} must be {'a list' if kind is list else 'an object'}")
    return value


def _turns(row: Row) -> list[Row] | None:
    """The turns of `conversations`; None if they are not a list of objects, which reading the row will report."""
    turns = row.get("conversations")
    if isinstance(turns, str):
        try:
            turns = parsed(turns)
        except ValueError:
            return None
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        return turns
    return None


PREPROCESSORS: dict[str, Preprocessor] = {
    "": unchanged,
    **{
        function.__name__: function
        for function in (
            *(damo_agent, damo_agent_mini, agent_instruct, toolbench, multirole),
            *(ms_bench, alpaca_zh, long_alpaca),
            *(leetcode, blossom_math),
            *(hc3, dureader),
            *(ruozhiba, tigerbot_law),
            *(hh_rlhf, hh_rlhf_cn),
            *(coco, coco_plain, captcha, aishell),
        )
    },
}
"""The preprocessors by their names in `rows` of datasets.toml."""
