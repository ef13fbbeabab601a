"""The replies to dialogues that this process waits for, and the tools that run in them. Knows no page."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, NamedTuple

from swift.chat import Delta, Draft, Message, Tool, ToolCall
from swift.infer.confirmation import Confirmation
from swift.studio import dialogues
from swift.studio.dialogues import SAMPLING, Dialogue, Dialogues, Served, Setup, Side
from swift.tools.bound_tool import BoundTool
from swift.tools.call import Confirm, Result, call_all
from swift.tools.loop import Deltas, run
from swift.tools.retrieval import Retriever
from swift.tools.toolbox import Toolbox
from swift.traces.rows import weighed

if TYPE_CHECKING:
    from swift.engine.sampling_params import SamplingParams
    from swift.infer.remote_chat import RemoteChat

Connect = Callable[[Served, frozenset[str]], "RemoteChat"]
"""(model, sampling parameters that are left to its server) -> the model. Raises OSError or ValueError."""
OpenTools = Callable[[Setup], Toolbox]
"""Raises OSError or ValueError for tools that cannot be used."""
WHOLE = ("top_k", "max_tokens", "seed")
"""Sampling parameters that are whole numbers."""
MAX_TOOLS = 16
"""Tools that are offered at a time; of more, those that fit the dialogue best."""
OPEN = 8
"""Dialogues whose tools stay open, so that they remember their state; of more, the one used last is closed."""
NOTES = {
    "length": "the reply reached its maximum length",
    "cancelled": "the server ended the reply before its end",
    "max_turns": "no answer within the maximum number of turns",
}


class Asked(NamedTuple):
    """A call that waits for the user's word: yes, no or always."""

    tool: BoundTool
    call: ToolCall
    words: SimpleQueue[str]


class Live:
    """A reply under way. A viewer looks at it again and again.

    `asked`: the call that waits for the user, if one does. `doing`: what is waited for otherwise.
    """

    def __init__(self) -> None:
        self.draft = Draft()
        self.asked: Asked | None = None
        self.doing: Literal["connecting", "replying", "calling"] = "connecting"
        self.stopped = False

    @property
    def message(self) -> Message:
        """What there is of the reply."""
        return self.draft.message

    def answer(self, word: str) -> None:
        """`word`: yes, no or always, for the call that waits, if one does."""
        if asked := self.asked:
            asked.words.put(word)

    def read(self, prompt: str) -> str:
        """The user's answer, for a Confirmation. Raises EOFError after a stop."""
        asked = self.asked
        word = asked.words.get() if asked and not self.stopped else ""
        if self.stopped or not asked:
            raise EOFError
        return word

    def stop(self) -> None:
        self.stopped = True
        self.answer("no")


class _Stopped(Exception):
    """Ends the thread of a reply that the user stopped."""


class _Tools(NamedTuple):
    """The open tools of a side, what they were opened for, and what the user allowed them."""

    wanted: tuple[object, ...]
    toolbox: Toolbox
    confirmation: Confirmation


Key = tuple[str, int]
"""A dialogue's id and the number of its side."""


