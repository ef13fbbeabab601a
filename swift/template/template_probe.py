"""Finds how a chat template renders tools, reasoning and the ends of turns, by rendering known dialogues."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple

from swift.agent import TOOL_FORMATS, ReasoningTags, tool_format
from swift.agent.jsontext import is_json, loads
from swift.chat import Message, Tool, ToolCall
from swift.template.jinja_environment import RenderError
from swift.template.sandbox import ChatTemplate

KEYS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
"""The message keys from which templates read reasoning."""
PLAIN = ReasoningTags("<think>", "</think>")
"""The tags of reasoning for templates that do not define any."""
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
"""A call with values that tell formats apart that write strings alike."""
_ABSENT = "absent"


class CallConvention(NamedTuple):
    """How a message with calls must look: arguments as objects or JSON text; the content if it is empty ("", None or
    _ABSENT). `by_id`: the template reads the tool's name from the call's id."""

    as_object: bool = True
    empty: str | None = ""
    by_id: bool = False

    def message(self, calls: Sequence[ToolCall], content: Any = "") -> dict[str, Any]:
        """A message with calls in OpenAI's format."""
        said = {"content": content or self.empty} if content or self.empty != _ABSENT else {}
        return {"role": "assistant", **said, "tool_calls": [self._call(call) for call in calls]}

    def _call(self, call: ToolCall) -> dict[str, Any]:
        as_object = self.as_object and is_json(call.arguments)
        function = {"name": call.name, "arguments": loads(call.arguments) if as_object else call.arguments}
        return {"id": call.id, "type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """The traits of a template.

    `end`: the token after a plain reply, `call_end`: after a reply with calls. `reasoning_key`: the message key of
    reasoning, "" if it is not read; `before`, `after`: the exact texts around reasoning. `has_reasoning`: the template
    handles reasoning. `strips`: it strips white space from replies. `format_name`: the tool-call format of its calls,
    "" if no format parses them; `describes_tools`: it renders `tools`. `parallel`: a message may have several calls.
    """

    end: str
    call_end: str
    reasoning_key: str
    thinking: ReasoningTags
    before: str
    after: str
    has_reasoning: bool
    strips: bool = False
    format_name: str = ""
    describes_tools: bool = True
    convention: CallConvention = CallConvention()
    parallel: bool = True

    def wire(self, message: Message) -> dict[str, Any]:
        """A message in OpenAI's format, in the variant that the template reads."""
        if message.tool_calls:
            wire = self.convention.message(message.tool_calls, message.content)
        else:
            wire = {"role": message.role, "content": message.content}
        if message.reasoning and self.reasoning_key:
            wire[self.reasoning_key] = message.reasoning
        if message.role == "tool":
            wire |= {"name": message.name} if message.name else {}
            wire |= {"tool_call_id": message.tool_call_id} if message.tool_call_id else {}
        return wire


def probe(
    template: ChatTemplate, added: Sequence[str], stops: Sequence[str], wanted: str, parts: bool = False
) -> TemplateTraits:
    """The traits of a template. `added`: the tokenizer's added tokens; `stops`: tokens that end replies, in order.

    `wanted`: the tool-call format that the user chose, or AUTO. `parts`: contents are lists of parts. Raises
    RenderError for a template that cannot render a question and its answer.
    """
    return _Probe(template, added, stops, parts).traits(wanted)


class _Probe:
    def __init__(self, template: ChatTemplate, added: Sequence[str], stops: Sequence[str], parts: bool) -> None:
        self._template = template
        self._stops = tuple(stops)
        self._parts = parts
        any_of = "|".join(re.escape(each) for each in sorted(filter(None, added), key=len, reverse=True))
        self._token = re.compile(rf"\s*({any_of or '(?!)'})")
        self._closed = re.compile(rf"(?:{any_of or '(?!)'})\s*\Z")
        self._ends_with = re.compile(rf"(?:\s*(?:{any_of or '(?!)'}))+\s*\Z")

    def traits(self, wanted: str) -> TemplateTraits:
        end = self._plain_end()
        prompt = self._try([self._ask], generate=True, tools=[TOOL])
        how = self._call_convention(prompt)
        convention = how if CALL.name in prompt or wanted in TOOL_FORMATS else None
        key, thinking, before, after, thinks = self._thinking(convention)
        spaced = f" {_SAY} "
        trims = spaced not in self._try([self._ask, self._message("assistant", spaced)])
        plain = TemplateTraits(
            end, end, key, thinking, before, after, thinks, trims, convention=how or CallConvention()
        )
        return self._with_tools(plain, convention, wanted) if convention else plain

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
        except RenderError:
            return ""

    # Ends ------------------------------------------------------------------------------------------------------------

    def _plain_end(self) -> str:
        """The token that ends a plain reply, whether it is the last or another turn follows."""
        whole = self._template.render([self._ask, self._said()])
        if not (_ASK in whole and _SAY in whole):
            raise RenderError("the tokenizer's chat template drops messages: choose one with --template_type")
        last = whole.rpartition(_SAY)[2]
        within = self._try([self._ask, self._said(), self._ask]).partition(_SAY)[2].partition(_ASK)[0]
        ends, inner = self._run(last), self._run(within)
        shared = [one for one, other in takewhile(lambda pair: pair[0] == pair[1], zip(ends, inner, strict=False))]
        return next(iter([*shared, *ends, *inner, *self._stops]), "")

    def _run(self, text: str) -> list[str]:
        """The added tokens at the beginning of a text, separated only by white space."""
        found: list[str] = []
        at = 0
        while match := self._token.match(text, at):
            found.append(match[1])
            at = match.end()
        return found

    # Thoughts --------------------------------------------------------------------------------------------------------

    def _thinking(self, convention: CallConvention | None) -> tuple[str, ReasoningTags, str, str, bool]:
        """(key, tags, exact texts before and after, whether the template handles it) of reasoning."""
        for said, tools in [(self._said(), []), *([(self._call(convention), [TOOL])] if convention else [])]:
            for key in KEYS:
                if _THOUGHT in (thought := self._try([self._ask, {**said, key: _THOUGHT}], tools=tools)):
                    return (key, *self._around(said, tools, thought), True)
        opens = re.search(r"(<think>\s*)(</think>\s*)?\Z", self._try([self._ask], generate=True))
        before = opens[1] if opens else "<think>\n"
        return "", PLAIN, before, "\n</think>\n\n", bool(opens) or "</think>" in self._template.source

    def _around(self, said: dict[str, Any], tools: Sequence[Any], thought: str) -> tuple[ReasoningTags, str, str]:
        asked, silent = self._try([self._ask], True, tools), self._try([self._ask, said], tools=tools)
        front, _, rest = thought.partition(_THOUGHT)
        shared = front[: common_prompt_length(asked, front)]
        before = front[len(shared) :]
        if not before.strip():  # the prompt opens the block
            before = (re.search(r"\S+\s*\Z", shared) or [""])[0] + before
        without_reasoning = silent[common_prompt_length(asked, silent) :]  # without reasoning
        if _SAY in without_reasoning:
            answer, after = without_reasoning.partition(_SAY)[0].strip(), rest.partition(_SAY)[0]
        elif before.strip() and without_reasoning.startswith(before):  # an empty block replaces missing reasoning
            closing = re.match(rf"\s*{re.escape(before.strip().replace('<', '</', 1))}\s*", rest)
            answer, after = "", closing[0] if closing else ""
        else:
            answer, after = (
                "",
                rest.removesuffix(rest[len(rest) - common_prefix_length(rest[::-1], without_reasoning[::-1]) :]),
            )
        if before.strip() in answer or not after.strip().endswith(answer) or answer == after.strip():
            answer = ""
        return ReasoningTags(before.strip(), after.strip().removesuffix(answer).strip(), answer), before, after

    # Tools -----------------------------------------------------------------------------------------------------------

    def _call_convention(self, prompt: str) -> CallConvention | None:
        """How a message with only calls must look; None if the template renders no calls."""
        for convention in (
            CallConvention(as_object, empty) for as_object in (True, False) for empty in ("", None, _ABSENT)
        ):
            whole = self._try([self._ask, self._call(convention)], tools=[TOOL])
            called = whole[common_prompt_length(prompt, whole) :]
            if whole.count(_VALUE) == 1 and CALL.name in called:
                return convention._replace(by_id=CALL.name not in called.replace(CALL.id, ""))
        return None

    def _with_tools(self, plain: TemplateTraits, convention: CallConvention, wanted: str) -> TemplateTraits:
        said = self._call(convention)
        prompt = self._try([self._ask], generate=True, tools=[TOOL])
        whole = self._try([self._ask, said], tools=[TOOL])
        types = self._try([self._ask, self._call(convention, call=_TYPES)], tools=[TOOL])
        found = self._format(whole[common_prompt_length(prompt, whole) :], types, wanted)
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
        twice = self._try([self._ask, self._call(convention, 2)], tools=[TOOL])
        offers, parallel = CALL.name in prompt, twice.count(_VALUE) == 2
        return replace(
            plain, call_end=end, format_name=found, describes_tools=offers, convention=convention, parallel=parallel
        )

    def _tail(self, text: str) -> list[str]:
        """The added tokens at the end of a text, separated only by white space."""
        found = self._ends_with.search(text)
        return self._run(found[0]) if found else []

    def _tail_run(self, within: str, last: list[str]) -> list[str]:
        """The added tokens of a text from the first of `last` on."""
        start = within.find(last[0]) if last else -1
        if start < 0:
            first = self._token.search(within)
            return self._run(within[first.start() :]) if first else []
        return self._run(within[start:])

    def _call(self, convention: CallConvention, times: int = 1, call: ToolCall = CALL) -> dict[str, Any]:
        calls = [with_name_in_id(call, number) if convention.by_id else call for number in range(times)]
        said = convention.message(calls)
        return {**said, "content": self._content("")["content"]} if said.get("content") == "" else said

    def _content(self, text: str) -> dict[str, Any]:
        return {"content": self._message("user", text)["content"] if text else ""}

    def _format(self, reply: str, types: str, wanted: str) -> str:
        """The format that parses the call in a reply; of several, the one that writes it, and `_TYPES`, most alike.

        Of formats that write the same text, the one that defines it.
        """
        names = [wanted] if wanted in TOOL_FORMATS else TOOL_FORMATS
        texts = [reply]  # without the tokens that end the turn
        while (cut := re.sub(rf"{self._token.pattern}\s*\Z", "", texts[-1])) != texts[-1]:
            texts.append(cut)
        closed = self._closed.sub("", reply)

        def likeness(name: str) -> tuple[bool, ...]:
            call = tool_format(name).call
            written, own = call("", [CALL]), call.__module__.endswith(f".{name}")
            return (written.strip() in reply, call("", [_TYPES]).strip() in types, closed.endswith(written), own)

        readers = [name for name in names if any(_reads(name, text) for text in texts)]
        return max(readers, key=likeness, default="")


def with_name_in_id(call: ToolCall, number: int) -> ToolCall:
    """The call with an id that contains the tool's name, as Kimi's ids do. Such an id is kept."""
    prefix = f"functions.{call.name}:"
    return call if call.id.startswith(prefix) else replace(call, id=f"{prefix}{number}")


def common_prompt_length(prompt: str, whole: str) -> int:
    """The length of the prompt at the beginning of `whole`, which also has the reply. Never splits a token or word."""
    if whole.startswith(prompt):
        return len(prompt)
    alike = whole[: common_prefix_length(prompt, whole)]
    return len(alike) - len(re.split(r"(?<=[\s>\]])", alike)[-1])


def common_prefix_length(one: str, other: str) -> int:
    """The length of the common prefix of two texts."""
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
