"""Calls that are written as text (ReAct, Qwen's ✿FUNCTION✿): whether a reply can be cut as training cuts it.

A reply is walked from keyword to keyword. The walk agrees with `swift.agent`, which reads the calls, and with the
renderer, which finds the environment's text, without running either: most lines open with no keyword at all.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

from swift.agent import TOOL_FORMATS, tool_format
from swift.agent.jsontext import DuplicateKeyError, LoneSurrogateError, loads
from swift.agent.tools import json_arguments
from swift.chat import Conversation, Message, Tool
from swift.data import offered_tools
from swift.data.call_keywords import QWEN, REACT, Keywords, Kind, Mark, marks
from swift.data.row_values import BadRow, RowWarning, rule_of
from swift.data.validate_arguments import examine_arguments

State = Literal["start", "thought", "call", "input", "result", "answer"]
"""What the text behind the last keyword is; "start" where there was none."""

# Where a near miss is one: what the form lets follow. Elsewhere the same characters are prose.
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
_WELL_FORMED = re.compile("(?:t*(?:ci)+r+)*t*a")  # the first letters of the kinds of marks
FINISH = "Finish"  # ToolBench's action that ends a dialogue: its arguments are the answer


class Offer(NamedTuple):
    """What a dialogue offers in words and as values: the names that an action may have (none: any), and the tools."""

    names: frozenset[str]
    prompt: str
    tools: dict[str, Tool]

    def tool(self, name: str) -> tuple[Tool | None, bool]:
        """The tool of that name where one is described, and whether as a value."""
        if name in self.tools:
            return self.tools[name], True
        return offered_tools.described(self.prompt, name), False


class Ended(NamedTuple):
    """How a reply ended. `tail`: the text behind its last keyword; `called`: the last action's name."""

    state: State
    tail: str = ""
    called: str = ""


def keywords_of(found: Conversation) -> Keywords | None:
    """The text form of an agent row, None for other rows.

    A row is an agent's where a system text shows the form, where a reply holds a call, or where tools are offered as
    values and a reply has the form's words for a thought or an answer. Prose that uses one of them is not.
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
    """Whether a text holds a call as one of the text forms writes it."""
    return any(mark in text for mark in _marks_of_calls()) or _CALL_IN_A_REPLY.search(text) is not None


@cache
def _marks_of_calls() -> tuple[str, ...]:
    """The tags that open calls; words, JSON and lone brackets, which stand in prose too, are not among them."""
    marks = {mark for name in TOOL_FORMATS for mark in tool_format(name).syntax.call}
    return tuple(mark for mark in marks if mark.startswith(("<", "[")) and any(map(str.isalpha, mark)))


def offer_of(found: Conversation) -> Offer:
    """The prompt is the system texts, or the first user's text where there is none."""
    said = [message.content for message in found.messages if message.role == "system"]
    if not said:
        said = [next((message.content for message in found.messages if message.role == "user"), "")]
    prompt = "\n".join(said)
    tools = {tool.name: tool for tool in found.tools}
    return Offer(offered_tools.names(prompt).union(tools), prompt, tools)


def examine_dialogue(found: Conversation, keywords: Keywords) -> list[RowWarning]:
    """What is odd in the replies of an agent row. Raises BadRow for what would train something wrong."""
    offer, odd = offer_of(found), list[RowWarning]()
    begun: State = "start"
    for number, message in enumerate(found.messages, 1):
        if message.role == "tool":
            begun = "result"
        elif message.role == "assistant" and message.weight != 0:
            ended = walk(message.content, keywords, offer, f"message {number}", odd, begun)
            behind = found.messages[number] if number < len(found.messages) else None
            odd += _at_the_end(message, ended, behind, keywords, number)
            begun = "start"
        else:
            begun = "start"
    return odd


def _at_the_end(
    message: Message, ended: Ended, behind: Message | None, keywords: Keywords, number: int
) -> Sequence[RowWarning]:
    """What is odd in how a reply ends."""
    if ended.state in ("start", "answer"):
        return ()
    result, answer = keywords.result, keywords.answer
    if message.tool_calls or ended.called == FINISH or (behind and behind.role == "tool"):
        return ()
    if ended.state == "result" and ended.tail.strip():
        what = f"message {number} ends with what {result} brought: that is never trained; an answer opens with {answer}"
        return (RowWarning("ends-in-result", what),)
    if ended.state in ("input", "result"):
        if behind and behind.content.lstrip().startswith(result[:-1]):
            return ()  # the result is told as the user's message
        return (RowWarning("open-call", f"message {number} ends with a call of {ended.called!r} that has no result"),)
    if ended.state == "thought":
        return (RowWarning("no-final-answer", f"message {number} ends with a thought, without {answer}"),)
    return ()


def walk(
    text: str, keywords: Keywords, offer: Offer, where: str, odd: list[RowWarning], begun: State = "start"
) -> Ended:
    """Goes through a reply and adds to `odd`; `begun` is "result" where a tool spoke before. BadRow as above."""
    found = marks(text, keywords)
    found = _with_inline_results(text, found, keywords)
    if not found:
        return Ended("start")
    steps = _Walk(text, keywords, offer, where, odd, begun)
    kinds = "".join(["?" if mark.written else mark.kind[0] for mark in found])
    well_formed = _WELL_FORMED.fullmatch(kinds) and text[found[-1].end :].strip()
    return steps.through(found) if well_formed else steps.along(found)


