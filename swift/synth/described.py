"""A tool that only its description explains -> a function of the catalogue, with ways of asking for it. No model.

`functions` makes them for a set of tools at once: whether a word for one tool is clear depends on the others. What a
grammar makes is checked like the catalogue's files; templates with problems are dropped and counted.
"""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from swift.agent import schemas
from swift.chat import Tool
from swift.synth import catalogue, grammar_zh, kinds, opposites, verbs
from swift.synth.catalogue import Function, Parameter
from swift.synth.grammar import MOST, Grammar
from swift.synth.names import CHINESE, GENERIC, nouns_of, singular, tokens
from swift.synth.own_examples import Example, template_of
from swift.synth.properties import Property, properties_of
from swift.synth.schema_values import NoValues
from swift.synth.slot_phrases import unit_words
from swift.synth.slots import Slot, slots_of

DOMAIN = "own"
UNIVERSAL = frozenset(
    [
        "run",
        "execute",
        "eval",
        "shell",
        "command",
        "code",
        "sql",
        "browser",
        "web",
        "internet",
        "assistant",
        "llm",
        "prompt",
        "python",
        "bash",
    ]
)
"""Words in the names of tools that could do nearly anything: no request is certain to be beyond them."""
LEAST = 3
"""Different questions without which a function is not trained."""


@dataclass
class Made:
    """What was made of tools, in their order. `functions` have questions; `unasked` have none: they are offered and
    never asked for. `notes`: for the user, about a tool each. `dropped`: templates with problems, by tool."""

    functions: list[Function] = field(default_factory=list)
    unasked: list[Function] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def functions(tools: Sequence[Tool], examples: Mapping[str, Sequence[Example]] | None = None, seed: int = 42) -> Made:
    """Functions for the tools. `examples`: the user's own questions, by the name of the tool.

    Raises ValueError for examples of a tool that is not there.
    """
    examples = examples or {}
    names = [tool.name for tool in tools]
    if unknown := next((name for name in examples if name not in names), None):
        raise ValueError(f"examples for '{unknown}', which is no tool: {', '.join(names)}")
    made = Made()
    for tool in tools:
        try:
            made.functions.append(_function(tool, tools, examples.get(tool.name, ()), seed, made))
        except NoValues as error:
            made.notes.append(f"{tool.name}: offered, but never asked for: {error}")
            made.unasked.append(_blank(tool, {}))
    return made


def _function(tool: Tool, tools: Sequence[Tool], examples: Sequence[Example], seed: int, made: Made) -> Function:
    rng = random.Random(zlib.crc32(tool.name.encode()) ^ seed)
    schema = schemas.argument_schema(tool)
    owner = nouns_of(tool.name)
    given = _given(examples)
    properties = properties_of(schema, rng, given, owner[-1] if owner else tool.name)
    parameters: dict[str, Parameter] = {each.name: each.parameter for each in properties}
    blank = _blank(tool, parameters)
    is_zh = bool(CHINESE.search(tool.description)) or (
        not tool.description and any(CHINESE.search(p.about) for p in properties)
    )
    full = _chinese(blank, tools, properties, rng) if is_zh else _english(blank, tool, tools, properties, owner, rng)
    own = []
    for example in examples:
        template = template_of(example, blank)
        if isinstance(template, str):
            own.append(template)
        else:
            made.notes.append(f"{tool.name}: example {example.question!r} is left out: {template.reason}")
    if own:
        full = _with_own(full, own, is_zh)
    kept, dropped = checked(full)
    if dropped:
        made.dropped[tool.name] = dropped
    if len(kept.ask) < LEAST and len(kept.zh) < LEAST:
        raise NoValues(f"only {max(len(kept.ask), len(kept.zh))} questions could be made of its description")
    return kept


def _blank(tool: Tool, parameters: Mapping[str, Parameter]) -> Function:
    """The function without questions."""
    return Function(DOMAIN, tool.name, tool.description, parameters, (), (), (), {}, {}, (), (), dict(tool.spec))


