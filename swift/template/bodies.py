"""What a model writes behind a prompt: the chat template's text of a finished reply, from the prompt's end to its own.

Texts of the reply are marks in it. Knows no token and no weight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from swift.agent import Form
from swift.template.exchange import Reply, Wire
from swift.template.own import OwnLayout

CONTENT, THOUGHT = "\ue000", "\ue001"  # stand for a reply's texts while the template writes around them
TAILS = 1 << 12
"""Shapes of dialogues for which it is kept how a reply ends."""


class Body(NamedTuple):
    """What the model writes, and the token that ends its turn."""

    text: str
    end: str


class Bodies:
    """Makes bodies by a layout's template; `form` is that of its calls."""

    def __init__(self, layout: OwnLayout, form: Form) -> None:
        self._layout = layout
        self._nature = layout.nature
        self._form = form
        self._allowed = (*form.marks.special, *layout.marks)
        self._ends = {layout.nature.end, *layout.stops, *form.marks.stop}
        self._tails: dict[tuple[object, ...], str] = {}

    def of(
        self,
        reply: Reply,
        speaks: bool,
        prompt: str,
        before: Sequence[Wire],
        tools: Sequence[Wire],
        variables: Mapping[str, Any],
    ) -> Body:
        """The body of a reply to `prompt`, which the template made of `before`; `speaks`: the reply has content."""
        nature, opened = self._nature, self._layout.opened.search(prompt)
        off = opened is not None and opened["closed"] is not None  # the prompt says that there is no thought
        content = CONTENT if speaks else ""
        target = nature.calling.message([], content) if reply.calls else Wire(role="assistant", content=content)
        if reply.calls:
            target["tool_calls"] = self._layout.masked(reply.calls, self._allowed)
        if reply.thought and nature.key and not off:
            target[nature.key] = THOUGHT
        tail = self._tail(target, prompt, opened, before, tools, variables)
        if tail is None:  # it writes finished replies in a way of their own: the reply as the form has it
            plain = nature.thinking.answer and not (reply.calls or reply.thought)
            opening = nature.after.partition(nature.thinking.close)[2] if plain else ""
            tail = opening + self._form.call(content, reply.called) + nature.end
        if content and CONTENT not in tail and not opened:  # a template that leaves words beside calls out
            tail = self._with_words(tail, content, reply)
        if not off and THOUGHT not in tail:
            tail = self._with_thought(tail, bool(reply.thought), opened is not None)
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
        told, calls = (self._form.call(text, reply.called) for text in (content, ""))
        opening = self._nature.after.partition(close)[2] if self._nature.thinking.answer else ""
        words = f"{opening}{content}{close}" if opening else told.removesuffix(calls)
        front, thought, rest = tail.rpartition(THOUGHT)
        before, closing, rest = rest.partition(close) if thought else ("", "", rest)
        return front + thought + before + closing + words + rest

    def _tail(
        self,
        target: Wire,
        prompt: str,
        opened: re.Match[str] | None,
        before: Sequence[Wire],
        tools: Sequence[Wire],
        variables: Mapping[str, Any],
    ) -> str | None:
        """What the template writes of a finished reply behind the prompt for it; None where that is not to be told.

        Where texts alone differ it is the same: a reply without calls is rendered once for all dialogues of its shape.
        """
        shape: tuple[object, ...] = ()
        if "tool_calls" not in target and not variables:
            roles = tuple((each["role"], "tool_calls" in each) for each in before)
            shape = (roles, bool(tools), opened[0] if opened else "", *target.items())
            if shape in self._tails:
                return self._tails[shape]
        tail = self._behind(prompt, opened, self._layout.render([*before, target], tools, False, variables))
        if shape and tail is not None and len(self._tails) < TAILS:
            self._tails[shape] = tail
        return tail

    def _behind(self, prompt: str, opened: re.Match[str] | None, whole: str) -> str | None:
        """What the template writes of a finished reply behind the prompt for it; None where that is not to be told."""
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

    def _cut(self, tail: str, end: str) -> Body:
        """The tail up to the token that ends the turn, which is `end` where the template writes none."""
        run = self._layout.trailing.search(tail)
        for found in self._layout.added.finditer(tail, run.start()) if run else ():
            if found[0] == end or found[0] in self._ends:
                return Body(tail[: found.start()], found[0])
        return Body(tail, end)
