"""What single published data sets need before their rows are read. Knows no file and no hub.

A row function takes a row as it is published and returns the row to read, several where one row holds several, or
None where the set's own filter leaves it out. What is no such row raises BadRow, or is returned for its reader to name.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence
from typing import Any

from swift.data.row_values import BadRow, Row, parsed

Preprocessor = Callable[[Row], "Row | Sequence[Row] | None"]


def as_it_is(row: Row) -> Row:
    return row


def outcome(repaired: Row | Sequence[Row] | None) -> Sequence[Row]:
    """What a row function returned, as the rows that it means: none, one or several."""
    return () if repaired is None else (repaired,) if isinstance(repaired, dict) else repaired


# What a table alone can say -------------------------------------------------------------------------------------------


def asked(query: str) -> Preprocessor:
    """The question, made of the row's columns."""
    names = {name for _, name, _, _ in string.Formatter().parse(query) if name}

    def repair(row: Row) -> Row:
        return row | {"query": query.format(**{name: _column(row, name) for name in names})}

    return repair


def labelled(labels: Sequence[str]) -> Preprocessor:
    """The answer is the word for the number in `label`; -1 and nothing mean that there is no answer."""

    def repair(row: Row) -> Row | None:
        label = row.get("label")
        if label in (None, "", -1, "-1"):
            return None
        try:
            number = float(label)
        except (TypeError, ValueError):
            number = -1.0
        if number not in range(len(labels)):
            raise BadRow("bad-label", f"'label' must be from 0 to {len(labels) - 1}, this is {label!r}")
        return row | {"response": labels[int(number)]}

    return repair


# Agents ---------------------------------------------------------------------------------------------------------------


def damo_agent(row: Row) -> Row | None:
    """Leaves out dialogues of one turn, and those whose system text offers fewer than two different tools."""
    return _with_tools(row, r'\d\. \{"(?:plugin_)?name": "(.+?)"')


def damo_agent_mini(row: Row) -> Row | None:
    """Only dialogues whose tools are written as plugins; the rest as in the whole set."""
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
    """The dialogue is the text of an array of dicts, in which there is a line break where a comma should be."""
    turns = row.get("conversations")
    return row | {"conversations": re.sub(r"\}\s*\n\s*\{", "},\n{", turns)} if isinstance(turns, str) else row


def toolbench(row: Row) -> Row:
    """Two turns: a task, which is called system, and the reply of a caller, planner or summarizer."""
    turns = _turns(row)
    if turns is None or len(turns) != 2:
        raise BadRow("wrong-type", "'conversations' must be a list of two turns")
    return {"query": _column(turns[0], "value"), "response": _column(turns[1], "value")}