def _with_own(function: Function, own: Sequence[str], is_zh: bool) -> Function:
    """The user's own questions first, and often enough to be a quarter of all."""
    texts = [text for text in own if bool(CHINESE.search(text)) == is_zh]
    others = [text for text in own if text not in texts]
    main = function.zh if is_zh else function.ask
    repeated = texts * max(1, len(main) // (3 * len(texts))) if texts else []
    if is_zh:
        return replace(function, zh=(*repeated, *main), ask=tuple(others) if len(others) >= LEAST else ())
    return replace(function, ask=(*repeated, *main), zh=tuple(others))


def _given(examples: Sequence[Example]) -> dict[str, list[Any]]:
    given: dict[str, list[Any]] = {}
    for example in examples:
        for name, value in (example.arguments or {}).items():
            if isinstance(value, dict):
                for inner, each in value.items():
                    given.setdefault(f"{name}.{inner}", []).append(each)
            else:
                given.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return given


# --- English --------------------------------------------------------------------------------------------------------


def _english(
    blank: Function,
    tool: Tool,
    tools: Sequence[Tool],
    properties: Sequence[Property],
    owner: Sequence[str],
    rng: random.Random,
) -> Function:
    taken = {
        verbs.verb_of(other.name, other.description)
        for other in tools
        if other.name != tool.name and set(nouns_of(other.name)) & set(owner)
    }
    words = {
        word
        for other in tools
        for word in re.findall("[a-z]+", f"{' '.join(tokens(other.name))} {other.description}".lower())
    }
    words |= set(map(singular, words))
    found = opposites.deeds(tool.name, tool.description, properties)
    if found is None:
        grammar = Grammar(tool.name, tool.description, slots_of(properties, owner), rng, taken, words=words)
        full = asked(blank, grammar, rng)
    else:
        decides, deeds = found
        slots = slots_of([each for each in properties if each is not decides], owner)
        grammars = [Grammar(deed.name, deed.description, slots, rng, taken, words=words) for deed in deeds]
        made = [
            (deed.literal, asked(blank, grammar, rng, MOST // len(deeds)))
            for deed, grammar in zip(deeds, grammars, strict=True)
        ]
        full, grammar = _of_deeds(made), grammars[0]
    result, say = _answers(grammar, blank)
    return replace(full, result=result, say=say)


def _of_deeds(made: Sequence[tuple[str, Function]]) -> Function:
    """The function with the questions for each thing that it does, about as often as each other. `made`: the value that
    means a thing, as a question has it, and the function with the questions for it."""
    most = MOST // len(made)
    literal, first = made[0]
    return replace(
        first,
        ask=tuple(f"{text}{value}" for value, each in made for text in each.ask[:most]),
        zh=tuple(f"{text}{value}" for value, each in made for text in each.zh[:most]),
        pair=tuple(f"{text}{value}" for value, each in made for text in each.pair),
        missing={path: (f"{text}{literal}", back) for path, (text, back) in first.missing.items()},
    )


def asked(blank: Function, grammar: Grammar, rng: random.Random, count: int = MOST) -> Function:
    """The function with the grammar's questions, which are not checked yet."""
    missing = {}
    for slot in grammar.required:
        if len(slot.paths) == 1 and slot.kind != "bool" and (vague := grammar.without(slot)):
            missing[slot.paths[0]] = (rng.choice(vague), _ask_back(slot, rng))
    return replace(blank, ask=tuple(grammar.questions(count)), pair=tuple(grammar.pairs()), missing=missing)


def _ask_back(slot: Slot, rng: random.Random) -> str:
    label = slot.label
    by_kind = {
        "date": ("For which date?", "On which day?"),
        "time": ("At what time?",),
        "city": (f"Which {label}?", f"What is the {label}?"),
        "person": (f"Who is the {label}?" if label not in ("name", "full name") else "What is the name?",),
        "message": (f"What should the {label} say?", f"What is the {label}?"),
        "quantity": ("How many?",),
    }
    texts = by_kind.get(slot.kind) if not slot.role else None
    if label in unit_words():
        return f"How many {label}?"
    be = "are" if verbs.is_plural(label) else "is"
    return rng.choice(
        texts or (f"What {be} the {label}?", f"Which {label} should I use?", f"Please tell me the {label}.")
    )


def _answers(grammar: Grammar, function: Function) -> tuple[dict[str, Any], tuple[str, ...]]:
    head = grammar.head
    if head.kind != "act":
        noun = re.split(r"\s(?:of|in|for|from|to|at|on|by|with)\s", re.sub(r"\{[^}]*\}", "", head.object))[0]
        noun = re.sub(r"^(?:the|an?|one|all|my|your|current)\s+", "", noun).strip() or "result"
        noun = "result" if re.match(r"(?:what|which|how|whether|who|when|where|if)\b", noun) else noun
        key = "_".join(re.findall(r"[a-z]+", noun.lower())[-2:]) or "result"
        key = key if key not in function.parameters else f"{key}_found"
        of: Any = ["A-12", "B-7", "none", "open", "12.5", "42", "ready", "unknown", "green", "3 items"]
        return {key: of}, (
            f"I found this: {{{key}}}.",
            f"The answer is {{{key}}}.",
            f"Here it is: {{{key}}}.",
            f"It says {{{key}}}.",
        )
    key = "status" if "status" not in function.parameters else "outcome"
    return {key: ["ok", "done", "success", "accepted"]}, (
        "Done.",
        f"That worked: {{{key}}}.",
        "It is done.",
        f"Finished, the result is {{{key}}}.",
    )


# --- Chinese --------------------------------------------------------------------------------------------------------


def _chinese(blank: Function, tools: Sequence[Tool], properties: Sequence[Property], rng: random.Random) -> Function:
    others = [tool.description for tool in tools if tool.name != blank.name]
    found = opposites.deeds_zh(blank.name, blank.description, properties)
    if found is not None:
        decides, deeds = found
        left = [each for each in properties if each is not decides]
        made = [
            (deed.literal, _chinese(replace(blank, description=deed.description), tools, left, rng)) for deed in deeds
        ]
        return replace(_of_deeds(made), description=blank.description)
    grammar = grammar_zh.Grammar(blank.name, blank.description, properties, rng, others)
    missing = {
        slot.paths[0]: (
            rng.choice(vague),
            rng.choice((f"请问{slot.label}是什么?", f"请提供{slot.label}。", f"{slot.label}是?")),
        )
        for slot in grammar.required
        if len(slot.paths) == 1 and (vague := grammar.without(slot))
    }
    key = "status" if "status" not in blank.parameters else "outcome"
    say: tuple[str, ...] = ("已完成。", "办好了。", f"操作成功:{{{key}}}。")
    result: dict[str, Any] = {key: ["ok", "成功", "已受理"]}
    if grammar.is_query:
        key = "result" if "result" not in blank.parameters else "found"
        say, result = (
            (f"查询结果:{{{key}}}。", f"结果是{{{key}}}。"),
            {key: ["A-12", "处理中", "已完成", "3项", "正常", "128"]},
        )
    return replace(blank, zh=tuple(grammar.questions()), missing=missing, result=result, say=say, say_zh=say)


# --- checks ---------------------------------------------------------------------------------------------------------


def checked(function: Function) -> tuple[Function, int]:
    """The function without templates that have problems, and the number of these."""

    def good(**fields: Any) -> bool:
        bare = replace(function, **{"ask": (), "zh": (), "pair": (), "missing": {}, "say": (), "say_zh": (), **fields})
        return not [
            each for each in catalogue.problems(bare) if "fewer than" not in each and "needs say_zh" not in each
        ]

    kept: dict[str, Any] = {}
    dropped = 0
    for name in ("ask", "zh", "pair", "say", "say_zh"):
        texts: tuple[str, ...] = _texts(function)[name]
        kept[name] = tuple(text for text in texts if good(**{name: (text,)}))
        dropped += len(texts) - len(kept[name])
    kept["missing"] = {path: pair for path, pair in function.missing.items() if good(missing={path: pair})}
    dropped += len(function.missing) - len(kept["missing"])
    return replace(function, **kept), dropped


def _texts(function: Function) -> dict[str, Any]:
    return {
        "ask": function.ask,
        "zh": function.zh,
        "pair": function.pair,
        "say": function.say,
        "say_zh": function.say_zh,
    }


# --- held-out phrasings ---------------------------------------------------------------------------------------------


def apart(made: Sequence[Function], share: float = 0.2, seed: int = 42) -> tuple[list[Function], list[Function]]:
    """(to train on, held out): whole templates of each function are held out, not only their values."""
    rng = random.Random(seed)
    train, held_out = [], []
    for function in made:
        parts: dict[str, tuple[list[str], list[str]]] = {}
        for name in ("ask", "zh"):
            distinct = list(dict.fromkeys(_texts(function)[name]))
            away = set(rng.sample(distinct, max(1, round(share * len(distinct))))) if len(distinct) > LEAST else set()
            parts[name] = [t for t in _texts(function)[name] if t not in away], [t for t in distinct if t in away]
        train.append(replace(function, ask=tuple(parts["ask"][0]), zh=tuple(parts["zh"][0])))
        held_out.append(
            replace(function, ask=tuple(parts["ask"][1] or parts["ask"][0]), zh=tuple(parts["zh"][1] or parts["zh"][0]))
        )
    return train, held_out


# --- requests that no tool can do -----------------------------------------------------------------------------------


def near_misses(tools: Sequence[Tool], made: Sequence[Function]) -> list[Function]:
    """Invented functions for the objects of the tools, whose verbs none of the tools has: close, and not possible."""
    words = {
        word
        for tool in tools
        for word in re.findall(r"[a-z]+", f"{' '.join(tokens(tool.name))} {tool.description}".lower())
    }
    parameters = {word for tool in tools for word in re.findall(r"[a-z]+", str(tool.parameters).lower())}
    if any(UNIVERSAL & set(tokens(tool.name)) for tool in tools):
        return []
    return list(_near(words, parameters, made))


def _near(words: Collection[str], parameters: Collection[str], made: Sequence[Function]) -> Iterator[Function]:
    values = {
        "new_name": Parameter("", "string", ["Harbour", "Maple", "Project Nine", "Blue Room", "Sunday"]),
        "person": Parameter("", "string", "person"),
        "copies": Parameter("", "integer", "int 2..9"),
        "language": Parameter("", "string", "language"),
        "stars": Parameter("", "integer", "int 1..5"),
        "amount": Parameter("", "integer", "int 10..900"),
        "year": Parameter("", "integer", "year"),
    }
    chinese = {
        "new_name": Parameter("", "string", ["枫叶", "海港", "九号项目", "蓝色房间", "周日"]),
        "person": Parameter("", "string", kinds.pool("person_zh")),
        "language": Parameter("", "string", ["英文", "日文", "法文", "德文", "韩文"]),
    }
    for function in made:
        said = _object(function)
        if not said:
            continue
        known = values if function.ask else {**values, **chinese}
        for verb, row in verbs_near().items():
            stems = {verb, *row["unless"]}
            if any(word.startswith(stem) for word in words for stem in stems) or verb in parameters:
                continue
            ask = row["zh"] if not function.ask else row["ask"]
            texts = tuple(text.replace("{object}", said[0]) for text in ask)
            used = {slot: known[slot] for text in texts for slot in catalogue.slots(text) if slot in known}
            used |= {name: function.parameters[name] for name in said[1]}
            yield Function(
                "near", f"{verb}_{function.name}", verb, used,
                texts if function.ask else (), () if function.ask else texts,
                (), {}, {}, (), (),
            )  # fmt: skip


def verbs_near() -> Mapping[str, Any]:
    near: Mapping[str, Any] = verbs.table()["near"]
    return near


_THINGS = frozenset(("id", "product", "file", "folder", "song", "film"))
"""Kinds of parameters that name a thing, which could be renamed, printed or shared."""


def _object(function: Function) -> tuple[str, list[str]] | None:
    """How users name the thing that a function is about, and the parameters that this says: "order {order_id}"."""
    for name, each in function.parameters.items():
        kind = kinds.recognised(name, each.what, each.type, function.name)
        if each.optional or each.type not in ("string", "integer") or kind.merge not in ("id", "proper", "name"):
            continue
        if kind.name not in _THINGS and not (kind.name == "title" and tokens(name)[-1:] in (["name"], ["title"])):
            continue
        if each.enum or each.of in ("date", "time") or re.search("YYYY|HH:MM", each.what):
            continue
        nouns = [word for word in tokens(name) if word not in GENERIC] or tokens(function.name)[1:]
        if kind.name in ("file", "folder") and function.ask:
            return f"the {kind.name} {{{name}}}", [name]
        if kind.name == "title":
            nouns = tokens(function.name)[1:]
        if not function.ask:
            return f"{kinds.label(name, each.what)}{{{name}}}", [name]
        return f"{nouns[-1]} {{{name}}}" if nouns else f"{{{name}}}", [name]
    return None
