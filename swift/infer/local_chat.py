"""A Chat made of a Renderer and an Engine of this process. Knows no wire format and no terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import cache, partial
from typing import Any

from swift.agent import TOOL_FORMATS, Syntax, call_template, tool_format
from swift.agent.reasoning_parser import ReasoningParser
from swift.agent.reply import LabelParser
from swift.chat import Delta, FinishReason, Logprob, Message, Tool, ToolCall, Usage, UsageDetails
from swift.engine.interface import Engine, TokenOutput, TokenStream
from swift.engine.sampling import SamplingParams
from swift.guided.grammar import Rules
from swift.guided.guide import Guide, Vocabulary
from swift.infer.chat import DEFAULT_PARAMS, Deltas
from swift.infer.confidence import UNCALIBRATED, Calibration, CallConfidence, Opening, ReplyTokens
from swift.infer.doubtful_calls import WithoutDoubtfulCalls
from swift.infer.reply_stream import ReplyStream, StopString
from swift.infer.tool_call_stream import ToolCallStream
from swift.template import Renderer

CONTEXT = 8
"""Tokens of the prompt that the detokenizer sees before the reply."""


class LocalChat:
    """A model of this process. Reasoning blocks become `reasoning`. If tools are offered, the reply stops at the stop
    strings of the tool-call format, its calls become tool calls, and the format's reasoning becomes `reasoning` too;
    everything else is text. `raw` leaves reasoning in the text.

    `calibrations`: how the confidence of calls is calibrated, and below which they are not made, by the name of the
    adapter.
    """

    def __init__(
        self,
        engine: Engine,
        renderer: Renderer,
        raw: bool = False,
        calibrations: Mapping[str, Calibration] | None = None,
    ) -> None:
        self.engine = engine
        self.calibrations = dict(calibrations or {})
        self.renderer = renderer
        self._raw = raw
        self._labels = Syntax((), (), "turn") if raw else renderer.tool_format.syntax
        self._vocabulary = Vocabulary(renderer.tokenizer, renderer.stop.tokens)

    def guide(self, rules: Rules) -> Guide:
        """The guide, for SamplingParams, that constrains a reply to `rules`; reasoning before it is free.

        Raises ValueError for rules that no grammar can enforce.
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
        prompt, prefill = self.renderer.prompt(messages, tools, template_kwargs)
        if params.guide:
            params = replace(params, guide=params.guide.after(prefill))
        inputs = self.renderer.inputs(messages, prompt)
        continues = messages[-1].content if messages and messages[-1].role == "assistant" else ""
        ask = partial(self._ask, tools=tools, inputs=inputs)
        if not tools:
            return ask(prompt, prefill, continues, params)
        shown = self._confidence(params.adapter) if params.confidence else None
        calibration = self.calibrations.get(params.adapter, UNCALIBRATED)
        least = calibration.min_confidence if params.min_confidence is None else params.min_confidence
        if not least:
            return ask(prompt, prefill, continues, params, confidence=shown)
        known = shown or self._confidence(params.adapter)
        first = ask(prompt, prefill, continues, replace(params, confidence=True), confidence=known)

        def again(opening: Opening) -> Deltas:
            said = self.renderer.decode([*prompt[-CONTEXT:], *opening.before])
            said = said.removeprefix(self.renderer.decode(prompt[-CONTEXT:]))
            left = params.max_tokens and max(1, params.max_tokens - len(opening.before))
            bias = {**params.logit_bias, opening.token: -100.0}
            changed = replace(params, guide=None, logit_bias=bias, max_tokens=left)
            return ask([*prompt, *opening.before], prefill + said, continues + said, changed)

        return WithoutDoubtfulCalls(first, least, lambda: known.opening, again, params.confidence)

    def _ask(
        self,
        prompt: Sequence[int],
        prefill: str,
        continues: str,
        params: SamplingParams,
        tools: Sequence[Tool],
        inputs: Mapping[str, Any] | None,
        confidence: CallConfidence | None = None,
    ) -> Deltas:
        """A reply to a prompt that ends with `prefill`, and with the text `continues` of an assistant's message."""
        template_stops, syntax = self.renderer.stop.texts, self.renderer.tool_format.syntax
        stops = stop_strings(params, template_stops, syntax.stop if tools else ())
        stream = ReplyStream(
            self.renderer.decode,
            [stop for stop in stops if stop.text not in template_stops],
            prompt[-CONTEXT:],
            ReasoningParser(None if self._raw else self.renderer.thinking, prefill),
            [stop for stop in stops if stop.text in template_stops],
            continues,
        )
        if not tools:
            return self._reply(prompt, stream, params, inputs)
        parse = partial(self._with_tool_calls, tools, confidence)
        return self._reply(prompt, stream, params, inputs, parse, confidence.tokens if confidence else None)

    def count_tokens(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Mapping[str, Any] | None = None
    ) -> int:
        """The number of tokens of the prompt from which a reply to the messages would be generated.

        Raises ValueError for messages that cannot be rendered.
        """
        return len(self.renderer.prompt(messages, tools, template_kwargs).tokens)

    def complete(self, prompt: str | Sequence[int], params: SamplingParams = DEFAULT_PARAMS) -> Deltas:
        """Continues a text or token ids, without a chat template and tools."""
        tokens = self.renderer.raw_prompt_tokens(prompt) if isinstance(prompt, str) else prompt
        stops = stop_strings(params)
        continues = prompt if isinstance(prompt, str) else self.renderer.decode(prompt) if stops else ""
        stream = ReplyStream(self.renderer.decode, stops, tokens[-CONTEXT:], continues=continues)
        return self._reply(tokens, stream, params)

    def _reply(
        self,
        prompt: Sequence[int],
        stream: ReplyStream,
        params: SamplingParams,
        inputs: Mapping[str, Any] | None = None,
        parse: Callable[[Iterator[Delta]], Iterator[Delta]] = iter,
        seen: ReplyTokens | None = None,
    ) -> Deltas:
        tokens = self.engine.submit(prompt, params, inputs)
        logprob = self._logprob if params.logprobs else None
        counted = _CountedTokens(tokens)
        deltas = parse(_deltas(counted, stream, len(prompt), logprob, seen))
        return _CancellableDeltas(tokens, _with_prompt_usage(deltas, len(prompt), counted))

    def _confidence(self, adapter: str) -> CallConfidence:
        call_format = self.renderer.tool_format
        calibration = self.calibrations.get(adapter, UNCALIBRATED)
        return CallConfidence(ReplyTokens(), call_format.syntax, call_template(call_format), calibration)

    def _with_tool_calls(
        self, tools: Sequence[Tool], confidence: CallConfidence | None, deltas: Iterator[Delta]
    ) -> Iterator[Delta]:
        """The deltas with tool calls and labelled reasoning parsed out of their text."""
        call_format = self.renderer.tool_format
        calls_stream, labels = ToolCallStream(call_format.syntax, call_template(call_format)), LabelParser(self._labels)

        def end_call(call_id: str, calls: Sequence[ToolCall]) -> Iterator[Delta]:
            """A delta with the confidence of a complete call, if it is known."""
            found = confidence.of_next(calls_stream.text, calls_stream.content_end, calls) if confidence else None
            if found is not None:
                yield Delta(tool_call=ToolCall("", "", call_id, found))

        last_id = ""  # of the call that has begun
        separator = ""  # "\n" between a reasoning block and the labelled reasoning that follows it
        for delta in deltas:
            separator = "\n" if delta.reasoning else separator
            text, calls = calls_stream.push(delta.text)
            if delta.finish is None:
                parsed = labels.push(text)
            else:
                content, parsed_calls = call_format.parse(calls_stream.text, tools)
                rest, more_calls = calls_stream.end(Message("assistant", content, parsed_calls))
                calls = [*calls, *more_calls]
                called = bool(parsed_calls) or (calls_stream.called and delta.finish == "stop")
                parsed = labels.push(text + rest) + labels.end(answers=delta.finish == "stop" and not called)
            reasoning = delta.reasoning
            if parsed.reasoning:
                reasoning, separator = f"{reasoning}{separator}{parsed.reasoning}", ""
            if reasoning or parsed.content or delta.logprobs:
                yield Delta(parsed.content, logprobs=delta.logprobs, reasoning=reasoning)
            known = calls_stream.calls if delta.finish is None else parsed_calls
            for call in calls:
                if call.name and last_id:
                    yield from end_call(last_id, known)
                last_id = call.id
                yield Delta(tool_call=call)
            if delta.finish is not None:
                if last_id:
                    yield from end_call(last_id, known)
                finish: FinishReason = "tool_calls" if called else delta.finish
                yield Delta(finish=finish, usage=delta.usage, stop=delta.stop, details=delta.details)

    def _logprob(self, output: TokenOutput) -> Logprob:
        data = self._vocabulary.bytes
        top = tuple(Logprob(token, data(token), logprob) for token, logprob in output.top)
        return Logprob(output.token, data(output.token), output.logprob, top)


