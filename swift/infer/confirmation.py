"""Asks the user before a tool call runs. Knows no chat and no model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Literal

from swift.agent.arguments import json_arguments
from swift.agent.jsontext import loads
from swift.chat import ToolCall
from swift.tools.bound_tool import BoundTool

Mode = Literal["none", "writes", "all"]
YES, NO, ALWAYS = ("y", "yes"), ("n", "no"), ("a", "always")


class Confirmation:
    """Whether a call may run, asked at a prompt: yes, no, or always for its tool. Other answers are asked again;
    Ctrl-C and the end of the input mean no.

    Args:
        read: prompt -> the user's line; raises KeyboardInterrupt or EOFError.
        mode: the calls to ask about: none, those of tools that may write, or all.
        ask_below: also asks about calls whose confidence is known and below this probability.
        note: gets lines about what is not asked: once, that the confidence of calls is not known, and that a call does
            not run because the input ended.
    """

    def __init__(
        self,
        read: Callable[[str], str],
        mode: Mode = "none",
        ask_below: float | None = None,
        note: Callable[[str], object] = lambda line: None,
    ) -> None:
        self._read, self._mode, self._ask_below, self._note = read, mode, ask_below, note
        self._noted = False
        self._always: set[str] = set()

    def __call__(self, bound: BoundTool, call: ToolCall) -> bool:
        if not self.asks(bound, call):
            return True
        prompt = f"<<<[run {_described(bound, call)}? y/n/a] "
        while True:
            try:
                answer = self._read(prompt).strip().casefold()
            except KeyboardInterrupt:
                return False
            except EOFError:
                self._note(f"{bound.name} does not run: the input ended before an answer")
                return False
            if answer in ALWAYS:
                self._always.add(_identity(bound))
            if answer in (*YES, *ALWAYS):
                return True
            if answer in NO:
                return False
            prompt = f"<<<[y: yes, n: no, a: always {bound.name}] "

    def forget(self) -> None:
        """Ends what was allowed with "always"."""
        self._always.clear()

    def asks(self, bound: BoundTool, call: ToolCall) -> bool:
        """Whether the user is to be asked about the call."""
        if _identity(bound) in self._always:
            return False
        if self._mode == "all" or (self._mode == "writes" and not bound.read_only):
            return True
        if self._ask_below is None:
            return False
        if call.confidence is None and not self._noted:
            self._noted = True
            self._note(f"the confidence of {call.name} is not known, so --ask_below does not ask about such calls")
        return call.confidence is not None and call.confidence < self._ask_below


def _identity(bound: BoundTool) -> str:
    """The tool as the user sees it: a server that describes it anew is asked about anew."""
    return json.dumps([bound.source, bound.tool.spec], sort_keys=True, default=str)


def _described(bound: BoundTool, call: ToolCall) -> str:
    """The call on one line, with its whole arguments, its source and its confidence."""
    arguments = json.dumps(loads(json_arguments(call.arguments).text), ensure_ascii=False)
    source = f" from {shown_source(bound.source)}" if bound.source else ""
    confidence = "" if call.confidence is None else f" (confidence {call.confidence:.2f})"
    return printable(f"{call.name} {arguments}{source}{confidence}")


def shown_source(source: str) -> str:
    """The name of a file without its folder; other sources as they are."""
    return PurePath(source).name if PurePath(source).is_absolute() else source


def printable(text: str) -> str:
    """The text with escapes for characters that a terminal would not show as they are."""
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in text)
