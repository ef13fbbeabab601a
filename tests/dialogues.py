"""Dialogues in both of their forms: messages as `apply_chat_template` takes them, and conversations of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any, NamedTuple

from swift.chat import Conversation, Message, Tool, ToolCall

Wire = dict[str, Any]


class Dialogue(NamedTuple):
    """The same dialogue twice. It ends with an assistant's message; thoughts stand under `reasoning_content`."""

    name: str
    wire: list[Wire]
    tools: list[Wire]
    conversation: Conversation

    @property
    def asks(self) -> list[int]:
        """Where the assistant speaks: `wire[:number]` is what it is asked with."""
        return [number for number, message in enumerate(self.wire) if message["role"] == "assistant"]


def dialogues() -> Iterator[Dialogue]:
    """Dialogues of one to four rounds, by name; the names are all different."""
    yield from _words()
    yield from _thoughts()
    yield from _calls()
    yield from _thoughts_and_calls()


# The dialogues --------------------------------------------------------------------------------------------------------


def _words() -> Iterator[Dialogue]:
    """Questions and answers alone."""
    yield _dialogue("one round", [_user("What is 2 + 2?"), _says("4")])
    yield _dialogue("one round with a system text", [SYSTEM, _user("What is 2 + 2?"), _says("It is 4.")])
    yield _dialogue("two rounds", COUNTING[:4])
    yield _dialogue("three rounds with a system text", [SYSTEM, *COUNTING[:6]])
    yield _dialogue("four rounds", COUNTING)
    yield _dialogue(
        "text of several lines", [_user("Write a poem.\n\nTwo lines!"), _says("Roses,\n\n  and more.\n- x")]
    )
    yield _dialogue(
        "text of other scripts", [_user("2 加 2 等于几？"), _says("等于 4。😀"), _user("Café?"), _says("Où ?")]
    )
    yield _dialogue("text with markup", [_user('Is <b> & </b> "HTML"?'), _says("Yes: `<b>` & {{ x }} {% y %}.")])


def _thoughts() -> Iterator[Dialogue]:
    """The assistant thinks before it answers, and there are no tools."""
    yield _dialogue("a thought", [_user("What is 2 + 2?"), _says("4", thinks="Two and two.")])
    yield _dialogue("a thought and a system text", [SYSTEM, _user("Hi"), _says("Hello!", thinks="A greeting.")])
    yield _dialogue("a thought in each of two rounds", _thinking(COUNTING[:4]))
    yield _dialogue("a thought in each of four rounds and a system text", [SYSTEM, *_thinking(COUNTING)])
    yield _dialogue("a thought in the last round alone", [*COUNTING[:2], *_thinking(COUNTING[2:4])])
    yield _dialogue("a thought in the first round alone", [*_thinking(COUNTING[:2]), *COUNTING[2:4]])
    long = "First, 17 * 3 = 51.\n\nThen:\n  - add 4\n  - 55"
    yield _dialogue("a thought of several lines", [_user("17 * 3 + 4?"), _says("**55**", thinks=long)])


def _calls() -> Iterator[Dialogue]:
    """Tools are on offer, and the assistant thinks nothing."""
    yield _dialogue("tools that nobody calls", [_user("Hi"), _says("Hello!")], TOOLS)
    yield _dialogue("a call that ends the dialogue", WEATHER[:2], TOOLS)
    yield _dialogue("a call and its result", WEATHER, TOOLS)
    yield _dialogue("a call and its result with a system text", [SYSTEM, *WEATHER], TOOLS)
    yield _dialogue("a call without arguments", [_user("The time?"), *_asks(NOW), _says("It is noon.")], TOOLS)
    yield _dialogue(
        "words before a call", [_user("Weather?"), *_asks(PARIS, says="I will look it up."), _says("Sunny.")], TOOLS
    )
    yield _dialogue("parallel calls", [SYSTEM, *BOTH_CITIES], TOOLS)
    yield _dialogue("parallel calls that end the dialogue", BOTH_CITIES[:2], TOOLS)
    yield _dialogue(
        "calls one after another", [_user("Weather and time?"), *_asks(PARIS), *_asks(NOW), _says("So.")], TOOLS
    )
    yield _dialogue(
        "a tool that fails and is called again", [_user("Weather?"), *FAILING, _says("Sunny at last.")], TOOLS
    )
    yield _dialogue("arguments of all types", [_user("Book it."), *_asks(BOOKING), _says("Booked.")], TOOLS)
    yield _dialogue("two rounds with calls", [*WEATHER, _user("And the time?"), *_asks(NOW), _says("Noon.")], TOOLS)
    yield _dialogue(
        "four rounds with and without calls",
        [SYSTEM, *COUNTING[:2], *WEATHER, *COUNTING[2:4], *BOTH_CITIES],
        TOOLS,
    )


