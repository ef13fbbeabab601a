"""Validates calls that are written as text: ReAct, and Qwen's ✿FUNCTION✿.

A reply is checked from keyword to keyword. The result agrees with `swift.agent`, which parses calls, and with the
renderer, which splits off tool results. Neither runs here: most lines do not begin with a keyword.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

from swift.agent import TOOL_FORMATS, tool_format
from swift.agent.arguments import json_arguments
from swift.agent.jsontext import DuplicateKeyError, LoneSurrogateError, loads
from swift.agent.result_marks import mark_positions
from swift.chat import Conversation, Message, Tool
from swift.data import offered_tools
from swift.data.call_keywords import QWEN, REACT, KeywordMatch, Keywords, Kind, find_keywords
from swift.data.row_values import BadRow, RowWarning, rule_of
from swift.data.validate_arguments import validate_arguments
from swift.system.nearest import closest

State = Literal["start", "thought", "call", "input", "result", "answer"]
"""What the text after the last keyword is; "start" if there was no keyword yet."""

# State -> the keywords that may follow. A misspelt keyword counts only there; elsewhere it is prose.
_NEXT: dict[State, tuple[Kind, ...]] = {
    "start": ("thought", "call", "answer"),
    "thought": ("call", "answer"),
    "call": ("input", "result"),
    "input": ("result", "call", "thought", "answer"),
    "result": ("thought", "call", "answer"),
    "answer": (),
}
_CALL_IN_A_REPLY = re.compile(
    r"^[ \t*_#>`~-]*(?:Action[s*_` \t]*[:：][^\n]*\n+[ \t*_#>`~-]*action[ _-]?i[a-z]{2,6}|✿FUNCTION✿)",
    re.MULTILINE | re.IGNORECASE,
)
_WELL_FORMED = re.compile("(?:t*(?:ci)+r+)*t*a")  # the first letters of the kinds of keywords
FINISH = "Finish"  # ToolBench's action that ends a dialogue: its arguments are the answer


class OfferedTools(NamedTuple):
    """The tools of a dialogue, in its system prompt and in `tools`. `names`: those an action may use; empty: any."""

    names: frozenset[str]
    prompt: str
    tools: dict[str, Tool]

    def tool(self, name: str) -> tuple[Tool | None, bool]:
        """The tool of that name, None if it is not described, and whether it comes from `tools`."""
        if name in self.tools:
            return self.tools[name], True
        return offered_tools.described_tool(self.prompt, name), False


class ReplyEnd(NamedTuple):
    """How a reply ended. `tail`: the text after its last keyword; `called`: the last action's name."""

    state: State
    tail: str = ""
    called: str = ""


def agent_keywords(found: Conversation) -> Keywords | None:
    """The keywords of the format of an agent row, None for other rows.

    A row is an agent row if a system prompt describes the format, if a reply contains a call, or if the row has `tools`
    and a reply has a line `Thought:` or `Final Answer:`. Prose that uses one of these words is not.
    """
    for message in found.messages:
        content = message.content
        if message.role == "system":
            if "\nAction Input:" in content:
                return REACT
            if "\n✿ARGS✿:" in content:
                return QWEN
        elif message.role == "assistant":
            if "ction" in content or "✿" in content or "ACTION" in content:
                if match := _CALL_IN_A_REPLY.search(content):
                    return QWEN if "✿" in match[0] else REACT
                if "\nAction Input:" in content and "\nObservation:" in content:
                    return REACT
            if found.tools and (content.startswith(("Thought:", "Final Answer:")) or "\nFinal Answer:" in content):
                return REACT
    return None


def writes_call(text: str) -> bool:
    """Whether a text contains a call in any tool-call format."""
    return any(mark in text for mark in _call_tags()) or _CALL_IN_A_REPLY.search(text) is not None


@cache
def _call_tags() -> tuple[str, ...]:
    """The tags that open calls, without words, JSON and single brackets, which also occur in prose."""
    marks = {mark for name in TOOL_FORMATS for mark in tool_format(name).syntax.call}
    return tuple(mark for mark in marks if mark.startswith(("<", "[")) and any(map(str.isalpha, mark)))