class Replies:
    """Replies of models to the dialogues of `dialogues`; each reply has a thread.

    Every message is saved when it is complete, so nothing but the reply under way is lost with this process.
    """

    def __init__(self, dialogues: Dialogues, connect: Connect, open_tools: OpenTools) -> None:
        self._dialogues, self._connect, self._open_tools = dialogues, connect, open_tools
        self._live: dict[Key, Live] = {}
        self._tools: dict[Key, _Tools] = {}
        self._lock = threading.RLock()

    def live(self, id: str, side: int) -> Live | None:
        """The reply under way, if there is one."""
        return self._live.get((id, side))

    def ask(self, id: str, text: str) -> None:
        """Sends a question to every model of a dialogue. Raises ValueError for an empty one, and while one replies."""
        if not text.strip():
            raise ValueError("the question is empty")
        if any(key[0] == id for key in self._live):
            raise ValueError("a reply is under way: wait, or stop it")
        self._dialogues.change(id, lambda dialogue: dialogues.asked(dialogue, text))
        self.go_on(id)

    def observe(self, id: str, side: int, call_id: str, text: str) -> None:
        """Records a result that the user typed; after the last one the model goes on."""
        self._dialogues.change(id, lambda dialogue: dialogues.observed(dialogue, side, call_id, text))
        self.go_on(id)

    def go_on(self, id: str) -> None:
        """Starts what is due: calls without a result, and replies to a question or to results."""
        dialogue = self._dialogues.read(id)
        for number, side in enumerate(dialogue.sides):
            with self._lock:
                due = dialogues.awaits_reply(side.messages) or dialogues.open_calls(side.messages)
                if (id, number) in self._live or not due:
                    continue
                live = self._live[id, number] = Live()
            threading.Thread(target=self._work, args=(id, number, live), daemon=True).start()

    def stop(self, id: str) -> None:
        """Ends the replies under way at once. What they said so far stays; a tool that runs is not waited for."""
        with self._lock:
            for key in [key for key in self._live if key[0] == id]:
                live = self._live.pop(key)
                stopped = partial(dialogues.stopped, said=live.message)
                live.stop()
                self._change(key, stopped)

    def close(self) -> None:
        """Stops all replies and ends the tools."""
        for id in {id for id, _ in [*self._live, *self._tools]}:
            self.forget(id)

    def forget(self, id: str) -> None:
        """Stops the replies of a dialogue and ends its tools, whose state is lost."""
        self.stop(id)
        with self._lock:
            for key in [key for key in self._tools if key[0] == id]:
                self._tools.pop(key).toolbox.close()

    def _change(self, key: Key, change: Callable[[Side], Side]) -> None:
        """Changes a side of a dialogue that may have been deleted."""
        id, number = key
        with suppress(ValueError):
            self._dialogues.change(id, lambda each: each.with_side(number, change(each.sides[number])))

    def _work(self, id: str, side: int, live: Live) -> None:
        note = ""
        try:
            note = self._reply(self._dialogues.read(id), side, live)
        except _Stopped:
            return
        except (ValueError, OSError) as error:
            note = f"error: {error}"
        except Exception as error:  # a bug must not leave a page that waits for ever
            note = f"error: {type(error).__name__}: {error}"
            raise
        finally:
            with self._lock:
                if not live.stopped:
                    self._change((id, side), lambda said: replace(said, note=note))
                    self._live.pop((id, side), None)

    def _reply(self, dialogue: Dialogue, side: int, live: Live) -> str:
        """Runs the agent loop and saves its messages. Returns why it did not end with an answer; "" if it did."""
        setup = dialogue.setup
        params, left = _params(setup)
        toolbox, confirmation = self._opened(dialogue.id, side, setup)
        begin = len(dialogue.all_messages(side)) - len(dialogue.sides[side].messages)
        offered: dict[str, Tool] = {}

        def save(messages: Sequence[Message]) -> None:
            with self._lock:
                if live.stopped:
                    raise _Stopped
                said = Side(tuple(messages[begin:]))
                self._dialogues.change(
                    dialogue.id, lambda each: _with_tools(each.with_side(side, said), offered.values())
                )
                live.draft = Draft()

        def chat(messages: Sequence[Message], tools: Sequence[Tool], params: SamplingParams) -> Deltas:
            live.doing = "replying"
            offered.update((tool.name, tool) for tool in tools)
            save(messages)
            ids = {call.id for message in messages for call in message.tool_calls}
            return _streamed(model(messages, tools, params), live, ids, lambda reply: save([*messages, reply]))

        def confirm(tool: BoundTool, call: ToolCall) -> bool:
            live.asked = Asked(tool, call, SimpleQueue()) if confirmation.asks(tool, call) else None
            try:
                return confirmation(tool, call) and not live.stopped
            finally:
                live.asked = None

        messages = dialogue.all_messages(side)
        if waiting := dialogues.open_calls(messages):
            messages += _run_others(toolbox.tools, waiting, confirm)[0]
            save(messages)
            if dialogues.open_calls(messages):
                return ""
        model = self._connect(setup.models[side], left)
        trace = run(
            chat,
            lambda: toolbox.tools,
            messages,
            setup.max_turns,
            params=params,
            confirm=confirm,
            offer=Retriever(lambda: toolbox.tools, MAX_TOOLS).offer,
        )
        if trace.end == "requires_action":
            said, results = _run_others(toolbox.tools, trace.messages[-1].tool_calls, confirm)
            trace = replace(trace, messages=(*trace.messages, *said), results=(*trace.results, *results))
        said = weighed(trace, len(messages))
        if trace.end in ("length", "cancelled"):  # a call that was cut has no result
            said[-1] = replace(said[-1], tool_calls=())
        save(said)
        return NOTES.get(trace.end, "")

    def tools(self, id: str) -> list[BoundTool]:
        """The tools of a dialogue, which are opened if they are not. Raises OSError or ValueError."""
        return self._opened(id, 0, self._dialogues.read(id).setup)[0].tools

    def _opened(self, id: str, side: int, setup: Setup) -> tuple[Toolbox, Confirmation]:
        """The tools of a side: each has its own, so that what one model does is not done for the other."""
        wanted = (setup.tools, setup.mcp, setup.confirm, setup.ask_below)
        with self._lock:
            known = self._tools.pop((id, side), None)
        if known is None or known.wanted != wanted:
            if known:
                known.toolbox.close()
            confirmation = Confirmation(
                lambda prompt: self._live[id, side].read(prompt), setup.confirm, setup.ask_below
            )
            known = _Tools(wanted, self._open_tools(setup), confirmation)
        with self._lock:
            self._tools[id, side] = known
            for key in [key for key in self._tools if key not in self._live][:-OPEN]:
                self._tools.pop(key).toolbox.close()
        return known.toolbox, known.confirmation


