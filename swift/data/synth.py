"""Turns the catalogue of tools (tools.toml) into training conversations. Knows no tokenizer and no model."""

from __future__ import annotations

import json
import random
import re
import string
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from swift.chat import Conversation, Message, Tool, ToolCall

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Style = Literal["ms_agent", "messages"]
HERE = Path(__file__).parent
SENT_BACK = 4
"""One in so many rows of style "messages" has its history as an API's client sends it back: without thoughts."""

DONE = "I now know the final answer"
NO_TOOL = "I do not need a tool."

# How often a round is a talk without a tool; how often a second wish is added, to a tool that knows of such and to
# another one. The other rounds take one call.
NO_CALL, IF_SO, TWO_WISHES = 0.06, 0.4, 0.12


@dataclass(frozen=True, slots=True)
class Param:
    what: str
    values: Sequence[Any]
    optional: bool = False
    choices: bool = False

    @property
    def kind(self) -> str:
        """The JSON type of the values; numbers with and without a fraction together are "number"."""
        kinds = {_json_type(fill(value, random.Random(0))) for value in self.values}
        return "number" if kinds == {"integer", "number"} else kinds.pop()


@dataclass(frozen=True, slots=True)
class Entry:
    """A tool of the catalogue: its description, and how people ask for it. tools.toml explains the fields."""

    domain: str
    name: str
    held_out: bool
    description: str
    params: dict[str, Param]
    ask: tuple[str, ...]
    zh: tuple[str, ...]
    think: str
    result: dict[str, Sequence[Any]]
    in_list: bool
    say: str | dict[str, list[str]]
    then: dict[str, str]

    @property
    def spec(self) -> dict[str, Any]:
        """The tool as OpenAI describes it."""
        properties: dict[str, dict[str, Any]] = {}
        for name, param in self.params.items():
            properties[name] = {"type": param.kind, "description": param.what}
            if param.kind == "array":
                properties[name]["items"] = {"type": "number"}
            if param.choices:
                properties[name]["enum"] = list(param.values)
        required = [name for name, param in self.params.items() if not param.optional]
        parameters = {"type": "object", "properties": properties, "required": required}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class Call:
    """One call and what came back; `outcome` is the boolean that the answer hangs on, None where there is none."""

    thought: str
    name: str
    arguments: dict[str, Any]
    observation: str
    answer: str
    outcome: bool | None

    @property
    def text(self) -> str:
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Round:
    """A question, the calls it takes and the final answer."""

    question: str
    answer: str
    calls: tuple[Call, ...] = field(default=())


@cache
def catalogue() -> tuple[Entry, ...]:
    """Every tool of tools.toml, in the file's order."""
    domains = tomllib.loads((HERE / "tools.toml").read_text(encoding="utf-8"))
    shared = domains.pop("values")
    return tuple(
        _entry(domain, name, tools.get("held_out", False), fields, shared)
        for domain, tools in domains.items()
        for name, fields in tools.items()
        if name != "held_out"
    )


def _entry(domain: str, name: str, held_out: bool, fields: dict[str, Any], shared: dict[str, list[Any]]) -> Entry:
    def values(of: str | list[Any]) -> list[Any]:
        return shared[of] if isinstance(of, str) else of

    params = {
        param: Param(about["what"], values(about["of"]), about.get("optional", False), about.get("choices", False))
        for param, about in fields.get("params", {}).items()
    }
    in_list = isinstance(fields["result"], list)
    result = fields["result"][0] if in_list else fields["result"]
    return Entry(
        domain=domain,
        name=name,
        held_out=held_out,
        description=fields["description"],
        params=params,
        ask=tuple(fields["ask"]),
        zh=tuple(fields.get("zh", ())),
        think=fields["think"],
        result={key: values(of) for key, of in result.items()},
        in_list=in_list,
        say=fields["say"],
        then=fields.get("then", {}),
    )