class _CountedTokens:
    """The tokens of a reply. `cached`: those of the prompt that the prefix cache held; known from the first on."""

    def __init__(self, tokens: TokenStream) -> None:
        self._tokens = tokens
        self.cached: int | None = None

    def __iter__(self) -> _CountedTokens:
        return self

    def __next__(self) -> TokenOutput:
        output = next(self._tokens)
        self.cached = output.cached
        return output

    def close(self) -> None:
        self._tokens.close()


def _with_prompt_usage(deltas: Iterator[Delta], prompt_tokens: int, tokens: _CountedTokens) -> Iterator[Delta]:
    """The deltas, the first with the usage so far."""
    for number, delta in enumerate(deltas):
        if number == 0 and delta.usage is None:
            delta = replace(delta, usage=Usage(prompt_tokens, 0), details=UsageDetails(tokens.cached))
        yield delta


class _CancellableDeltas:
    """Deltas that another thread can close while this one waits for the next."""

    def __init__(self, tokens: TokenStream, deltas: Iterator[Delta]) -> None:
        self._tokens, self._deltas = tokens, deltas

    def __iter__(self) -> _CancellableDeltas:
        return self

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        self._tokens.close()


def stop_strings(
    params: SamplingParams, template: Sequence[str] = (), tool_format: Sequence[str] = ()
) -> tuple[StopString, ...]:
    """All stop strings of a reply: the chat template's, the tool-call format's, and those of `params`.

    A stop string of any tool-call format (`Observation:`) stays in the reply, and `params` may have it without its
    colon; `params.include_stop` overrides the first rule.
    """
    without_colon = {text.removesuffix(":"): text for text in tool_stop_strings()}
    kept = dict.fromkeys(template, False)
    for word in params.stop:
        text = without_colon.get(word, word)
        kept[text] = text in tool_stop_strings() if params.include_stop is None else params.include_stop
    kept |= dict.fromkeys(tool_format, True)  # the format's parser needs it
    return tuple(StopString(text, keep) for text, keep in kept.items())