def _streamed(
    deltas: Deltas, live: Live, ids: set[str], done: Callable[[Message], None]
) -> Generator[Delta, None, None]:
    """The deltas as they pass into the draft; `ids`: of earlier calls, which servers may give again."""
    try:
        for delta in deltas:
            if live.stopped:
                raise _Stopped
            call = delta.tool_call
            if call is not None and call.name and (not call.id or call.id in ids):
                delta = replace(delta, tool_call=replace(call, id=f"call_{secrets.token_hex(6)}"))
            if delta.tool_call:
                ids.add(delta.tool_call.id)
            live.draft.add(delta)
            yield delta
    finally:
        deltas.close()
    finish, reply = live.draft.finish, live.message
    live.doing = "calling" if reply.tool_calls else "replying"
    done(replace(reply, tool_calls=()) if finish in ("length", "cancelled") else reply)


def _run_others(
    present: Sequence[BoundTool], calls: Sequence[ToolCall], confirm: Confirm
) -> tuple[list[Message], list[Result]]:
    """Runs the calls of a reply but those of described tools, whose results the user types."""
    described = {bound.name for bound in present if bound.described}
    others = [call for call in calls if call.name not in described]
    results = call_all(present, others, confirm=confirm)
    named = zip(others, results, strict=True)
    return [Message("tool", result.text, tool_call_id=call.id, name=call.name) for call, result in named], results


def _with_tools(dialogue: Dialogue, offered: Iterable[Tool]) -> Dialogue:
    """The dialogue with the tools that are offered now, and earlier ones that were called."""
    now = {tool.name: tool for tool in offered}
    called = {call.name for side in dialogue.sides for message in side.messages for call in message.tool_calls}
    earlier = [tool for tool in dialogue.tools if tool.name in called and tool.name not in now]
    return replace(dialogue, tools=(*earlier, *now.values()))


def _params(setup: Setup) -> tuple[SamplingParams, frozenset[str]]:
    """The sampling parameters, and the names of those that the server's defaults decide. Raises ValueError."""
    from swift.engine.sampling_params import SamplingParams

    given = {name: int(value) if name in WHOLE else value for name, value in setup.sampling.items()}
    return SamplingParams(**given, confidence=True), frozenset(SAMPLING) - given.keys()  # type: ignore[arg-type]