def multirole(row: Row) -> Row:
    """A chat room: the last turn is the reply, and all that was said before it is the question.

    A question of who speaks next holds what was said already.
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
    """Leaves out dialogues that name another assistant or hold pasted role marks, and the stock system text."""
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
    """Some inputs begin with the word for input."""
    given = row.get("input")
    return row | {"input": given.removeprefix("输入：")} if isinstance(given, str) else row


def long_alpaca(row: Row) -> Row:
    """Some replies begin with the word Answer."""
    reply = row.get("output")
    return row | {"output": re.sub(r"^Answer:\s*", "", reply)} if isinstance(reply, str) else row


# Code and mathematics -------------------------------------------------------------------------------------------------


def leetcode(row: Row) -> Row:
    """A heading, the task and the code in one text, the explanation in another."""
    task, fence, code = _column(row, "code_with_problem").partition("```python")
    if not fence or "```python" in code:
        raise BadRow("wrong-type", "'code_with_problem' must hold one block of Python")
    explained = _column(row, "explanation_only")
    return {"query": task.removeprefix("# ").strip(), "response": f"{fence}{code.rstrip()}\n\n{explained}"}


def blossom_math(row: Row) -> Row:
    """The way to the answer and the answer stand in two columns."""
    return {"query": row.get("input"), "response": f"{_column(row, 'output')}\n\nAnswer: {_column(row, 'answer')}"}


# One task -------------------------------------------------------------------------------------------------------------


def hc3(row: Row) -> list[Row]:
    """A question with answers by people and by ChatGPT: as many questions of who wrote an answer."""
    question = _column(row, "question")
    answers = [(answer, "Human") for answer in _texts(row, "human_answers")]
    answers += [(answer, "ChatGPT") for answer in _texts(row, "chatgpt_answers")]
    task = "Task: Tell whether a person or ChatGPT wrote the answer\nQuestion: {}\nAnswer: {}\n"
    asks = "Category: Human, ChatGPT\nOutput:"
    return [{"query": task.format(question, answer) + asks, "response": writer} for answer, writer in answers]


def dureader(row: Row) -> Row:
    """An answer and its passage in one text; the question to them is what is learnt."""
    answer, separator, passage = _column(row, "text1").partition("[SEP]")
    if not separator:
        raise BadRow("wrong-type", "'text1' must be an answer, [SEP] and a passage")
    query = f"Task: Question Generation\nContext: {passage}\nAnswer: {answer}\nQuestion:"
    return {"query": query, "response": row.get("text2")}


# Text to pre-train on -------------------------------------------------------------------------------------------------


def ruozhiba(row: Row) -> Row | None:
    """Titles with what follows them, without the numbers of lists they were copied from."""
    title = str(row.get("title") or row.get("content") or "").strip()
    more = str(row.get("abs") or "").strip()
    text = f"{title}，{more}" if more and more != title else title
    text = re.sub(r"^\d+[.,，、．\s]\s*", "", text)
    return {"text": text} if text else None


def tigerbot_law(row: Row) -> Row:
    """The kind of law, the chapters that the article stands in, and the article."""
    chapters = (row.get(f"chapter{number}") for number in (1, 2, 3))
    return {"text": f"{_column(row, 'type')}\n" + "".join(filter(None, chapters)) + _column(row, "response")}


# Preferences ----------------------------------------------------------------------------------------------------------


def hh_rlhf(row: Row) -> Row | None:
    """Two dialogues that begin alike: they end where their replies part. Red-team attempts have one dialogue."""
    if "transcript" in row:
        return _spoken(_said(_column(row, "transcript")))
    chosen, rejected = _said(_column(row, "chosen")), _said(_column(row, "rejected"))
    pairs = list(zip(chosen, rejected, strict=False))
    alike = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
    if alike is None or alike % 2 == 0:  # nothing differs, or what the person says does
        return None
    return _spoken(chosen[: alike + 1]) | {"rejected_response": rejected[alike]}


def _said(text: str) -> list[str]:
    """What the person and the assistant say in turn; what one says twice in a row is one turn."""
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
    last = len(turns) - len(turns) % 2  # what the person said last, and nobody answered, is left out
    if not last:
        raise BadRow("no-reply", "the dialogue has no reply")
    history = [[turns[number], turns[number + 1]] for number in range(0, last - 2, 2)]
    return {"query": turns[last - 2], "response": turns[last - 1], "history": history}


def hh_rlhf_cn(row: Row) -> Row:
    """The dialogue so far as a list of turns, and two turns that may follow."""
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
    """A picture and its captions, joined by &&, of which the first is taken."""
    return _about(row, "image", "images", "Picture 1:<image>\nplease describe the image.", _caption(row))


def coco_plain(row: Row) -> Row:
    """The same with the bare question."""
    return _about(row, "image", "images", "<image>please describe the image.", _caption(row))


def _caption(row: Row) -> str:
    return _column(row, "caption").partition("&&")[0]


def captcha(row: Row) -> Row:
    return _about(
        row, "image", "images", "Picture 1:<image>\nrecognize the content of the image.", _column(row, "solution")
    )


def aishell(row: Row) -> Row:
    """Speech and what is said; the words are published with blanks between them."""
    said = _column(row, "Text:LABEL").replace(" ", "")
    return _about(row, "Audio:FILE", "audios", "Audio 1:<audio>\n语音转文本", said)


def _about(row: Row, column: str, kind: str, query: str, response: str) -> Row:
    """A question about a file: a path, or an object with the path or the bytes."""
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
    """A column that holds a list or an object, or the text of one."""
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
    """The turns of `conversations`; None where they are no list of objects, which reading the row will say."""
    turns = row.get("conversations")
    if isinstance(turns, str):
        try:
            turns = parsed(turns)
        except ValueError:
            return None
    if isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        return turns
    return None


REPAIRS: dict[str, Preprocessor] = {
    "": as_it_is,
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
"""Row functions by the name that `rows` gives them in datasets.toml."""