@dataclass
class _Walk:
    text: str
    keywords: Keywords
    offer: Offer
    where: str
    odd: list[RowWarning]
    state: State
    called: str = ""
    opened: Mark | None = field(default=None)

    def through(self, found: Sequence[Mark]) -> Ended:
        """`along` for a reply whose keywords follow each other as they should: what stands behind them is left."""
        text = self.text
        for mark, behind in pairwise(found):
            if mark.kind == "call":
                self._name(text[mark.end : behind.start])
            elif mark.kind == "input":
                self._arguments(text[mark.end : behind.start].strip())
        return Ended("answer")

    def along(self, found: Sequence[Mark]) -> Ended:
        for mark, behind in zip(found, [*found[1:], None], strict=True):
            called = behind is not None and behind.kind == "input"
            if mark.kind not in _NEXT[self.state] if mark.written else self.state == "result" == mark.kind:
                continue  # prose, or a further result
            if mark.kind == "call" and not called and (mark.written or self.state == "answer"):
                continue  # a heading of an answer
            if mark.written:
                raise self._bad("misspelt-keyword", f"{mark.written!r} is no keyword; write {mark.right!r}")
            self._leave(mark)
            self.state, self.opened = mark.kind, mark
        self._leave(None)
        tail = self.text[self.opened.end :] if self.opened else ""
        return Ended(self.state, tail, self.called)

    def _leave(self, mark: Mark | None) -> None:
        """Ends the part before `mark`, or before the end of the reply."""
        to, entered = (mark.start, mark.kind) if mark else (len(self.text), None)
        body = self.text[self.opened.end : to] if self.opened else ""
        action, arguments = self.keywords.call, self.keywords.input
        if self.state == "call":
            if entered != "input":
                within = f"{arguments!r} has to open a line" if arguments in body else f"write {arguments + ' {}'!r}"
                raise self._bad("action-without-input", f"{action + _line(body)!r} has no {arguments!r}; {within}")
            self._name(body)
        elif entered == "input":
            raise self._bad("input-without-action", f"{arguments!r} stands without an {action!r} on the line before")
        elif self.state == "input":
            if entered in ("thought", "answer"):
                result = self.keywords.result
                raise self._bad(
                    "call-without-result", f"{self.called}: {mark and mark.right!r} comes before {result!r}"
                )
            self._arguments(body.strip())
        elif mark and entered == "result":
            raise self._bad("result-without-call", f"{mark.right!r} follows no {arguments!r}")
        elif self.state == "answer" and not body.strip():
            raise self._bad("empty-reply", f"nothing follows {self.keywords.answer!r}")

    def _name(self, body: str) -> None:
        name, _, more = body.strip(" \t").partition("\n")
        name = name.strip()
        if not name or more.strip():
            why = (
                "names no tool"
                if not name
                else f"is followed by a line that is none of the call's: {_line(more.lstrip())!r}"
            )
            raise self._bad("bad-call", f"{self.keywords.call!r} {why}")
        if self.offer.names and name not in self.offer.names:
            known = sorted(self.offer.names)
            plain = name.replace("\\_", "_").strip("*_`'\"[]() ")
            near = difflib.get_close_matches(plain, known, 1) or [each for each in known if each in plain][:1]
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
            arguments = json_arguments(text)  # a Python literal is read as well
            if arguments.reason and text.startswith(("{", "```")):
                raise self._bad("bad-arguments", f"{self.called}: {arguments.reason}")
            if arguments.reason:
                what = f"{self.where}, {self.called}: {self.keywords.input!r} brings no JSON object: {_line(text)!r}"
                self.odd.append(RowWarning("plain-input", what))
                return
            value = loads(arguments.text)
        tool, strict = self.offer.tool(self.called)
        if tool is not None:
            self.odd += examine_arguments(tool, value, f"{self.where}, {self.called}", strict)

    def _bad(self, rule: str, what: str) -> BadRow:
        return BadRow(rule, f"{self.where}: {what}")


def _line(text: str) -> str:
    """The first line of a text, cut to what a message can show."""
    line = text.partition("\n")[0].rstrip()
    return line if len(line) <= 80 else line[:80] + "..."


def _with_inline_results(text: str, found: list[Mark], keywords: Keywords) -> list[Mark]:
    """The marks, and those of results within lines, which end the model's text as well."""
    spelling = keywords.result
    if text.count(spelling) == len([mark for mark in found if mark[0] == "result" and not mark[4]]):
        return found
    taken = [range(mark.start, mark.end) for mark in found]
    within = [
        Mark("result", match.start(), match.end(), spelling)
        for match in re.finditer(re.escape(spelling), text)
        if not any(match.start() in span for span in taken)
    ]
    return sorted([*found, *within], key=lambda mark: mark.start)
