"""Dialogues with one or two served models, a file each, and what edits make of them. Knows no page and no server."""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from swift.chat import Message, Tool, ToolCall
from swift.data.row_tools import read_calls
from swift.data.rows import conversation
from swift.infer.confirmation import Mode
from swift.system.atomic_write import atomic_file
from swift.traces.rows import message as written

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "repetition_penalty", "seed")
"""The sampling parameters that a dialogue may set; the server's defaults apply to the others."""
FORMAT = 2
"""Of a dialogue's file."""
STOPPED = "Error: stopped by the user before there was a result"


@dataclass(frozen=True)
class Served:
    """A model of an OpenAI-compatible server. `model` "": the first that the server lists."""

    url: str = ""
    model: str = ""

    @property
    def label(self) -> str:
        return self.model or self.url or "-"


@dataclass(frozen=True)
class Setup:
    """Who is talked to and how. `models`: one, or two that get the same questions. `tools`, `mcp`: as the flags."""

    models: tuple[Served, ...] = (Served(),)
    system: str = ""
    tools: tuple[str, ...] = ()
    mcp: tuple[str, ...] = ()
    confirm: Mode = "writes"
    ask_below: float | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    max_turns: int = 8

    def __post_init__(self) -> None:
        """Raises ValueError for unknown sampling parameters and values out of range."""
        if unknown := sorted(set(self.sampling) - set(SAMPLING)):
            raise ValueError(f"sampling: {unknown[0]} is none of {', '.join(SAMPLING)}")
        if self.ask_below is not None and not 0 < self.ask_below <= 1:
            raise ValueError(f"ask below {self.ask_below:g}: must be a probability above 0, at most 1")
        if self.max_turns < 1:
            raise ValueError(f"max turns {self.max_turns}: must be 1 or more")


