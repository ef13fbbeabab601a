"""Turns and offers -> a conversation: structured tool calls, or ReAct text under a system prompt."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from swift.agent import schemas
from swift.chat import Conversation, Message
from swift.synth.offers import Offer
from swift.synth.rounds import Call, Turn

DONE, NO_TOOL = "I now know the final answer", "I do not need a tool."
SOURCE = "synth"


def structured(turns: Sequence[Turn], offers: Mapping[str, Offer], rng: random.Random, thoughts: bool) -> Conversation:
    """A conversation whose tools and calls are values. `thoughts`: replies begin with one, as ReAct formats expect."""
    messages: list[Message] = []
    for turn in turns:
        messages.append(Message("user", turn.question))
        for step in turn.steps:
            said = f"Thought: {_thought(step, offers)}\n" if thoughts else ""
            calls = tuple(offers[call.function.name].call(call.arguments) for call in step)
            messages.append(Message("assistant", said, calls))
            messages += [Message("tool", result_text(call, rng)) for call in step]
        answer = _named(turn.answer, offers)
        thought = DONE if turn.steps else NO_TOOL
        messages.append(Message("assistant", f"Thought: {thought}\nFinal Answer: {answer}" if thoughts else answer))
    return Conversation(tuple(messages), tuple(offer.tool for offer in offers.values()), source=SOURCE)


def as_text(turns: Sequence[Turn], offers: Mapping[str, Offer], rng: random.Random) -> Conversation:
    """A conversation whose tools stand in the system prompt and whose calls are ReAct text, one after the other."""
    messages = [Message("system", system_text(tuple(offers.values())))]
    for turn in turns:
        messages += [Message("user", turn.question), Message("assistant", "".join(_react(turn, offers, rng)))]
    return Conversation(tuple(messages), source=SOURCE)


def _react(turn: Turn, offers: Mapping[str, Offer], rng: random.Random) -> Iterator[str]:
    for call in (call for step in turn.steps for call in step):
        made = offers[call.function.name].call(call.arguments)
        yield f"Thought: {_thought((call,), offers)}\nAction: {made.name}\nAction Input: {made.arguments}\n"
        # Programs write a result right after the colon, people after a space or on the next line.
        yield f"Observation:{rng.choice(('', ' ', chr(10)))}{result_text(call, rng)}\n"
    yield f"Thought: {DONE if turn.steps else NO_TOOL}\nFinal Answer: {_named(turn.answer, offers)}"


def result_text(call: Call, rng: random.Random) -> str:
    """A result as a tool returns it: JSON, or Python's notation."""
    if isinstance(call.result, str):
        return call.result
    return str(call.result) if rng.random() < 0.2 else json.dumps(call.result, ensure_ascii=False)


def system_text(offers: Sequence[Offer]) -> str:
    """The system prompt that describes tools as in the rows of ms-agent."""
    listed = "\n\n".join(f"{number}. {_described(offer)}" for number, offer in enumerate(offers, 1))
    return (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        f"{listed}\n\nUse the following format:\n\n"
        "Thought: you should always think about what to do\n"
        f"Action: the action to take, should be one of the above tools[{', '.join(offer.name for offer in offers)}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n"
        "Begin!"
    )


def _described(offer: Offer) -> str:
    title = re.sub(r"(?<=[a-z])(?=[A-Z])|[_.]", " ", offer.name).lower()
    schema = schemas.argument_schema(offer.tool)
    parameters = [
        {"name": name, "description": about.get("description", ""), "required": str(name in schema.get("required", ()))}
        for name, about in schema.get("properties", {}).items()
    ]
    listed = json.dumps(parameters, ensure_ascii=False)
    return (
        f"{offer.name}: Call this tool to interact with the {title} API. {offer.tool.description} Parameters: {listed}"
    )


def _thought(step: Sequence[Call], offers: Mapping[str, Offer]) -> str:
    names = " and ".join(dict.fromkeys(offers[call.function.name].name for call in step))
    return f"I need to call {names}."


def _named(answer: str, offers: Mapping[str, Offer]) -> str:
    """An answer that names functions, with the names that the conversation has for them."""
    return re.sub(r"\{([^{}]+)\}", lambda found: offers[found[1]].name if found[1] in offers else found[0], answer)
