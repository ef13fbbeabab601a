"""Turns and offers -> a conversation: structured tool calls, or ReAct text under a system prompt."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence

from swift.agent import ms_agent
from swift.chat import Conversation, Message
from swift.synth.offers import Offer
from swift.synth.rounds import Call, Turn

SOURCE = "synth"


def structured(turns: Sequence[Turn], offers: Mapping[str, Offer], rng: random.Random, thoughts: bool) -> Conversation:
    """A conversation whose tools and calls are values. `thoughts`: replies begin with one, as ReAct formats expect."""
    messages: list[Message] = []
    for turn in turns:
        messages.append(Message("user", turn.question))
        for step in turn.steps:
            said = ms_agent.thought_text(_thought(step, offers)) if thoughts else ""
            calls = tuple(offers[call.function.name].call(call.arguments) for call in step)
            messages.append(Message("assistant", said, calls))
            messages += [Message("tool", result_text(call, rng)) for call in step]
        answer = _named(turn.answer, offers)
        messages.append(Message("assistant", ms_agent.ending(answer, bool(turn.steps)) if thoughts else answer))
    return Conversation(tuple(messages), tuple(offer.tool for offer in offers.values()), source=SOURCE)


def as_text(turns: Sequence[Turn], offers: Mapping[str, Offer], rng: random.Random) -> Conversation:
    """A conversation whose tools stand in the system prompt and whose calls are ReAct text, one after the other."""
    messages = [Message("system", ms_agent.system_text([offer.tool for offer in offers.values()]))]
    for turn in turns:
        messages += [Message("user", turn.question), Message("assistant", "".join(_react(turn, offers, rng)))]
    return Conversation(tuple(messages), source=SOURCE)


def _react(turn: Turn, offers: Mapping[str, Offer], rng: random.Random) -> Iterator[str]:
    for call in (call for step in turn.steps for call in step):
        made = offers[call.function.name].call(call.arguments)
        # Programs write a result right after the colon, people after a space or on the next line.
        observation = f"{rng.choice(('', ' ', chr(10)))}{result_text(call, rng)}"
        yield ms_agent.step(_thought((call,), offers), made, observation)
    yield ms_agent.ending(_named(turn.answer, offers), bool(turn.steps))


def result_text(call: Call, rng: random.Random) -> str:
    """A result as a tool returns it: JSON, or Python's notation."""
    if isinstance(call.result, str):
        return call.result
    return str(call.result) if rng.random() < 0.2 else json.dumps(call.result, ensure_ascii=False)


def _thought(step: Sequence[Call], offers: Mapping[str, Offer]) -> str:
    names = " and ".join(dict.fromkeys(offers[call.function.name].name for call in step))
    return f"I need to call {names}."


def _named(answer: str, offers: Mapping[str, Offer]) -> str:
    """An answer that names functions, with the names that the conversation has for them."""
    return re.sub(r"\{([^{}]+)\}", lambda found: offers[found[1]].name if found[1] in offers else found[0], answer)