@cache
def tool_stop_strings() -> frozenset[str]:
    """The stop strings of all tool-call formats."""
    return frozenset(text for name in TOOL_FORMATS for text in tool_format(name).syntax.stop)


def _deltas(
    tokens: TokenStream,
    stream: ReplyStream,
    prompt_tokens: int,
    logprob: Callable[[TokenOutput], Logprob] | None,
    seen: ReplyTokens | None,
) -> Generator[Delta, None, None]:
    with closing(tokens):
        generated = reasoning = 0
        cached: int | None = None
        pending: list[Logprob] = []
        finish: FinishReason = "cancelled"
        for output in tokens:
            generated += 1
            finish, cached = output.finish or finish, output.cached
            if output.finish == "stop":
                break
            if logprob:
                pending.append(logprob(output))
            text = stream.push(output.token)
            reasoning += stream.reasons
            if seen:
                seen.add(output.token, stream.token_text, output.logprob if output.guided is None else output.guided)
            if text.content or text.reasoning:
                yield Delta(text.content, logprobs=tuple(pending), reasoning=text.reasoning)
                pending = []
            if stream.ended is not None:
                finish = "stop"
                break
        text = stream.flush()
        if seen:
            seen.flush(stream.token_text)
        stop = ""
        if stream.ended is not None:
            finish, stop = "stop", stream.ended.text
        yield Delta(
            text.content,
            finish=finish,
            usage=Usage(prompt_tokens, generated),
            logprobs=tuple(pending),
            reasoning=text.reasoning,
            stop=stop,
            details=UsageDetails(cached, reasoning),
        )
