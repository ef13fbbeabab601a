"""What a chat template does with tools, thoughts and the ends of turns, found by rendering dialogues that we know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from swift.agent import TOOL_FORMATS, ReasoningTags, tool_format
from swift.agent.jsontext import is_json, loads
from swift.chat import Message, Tool, ToolCall
from swift.template.jinja_environment import Refused
from swift.template.sandbox import ChatTemplate

KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""The names under which templates read what the assistant thought."""
PLAIN = ReasoningTags("<think>", "</think>")
"""How a thought is written where the template does not say."""
_ASK, _SAY, _THOUGHT, _VALUE, _RESULT = "Zask", "Zsay", "Zthought", "Zvalue", "Zresult"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "zcall",
        "description": "Zabout",
        "parameters": {"type": "object", "properties": {"zkey": {"type": "string", "description": "Zkey"}}},
    },
}
CALL = ToolCall("zcall", f'{{"zkey": "{_VALUE}"}}', "zcall0000")
_TYPES = replace(CALL, arguments=f'{{"zkey": "{_VALUE}", "z1": true, "z2": null, "z3": [1, "z"], "z4": {{"z": 0.5}}}}')
"""A call by whose values forms differ that write texts alike."""
_ABSENT = "absent"


class Calling(NamedTuple):
    """How a template wants a message with calls: arguments as objects or as JSON text, and what the content is where
    the assistant says nothing: "", None or _ABSENT. `by_id`: it tells the tool's name by the call's id alone."""

    as_object: bool = True
    empty: str | None = ""
    by_id: bool = False

    def message(self, calls: Sequence[ToolCall], content: Any = "") -> dict[str, Any]:
        """A message with calls, as OpenAI's clients send it."""
        said = {"content": content or self.empty} if content or self.empty != _ABSENT else {}
        return {"role": "assistant", **said, "tool_calls": [self._call(call) for call in calls]}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        as_object = self.as_object and is_json(call.arguments)
        function = {"name": call.name, "arguments": loads(call.arguments) if as_object else call.arguments}
        return {"id": call.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What is known of a template.

    `end` closes a plain reply, `call_end` one that calls. `key` is the name of the field with a thought, "" where there
    is none; `before` and `after` are the exact texts around it. `thinks`: the template itself knows of thoughts.
    `trims`: it takes white space off a reply's ends. `form` is the text form of its calls, "" where it writes none that
    a form reads; `offers`: it tells of the tools too. `calling`: how a message with calls has to look; `parallel`: it
    may hold several.
    """

    end: str
    call_end: str
    key: str
    thinking: ReasoningTags
    before: str
    after: str
    thinks: bool
    trims: bool = False
    format_name: str = ""
    offers: bool = True
    calling: Calling = Calling()
    parallel: bool = True

    def wire(self, message: Message) -> dict[str, Any]:
        """A message as OpenAI's clients send it, in the shape that the template reads."""
        if message.tool_calls:
            wire = self.calling.message(message.tool_calls, message.content)
        else:
            wire = {"role": message.role, "content": message.content}
        if message.reasoning and self.key:
            wire[self.key] = message.reasoning
        if message.role == "tool":
            wire |= {"name": message.name} if message.name else {}
            wire |= {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
        return wire


def explore(
    template: ChatTemplate, added: Sequence[str], stops: Sequence[str], wanted: str, parts: bool = False
) -> TemplateTraits:
    """Renders probes. `added` are the tokenizer's added tokens, `stops` those known to end a reply, the usual first.

    `wanted` is the text form that the user names, or AUTO. `parts`: contents are lists of parts. Raises Refused for
    a template that renders not even a question and its answer.
    """
    return _Explorer(template, added, stops, parts).nature(wanted)


class _Explorer:
    def __init__(self, template: ChatTemplate, added: Sequence[str], stops: Sequence[str], parts: bool) -> None:
        self._template = template
        self._stops = tuple(stops)
        self._parts = parts
        any_of = "|".join(re.escape(each) for each in sorted(filter(None, added), key=len, reverse=True))
        self._token = re.compile(rf"\s*({any_of or '(?!)'})")
        self._closed = re.compile(rf"(?:{any_of or '(?!)'})\s*\Z")
        self._ends_with = re.compile(rf"(?:\s*(?:{any_of or '(?!)'}))+\s*\Z")

    def nature(self, wanted: str) -> TemplateTraits:
        end = self._plain_end()
        told = self._try([self._ask], generate=True, tools=[TOOL])
        how = self._how_to_call(told)
        calling = how if CALL.name in told or wanted in TOOL_FORMATS else None
        key, thinking, before, after, thinks = self._thinking(calling)
        spaced = f" {_SAY} "
        trims = spaced not in self._try([self._ask, self._message("assistant", spaced)])
        plain = TemplateTraits(end, end, key, thinking, before, after, thinks, trims, calling=how or Calling())
        return self._with_tools(plain, calling, wanted) if calling else plain

    # Texts -----------------------------------------------------------------------------------------------------------

    @property
    def _ask(self) -> dict[str, Any]:
        return self._message("user", _ASK)

    def _said(self, key: str = "") -> dict[str, Any]:
        said = self._message("assistant", _SAY)
        return {**said, key: _THOUGHT} if key else said

    def _message(self, role: str, content: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": content}] if self._parts else content}

    def _try(self, messages: list[dict[str, Any]], generate: bool = False, tools: Sequence[Any] = ()) -> str:
        try:
            return self._template.render(messages, tools, generate)
        except Refused:
            return ""

    # Ends ------------------------------------------------------------------------------------------------------------

    def _plain_end(self) -> str:
        """The token that ends a plain reply: from those behind it, where it is the last and where a turn follows."""
        whole = self._template.render([self._ask, self._said()])
        if not (_ASK in whole and _SAY in whole):
            raise Refused("the tokenizer's chat template leaves out what is said: name one with --template_type")
        last = whole.rpartition(_SAY)[2]
        within = self._try([self._ask, self._said(), self._ask]).partition(_SAY)[2].partition(_ASK)[0]
        ends, inner = self._run(last), self._run(within)
        shared = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(ends, inner, strict=False))]
        return next(iter([*shared, *ends, *inner, *self._stops]), "")

    def _run(self, text: str) -> list[str]:
        """The added tokens at the beginning of a text, with nothing but white space between them."""
        found: list[str] = []
        at = 0
        while match := self._token.match(text, at):
            found.append(match[1])
            at = match.end()
        return found

    # Thoughts --------------------------------------------------------------------------------------------------------

    def _thinking(self, calling: Calling | None) -> tuple[str, ReasoningTags, str, str, bool]:
        """The field of a thought, how it is read, the exact texts around it, and whether the template knows of any."""
        for said, tools in [(self._said(), []), *([(self._call(calling), [TOOL])] if calling else [])]:
            for key in KEYS:
                if _THOUGHT in (thought := self._try([self._ask, {**said, key: _THOUGHT}], tools=tools)):
                    return (key, *self._around(said, tools, thought), True)
        opens = re.search(r"(<think>\s*)(</think>\s*)?\Z", self._try([self._ask], generate=True))
        before = opens[1] if opens else "<think>\n"
        return "", PLAIN, before, "\n</think>\n\n", bool(opens) or "</think>" in self._template.source

    def _around(self, said: dict[str, Any], tools: Sequence[Any], thought: str) -> tuple[ReasoningTags, str, str]:
        asked, silent = self._try([self._ask], True, tools), self._try([self._ask, said], tools=tools)
        front, _, rest = thought.partition(_THOUGHT)
        shared = front[: asked_length(asked, front)]
        before = front[len(shared) :]
        if not before.strip():  # the prompt opens the thought itself
            before = (re.search(r"\S+\s*\Z", shared) or [""])[0] + before
        told = silent[asked_length(asked, silent) :]  # without a thought
        if _SAY in told:
            answer, after = told.partition(_SAY)[0].strip(), rest.partition(_SAY)[0]
        elif before.strip() and told.startswith(before):  # an empty block stands in for a thought
            closing = re.match(rf"\s*{re.escape(before.strip().replace('<', '</', 1))}\s*", rest)
            answer, after = "", closing[0] if closing else ""
        else:
            answer, after = "", rest.removesuffix(rest[len(rest) - shared_length(rest[::-1], told[::-1]) :])
        if before.strip() in answer or not after.strip().endswith(answer) or answer == after.strip():
            answer = ""
        return ReasoningTags(before.strip(), after.strip().removesuffix(answer).strip(), answer), before, after

    # Tools -----------------------------------------------------------------------------------------------------------

    def _how_to_call(self, told: str) -> Calling | None:
        """How a message that only calls has to look; None where the template writes no call."""
        for calling in (Calling(as_object, empty) for as_object in (True, False) for empty in ("", None, _ABSENT)):
            whole = self._try([self._ask, self._call(calling)], tools=[TOOL])
            called = whole[asked_length(told, whole) :]
            if whole.count(_VALUE) == 1 and CALL.name in called:
                return calling._replace(by_id=CALL.name not in called.replace(CALL.id, ""))
        return None

    def _with_tools(self, plain: TemplateTraits, calling: Calling, wanted: str) -> TemplateTraits:
        said = self._call(calling)
        told = self._try([self._ask], generate=True, tools=[TOOL])
        whole = self._try([self._ask, said], tools=[TOOL])
        types = self._try([self._ask, self._call(calling, call=_TYPES)], tools=[TOOL])
        found = self._format(whole[asked_length(told, whole) :], types, wanted)
        if not found:
            return plain
        ends = (plain.end, *self._stops, *tool_format(found).syntax.stop)
        result = {"role": "tool", "name": CALL.name, "tool_call_id": said["tool_calls"][0]["id"]}
        result |= self._content(_RESULT)
        within = self._try([self._ask, said, result], tools=[TOOL]).rpartition(_VALUE)[2].partition(_RESULT)[0]
        last = self._tail(whole.rpartition(_VALUE)[2])
        inner = self._tail_run(within, last)
        shared = [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(last, inner, strict=False))]
        following = inner[len(shared)] if len(inner) > len(shared) else ""
        end = next((token for token in (*reversed(shared), *last) if token in ends), "") or following or plain.end
        twice = self._try([self._ask, self._call(calling, 2)], tools=[TOOL])
        offers, parallel = CALL.name in told, twice.count(_VALUE) == 2
        return replace(plain, call_end=end, format_name=found, offers=offers, calling=calling, parallel=parallel)

    def _tail(self, text: str) -> list[str]:
        """The added tokens at the end of a text, white space between them."""
        found = self._ends_with.search(text)
        return self._run(found[0]) if found else []

    def _tail_run(self, within: str, last: list[str]) -> list[str]:
        """The added tokens of a text from where those of `last` begin."""
        start = within.find(last[0]) if last else -1
        if start < 0:
            first = self._token.search(within)
            return self._run(within[first.start() :]) if first else []
        return self._run(within[start:])

    def _call(self, calling: Calling, times: int = 1, call: ToolCall = CALL) -> dict[str, Any]:
        calls = [named(call, number) if calling.by_id else call for number in range(times)]
        said = calling.message(calls)
        return {**said, "content": self._content("")["content"]} if said.get("content") == "" else said

    def _content(self, text: str) -> dict[str, Any]:
        return {"content": self._message("user", text)["content"] if text else ""}

    def _format(self, reply: str, types: str, wanted: str) -> str:
        """The form that reads the call in a reply; of several the one that writes it, and `_TYPES`, most alike.

        Of forms that write the same, it is the one whose own text that is.
        """
        names = [wanted] if wanted in TOOL_FORMATS else TOOL_FORMATS
        texts = [reply]  # the tokens that end the turn are none of the form's
        while (cut := re.sub(rf"{self._token.pattern}\s*\Z", "", texts[-1])) != texts[-1]:
            texts.append(cut)
        closed = self._closed.sub("", reply)

        def likeness(name: str) -> tuple[bool, ...]:
            call = tool_format(name).call
            written, own = call("", [CALL]), call.__module__.endswith(f".{name}")
            return (written.strip() in reply, call("", [_TYPES]).strip() in types, closed.endswith(written), own)

        readers = [name for name in names if any(_reads(name, text) for text in texts)]
        return max(readers, key=likeness, default="")


def named(call: ToolCall, number: int) -> ToolCall:
    """The call with an id that tells its name, as Kimi's do; one that has such an id keeps it."""
    told = f"functions.{call.name}:"
    return call if call.id.startswith(told) else replace(call, id=f"{told}{number}")


def asked_length(prompt: str, whole: str) -> int:
    """How much of a prompt a text begins with that has the reply too, never a part of a token or word."""
    if whole.startswith(prompt):
        return len(prompt)
    alike = whole[: shared_length(prompt, whole)]
    return len(alike) - len(re.split(r"(?<=[\s>\]])", alike)[-1])


def shared_length(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def _reads(name: str, reply: str) -> bool:
    try:
        _, calls = tool_format(name).parse(reply, [Tool(TOOL)])
        return [(call.name, loads(call.arguments)) for call in calls] == [(CALL.name, loads(CALL.arguments))]
    except ValueError:
        return False
