"""The chat template that came with a tokenizer, run within limits. Knows no message of ours."""

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

from swift.template.jinja_environment import MOST, Refused, compiled

SECONDS = 10.0
"""Most time that one rendering may take."""


class ChatTemplate:
    """A Jinja chat template and the special tokens it may name, in transformers' sandbox.

    `today` is the date that it sees; None: the day on which it is run.
    """

    def __init__(self, source: str, tokens: Mapping[str, str], today: date | None = None) -> None:
        """Raises Refused for what is no Jinja."""
        self.source = source
        self._tokens = dict(tokens)
        self._today = today
        try:
            self._template = compiled(source)
        except TemplateError as reason:
            raise Refused(f"the tokenizer's chat template is no Jinja: {reason}") from None

    @cached_property
    def variables(self) -> frozenset[str]:
        """The names that the template reads before it gives them a value itself."""
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
        """What `apply_chat_template` gives. Raises Refused for messages that the template does not take."""
        given = {**self._tokens, **self.dated, **(variables or {}), "add_generation_prompt": generate}
        given |= {"messages": messages, "tools": list(tools) or None, "documents": None}
        written: list[str] = []
        size = 0
        try:
            with _within(SECONDS):
                for text in self._template.root_render_func(self._template.new_context(given)):
                    written.append(text)
                    size += len(text)
                    if size > MOST:
                        raise Refused(f"the tokenizer's chat template writes more than {MOST} characters")
        except Refused:
            raise
        except _TimeUpError:
            raise Refused(f"the tokenizer's chat template takes more than {SECONDS:g} s") from None
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as reason:
            raise Refused(f"the tokenizer's chat template refuses this dialogue: {reason}") from None
        return "".join(written)

    @cached_property
    def dated(self) -> dict[str, Any]:
        """The variables that say which day it is."""
        if self._today is None:
            return {}
        day = datetime(self._today.year, self._today.month, self._today.day)
        return {"strftime_now": day.strftime, "date_string": day.strftime("%d %b %Y")}


def _names(node: nodes.Node) -> Iterator[nodes.Name]:
    """The names in a part of a template, in the order in which they are read and set."""
    if isinstance(node, nodes.Name):
        yield node
    children = [node.node, node.target] if isinstance(node, nodes.Assign) else node.iter_child_nodes()
    for child in children:
        yield from _names(child)


# Limits of time ------------------------------------------------------------------------------------------------------


class _TimeUpError(Exception):
    """Raised in a thread whose time is over."""


class _Watch:
    """One thread that looks after all that have a limit of time, and breaks into those that are late."""

    def __init__(self) -> None:
        self.begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.begin)  # where the thread is not

    def begin(self) -> None:
        self._ends: dict[int, float] = {}
        self._lock = threading.Lock()
        self._started = False

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        me = threading.get_ident()
        with self._lock:
            if not self._started:
                threading.Thread(target=self._look, name="chat template limits", daemon=True).start()
                self._started = True
            self._ends[me] = time.monotonic() + seconds
        try:
            yield
        finally:
            with self._lock:
                if self._ends.pop(me, None) is None:  # it was broken into, perhaps just now: do not leave that pending
                    _break_into(me, None)

    def _look(self) -> None:
        while True:
            time.sleep(0.25)
            now = time.monotonic()
            with self._lock:
                for thread in [thread for thread, end in self._ends.items() if end < now]:
                    del self._ends[thread]
                    _break_into(thread, _TimeUpError)


def _break_into(thread: int, error: type[Exception] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error) if error else None)


_within = _Watch().within
