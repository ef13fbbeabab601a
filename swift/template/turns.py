"""Splits messages into turns: a prompt of the user and the reply of the model. Needs no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from swift.agent import ToolFormat
from swift.agent.reply import write_reply
from swift.chat import PLACE, Image, Message
from swift.template.reply_spans import ReplySpans
from swift.template.template_probe import PLAIN
from swift.template.template_writer import ReplyPart, Span, Turn


class TurnSplitter:
    """Divides messages into turns, as a built-in template lays them out."""

    def __init__(self, tool_format: ToolFormat, reply_spans: ReplySpans) -> None:
        self.tool_format, self._reply_spans = tool_format, reply_spans

    def turns(self, messages: Sequence[Message], tools: bool) -> Iterator[Turn]:
        """Groups messages into turns. Inline tool results are part of the assistant's reply."""
        prompt: list[Span] = []
        by_tool = False
        reply: list[ReplyPart] = []
        for role, group in groupby(self._placed(messages), key=lambda message: message.role):
            run = list(group)
            if role == "assistant":
                # messages of equal weight are one text: the second may be a tool's result
                for weight, texts in groupby(run, key=lambda message: message.weight):
                    after_result = by_tool or bool(reply and reply[-1][1] != "reply")
                    said = "".join(self._written(message, tools, after_result) for message in texts)
                    reply += self._reply_spans.split_authors(said, tools, weight)
            elif role == "tool" and self.tool_format.syntax.inline and reply:
                results = self._reply_spans.result_spans([message.content for message in run], "tool_output")
                reply += [(span.text, span.kind, None) for span in results]
            else:
                if reply:
                    yield Turn(
                        tuple(prompt), by_tool, by_tool and self.tool_format.syntax.results == "raw", tuple(reply)
                    )
                    prompt, by_tool, reply = [], False, []
                if role == "system":
                    prompt += [Span(message.content, "system") for message in run if message.content]
                    continue
                prompt += [Span("\n", "given")] if prompt and prompt[-1].kind != "system" else []
                by_tool = role == "tool"
                if by_tool:
                    results = self._reply_spans.result_spans([message.content for message in run], "given")
                    prompt += _with_image_spans(results, [image for message in run for image in message.images])
                else:
                    prompt += _user_spans(run)
        if not prompt and not (messages and messages[0].role == "assistant"):
            raise ValueError("there is no user message")
        yield Turn(tuple(prompt), by_tool, by_tool and self.tool_format.syntax.results == "raw", tuple(reply))

    def _written(self, message: Message, tools: bool, after_result: bool) -> str:
        """The text of a reply. Reasoning for which the format has no label is written as a <think> block."""
        text = write_reply(self.tool_format, message, tools, after_result)
        if not message.reasoning or (tools and self.tool_format.syntax.thought):
            return text
        return f"{PLAIN.open}\n{message.reasoning}\n{PLAIN.close}\n\n{text}"

    def _placed(self, messages: Sequence[Message]) -> list[Message]:
        """The messages; a system message after a result that is a raw turn becomes a part of that result."""
        placed: list[Message] = []
        for message in messages:
            last = placed[-1] if placed else None
            if message.role == "system" and last and last.role == "tool" and self.tool_format.syntax.results == "raw":
                placed[-1] = replace(last, content=f"{last.content}\n\n{message.content}")
            else:
                placed.append(message)
        return placed


def _user_spans(run: Sequence[Message]) -> list[Span]:
    """Consecutive user messages, joined by line breaks."""
    if not any(message.images for message in run):
        return [Span("\n".join(message.content for message in run), "given")]
    spans: list[Span] = []
    for message in run:
        spans += [Span("\n", "given")] if spans else []
        for part in message.parts:
            image = part if isinstance(part, Image) else None
            spans.append(Span(PLACE, "given", image=image) if image else Span(str(part), "given"))
    return spans


def _with_image_spans(spans: list[Span], images: Sequence[Image]) -> list[Span]:
    """The spans of tool results with a span for each image, in place of its PLACE in their texts."""
    if not images:
        return spans
    if sum(span.text.count(PLACE) for span in spans) != len(images):
        raise ValueError("tool results with images contain U+FFFC, which is reserved for images")
    left, placed = iter(images), []
    for span in spans:
        for number, text in enumerate(span.text.split(PLACE)):
            placed += [Span(PLACE, "given", image=next(left))] if number else []
            placed += [span._replace(text=text)] if text else []
    return placed