def offered_in(found: Conversation) -> OfferedTools:
    """The tools of a dialogue. Its prompt is the system messages or, without one, the first user message."""
    said = [message.content for message in found.messages if message.role == "system"]
    if not said:
        said = [next((message.content for message in found.messages if message.role == "user"), "")]
    prompt = "\n".join(said)
    tools = {tool.name: tool for tool in found.tools}
    return OfferedTools(offered_tools.tool_names(prompt).union(tools), prompt, tools)


def validate_text_calls(found: Conversation, keywords: Keywords) -> list[RowWarning]:
    """Warnings about the replies of an agent row. Raises BadRow for what would train something wrong."""
    offer, warnings = offered_in(found), list[RowWarning]()
    initial: State = "start"
    for number, message in enumerate(found.messages, 1):
        if message.role == "tool":
            initial = "result"
        elif message.role == "assistant" and message.weight != 0:
            ended = check_reply(message.content, keywords, offer, f"message {number}", warnings, initial)
            behind = found.messages[number] if number < len(found.messages) else None
            warnings += _warnings_at_end(message, ended, behind, keywords, number)
            initial = "start"
        else:
            initial = "start"
    return warnings


def _warnings_at_end(
    message: Message, ended: ReplyEnd, behind: Message | None, keywords: Keywords, number: int
) -> Sequence[RowWarning]:
    """Warnings about how a reply ends."""
    if ended.state in ("start", "answer"):
        return ()
    result, answer = keywords.result, keywords.answer
    if message.tool_calls or ended.called == FINISH or (behind and behind.role == "tool"):
        return ()
    if ended.state == "result" and ended.tail.strip():
        what = f"message {number} ends within {result}, which is never trained; begin an answer with {answer}"
        return (RowWarning("ends-in-result", what),)
    if ended.state in ("input", "result"):
        if behind and behind.content.lstrip().startswith(result[:-1]):
            return ()  # the result is in the user message
        return (RowWarning("open-call", f"message {number} ends with a call to {ended.called!r} without a result"),)
    if ended.state == "thought":
        return (RowWarning("no-final-answer", f"message {number} ends with a thought and has no {answer}"),)
    return ()


def check_reply(
    text: str, keywords: Keywords, offer: OfferedTools, where: str, warnings: list[RowWarning], initial: State = "start"
) -> ReplyEnd:
    """Checks one reply and adds to `warnings`. `initial` is "result" after a tool message. Raises BadRow."""
    found = find_keywords(text, keywords)
    found = _with_inline_results(text, found, keywords)
    if not found:
        return ReplyEnd("start")
    steps = _ReplyCheck(text, keywords, offer, where, warnings, initial)
    kinds = "".join(["?" if mark.written else mark.kind[0] for mark in found])
    well_formed = _WELL_FORMED.fullmatch(kinds) and text[found[-1].end :].strip()
    return steps.check_well_formed(found) if well_formed else steps.check_in_order(found)