@dataclass(frozen=True)
class Side:
    """What one of the models and the user said, without the system message. `note`: why it did not go on; or ""."""

    messages: tuple[Message, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Dialogue:
    """`sides`: one a model. `tools`: those that were offered last or called. `origin`: the dialogue it was cut from."""

    id: str
    setup: Setup
    sides: tuple[Side, ...] = (Side(),)
    tools: tuple[Tool, ...] = ()
    origin: str = ""

    @property
    def title(self) -> str:
        said = next((message.content for message in self.sides[0].messages if message.role == "user"), "")
        return " ".join(said.split())[:60]

    def with_side(self, number: int, side: Side) -> Dialogue:
        return replace(self, sides=(*self.sides[:number], side, *self.sides[number + 1 :]))

    def all_messages(self, side: int) -> list[Message]:
        """The messages as they are sent, with the system prompt."""
        system = [Message("system", self.setup.system)] if self.setup.system else []
        return [*system, *self.sides[side].messages]


class Dialogues:
    """The dialogues in `folder`. A change is on the disk when its function returns, so a restarted page shows it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.RLock()

    def list(self, most: int) -> list[Dialogue]:
        """The `most` readable dialogues that changed last, the last one first."""
        files = sorted(self._folder.glob("*.json"), key=lambda file: self.stamp(file.stem), reverse=True)
        found = []
        for file in files[:most]:
            with suppress(ValueError):  # deleted meanwhile, or no dialogue; opening it says what is wrong
                found.append(self.read(file.stem))
        return found

    def new(self, setup: Setup) -> Dialogue:
        """An empty dialogue, which is saved."""
        return self.save(Dialogue(_new_id(), setup, tuple(Side() for _ in setup.models)))

    def read(self, id: str) -> Dialogue:
        """Raises ValueError for an unknown id and for a file that is not a dialogue."""
        file = self._file(id)
        try:
            return _dialogue(id, json.loads(file.read_text(encoding="utf-8", errors="surrogatepass")))
        except FileNotFoundError:
            raise ValueError(f"there is no dialogue {id}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not a dialogue: {error}") from None

    def save(self, dialogue: Dialogue) -> Dialogue:
        with self._lock, atomic_file(self._file(dialogue.id)) as file:
            text = json.dumps({"format": FORMAT, **asdict(dialogue)}, ensure_ascii=False, indent=1)
            file.write_text(f"{text}\n", encoding="utf-8", errors="surrogatepass")
        return dialogue

    def change(self, id: str, change: Callable[[Dialogue], Dialogue]) -> Dialogue:
        """Reads, changes and saves a dialogue; the replies of two models may come at once."""
        with self._lock:
            return self.save(change(self.read(id)))

    def stamp(self, id: str) -> int:
        """What changes with the file; 0 if there is none."""
        try:
            return self._file(id).stat().st_mtime_ns
        except (OSError, ValueError):
            return 0

    def delete(self, id: str) -> None:
        self._file(id).unlink(missing_ok=True)

    def _file(self, id: str) -> Path:
        if not re.fullmatch(r"[0-9a-z-]{1,40}", id):
            raise ValueError(f"'{id[:40]}' is not the name of a dialogue")
        return self._folder / f"{id}.json"


def with_setup(dialogue: Dialogue, setup: Setup) -> Dialogue:
    """The dialogue with another setup. A model that is added goes on from what the first one said."""
    sides = [*dialogue.sides, *(dialogue.sides[:1] * (len(setup.models) - len(dialogue.sides)))]
    return replace(dialogue, setup=setup, sides=tuple(sides[: len(setup.models)]))


def asked(dialogue: Dialogue, text: str) -> Dialogue:
    """The dialogue with a question to every model. Raises ValueError while a call has no result."""
    for side in dialogue.sides:
        if calls := open_calls(side.messages):
            raise ValueError(f"first type what {calls[0].name} returned")
    # A question that got no reply is replaced: no template renders two in a row.
    kept = [side.messages[:-1] if _ends_with_question(side.messages) else side.messages for side in dialogue.sides]
    return replace(dialogue, sides=tuple(Side((*messages, Message("user", text))) for messages in kept))


def _ends_with_question(messages: Sequence[Message]) -> bool:
    return bool(messages) and messages[-1].role == "user"


def open_calls(messages: Sequence[Message]) -> list[ToolCall]:
    """The calls of the last reply that have no result yet."""
    results = {message.tool_call_id for message in messages if message.role == "tool"}
    last = next((message for message in reversed(messages) if message.role == "assistant"), Message("assistant"))
    return [call for call in last.tool_calls if call.id not in results]


def awaits_reply(messages: Sequence[Message]) -> bool:
    """Whether the model is next: after a question, or after the results of all calls."""
    return bool(messages) and messages[-1].role in ("user", "tool") and not open_calls(messages)


def observed(dialogue: Dialogue, side: int, call_id: str, text: str) -> Dialogue:
    """The dialogue with a result that the user typed. Raises ValueError if the call is not open."""
    messages = dialogue.sides[side].messages
    call = next((call for call in open_calls(messages) if call.id == call_id), None)
    if call is None:
        raise ValueError("this call has a result already")
    result = Message("tool", text, tool_call_id=call.id, name=call.name)
    return dialogue.with_side(side, Side((*messages, result)))


def stopped(side: Side, said: Message | None) -> Side:
    """The side after a stop. `said`: the beginning of a reply, of which the text is kept and calls are not."""
    messages = side.messages
    closed = tuple(Message("tool", STOPPED, tool_call_id=call.id, name=call.name) for call in open_calls(messages))
    kept = (replace(said, tool_calls=()),) if said and said.content else ()
    return Side((*messages, *closed, *kept), "stopped")


def edited(dialogue: Dialogue, side: int, number: int, message: Message) -> Dialogue:
    """A new dialogue that goes on from `message` in the place of message `number`; the old one stays as it is.

    A question is the same for both models, so both go on from it. Otherwise the other side keeps its replies to that
    question.
    """
    messages = dialogue.sides[side].messages
    if not 0 <= number < len(messages):
        raise ValueError(f"there is no message {number}")
    message = replace(message, weight=None)
    questions = sum(each.role == "user" for each in messages[: number + 1])
    sides = []
    for place, other in enumerate(dialogue.sides):
        if place == side:
            sides.append(Side((*messages[:number], message)))
        elif message.role == "user":
            sides.append(Side((*_before_question(other.messages, questions), message)))
        else:
            sides.append(Side(tuple(_before_question(other.messages, questions + 1))))
    return replace(dialogue, id=_new_id(), sides=tuple(sides), origin=dialogue.id)


def _before_question(messages: Sequence[Message], number: int) -> Sequence[Message]:
    """The messages before the n-th question, all if there are fewer."""
    places = [place for place, message in enumerate(messages) if message.role == "user"]
    return messages[: places[number - 1]] if number <= len(places) else messages


def written_calls(text: str) -> tuple[ToolCall, ...]:
    """Calls from JSON: `{"name", "arguments"}` or a list of such. Raises ValueError for anything else."""
    if not text.strip():
        return ()
    try:
        calls = read_calls(json.loads(text), 1)
    except json.JSONDecodeError as error:
        raise ValueError(f"calls: line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from None
    return tuple(replace(call, id=f"call_{secrets.token_hex(6)}") for call in calls)


def row(dialogue: Dialogue, side: int) -> dict[str, Any]:
    """The side as a training row, up to its last complete reply. Raises ValueError if there is none to train on."""
    messages = dialogue.all_messages(side)
    while messages and (messages[-1].role != "assistant" or open_calls(messages)):
        messages.pop()
    if not any(message.role == "assistant" for message in messages):
        raise ValueError("there is no reply yet")
    return _checked(messages, dialogue.tools)


def corrected(dialogue: Dialogue, side: int, number: int, reply: Message) -> dict[str, Any]:
    """The training row whose last reply is `reply`, in the place of message `number`; nobody has judged the earlier
    replies, so they have weight 0. Raises ValueError for a reply that training would refuse."""
    system = len(dialogue.all_messages(side)) - len(dialogue.sides[side].messages)
    before = dialogue.all_messages(side)[: system + number]
    given = [replace(each, weight=0.0) if each.role == "assistant" else each for each in before]
    return _checked([*given, replace(reply, weight=None)], dialogue.tools)


def _checked(messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
    made = {"messages": [written(each) for each in messages]}
    made |= {"tools": [tool.wrapped for tool in tools]} if tools else {}
    conversation(made)
    return made


def _dialogue(id: str, content: Any) -> Dialogue:
    """The dialogue of a file. Raises KeyError, TypeError or ValueError."""
    if content["format"] != FORMAT:
        raise ValueError(f"it has format {content['format']}, not {FORMAT}")
    given = content["setup"]
    models = tuple(Served(**each) for each in given["models"])
    setup = Setup(**{**given, "models": models, "tools": tuple(given["tools"]), "mcp": tuple(given["mcp"])})
    sides = tuple(Side(tuple(map(_message, side["messages"])), side["note"]) for side in content["sides"])
    if len(sides) != len(models):
        raise ValueError(f"it has {len(sides)} sides and {len(models)} models")
    return Dialogue(id, setup, sides, tuple(Tool(each["spec"]) for each in content["tools"]), content["origin"])


def _message(given: dict[str, Any]) -> Message:
    calls, declined = (tuple(ToolCall(**each) for each in given.get(key, ())) for key in ("tool_calls", "declined"))
    return Message(**{**given, "tool_calls": calls, "declined": declined, "images": ()})


def _new_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
