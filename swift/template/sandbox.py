"""Runs the chat template of a tokenizer in a sandbox with limits. Knows no Message."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError, nodes

from swift.template.jinja_environment import MAX_CHARACTERS, RenderError, compiled

SECONDS = 10.0
"""Time limit of one rendering."""


class ChatTemplate:
    """A Jinja chat template in transformers' sandbox, with the special tokens it may use.

    `today`: the date that it sees; None: the current date.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], today: date | None = None) -> None:
        """Raises RenderError for invalid Jinja."""
        self.source = source
        self._tokens = dict(tokens)
        self._today = today
        try:
            self._template = compiled(source)
        except TemplateError as reason:
            raise RenderError(f"the tokenizer's chat template is not valid Jinja: {reason}") from None

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
        """The text of `apply_chat_template`. Raises RenderError for messages that the template rejects."""
        given = {**self._tokens, **self.dated, **(variables or {}), "add_generation_prompt": generate}
        given |= {"messages": messages, "tools": list(tools) or None, "documents": None}
        written: list[str] = []
        size = 0
        try:
            with _within(SECONDS):
                for text in self._template.root_render_func(self._template.new_context(given)):
                    written.append(text)
                    size += len(text)
                    if size > MAX_CHARACTERS:
                        raise RenderError(f"the tokenizer's chat template writes more than {MAX_CHARACTERS} characters")
        except RenderError:
            raise
        except _TimeUpError:
            raise RenderError(f"the tokenizer's chat template takes longer than {SECONDS:g} s") from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as reason:
            raise RenderError(f"the tokenizer's chat template rejects this dialogue: {reason}") from None
        return "".join(written)

    @cached_property
    def dated(self) -> dict[str, Any]:
        """The variables of the date."""
        if self._today is None:
            return {}
        day = datetime(self._today.year, self._today.month, self._today.day)
        return {"strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")}


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """The names in a node, in the order of evaluation."""
    if isinstance(node, nodes.Name):
        yield node
    children = [node.node, node.target] if isinstance(node, nodes.Assign) else node.iter_child_nodes()
    for child in children:
        yield from _names(child)


# Time limit ----------------------------------------------------------------------------------------------------------


class _TimeUpError(Exception):
    """Raised in a thread that exceeds its time limit."""


class _Watch:
    """A thread that raises _TimeUpError in threads that exceed their time limit."""

    def __init__(self) -> None:
        self.begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.begin)  # the child has no such thread

    def begin(self) -> None:
        self._ends: dict[int, float] = {}
        self._lock = threading.Lock()
        self._started = False

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        me = threading.get_ident()
        with self._lock:
            if not self._started:
                threading.Thread(target=self._watch_limits, name="chat template limits", daemon=True).start()
                self._started = True
            self._ends[me] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                if self._ends.pop(me, None) is None:  # the limit was exceeded: clear an exception that is still pending
                    _raise_in(me, None)

    def _watch_limits(self) -> None:
        while True:
            time.sleep(0.25)
            now = time.monotonic()
            with self._lock:
                for thread in [thread for thread, end in self._ends.items() if end < now]:
                    del self._ends[thread]
                    _raise_in(thread, _TimeUpError)


def _raise_in(thread: int, error: type[Exception] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


_within = _Watch().within
