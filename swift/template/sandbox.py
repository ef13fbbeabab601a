"""Runs the chat template of a tokenizer in a sandbox with limits. Knows no Message."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property, partial
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError

from swift.template.jinja_environment import RenderError, compiled
from swift.template.jinja_limits import TemplateLimitError, budget

SECONDS = 0.7
"""CPU time that compiling a template, or rendering one small dialogue, may take."""
SECONDS_PER_MESSAGE = 0.001
"""CPU time in addition for each message of a dialogue."""
SECONDS_PER_TOOL = 0.005
"""CPU time in addition for each tool of a dialogue."""
_REASON = 300  # characters of a template's own message that an error repeats


class ChatTemplate:
    """A Jinja chat template in transformers' sandbox, with the special tokens it may use.

    `today`: the date that it sees; None: the current date.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], today: date | None = None) -> None:
        """Raises RenderError for invalid Jinja, TemplateLimitError for a template that exceeds a limit."""
        if not isinstance(source, str):  # a file may hold any value
            raise RenderError(f"the tokenizer's chat template is no text, but {source!r:.40}")
        self.source = source
        self._tokens = dict(tokens)
        self._today = today
        try:
            with _within(SECONDS):
                self._template = compiled(source)
        except TemplateLimitError as reason:
            raise TemplateLimitError(f"the tokenizer's chat template {reason}") from None
        except _TimeUpError:
            raise TemplateLimitError(f"the tokenizer's chat template takes longer than {SECONDS:g} s") from None
        except TemplateError as reason:
            raise RenderError(f"the tokenizer's chat template is not valid Jinja: {_short(reason)}") from None
        except (RecursionError, SyntaxError, MemoryError):  # of the Python code that Jinja makes of it
            raise TemplateLimitError("the tokenizer's chat template is nested too deep") from None

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template reads before assigning them."""
        tree = self._template.environment.parse(self.source)
        first = {macro.name: "store" for macro in tree.find_all(nodes.Macro)}
        for name in _names(tree):
            first.setdefault(name.name, name.ctx)
        return frozenset(name for name, use in first.items() if use == "load")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        generate: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of `apply_chat_template`.

        Raises RenderError for messages that the template rejects, TemplateLimitError for a rendering that exceeds a
        limit, or a template that reaches out of its sandbox.
        """
        given = {**self._tokens, **self.dated, **(variables or {}), "add_generation_prompt": generate}
        given |= {"messages": messages, "tools": list(tools) or None, "documents": None}
        seconds = SECONDS + SECONDS_PER_MESSAGE * len(messages) + SECONDS_PER_TOOL * len(tools)
        written: list[str] = []
        size = 0
        try:
            with _within(seconds), budget(given) as made:
                for text in self._template.root_render_func(self._template.new_context(given)):
                    written.append(text)
                    size += len(text)
                    if size > made.largest:
                        made.write(size)
        except _TimeUpError as reason:
            raise self._beyond(f"takes longer than {seconds:.2g} s", reason) from None
        except (TemplateLimitError, SecurityError) as reason:
            raise self._beyond(_short(reason), reason) from None
        except (RecursionError, MemoryError) as reason:
            raise self._beyond("calls itself without end, or fills the memory", reason) from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as reason:
            raise RenderError(f"the tokenizer's chat template rejects this dialogue: {_short(reason)}") from None
        return "".join(written)

    def _beyond(self, what: str, reason: BaseException) -> TemplateLimitError:
        """The error for a template that exceeds a limit, with its line."""
        line, trace = 0, reason.__traceback__
        while trace is not None:
            if trace.tb_frame.f_globals.get("environment") is self._template.environment:
                line = self._template.get_corresponding_lineno(trace.tb_lineno)
            elif trace.tb_frame.f_code.co_filename == "<unknown>":  # Jinja has translated the line already
                line = trace.tb_lineno
            trace = trace.tb_next
        return TemplateLimitError(f"the tokenizer's chat template {what}{f' (line {line})' if line else ''}")

    @cached_property
    def dated(self) -> dict[str, Any]:
        """The variables of the date."""
        if self._today is None:
            return {}
        day = datetime(self._today.year, self._today.month, self._today.day)
        return {"strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")}


def _short(reason: Exception) -> str:
    """The message of an error on one line."""
    return " ".join(str(reason)[:_REASON].split())


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """The names in a node, in the order of evaluation."""
    if isinstance(node, nodes.Name):
        yield node
    children = [node.node, node.target] if isinstance(node, nodes.Assign) else node.iter_child_nodes()
    for child in children:
        yield from _names(child)


# Time limit ----------------------------------------------------------------------------------------------------------


Clock = Callable[[], float]


class _TimeUpError(BaseException):
    """Raised in a thread that exceeds its time limit. No `except Exception` of a library catches it."""


class _Watch:
    """A thread that raises _TimeUpError in threads that exceed their time limit."""

    def __init__(self) -> None:
        self.begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.begin)  # the child has no such thread

    def begin(self) -> None:
        self._ends: dict[int, tuple[Clock, float]] = {}  # thread -> its clock, and when its time is up on that clock
        self._lock = threading.Lock()
        self._started = False

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        me = threading.get_ident()
        clock = _clock(me)
        with self._lock:
            if not self._started:
                threading.Thread(target=self._watch_limits, name="chat template limits", daemon=True).start()
                self._started = True
            self._ends[me] = clock, clock() + seconds
        try:
            yield
        finally:
            with self._lock:
                if self._ends.pop(me, None) is None:  # the limit was exceeded: clear an exception that is still pending
                    _raise_in(me, None)

    def _watch_limits(self) -> None:
        while True:
            time.sleep(0.1)
            with self._lock:
                for thread in [thread for thread, (clock, end) in self._ends.items() if end < clock()]:
                    del self._ends[thread]
                    _raise_in(thread, _TimeUpError)


def _clock(thread: int) -> Clock:
    """The CPU time of a thread, which does not pass while a busy machine runs others; where there is none, the time."""
    of_thread = getattr(time, "pthread_getcpuclockid", None)  # Linux has it, macOS and Windows do not
    return partial(time.clock_gettime, of_thread(thread)) if of_thread else time.monotonic


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


_within = _Watch().within
