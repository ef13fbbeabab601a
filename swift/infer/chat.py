"""Messages in, deltas out: a Renderer and an Engine make a Chat. Knows no wire format and no terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

from swift.agent import TOOL_FORMATS, Syntax, call_template, tool_format
from swift.agent.reasoning_parser import ReasoningParser
from swift.agent.reply import LabelParser
from swift.chat import Delta, Draft, FinishReason, Logprob, Message, Tool, Usage
from swift.engine.interface import Engine, TokenOutput, TokenStream
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.guided.guide import Guide, Vocabulary
from swift.infer.reply_stream import ReplyStream, StopString, ToolCallStream
from swift.template import Renderer

DEFAULT_PARAMS = SamplingParams()
CONTEXT = 8
"""Tokens of the prompt that the detokenizer sees before the reply."""


class Deltas(Iterator[Delta], Protocol):
    """A reply on its way. Closing it stops the model; a model of ours may be stopped from any thread."""

    def close(self) -> None: ...


class Chat(Protocol):
    """Who answers messages: a model here, a server elsewhere, a script in a test.

    A trailing assistant message is continued: the deltas are the new text. The last delta says why the reply ended
    and what it cost. `template_kwargs` are variables for the model's own chat template, such as `enable_thinking`;
    who has none need not pass them. Raises ValueError, before the first delta, for what cannot be answered.
    """

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = DEFAULT_PARAMS,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Deltas: ...


class Reply(NamedTuple):
    """A whole reply, and why it ended."""

    message: Message
    finish: FinishReason
    usage: Usage


def collect(deltas: Iterator[Delta]) -> Reply:
    """Waits for a reply's end."""
    draft = Draft()
    for delta in deltas:
        draft.add(delta)
    return Reply(draft.message, draft.finish or "cancelled", draft.usage)


