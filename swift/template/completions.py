"""Finds the completion of a prompt: the chat template's rendering of a finished reply, from the end of the prompt.

The texts of the reply are placeholders in it. Knows no token and no weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift.agent import ToolFormat
from swift.template.template_messages import Reply, Wire
from swift.template.tokenizer_template import TokenizerTemplate

CONTENT, REASONING = "\ue000", "\ue001"  # placeholders for a reply's texts
TAILS = 1 << 12
"""Size of the cache of completions by the shape of the dialogue."""


class Completion(NamedTuple):
    """The text that the model generates, and the token that ends its turn."""

    text: str
    end: str


class _ParsedPrompt(NamedTuple):
    """A prompt; the reasoning block at its end; whether that block is empty, which turns reasoning off."""

    prompt: str
    opened: re.Match[str] | None
    off: bool


class Completions:
    """Makes completions by the tokenizer's template and the format of its calls."""

    def __init__(self, layout: TokenizerTemplate, tool_format: ToolFormat) -> None:
        self._layout = layout
        self._traits = layout.traits
        self._format = tool_format
        self._allowed = (*tool_format.syntax.special, *layout.special_in_replies)
        self._ends = {layout.traits.end, *layout.stops, *tool_format.syntax.stop}
        self._tails: dict[tuple[object, ...], str] = {}
        self._around: dict[tuple[object, ...], tuple[str, str]] = {}

    def complete(
        self,
        reply: Reply,
        speaks: bool,
        prompt: str,
        before: Sequence[Wire],
        tools: Sequence[Wire],
        variables: Mapping[str, Any],
    ) -> Completion:
        """The completion of `prompt`, the rendering of `before`, by a reply. `speaks`: the reply has content."""
        parsed = self._parsed(prompt)
        target = self._target(reply, speaks, parsed)
        tail = self._tail(reply, target, parsed, before, tools, variables)
        return self._completed(reply, speaks, parsed, tail)

    def predict(self, reply: Reply, speaks: bool, prompt: str, before: Sequence[Wire]) -> Completion | None:
        """A guess of `complete`: the completion of an earlier similar reply, with this reply's texts and calls; None if
        there was none. Renders nothing: the caller checks the guess against the next prompt."""
        parsed = self._parsed(prompt)
        around = self._around.get(_similarity_key(self._target(reply, speaks, parsed), parsed, before))
        if around is None:
            return None
        written = self._written_calls(reply)
        if self._layout.mask(written, self._allowed) != written:
            return None
        return self._completed(reply, speaks, parsed, written.join(around) if reply.calls else around[0])

    def _parsed(self, prompt: str) -> _ParsedPrompt:
        opened = self._layout.open_reasoning.search(prompt)
        return _ParsedPrompt(prompt, opened, opened is not None and opened["closed"] is not None)

    def _target(self, reply: Reply, speaks: bool, parsed: _ParsedPrompt) -> Wire:
        """The reply as input of the template, with placeholders for its texts."""
        traits, content = self._traits, CONTENT if speaks else ""
        target = traits.convention.message([], content) if reply.calls else Wire(role="assistant", content=content)
        if reply.calls:
            target["tool_calls"] = self._layout.mask(reply.calls, self._allowed)
        if reply.reasoning and traits.reasoning_key and not parsed.off:
            target[traits.reasoning_key] = REASONING
        return target

    def _written_calls(self, reply: Reply) -> str:
        """The calls of a reply in the text of the format, "" for none."""
        return self._format.call("", reply.tool_calls) if reply.calls else ""

    def _completed(self, reply: Reply, speaks: bool, parsed: _ParsedPrompt, tail: str | None) -> Completion:
        """The completion: a tail with the parts that the template dropped added."""
        traits, content = self._traits, CONTENT if speaks else ""
        if tail is None:  # the template rewrites the prompt of finished replies: use the text of the format
            plain = traits.thinking.answer and not (reply.calls or reply.reasoning)
            opening = traits.after.partition(traits.thinking.close)[2] if plain else ""
            tail = opening + self._format.call(content, reply.tool_calls) + traits.end
        if content and CONTENT not in tail and not parsed.opened:  # the template drops content next to calls
            tail = self._with_content(tail, content, reply)
        if not parsed.off and REASONING not in tail:
            tail = self._with_reasoning(tail, bool(reply.reasoning), parsed.opened is not None)
        return self._cut(tail, traits.call_end if reply.calls else traits.end)

    def _with_reasoning(self, tail: str, thinks: bool, opened: bool) -> str:
        """Adds reasoning that the template dropped. A block that the prompt opened is always closed."""
        traits, rest = self._traits, tail.lstrip()
        closing = traits.thinking.close
        if opened and rest.startswith(closing):
            return REASONING + traits.after + rest.removeprefix(closing).lstrip() if thinks else tail
        if opened:
            return (REASONING if thinks else "") + traits.after + tail
        if not thinks:
            return tail
        front = tail[: len(tail) - len(rest)] + traits.before.lstrip()
        return front + REASONING + traits.after + self._layout.empty_reasoning.sub("", rest)

    def _with_content(self, tail: str, content: str, reply: Reply) -> str:
        """Adds content before the calls and after reasoning, in the format's text or as a message of its own."""
        close = self._traits.thinking.close
        written, calls = (self._format.call(text, reply.tool_calls) for text in (content, ""))
        opening = self._traits.after.partition(close)[2] if self._traits.thinking.answer else ""
        words = f"{opening}{content}{close}" if opening else written.removesuffix(calls)
        front, thought, rest = tail.rpartition(REASONING)
        before, closing, rest = rest.partition(close) if thought else ("", "", rest)
        return front + thought + before + closing + words + rest

    def _tail(
        self,
        reply: Reply,
        target: Wire,
        parsed: _ParsedPrompt,
        before: Sequence[Wire],
        tools: Sequence[Wire],
        variables: Mapping[str, Any],
    ) -> str | None:
        """The rendering of a finished reply after its prompt; None if the prompt cannot be found in it.

        It does not depend on the texts: replies without calls are rendered once for all dialogues of the same shape.
        """
        shape: tuple[object, ...] = ()
        if not reply.calls and not variables:
            roles = tuple((each["role"], "tool_calls" in each) for each in before)
            shape = (roles, bool(tools), parsed.opened[0] if parsed.opened else "", *target.items())
            if shape in self._tails:
                return self._tails[shape]
        tail = self._behind(parsed, self._layout.render([*before, target], tools, False, variables))
        if shape and tail is not None and len(self._tails) < TAILS:
            self._tails[shape] = tail
        if tail is not None:
            self._remember(_similarity_key(target, parsed, before), tail, self._written_calls(reply))
        return tail

    def _remember(self, key: tuple[object, ...], tail: str, written: str) -> None:
        """Stores the text around the calls of a tail, if the calls have the text of the format."""
        if not written:
            self._around[key] = (tail, "")
        elif tail.count(written) == 1:
            before, _, after = tail.partition(written)
            self._around[key] = (before, after)

    def _behind(self, parsed: _ParsedPrompt, whole: str) -> str | None:
        """The part of a rendered dialogue after the prompt; None if the prompt cannot be found in it."""
        prompt, opened, _ = parsed
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if opened and whole.startswith(prompt[: opened.start()]):
            rest = whole[opened.start() :]
            opening, closing = self._traits.thinking[:2]
            if not rest.lstrip().startswith(opening):
                return rest.lstrip()
            within = rest.lstrip().removeprefix(opening)
            return within.partition(closing)[2].lstrip() if opened["closed"] else within.lstrip()
        return None

    def _cut(self, tail: str, end: str) -> Completion:
        """The tail up to the token that ends the turn; `end` if the template writes none."""
        run = self._layout.trailing.search(tail)
        for found in self._layout.added.finditer(tail, run.start()) if run else ():
            if found[0] == end or found[0] in self._ends:
                return Completion(tail[: found.start()], found[0])
        return Completion(tail, end)


def _similarity_key(target: Wire, parsed: _ParsedPrompt, before: Sequence[Wire]) -> tuple[object, ...]:
    """A key for replies that templates render alike except for texts and calls."""
    context = before[-1]["role"] if before else ""
    others = tuple((key, value) for key, value in target.items() if key != "tool_calls")
    return context, parsed.opened[0] if parsed.opened else "", "tool_calls" in target, others
