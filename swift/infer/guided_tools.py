"""A chat whose tool calls a grammar constrains to the tools of each request. Knows no tool that runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from swift.agent.jsontext import dumps
from swift.chat import Message, Tool
from swift.engine.sampling_params import SamplingParams
from swift.guided.grammar import Rules
from swift.guided.guide import Guide
from swift.infer.chat import Deltas
from swift.infer.local_chat import LocalChat

KEPT = 64
"""Guides to keep: dialogues with many tools offer many selections of them."""


def guided(
    chat: LocalChat, made: Callable[[Guide], object] = lambda guide: None
) -> Callable[[Sequence[Message], Sequence[Tool], SamplingParams], Deltas]:
    """The chat with a guide for the offered tools and their schemas, made once for each list of tools. Thread-safe.

    `made` gets each new guide.
    """
    known: dict[str, Guide] = {}
    making = threading.Lock()

    def ask(messages: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Deltas:
        if not tools:
            return chat(messages, tools, params)
        key = dumps([tool.spec for tool in tools])
        with making:
            guide = known.get(key)
            if guide is None:
                if len(known) >= KEPT:
                    del known[next(iter(known))]
                guide = known[key] = chat.guide(Rules(tuple(tools)))
                made(guide)
        return chat(messages, tools, replace(params, guide=guide))

    return ask
