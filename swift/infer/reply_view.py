"""Shows the reasoning, text and calls of a reply while it is generated. Knows no model and no prompt."""

from __future__ import annotations

from collections.abc import Sequence

from swift.agent import SAMPLE_ARGUMENTS, ToolFormat, call_template
from swift.agent.reply import THINK_TAGS
from swift.chat import Delta, Draft, ToolCall
from swift.infer.terminal_output import TerminalOutput

_NAME = "\ue000"  # a private-use character: no format writes it


class ReplyView:
    """Shows the part of a reply that is not on the screen yet: call `show` after each delta, or once at the end.

    `offered`: tools were offered, so reasoning begins with the format's label, if it has one. Other reasoning is shown
    between <think> tags. `rated`: show the confidence of calls, where it is known.
    """

    def __init__(self, tool_format: ToolFormat, screen: TerminalOutput, offered: bool, rated: bool = False) -> None:
        self._format = tool_format
        self._label = tool_format.syntax.thought if offered else ""
        self._rated = rated
        self._in_tags = False
        self._screen = screen
        self._draft = Draft()
        self._reasoning_shown = self._text_shown = 0  # characters
        self._calls_shown = ""

    def add(self, delta: Delta) -> None:
        self._draft.add(delta)

    def show(self, complete: bool = False) -> None:
        """`complete`: the reply has ended and was not truncated, so its last call is complete."""
        reply = self._draft.message
        if reasoning := reply.reasoning[self._reasoning_shown :]:
            self._show_reasoning(reasoning)
            self._reasoning_shown = len(reply.reasoning)
        on_screen = self._label and reply.content == reply.reasoning  # reasoning alone is the answer too
        if (text := reply.content[self._text_shown :]) and not on_screen:
            self._end_reasoning()
            self._screen.write_reply(text)
            self._text_shown = len(reply.content)
        if reply.tool_calls:
            self._show_calls(complete)
        if complete and self._in_tags:
            self._screen.write(f"\n{THINK_TAGS.close}\n", "thought")
        if complete and self._draft.declined:
            self._screen.start_line()
            self._screen.write(f"[not called: {_confidences(self._draft.declined)}]\n", "thought")

    def _show_reasoning(self, text: str) -> None:
        begins = not self._reasoning_shown
        if self._label and begins and not text.lstrip().startswith(self._label):
            text = f"{self._label} {text.lstrip()}"
        if not self._label and not self._in_tags:
            self._screen.start_line()
            text = f"{THINK_TAGS.open}\n{text}" if begins else f"{THINK_TAGS.open}{text}"
            self._in_tags = True
        self._screen.write(text, "thought")

    def _end_reasoning(self) -> None:
        """Before the text, or before the first call of a reply without text."""
        if self._in_tags:
            self._screen.write(f"\n{THINK_TAGS.close}\n\n", "thought")
            self._in_tags = False
        elif self._label and self._reasoning_shown and not self._text_shown:
            self._screen.start_line()

    def _show_calls(self, complete: bool) -> None:
        reply = self._draft.message
        calls = self._streamed_calls()
        if complete:
            written = self._format.call(reply.content, reply.tool_calls)[len(reply.content) :]
            # Arguments that turn out not to be a JSON object stay as they were streamed.
            calls = written if written.startswith(self._calls_shown) else calls + call_template(self._format).tail
        if not self._calls_shown and calls:
            self._end_reasoning()
        new = calls.removeprefix(self._calls_shown)
        stop = next((stop for stop in self._format.syntax.stop if new.endswith(stop)), "")
        self._screen.write(new.removesuffix(stop), "call")
        if complete and self._rated:
            self._show_confidence()
        self._screen.write(stop, "observation")
        self._calls_shown = calls

    def _show_confidence(self) -> None:
        if known := _confidences(self._draft.message.tool_calls):
            self._screen.start_line()
            self._screen.write(f"[{known}]\n", "thought")

    def _streamed_calls(self) -> str:
        """The calls so far as the format writes them; formats without JSON arguments show calls only when complete."""
        reply = self._draft.message
        if self._format.syntax.tags or not all(call.arguments.startswith("{") for call in reply.tool_calls[:-1]):
            return self._calls_shown
        template = call_template(self._format)
        first = self._format.call(reply.content, [ToolCall(_NAME, SAMPLE_ARGUMENTS)])
        opening = first[len(reply.content) : first.index(_NAME, len(reply.content))]
        *before, last = reply.tool_calls
        written = "".join(f"{call.name}{template.between}{call.arguments}{template.middle}" for call in before)
        arguments = last.arguments if last.arguments.startswith("{") else ""
        return f"{opening}{written}{last.name}{template.between}{arguments}"


def _confidences(calls: Sequence[ToolCall]) -> str:
    return ", ".join(f"{call.name}: {call.confidence:.2f}" for call in calls if call.confidence is not None)