class LocalChat:
    """A model of this process. Blocks of thought come as reasoning. Where tools are offered, the reply ends at the
    text form's stop marks, its calls come as tool calls and the form's thought as reasoning too; otherwise everything
    else is text. `raw` leaves thoughts in the text."""

    def __init__(self, engine: Engine, renderer: Renderer, raw: bool = False) -> None:
        self.engine = engine
        self.renderer = renderer
        self._raw = raw
        self._marks = Syntax((), (), "turn") if raw else renderer.tool_format.syntax
        self._vocabulary = Vocabulary(renderer.tokenizer, renderer.stop.tokens)

    def guide(self, rules: Rules) -> Guide:
        """What holds a reply to `rules`, for SamplingParams; a model that thinks may do so before.

        Raises ValueError for what it cannot be held to.
        """
        rules = rules._replace(thinking=self.renderer.thinking if self.renderer.supports_thinking else None)
        return self._vocabulary.guide(self.renderer.tool_format, rules)

    def __call__(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        params: SamplingParams = DEFAULT_PARAMS,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Deltas:
        prompt, begun = self.renderer.prompt(messages, tools, template_kwargs)
        if params.guide:
            params = replace(params, guide=params.guide.after(begun))
        ends, syntax = self.renderer.stop.texts, self.renderer.tool_format.syntax
        found = stop_strings(params, ends, syntax.stop if tools else ())
        stream = ReplyStream(
            self.renderer.decode,
            [ending for ending in found if ending.text not in ends],
            prompt[-CONTEXT:],
            ReasoningParser(None if self._raw else self.renderer.thinking, begun),
            [ending for ending in found if ending.text in ends],
        )
        inputs = self.renderer.inputs(messages, prompt)
        return self._reply(prompt, stream, params, inputs, partial(self._calling, tools) if tools else iter)

    def complete(self, prompt: str | Sequence[int], params: SamplingParams = DEFAULT_PARAMS) -> Deltas:
        """Goes on with plain text, or with tokens: no template, no tools."""
        tokens = self.renderer.raw_prompt_tokens(prompt) if isinstance(prompt, str) else prompt
        return self._reply(tokens, ReplyStream(self.renderer.decode, stop_strings(params), tokens[-CONTEXT:]), params)

    def _reply(
        self,
        prompt: Sequence[int],
        stream: ReplyStream,
        params: SamplingParams,
        inputs: Mapping[str, Any] | None = None,
        read: Callable[[Iterator[Delta]], Iterator[Delta]] = iter,
    ) -> Deltas:
        steps = self.engine.submit(prompt, params, inputs)
        return _Reply(steps, read(_deltas(steps, stream, len(prompt), self._logprob if params.logprobs else None)))

    def _calling(self, tools: Sequence[Tool], deltas: Iterator[Delta]) -> Iterator[Delta]:
        tool_format = self.renderer.tool_format
        talk, split = ToolCallStream(tool_format.syntax, call_template(tool_format)), LabelParser(self._marks)
        thought = ""  # "\n" while only a block was thought, before what the form has words for
        for delta in deltas:
            thought = "\n" if delta.reasoning else thought
            said, calls = talk.push(delta.text)
            if delta.finish is None:
                told = split.push(said)
            else:
                content, found = tool_format.parse(talk.whole, tools)
                rest, others = talk.end(Message("assistant", content, found))
                calls = [*calls, *others]
                called = bool(found) or (talk.called and delta.finish == "stop")
                told = split.push(said + rest) + split.end(answers=delta.finish == "stop" and not called)
            reasoning = delta.reasoning
            if told.reasoning:
                reasoning, thought = f"{reasoning}{thought}{told.reasoning}", ""
            if reasoning or told.content or delta.logprobs:
                yield Delta(told.content, logprobs=delta.logprobs, reasoning=reasoning)
            for call in calls:
                yield Delta(tool_call=call)
            if delta.finish is not None:
                yield Delta(finish="tool_calls" if called else delta.finish, usage=delta.usage)

    def _logprob(self, step: TokenOutput) -> Logprob:
        read = self._vocabulary.bytes
        top = tuple(Logprob(token, read(token), logprob) for token, logprob in step.top)
        return Logprob(step.token, read(step.token), step.logprob, top)


class _Reply:
    """Deltas that another thread may stop while this one waits for the next."""

    def __init__(self, steps: TokenStream, deltas: Iterator[Delta]) -> None:
        self._steps, self._deltas = steps, deltas

    def __iter__(self) -> _Reply:
        return self

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        self._steps.close()


def stop_strings(
    params: SamplingParams, template: Sequence[str] = (), offered: Sequence[str] = ()
) -> tuple[StopString, ...]:
    """The texts that end a reply: the template's own, the text form's where tools are `offered`, the user's.

    An agent mark stays in the reply and may be given without its colon; `params.include_stop` overrides it.
    """
    bare = {mark.removesuffix(":"): mark for mark in tool_stop_strings()}
    found = dict.fromkeys(template, False)
    for word in params.stop:
        mark = bare.get(word, word)
        found[mark] = mark in tool_stop_strings() if params.include_stop is None else params.include_stop
    found |= dict.fromkeys(offered, True)  # a call is read with its mark
    return tuple(StopString(text, keep) for text, keep in found.items())


@cache
def tool_stop_strings() -> frozenset[str]:
    """The texts, of any form, at which a model hands over to its environment."""
    return frozenset(mark for name in TOOL_FORMATS for mark in tool_format(name).syntax.stop)


def _deltas(
    steps: TokenStream, stream: ReplyStream, prompt_tokens: int, told: Callable[[TokenOutput], Logprob] | None
) -> Generator[Delta, None, None]:
    with closing(steps):
        spent = 0
        pending: list[Logprob] = []
        finish: FinishReason = "cancelled"
        for step in steps:
            spent += 1
            finish = step.finish or finish
            if step.finish == "stop":
                break
            if told:
                pending.append(told(step))
            said = stream.push(step.token)
            if said.content or said.reasoning:
                yield Delta(said.content, logprobs=tuple(pending), reasoning=said.reasoning)
                pending = []
            if stream.ended is not None:
                finish = "stop"
                break
        said = stream.flush()
        if stream.ended is not None:
            finish = "stop"
        usage = Usage(prompt_tokens, spent)
        yield Delta(said.content, finish=finish, usage=usage, logprobs=tuple(pending), reasoning=said.reasoning)
