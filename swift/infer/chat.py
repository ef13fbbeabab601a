"""Messages in, deltas out: a Renderer and an Engine make a Chat. Knows no wire format and no terminal."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from swift.agent import FORMS, form
from swift.chat import Delta, FinishReason, Message, Tool, ToolCall, Usage
from swift.infer.engine import Engine, Steps
from swift.infer.sample import SamplingParams
from swift.infer.stream import Ending, Stream, Talk
from swift.template import Renderer

PLAIN = SamplingParams()
CONTEXT = 8
"""Tokens of the prompt that the detokenizer sees before the reply."""


class Chat(Protocol):
    """Who answers messages: a model here, a server elsewhere, a script in a test.

    A trailing assistant message is continued: the deltas are the new text. The last delta says why the reply ended
    and what it cost. Closing the generator stops the reply. Raises ValueError, before the first delta, for what cannot
    be answered.
    """

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), params: SamplingParams = PLAIN
    ) -> Generator[Delta, None, None]: ...


class Reply(NamedTuple):
    """A whole reply, and why it ended."""

    message: Message
    finish: FinishReason
    usage: Usage


def collect(deltas: Iterator[Delta]) -> Reply:
    """Waits for a reply's end."""
    text: list[str] = []
    calls: list[ToolCall] = []
    finish: FinishReason = "cancelled"
    usage = Usage(0, 0)
    for delta in deltas:
        text.append(delta.text)
        if delta.tool_call is not None:
            calls.append(delta.tool_call)
        finish = delta.finish or finish
        usage = delta.usage or usage
    return Reply(Message("assistant", "".join(text), tuple(calls)), finish, usage)


class LocalChat:
    """A model of this process. Where tools are offered, the reply ends at the text form's stop marks and its calls
    come as tool calls; otherwise everything is text."""

    def __init__(self, engine: Engine, renderer: Renderer) -> None:
        self.engine = engine
        self.renderer = renderer

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), params: SamplingParams = PLAIN
    ) -> Generator[Delta, None, None]:
        prompt = self.renderer.prompt(messages, tools)
        marks = self.renderer.form.marks
        found = endings(params, self.renderer.stop.texts, marks.stop if tools else ())
        deltas = self._deltas(prompt, found, params, self.renderer.inputs(messages, prompt))
        return self._calling(deltas, Talk(marks.call)) if tools else deltas

    def complete(self, prompt: str | Sequence[int], params: SamplingParams = PLAIN) -> Generator[Delta, None, None]:
        """Goes on with plain text, or with tokens: no template, no tools."""
        tokens = self.renderer.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
        return self._deltas(tokens, endings(params), params)

    def _deltas(
        self,
        prompt: Sequence[int],
        found: Sequence[Ending],
        params: SamplingParams,
        inputs: Mapping[str, Any] | None = None,
    ) -> Generator[Delta, None, None]:
        stream = Stream(self.renderer.decode, found, prompt[-CONTEXT:])
        return _deltas(self.engine.submit(prompt, params, inputs), stream, len(prompt), params.logprobs)

    def _calling(self, deltas: Generator[Delta, None, None], talk: Talk) -> Generator[Delta, None, None]:
        with closing(deltas):
            for delta in deltas:
                shown = talk.push(delta.text)
                if delta.finish is None:
                    if shown or delta.logprobs:
                        yield replace(delta, text=shown)
                    continue
                message = self.renderer.parse(talk.whole)
                if rest := shown + talk.rest(message.content):
                    yield Delta(rest)
                for call in message.tool_calls:
                    yield Delta(tool_call=replace(call, id=call.id or f"call_{uuid4().hex[:24]}"))
                yield replace(delta, text="", finish="tool_calls" if message.tool_calls else delta.finish)


def endings(params: SamplingParams, template: Sequence[str] = (), offered: Sequence[str] = ()) -> tuple[Ending, ...]:
    """The texts that end a reply: the template's own, the text form's where tools are `offered`, the user's.

    An agent mark stays in the reply and may be given without its colon; `params.include_stop` overrides it.
    """
    bare = {mark.removesuffix(":"): mark for mark in agent_marks()}
    found = dict.fromkeys(template, False)
    for word in params.stop:
        mark = bare.get(word, word)
        found[mark] = mark in agent_marks() if params.include_stop is None else params.include_stop
    found |= dict.fromkeys(offered, True)  # a call is read with its mark
    return tuple(Ending(text, keep) for text, keep in found.items())


@cache
def agent_marks() -> frozenset[str]:
    """The texts, of any form, at which a model hands over to its environment."""
    return frozenset(mark for name in FORMS for mark in form(name).marks.stop)


def _deltas(steps: Steps, stream: Stream, prompt_tokens: int, logprobs: bool) -> Generator[Delta, None, None]:
    with closing(steps):
        spent = 0
        pending: list[tuple[int, float]] = []
        finish: FinishReason = "cancelled"
        for step in steps:
            spent += 1
            finish = step.finish or finish
            if step.finish == "stop":
                break
            pending.append((step.token, step.logprob))
            if text := stream.push(step.token):
                yield Delta(text, logprobs=tuple(pending) if logprobs else ())
                pending = []
            if stream.ended is not None:
                finish = "stop"
                break
        text = stream.flush()
        if stream.ended is not None:
            finish = "stop"
        yield Delta(text, finish=finish, usage=Usage(prompt_tokens, spent), logprobs=tuple(pending) if logprobs else ())