@cache
def general_rows(split: str = "train") -> tuple[dict[str, str], ...]:
    """The rows of general.jsonl: `query` and `response`. Those of the split "test" are never trained on."""
    lines = (HERE / "general.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return tuple(row for row in rows if row.get("split", "train") == split)


def fill(value: Any, rng: random.Random) -> Any:
    """A value of the catalogue made concrete: # becomes a digit, ^ a capital letter, a leading = marks JSON."""
    if not isinstance(value, str):
        return value
    text = re.sub("#", lambda _: rng.choice("123456789"), value)
    text = re.sub(r"\^", lambda _: rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ"), text)
    return json.loads(text[1:]) if text.startswith("=") else text


def slots(template: str) -> list[str]:
    """The names of the {slots} of a template."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


def agent_rows(
    n: int,
    seed: int,
    held_out: bool = False,
    chinese: float = 0.18,
    style: Style = "ms_agent",
    rounds: tuple[int, int] = (1, 3),
    offered: tuple[int, int] = (2, 4),
) -> list[Conversation]:
    """Conversations with tools, each tool of the chosen half of the catalogue used about equally often.

    `rounds` and `offered` bound the number of questions in a row and of tools in its list; `chinese` is the
    share of questions asked in Chinese. Style "ms_agent" writes tools and calls as text, "messages" as values.
    """
    rng = random.Random(seed)
    deck = _deck(held_out, rng)
    rows = []
    for number in range(1, n + 1):
        leads = [next(deck) for _ in range(rng.randint(*rounds))]
        entries = _offer(leads, rng.randint(*offered), rng)
        asked = [_round(lead, entries, chinese, rng) for lead in leads]
        rows.append(_conversation(entries, asked, style, sent_back=number % SENT_BACK == 0))
    return rows


def evaluation_cases(
    n: int, seed: int, chinese: float = 0.18, style: Style = "ms_agent"
) -> list[tuple[Conversation, ToolCall]]:
    """Dialogues that end with a question to tools never trained on, and the call that answers it."""
    rng = random.Random(seed)
    deck = _deck(True, rng)
    cases = []
    for _ in range(n):
        lead = next(deck)
        entries = _offer([lead], rng.randint(2, 4), rng)
        question, call = _ask(lead, chinese, rng)
        conversation = _conversation(entries, [Round(question, "")], style)
        messages = conversation.messages[:-1]
        cases.append((conversation.with_messages(messages), ToolCall(call.name, call.text)))
    return cases


def _deck(held_out: bool, rng: random.Random) -> Iterator[Entry]:
    """The tools of one half of the catalogue, shuffled anew each time all have been dealt."""
    entries = [entry for entry in catalogue() if entry.held_out == held_out]
    while True:
        yield from rng.sample(entries, len(entries))


def _offer(leads: Sequence[Entry], size: int, rng: random.Random) -> list[Entry]:
    """A list of tools in which the leads occur, padded to `size` with their neighbours first, in random order."""
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


def _round(lead: Entry, entries: Sequence[Entry], chinese: float, rng: random.Random) -> Round:
    kind = rng.random()
    if kind < NO_CALL:
        row = rng.choice([row for row in general_rows() if len(row["response"]) <= 120])
        return Round(row["query"], row["response"])
    question, call = _ask(lead, chinese, rng)
    if kind < NO_CALL + (IF_SO if lead.then else TWO_WISHES):
        return _longer(question, call, lead, entries, rng)
    return Round(question, call.answer, (call,))


def _longer(question: str, call: Call, lead: Entry, entries: Sequence[Entry], rng: random.Random) -> Round:
    """A second wish after the first: one that hangs on the outcome where the tool knows of such, else another's."""
    if lead.then:
        follower = next(entry for entry in entries if entry.name == lead.then["call"])
        _, second = _ask(follower, 0.0, rng)
        question = f"{question} {lead.then['ask']}"
        if not call.outcome:
            return Round(question, call.answer, (call,))
    else:
        other = rng.choice([entry for entry in entries if entry.name != lead.name])
        more, second = _ask(other, 0.0, rng)
        question = f"{question} {more}"
    return Round(question, f"{call.answer} {second.answer}", (call, second))


def _ask(entry: Entry, chinese: float, rng: random.Random) -> tuple[str, Call]:
    """A question for one tool, and its call. A parameter is given exactly when the question names it."""
    template = rng.choice(entry.zh if entry.zh and rng.random() < chinese else entry.ask)
    named = slots(template)
    arguments = {name: fill(rng.choice(p.values), rng) for name, p in entry.params.items() if name in named}
    result = {key: fill(rng.choice(values), rng) for key, values in entry.result.items()}
    words = {key: _spoken(value) for key, value in {**arguments, **result}.items()}
    outcome, answer = None, entry.say
    if isinstance(answer, dict):
        (flag, (yes, no)), *_ = answer.items()
        outcome = bool(result[flag])
        answer = yes if outcome else no
    observed = [result] if entry.in_list else result
    written = json.dumps(observed) if rng.random() < 0.5 else str(observed)
    # Programs put what a tool gave back right after the colon, people after a space or on the next line.
    observation = rng.choice(("", " ", "\n")) + written
    thought = entry.think.format(**words)
    return template.format(**words), Call(thought, entry.name, arguments, observation, answer.format(**words), outcome)


def _spoken(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", list: "array"}
    return names.get(type(value), "string")


def _conversation(
    entries: Sequence[Entry], rounds: Sequence[Round], style: Style, sent_back: bool = False
) -> Conversation:
    if style == "ms_agent":
        messages = [Message("system", system_text(entries))]
        for asked in rounds:
            messages += [Message("user", asked.question), Message("assistant", react_text(asked))]
        return Conversation(tuple(messages), source="synth")
    messages = [message for asked in rounds for message in _turns(asked)]
    if sent_back:
        *before, last = messages
        messages = [*map(_as_sent_back, before), last]
    return Conversation(tuple(messages), tuple(Tool(entry.spec) for entry in entries), source="synth")


def _turns(asked: Round) -> Iterator[Message]:
    yield Message("user", asked.question)
    for call in asked.calls:
        yield Message("assistant", f"Thought: {call.thought}\n", (ToolCall(call.name, call.text),))
        yield Message("tool", call.observation.strip())
    yield Message("assistant", f"Thought: {DONE if asked.calls else NO_TOOL}\nFinal Answer: {asked.answer}")


def _as_sent_back(message: Message) -> Message:
    """A message without its thought, as clients send it back; not trained, since the model would write one."""
    if message.role != "assistant":
        return message
    answer = message.content.partition("Final Answer: ")[2]
    return replace(message, content=answer, weight=0.0)


def react_text(asked: Round) -> str:
    """A round as one assistant turn: thoughts, calls, what the tools gave back, and the final answer."""
    steps = [
        f"Thought: {call.thought}\nAction: {call.name}\nAction Input: {call.text}\nObservation:{call.observation}\n"
        for call in asked.calls
    ]
    return "".join(steps) + f"Thought: {DONE if asked.calls else NO_TOOL}\nFinal Answer: {asked.answer}"


def system_text(entries: Sequence[Entry]) -> str:
    """The system text that offers tools the way the ms-agent rows do."""
    offers = "\n\n".join(f"{number}. {_offered(entry)}" for number, entry in enumerate(entries, 1))
    names = ", ".join(entry.name for entry in entries)
    return (
        "Answer the following questions as best you can. You have access to the following APIs:\n"
        f"{offers}\n\nUse the following format:\n\n"
        "Thought: you should always think about what to do\n"
        f"Action: the action to take, should be one of the above tools[{names}]\n"
        "Action Input: the input to the action\n"
        "Observation: the result of the action\n"
        "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
        "Thought: I now know the final answer\n"
        "Final Answer: the final answer to the original input question\n"
        "Begin!"
    )


def _offered(entry: Entry) -> str:
    title = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", entry.name).lower()
    params = [
        {"name": name, "description": param.what, "required": str(not param.optional)}
        for name, param in entry.params.items()
    ]
    listed = json.dumps(params, ensure_ascii=False)
    return f"{entry.name}: Call this tool to interact with the {title} API. {entry.description} Parameters: {listed}"


def write_jsonl(rows: Iterable[Conversation], path: str | Path) -> int:
    """Writes rows as a user would have them; returns how many.

    The ms-agent style is `{"id", "conversations": [{"from", "value"}]}`, the other OpenAI's `{"messages", "tools"}`.
    Thoughts are `reasoning_content`, variables for the chat template `chat_template_kwargs`.
    """
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, 1):
            if row.tools:
                turns = [_as_message(message) for message in row.messages]
                line: dict[str, object] = {"messages": turns, "tools": [tool.spec for tool in row.tools]}
            else:
                said = [{"from": each.role, "value": each.content} | _thought(each) for each in row.messages]
                line = {"id": f"{row.source or 'row'}_{count}", "conversations": said}
            if row.template_kwargs:
                line["chat_template_kwargs"] = dict(row.template_kwargs)
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    return count


def _as_message(message: Message) -> dict[str, object]:
    turn: dict[str, object] = {"role": message.role, "content": message.content, **_thought(message)}
    if message.tool_calls:
        calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
        turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return turn if message.weight is None else {**turn, "loss": message.weight > 0}


def _thought(message: Message) -> dict[str, str]:
    return {"reasoning_content": message.reasoning} if message.reasoning else {}
