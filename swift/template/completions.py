"""What a model writes behind a prompt: the chat template's text of a finished reply, from the prompt's end to its own.

Texts of the reply are marks in it. Knows no token and no weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift.agent import ToolFormat
from swift.template.template_messages import Reply, Wire
from swift.template.tokenizer_template import TokenizerTemplate

CONTENT, THOUGHT = "\ue000", "\ue001"  # stand for a reply's texts while the template writes around them
TAILS = 1 << 12
"""Shapes of dialogues for which it is kept how a reply ends."""


class Completion(NamedTuple):
    """What the model writes, and the token that ends its turn."""

    text: str
    end: str


class _Asked(NamedTuple):
    """A prompt, what of a thought it opens at its end, and whether it says there that there is none."""

    prompt: str
    opened: re.Match[str] | None
    off: bool


class Completions:
    """Makes bodies by a layout's template; `form` is that of its calls."""

    def __init__(self, layout: TokenizerTemplate, tool_format: ToolFormat) -> None:
        self._layout = layout
        self._nature = layout.nature
        self._format = tool_format
        self._allowed = (*tool_format.syntax.special, *layout.marks)
        self._ends = {layout.nature.end, *layout.stops, *tool_format.syntax.stop}
        self._tails: dict[tuple[object, ...], str] = {}
        self._around: dict[tuple[object, ...], tuple[str, str]] = {}

    def of(
        self,
        reply: Reply,
        speaks: bool,
        prompt: str,
        before: Sequence[Wire],
        tools: Sequence[Wire],
        variables: Mapping[str, Any],
    ) -> Completion:
        """The body of a reply to `prompt`, which the template made of `before`; `speaks`: the reply has content."""
        asked = self._asked(prompt)
        target = self._target(reply, speaks, asked)
        tail = self._tail(reply, target, asked, before, tools, variables)
        return self._whole(reply, speaks, asked, tail)

    def likely(self, reply: Reply, speaks: bool, prompt: str, before: Sequence[Wire]) -> Completion | None:
        """What `of` gives if the template writes the reply as the last one like it, other texts and calls in their
        places; None where there was none. Renders nothing: the next prompt shows whether it is so."""
        asked = self._asked(prompt)
        around = self._around.get(_likeness(self._target(reply, speaks, asked), asked, before))
        if around is None:
            return None
        called = self._called(reply)
        if self._layout.masked(called, self._allowed) != called:
            return None
        return self._whole(reply, speaks, asked, called.join(around) if reply.calls else around[0])

    def _asked(self, prompt: str) -> _Asked:
        opened = self._layout.opened.search(prompt)
        return _Asked(prompt, opened, opened is not None and opened["closed"] is not None)

    def _target(self, reply: Reply, speaks: bool, asked: _Asked) -> Wire:
        """The reply as the template is given it: marks for its texts."""
        nature, content = self._nature, CONTENT if speaks else ""
        target = nature.calling.message([], content) if reply.calls else Wire(role="assistant", content=content)
        if reply.calls:
            target["tool_calls"] = self._layout.masked(reply.calls, self._allowed)
        if reply.thought and nature.key and not asked.off:
            target[nature.key] = THOUGHT
        return target

    def _called(self, reply: Reply) -> str:
        """The calls of a reply as the form writes them, "" for none."""
        return self._format.call("", reply.called) if reply.calls else ""

    def _whole(self, reply: Reply, speaks: bool, asked: _Asked, tail: str | None) -> Completion:
        """The body: a tail with what the template leaves out."""
        nature, content = self._nature, CONTENT if speaks else ""
        if tail is None:  # it writes finished replies in a way of their own: the reply as the form has it
            plain = nature.thinking.answer and not (reply.calls or reply.thought)
            opening = nature.after.partition(nature.thinking.close)[2] if plain else ""
            tail = opening + self._format.call(content, reply.called) + nature.end
        if content and CONTENT not in tail and not asked.opened:  # a template that leaves words beside calls out
            tail = self._with_words(tail, content, reply)
        if not asked.off and THOUGHT not in tail:
            tail = self._with_thought(tail, bool(reply.thought), asked.opened is not None)
        return self._cut(tail, nature.call_end if reply.calls else nature.end)

    def _with_thought(self, tail: str, thinks: bool, opened: bool) -> str:
        """The same with a thought that the template leaves out. A block that the prompt opened is always closed."""
        nature, rest = self._nature, tail.lstrip()
        closing = nature.thinking.close
        if opened and rest.startswith(closing):
            return THOUGHT + nature.after + rest.removeprefix(closing).lstrip() if thinks else tail
        if opened:
            return (THOUGHT if thinks else "") + nature.after + tail
        if not thinks:
            return tail
        front = tail[: len(tail) - len(rest)] + nature.before.lstrip()
        return front + THOUGHT + nature.after + self._layout.nothing.sub("", rest)

    def _with_words(self, tail: str, content: str, reply: Reply) -> str:
        """The same with words before the calls, behind a thought: as the form has them, or as a part of their own."""
        close = self._nature.thinking.close
        told, calls = (self._format.call(text, reply.called) for text in (content, ""))
        opening = self._nature.after.partition(close)[2] if self._nature.thinking.answer else ""
        words = f"{opening}{content}{close}" if opening else told.removesuffix(calls)
        front, thought, rest = tail.rpartition(THOUGHT)
        before, closing, rest = rest.partition(close) if thought else ("", "", rest)
        return front + thought + before + closing + words + rest

    def _tail(
        self,
        reply: Reply,
        target: Wire,
        asked: _Asked,
        before: Sequence[Wire],
        tools: Sequence[Wire],
        variables: Mapping[str, Any],
    ) -> str | None:
        """What the template writes of a finished reply behind the prompt for it; None where that is not to be told.

        Where texts alone differ it is the same: a reply without calls is rendered once for all dialogues of its shape.
        """
        shape: tuple[object, ...] = ()
        if not reply.calls and not variables:
            roles = tuple((each["role"], "tool_calls" in each) for each in before)
            shape = (roles, bool(tools), asked.opened[0] if asked.opened else "", *target.items())
            if shape in self._tails:
                return self._tails[shape]
        tail = self._behind(asked, self._layout.render([*before, target], tools, False, variables))
        if shape and tail is not None and len(self._tails) < TAILS:
            self._tails[shape] = tail
        if tail is not None:
            self._learn(_likeness(target, asked, before), tail, self._called(reply))
        return tail

    def _learn(self, likeness: tuple[object, ...], tail: str, called: str) -> None:
        """Keeps what stands around the calls in a tail, if they stand there as the form writes them."""
        if not called:
            self._around[likeness] = (tail, "")
        elif tail.count(called) == 1:
            before, _, after = tail.partition(called)
            self._around[likeness] = (before, after)

    def _behind(self, asked: _Asked, whole: str) -> str | None:
        """What a text of the whole dialogue has behind the prompt; None where that is not to be told."""
        prompt, opened, _ = asked
        if whole.startswith(prompt):
            return whole[len(prompt) :]
        if opened and whole.startswith(prompt[: opened.start()]):
            rest = whole[opened.start() :]
            opening, closing = self._nature.thinking[:2]
            if not rest.lstrip().startswith(opening):
                return rest.lstrip()
            within = rest.lstrip().removeprefix(opening)
            return within.partition(closing)[2].lstrip() if opened["closed"] else within.lstrip()
        return None

    def _cut(self, tail: str, end: str) -> Completion:
        """The tail up to the token that ends the turn, which is `end` where the template writes none."""
        run = self._layout.trailing.search(tail)
        for found in self._layout.added.finditer(tail, run.start()) if run else ():
            if found[0] == end or found[0] in self._ends:
                return Completion(tail[: found.start()], found[0])
        return Completion(tail, end)


def _likeness(target: Wire, asked: _Asked, before: Sequence[Wire]) -> tuple[object, ...]:
    """What replies have in common that templates write alike, but for their texts and calls."""
    behind = before[-1]["role"] if before else ""
    others = tuple((key, value) for key, value in target.items() if key != "tool_calls")
    return behind, asked.opened[0] if asked.opened else "", "tool_calls" in target, others