def _thoughts_and_calls() -> Iterator[Dialogue]:
    """Tools are on offer, and the assistant thinks before calls, answers or both."""
    yield _dialogue("a thought before a call that ends the dialogue", _thinking(WEATHER[:2]), TOOLS)
    yield _dialogue("a thought before a call and before the answer", _thinking(WEATHER), TOOLS)
    yield _dialogue("a thought before the call alone", [*_thinking(WEATHER[:2]), *WEATHER[2:]], TOOLS)
    yield _dialogue("a thought after the result alone", [*WEATHER[:3], *_thinking(WEATHER[3:])], TOOLS)
    yield _dialogue("a thought before parallel calls", [SYSTEM, *_thinking(BOTH_CITIES)], TOOLS)
    yield _dialogue(
        "a thought and words before a call",
        [_user("Weather?"), *_thinking(_asks(PARIS, says="I will look it up.")), _says("Sunny.")],
        TOOLS,
    )
    yield _dialogue("a thought about a failing tool", _thinking([_user("Weather?"), *FAILING, _says("Sunny.")]), TOOLS)
    yield _dialogue("thoughts and calls in each of two rounds", _thinking([*WEATHER, *BOTH_CITIES]), TOOLS)
    yield _dialogue(
        "thoughts and calls in three rounds with a system text",
        [SYSTEM, *_thinking([*WEATHER, *COUNTING[:2], _user("The time?"), *_asks(PARIS), *_asks(NOW), _says("Noon.")])],
        TOOLS,
    )


# Their parts ----------------------------------------------------------------------------------------------------------


def _user(text: str) -> Message:
    return Message("user", text)


def _says(text: str, thinks: str = "") -> Message:
    return Message("assistant", text, reasoning=thinks)


class _Use(NamedTuple):
    """A call of a tool and what comes back."""

    tool: str
    arguments: Wire
    result: str


def _asks(*uses: _Use, says: str = "") -> list[Message]:
    """An assistant's message with calls, and the results behind it in the same order; ids come with the dialogue."""
    calls = tuple(ToolCall(use.tool, json.dumps(use.arguments, ensure_ascii=False)) for use in uses)
    return [Message("assistant", says, calls), *(Message("tool", use.result, name=use.tool) for use in uses)]


def _thinking(messages: list[Message]) -> list[Message]:
    """The same with another thought before each of the assistant's messages."""
    return [
        Message("assistant", message.content, message.tool_calls, reasoning=f"Thought {number}: they want an answer.")
        if message.role == "assistant"
        else message
        for number, message in enumerate(messages, 1)
    ]


def _tool(name: str, description: str, parameters: Wire, required: list[str]) -> Wire:
    schema = {"type": "object", "properties": parameters, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


TOOLS = [
    _tool(
        "get_weather",
        "The weather in a city.",
        {
            "city": {"type": "string", "description": "The city's name"},
            "days": {"type": "integer", "description": "How many days ahead"},
        },
        ["city"],
    ),
    _tool("get_time", "The time of day.", {}, []),
    _tool(
        "book",
        "Books a table.",
        {
            "name": {"type": "string", "description": "Who comes"},
            "guests": {"type": "integer", "description": "How many come"},
            "budget": {"type": "number", "description": "In euros"},
            "outside": {"type": "boolean", "description": "Whether to sit in the garden"},
            "dishes": {"type": "array", "items": {"type": "string"}, "description": "What is eaten"},
            "contact": {
                "type": "object",
                "properties": {"mail": {"type": "string", "description": "An address"}},
                "description": "Where to write to",
            },
        },
        ["name", "guests"],
    ),
]

SYSTEM = Message("system", "You are a friendly helper.")
COUNTING = [
    *(_user("Count to 1."), _says("1.")),
    *(_user("Count to 2."), _says("1, 2.")),
    *(_user("Count to 3."), _says("1, 2, 3.")),
    *(_user("Count to 4."), _says("1, 2, 3, 4.")),
]
PARIS = _Use("get_weather", {"city": "Paris", "days": 2}, '{"sky": "sunny", "degrees": 21}')
ZURICH = _Use("get_weather", {"city": "Zürich"}, "rain")
NOW = _Use("get_time", {}, "12:00")
BOOKING = _Use(
    "book",
    {
        "name": 'Ann "A." O\'Hara <a&b>\nsecond line',
        "guests": 4,
        "budget": 99.5,
        "outside": True,
        "dishes": ["soup", "Käse"],
        "contact": {"mail": "ann@example.org"},
    },
    '{"ok": true}',
)
WEATHER = [_user("The weather in Paris?"), *_asks(PARIS), _says("It is sunny in Paris.")]
BOTH_CITIES = [_user("Is it nicer in Paris or in Zürich?"), *_asks(PARIS, ZURICH), _says("In Paris.")]
FAILING = [*_asks(PARIS._replace(result="Error: the service timed out")), *_asks(PARIS)]


# Their two forms ------------------------------------------------------------------------------------------------------


def _dialogue(name: str, messages: list[Message], tools: list[Wire] | None = None) -> Dialogue:
    offered, known = tools or [], _identified(messages)
    conversation = Conversation(tuple(known), tuple(Tool(spec) for spec in offered))
    return Dialogue(name, [_wire(message) for message in known], offered, conversation)


def _identified(messages: list[Message]) -> list[Message]:
    """The same with an id for each call, which its result names."""
    made, results, found = count(1), count(1), []
    for message in messages:
        calls = tuple(replace(call, id=f"call{next(made):05}") for call in message.tool_calls)
        result = f"call{next(results):05}" if message.role == "tool" else ""
        found.append(replace(message, tool_calls=calls, tool_call_id=result))
    return found


def _wire(message: Message) -> Wire:
    wire: Wire = {"role": message.role, "content": message.content}
    if message.reasoning:
        wire["reasoning_content"] = message.reasoning
    if message.tool_calls:
        wire["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.role == "tool":
        wire |= {"name": message.name, "tool_call_id": message.tool_call_id}
    return wire


def _call(call: ToolCall) -> Wire:
    function = {"name": call.name, "arguments": json.loads(call.arguments)}
    return {"id": call.id, "type": "function", "function": function}
