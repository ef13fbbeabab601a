"""The demo's conversations, from its tools (`demo_tools`). Knows no tokenizer and no model.

docs/architecture.md has the reason why `swift.synth` does not make them: short rows, and what the tutorial asks for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from swift.agent import ms_agent
from swift.chat import Conversation, Message, Tool, ToolCall
from swift.data.demo_tools import CatalogueTool, catalogue, fill, slots
from swift.data.general import general_rows

Style = Literal["ms_agent", "messages"]
AS_SENT_BACK_EVERY = 4
"""One in this many rows of style "messages" has its history as API clients send it back: without reasoning."""

# Shares of rounds without a call, with a follow-up that depends on the first result (of tools that have one), and
# with two independent requests. The other rounds take one call.
NO_CALL, CONDITIONAL, TWO_TOOLS = 0.06, 0.4, 0.12


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its result. `outcome` is the boolean in the result that decides the answer, if there is one."""

    thought: str
    name: str
    arguments: dict[str, Any]
    observation: str
    answer: str
    outcome: bool | None

    @property
    def made(self) -> ToolCall:
        return ToolCall(self.name, json.dumps(self.arguments, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class Round:
    """A question, its calls and the final answer."""

    question: str
    answer: str
    calls: tuple[Call, ...] = field(default=())


def agent_rows(
    n: int,
    seed: int,
    held_out: bool = False,
    chinese: float = 0.18,
    style: Style = "ms_agent",
    rounds: tuple[int, int] = (1, 3),
    offered: tuple[int, int] = (2, 4),
) -> list[Conversation]:
    """`n` conversations with tools. Each tool of one half of the catalogue is used about equally often.

    `rounds` and `offered`: (min, max) number of questions and of tools per row; `chinese`: share of Chinese questions.
    Style "ms_agent" writes tools and calls as text, "messages" as structured values.
    """
    rng = random.Random(seed)
    tools = _shuffled_tools(held_out, rng)
    rows = []
    for number in range(1, n + 1):
        leads = [next(tools) for _ in range(rng.randint(*rounds))]
        entries = _choose_tools(leads, rng.randint(*offered), rng)
        made = [_round(lead, entries, chinese, rng) for lead in leads]
        rows.append(_conversation(entries, made, style, as_sent_back=number % AS_SENT_BACK_EVERY == 0))
    return rows


def evaluation_cases(
    n: int, seed: int, chinese: float = 0.18, style: Style = "ms_agent"
) -> list[tuple[Conversation, ToolCall]]:
    """(dialogue that ends with a question, expected call) of tools that are never trained on."""
    rng = random.Random(seed)
    tools = _shuffled_tools(True, rng)
    cases = []
    for _ in range(n):
        lead = next(tools)
        entries = _choose_tools([lead], rng.randint(2, 4), rng)
        question, call = _question(lead, chinese, rng)
        conversation = _conversation(entries, [Round(question, "")], style)
        messages = conversation.messages[:-1]
        cases.append((conversation.with_messages(messages), call.made))
    return cases


def _shuffled_tools(held_out: bool, rng: random.Random) -> Iterator[CatalogueTool]:
    """An endless stream of the tools of one half of the catalogue, reshuffled after each pass."""
    entries = [entry for entry in catalogue() if entry.held_out == held_out]
    while True:
        yield from rng.sample(entries, len(entries))


def _choose_tools(leads: Sequence[CatalogueTool], size: int, rng: random.Random) -> list[CatalogueTool]:
    """The leads and other tools, `size` in total and shuffled; tools of the same domain are preferred."""
    chosen = {entry.name: entry for entry in leads}
    half = [entry for entry in catalogue() if entry.held_out == leads[0].held_out]
    needed = [e for e in half if any(e.name == lead.then.get("call") for lead in leads)]
    near = [entry for entry in half if entry.domain == leads[0].domain]
    for entry in needed + rng.sample(near, len(near)) + rng.sample(half, len(half)):
        if entry in needed or len(chosen) < size:
            chosen.setdefault(entry.name, entry)
    entries = list(chosen.values())
    rng.shuffle(entries)
    return entries


def _round(lead: CatalogueTool, entries: Sequence[CatalogueTool], chinese: float, rng: random.Random) -> Round:
    kind = rng.random()
    if kind < NO_CALL:
        row = rng.choice([row for row in general_rows() if len(row["response"]) <= 120])
        return Round(row["query"], row["response"])
    question, call = _question(lead, chinese, rng)
    if kind < NO_CALL + (CONDITIONAL if lead.then else TWO_TOOLS):
        return _two_step_round(question, call, lead, entries, rng)
    return Round(question, call.answer, (call,))


def _two_step_round(
    question: str, call: Call, lead: CatalogueTool, entries: Sequence[CatalogueTool], rng: random.Random
) -> Round:
    """A round with a second request: conditional on the first result if the tool has one, else for another tool."""
    if lead.then:
        follower = next(entry for entry in entries if entry.name == lead.then["call"])
        _, second = _question(follower, 0.0, rng)
        question = f"{question} {lead.then['ask']}"
        if not call.outcome:
            return Round(question, call.answer, (call,))
    else:
        other = rng.choice([entry for entry in entries if entry.name != lead.name])
        more, second = _question(other, 0.0, rng)
        question = f"{question} {more}"
    return Round(question, f"{call.answer} {second.answer}", (call, second))


def _question(entry: CatalogueTool, chinese: float, rng: random.Random) -> tuple[str, Call]:
    """A question for one tool, and its call. The call has exactly the parameters that the question names."""
    template = rng.choice(entry.zh if entry.zh and rng.random() < chinese else entry.ask)
    named = slots(template)
    arguments = {name: fill(rng.choice(p.values), rng) for name, p in entry.params.items() if name in named}
    result = {key: fill(rng.choice(values), rng) for key, values in entry.result.items()}
    words = {key: _in_words(value) for key, value in {**arguments, **result}.items()}
    outcome, answer = None, entry.say
    if isinstance(answer, dict):
        (flag, (yes, no)), *_ = answer.items()
        outcome = bool(result[flag])
        answer = yes if outcome else no
    observed = [result] if entry.in_list else result
    written = json.dumps(observed) if rng.random() < 0.5 else str(observed)
    # Programs write a result right after the colon, people after a space or on the next line.
    observation = rng.choice(("", " ", "\n")) + written
    thought = entry.think.format(**words)
    return template.format(**words), Call(thought, entry.name, arguments, observation, answer.format(**words), outcome)


def _in_words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _conversation(
    entries: Sequence[CatalogueTool], rounds: Sequence[Round], style: Style, as_sent_back: bool = False
) -> Conversation:
    if style == "ms_agent":
        messages = [Message("system", system_text(entries))]
        for each in rounds:
            messages += [Message("user", each.question), Message("assistant", react_text(each))]
        return Conversation(tuple(messages), source="synth")
    messages = [message for each in rounds for message in _messages(each)]
    if as_sent_back:
        *before, last = messages
        messages = [*map(_without_reasoning, before), last]
    return Conversation(tuple(messages), tuple(Tool(entry.spec) for entry in entries), source="synth")


def _messages(each: Round) -> Iterator[Message]:
    yield Message("user", each.question)
    for call in each.calls:
        yield Message("assistant", ms_agent.thought_text(call.thought), (call.made,))
        yield Message("tool", call.observation.strip())
    yield Message("assistant", ms_agent.ending(each.answer, bool(each.calls)))


def _without_reasoning(message: Message) -> Message:
    """A message without reasoning, as clients send it back. It has weight 0: the model itself writes reasoning."""
    if message.role != "assistant":
        return message
    answer = message.content.partition("Final Answer: ")[2]
    return replace(message, content=answer, weight=0.0)


def react_text(each: Round) -> str:
    """A round as one assistant turn: thoughts, calls, observations and the final answer."""
    steps = [ms_agent.step(call.thought, call.made, call.observation) for call in each.calls]
    return "".join(steps) + ms_agent.ending(each.answer, bool(each.calls))


def system_text(entries: Sequence[CatalogueTool]) -> str:
    """The system prompt that describes tools as in the ms-agent rows."""
    return ms_agent.system_text([Tool(entry.spec) for entry in entries])