@dataclass
class _ReplyCheck:
    text: str
    keywords: Keywords
    offer: OfferedTools
    where: str
    warnings: list[RowWarning]
    state: State
    called: str = ""
    opened: KeywordMatch | None = field(default=None)

    def check_well_formed(self, found: Sequence[KeywordMatch]) -> ReplyEnd:
        """`check_in_order` for a reply whose keywords are in the right order: only their contents are checked."""
        text = self.text
        for mark, behind in pairwise(found):
            if mark.kind == "call":
                self._name(text[mark.end : behind.start])
            elif mark.kind == "input":
                self._arguments(text[mark.end : behind.start].strip())
        return ReplyEnd("answer")

    def check_in_order(self, found: Sequence[KeywordMatch]) -> ReplyEnd:
        for mark, behind in zip(found, [*found[1:], None], strict=True):
            called = behind is not None and behind.kind == "input"
            if mark.kind not in _NEXT[self.state] if mark.written else self.state == "result" == mark.kind:
                continue  # prose, or a further result
            if mark.kind == "call" and not called and (mark.written or self.state == "answer"):
                continue  # a heading within an answer
            if mark.written:
                raise self._bad("misspelt-keyword", f"{mark.written!r} is not a keyword; write {mark.right!r}")
            self._check_part(mark)
            self.state, self.opened = mark.kind, mark
        self._check_part(None)
        tail = self.text[self.opened.end :] if self.opened else ""
        return ReplyEnd(self.state, tail, self.called)

    def _check_part(self, mark: KeywordMatch | None) -> None:
        """Checks the part that ends at `mark`, or at the end of the reply."""
        to, entered = (mark.start, mark.kind) if mark else (len(self.text), None)
        body = self.text[self.opened.end : to] if self.opened else ""
        action, arguments = self.keywords.call, self.keywords.input
        if self.state == "call":
            if entered != "input":
                within = f"{arguments!r} must begin a line" if arguments in body else f"write {arguments + ' {}'!r}"
                raise self._bad("action-without-input", f"{action + _line(body)!r} has no {arguments!r}; {within}")
            self._name(body)
        elif entered == "input":
            raise self._bad("input-without-action", f"{arguments!r} has no {action!r} on the line before")
        elif self.state == "input":
            if entered in ("thought", "answer"):
                result = self.keywords.result
                raise self._bad(
                    "call-without-result", f"{self.called}: {mark and mark.right!r} comes before {result!r}"
                )
            self._arguments(body.strip())
        elif mark and entered == "result":
            raise self._bad("result-without-call", f"{mark.right!r} without {arguments!r} before it")
        elif self.state == "answer" and not body.strip():
            raise self._bad("empty-reply", f"nothing follows {self.keywords.answer!r}")

    def _name(self, body: str) -> None:
        name, _, more = body.strip(" \t").partition("\n")
        name = name.strip()
        if not name or more.strip():
            why = (
                "has no tool name"
                if not name
                else f"is followed by a line that is not part of the call: {_line(more.lstrip())!r}"
            )
            raise self._bad("bad-call", f"{self.keywords.call!r} {why}")
        if self.offer.names and name not in self.offer.names:
            known = sorted(self.offer.names)
            plain = name.replace("\\_", "_").strip("*_`'\"[]() ")
            near = closest(plain, known, 1) or [each for each in known if each in plain][:1]
            hint = f"did you mean {near[0]!r}?" if near else f"offered: {', '.join(known)}"
            raise self._bad("unknown-tool", f"calls {_line(name)!r}; {hint}")
        self.called = name

    def _arguments(self, text: str) -> None:
        try:
            value = loads(text, once=True)
        except (DuplicateKeyError, LoneSurrogateError) as error:
            raise self._bad(rule_of(error, ""), f"{self.called}: {error}") from None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            arguments = json_arguments(text)  # also reads Python literals
            if arguments.reason and text.startswith(("{", "```")):
                raise self._bad("bad-arguments", f"{self.called}: {arguments.reason}")
            if arguments.reason:
                what = f"{self.where}, {self.called}: {self.keywords.input!r} is not a JSON object: {_line(text)!r}"
                self.warnings.append(RowWarning("plain-input", what))
                return
            value = loads(arguments.text)
        tool, strict = self.offer.tool(self.called)
        if tool is not None:
            self.warnings += validate_arguments(tool, value, f"{self.where}, {self.called}", strict)

    def _bad(self, rule: str, what: str) -> BadRow:
        return BadRow(rule, f"{self.where}: {what}")


def _line(text: str) -> str:
    """The first line of a text, truncated for messages."""
    line = text.partition("\n")[0].rstrip()
    return line if len(line) <= 80 else line[:80] + "..."


def _with_inline_results(text: str, found: list[KeywordMatch], keywords: Keywords) -> list[KeywordMatch]:
    """Adds the result keywords within lines, which also end the model's text."""
    spelling = keywords.result
    if text.count(spelling) == len([mark for mark in found if mark[0] == "result" and not mark[4]]):
        return found
    taken = [range(mark.start, mark.end) for mark in found]
    within = [
        KeywordMatch("result", at, at + len(spelling), spelling)
        for at in mark_positions(text, spelling)
        if not any(at in span for span in taken)
    ]
    return sorted([*found, *within], key=lambda mark: mark.start)
