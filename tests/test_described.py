"""The user's own tools as functions of the catalogue: what people may say for them, from descriptions alone."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from swift.agent import schemas
from swift.chat import Tool
from swift.synth import catalogue, described, kinds, own_examples, phrasing, verify
from swift.synth.catalogue import Function
from swift.synth.own_examples import Example


def tool(name: str, description: str, required: tuple[str, ...] = (), **properties: Mapping[str, Any]) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return Tool({"type": "function", "function": {"name": name, "description": description, "parameters": schema}})


LAMP = tool(
    "set_lamp",
    "Set the brightness of a lamp.",
    ("room", "percent"),
    room={"type": "string", "enum": ["hall", "reading_room"], "description": "Where the lamp is."},
    percent={"type": "integer", "description": "Brightness in percent, 0 to 100."},
    colour={"type": "string", "description": "One of warm, cold."},
)
CANCEL = tool(
    "cancel_order",
    "Cancel an order; its articles go back into stock.",
    ("number",),
    number={"type": "string", "description": "The order number, such as HB-1234."},
    refund={"type": "boolean", "description": "Whether to pay the money back."},
)
LEND = tool(
    "lend_book",
    "Lend a book to a reader.",
    ("book_id", "reader", "until"),
    book_id={"type": "string", "description": "The number on the book, such as B-1042."},
    reader={
        "type": "object",
        "description": "Who takes it.",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 6, "maximum": 99}},
        "required": ["name"],
    },
    until={"type": "string", "format": "date"},
)
ORDER = tool(
    "query_order",
    "查询订单状态。",
    ("order_id",),
    order_id={"type": "string", "description": "订单号,例如 DD20240001"},
)


def one(given: Tool, *examples: Example) -> Function:
    made = described.functions([given], {given.name: examples})
    assert not made.notes, made.notes
    return made.functions[0]


def requests(function: Function, count: int = 200) -> list[phrasing.Request]:
    rng = random.Random(1)
    language = "en" if function.ask else "zh"
    texts = function.ask or function.zh
    return [phrasing.request(function, rng.choice(texts), rng, language) for _ in range(count)]


@pytest.mark.parametrize("given", [LAMP, CANCEL, LEND, ORDER], ids=lambda each: each.name)
def test_a_description_is_enough_for_dozens_of_questions_that_say_every_argument(given: Tool) -> None:
    function = one(given)
    texts = function.ask or function.zh
    assert len(set(texts)) >= 40
    assert not list(catalogue.problems(function))
    checker = schemas.checker(schemas.argument_schema(given))
    for made in requests(function):
        assert checker.is_valid(made.arguments), made
        assert not re.search(r"[{}\[\]]|  ", made.text), made.text
        for path, said in made.said.items():
            assert said.words.casefold() in made.text.casefold()
            assert not said.words or verify.follows(said, function.parameter(path).of), (path, said)


def test_values_are_many_so_that_they_have_to_be_copied() -> None:
    numbers = {made.arguments["number"] for made in requests(one(CANCEL))}
    assert len(numbers) > 130 and all(re.fullmatch(r"HB-\d{4}", each) for each in numbers)
    readers = {made.arguments["reader"]["name"] for made in requests(one(LEND))}
    assert len(readers) > 30


def test_numbers_keep_their_limits_and_are_said_with_their_unit() -> None:
    for made in requests(one(LAMP)):
        value, words = made.arguments["percent"], made.said["percent"].words
        assert 0 <= value <= 100
        assert "percent" in words or "%" in words


def test_closed_lists_and_enums_are_the_only_values_and_are_said_in_words() -> None:
    made = requests(one(LAMP))
    assert {each.arguments["room"] for each in made} == {"hall", "reading_room"}
    assert all("reading_room" not in each.text for each in made)
    assert {each.arguments["colour"] for each in made if "colour" in each.arguments} == {"warm", "cold"}


def test_dates_are_said_in_several_ways_and_written_in_one() -> None:
    made = requests(one(LEND))
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", each.arguments["until"]) for each in made)
    assert any(each.arguments["until"] not in each.text for each in made)


def test_a_switch_is_said_by_a_phrase_and_left_out_elsewhere() -> None:
    made = requests(one(CANCEL))
    said = [each for each in made if "refund" in each.arguments]
    assert {each.arguments["refund"] for each in said} == {True, False}
    assert len(said) < len(made)
    assert any("pay the money back" in each.text for each in said)


def test_a_question_that_lacks_a_value_comes_with_what_to_ask() -> None:
    function = one(LAMP)
    assert set(function.missing) == {"room", "percent"}
    for path, (text, back) in function.missing.items():
        assert path not in catalogue.slots(text) and back.endswith(("?", "."))


def test_two_calls_are_asked_for_in_one_sentence() -> None:
    function = one(CANCEL)
    rng = random.Random(2)
    text, made = phrasing.requests(function, rng.choice(function.pair), rng)
    assert len({each.arguments["number"] for each in made}) == len(made) >= 2
    assert all(each.arguments["number"] in text for each in made)


def test_chinese_descriptions_make_chinese_questions() -> None:
    function = one(ORDER)
    assert not function.ask and function.say_zh
    for made in requests(function, 40):
        assert re.search("订单", made.text) and re.search(r"DD\d{8}", made.text)


def test_own_questions_become_templates_with_the_values_as_slots() -> None:
    function = one(
        LAMP,
        Example("It is too dark in the reading room, seventy percent please", {"room": "reading_room", "percent": 70}),
        Example("make {room} cosy, {percent}", {"colour": "warm"}),
    )
    assert function.ask[0] == "It is too dark in the {room}, {percent} please"
    assert "make {room} cosy, {percent}{colour=warm}" in function.ask
    ours = [text for text in function.ask if "cosy" in text or "too dark" in text]
    assert len(ours) > len(function.ask) / 5


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (Example("cancel HB-1"), "it does not say number"),
        (Example("cancel it", {"number": "HB-1234", "speed": 3}), "there is no parameter speed"),
        (Example("cancel {number} {oops", {}), "a brace"),
    ],
)
def test_an_own_question_that_cannot_be_used_is_named(example: Example, reason: str) -> None:
    made = described.functions([CANCEL], {"cancel_order": [example]})
    assert len(made.functions) == 1
    assert reason in made.notes[0] and example.question in made.notes[0]


def test_docstrings_are_read_without_running_the_file(tmp_path: Path) -> None:
    file = tmp_path / "tools.py"
    file.write_text(
        'raise SystemExit("not to be run")\n'
        "def lamp(room: str):\n"
        '    """Switch a lamp.\n\n    Args:\n        room: Where.\n\n    Examples:\n'
        '        Light in the hall! -> {"room": "hall"}\n        - switch {room}\n\n'
        '    Returns:\n        Nothing.\n    """\n',
        encoding="utf-8",
    )
    assert own_examples.of_python_file(file) == {
        "lamp": [
            Example("Light in the hall!", {"room": "hall"}, f"{file}: lamp"),
            Example("switch {room}", None, f"{file}: lamp"),
        ]
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ('{"question": "x"}', "an example is"),
        ('{"tool": "a", "question": "x", "args": {}}', "unknown key 'args'"),
        ('{"tool": "a", "question": "x", "arguments": []}', "must be an object"),
    ],
)
def test_a_wrong_line_of_examples_is_named(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(f"\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=reason) as raised:
        own_examples.of_json_lines(file)
    assert f"{file}:2" in str(raised.value)


def test_held_out_phrasings_are_other_templates() -> None:
    train, away = described.apart([one(LAMP), one(ORDER)])
    for kept, held in zip(train, away, strict=True):
        assert not set(kept.ask + kept.zh) & set(held.ask + held.zh)
        assert 5 < len(held.ask + held.zh) < len(kept.ask + kept.zh)


def test_near_misses_are_about_the_same_things_and_no_tool_does_them() -> None:
    rename = tool("rename_order", "Give an order a name.", ("number",), number={"type": "string"})
    near = described.near_misses([CANCEL], [one(CANCEL)])
    assert any(each.name == "rename_cancel_order" for each in near)
    both = described.near_misses([CANCEL, rename], described.functions([CANCEL, rename]).functions)
    assert both and not any(each.name.startswith("rename") for each in both)
    shell = tool("run_command", "Run a shell command.", ("command",), command={"type": "string"})
    assert not described.near_misses([CANCEL, shell], [one(CANCEL)])


def test_a_synonym_that_is_another_tool_is_not_said() -> None:
    edit = tool("edit_note", "Edit a note.", ("note_id",), note_id={"type": "string"})
    update = tool("update_note", "Update a note.", ("note_id",), note_id={"type": "string"})
    alone = one(update).ask
    beside = described.functions([update, edit]).functions[0].ask
    assert any(re.search(r"\bedit\b", text, re.IGNORECASE) for text in alone)
    assert not any(re.search(r"\bedit\b", text, re.IGNORECASE) for text in beside)


@pytest.mark.parametrize(
    ("schema", "fits"),
    [
        ({"type": "string", "pattern": "^[A-Z]{2}-\\d{3}$"}, r"[A-Z]{2}-\d{3}"),
        ({"type": "string", "pattern": "^(SKU|EAN)-\\d{3,5}$"}, r"(SKU|EAN)-\d{3,5}"),
        ({"type": "string", "pattern": "^v\\d+\\.\\d+$", "description": "Such as v1.2"}, r"v\d+\.\d+"),
        ({"type": "string", "description": "As HH:MM on the 24-hour clock, such as 07:05"}, r"\d\d:\d\d"),
        ({"type": "string", "description": "Start day, dd/mm/yyyy"}, r"\d\d/\d\d/\d{4}"),
        ({"type": "string", "description": "Day (YYYYMMDD)"}, r"\d{8}"),
        ({"type": "string", "description": "Clock time as HHMM"}, r"([01]\d|2[0-3])[0-5]\d"),
        ({"type": "string", "description": "Colour, e.g. 'red'"}, r"\w[\w ]*"),
        ({"type": "string", "format": "email"}, r"\S+@\S+"),
        ({"type": "string", "description": "Start, YYYY-MM-DD HH:MM"}, r"\d{4}-\d\d-\d\d \d\d:\d\d"),
        ({"anyOf": [{"type": "integer", "minimum": 3, "maximum": 5}, {"type": "null"}]}, r"[345]"),
        ({"$ref": "#/$defs/Size"}, r"small|large"),
    ],
)
def test_values_fit_the_schema(schema: dict[str, Any], fits: str) -> None:
    given = tool("keep", "Keep a thing.", ("thing",), thing=schema)
    given.spec["function"]["parameters"]["$defs"] = {"Size": {"enum": ["small", "large"]}}
    checker = schemas.checker(schemas.argument_schema(given))
    for made in requests(one(given), 60):
        assert checker.is_valid(made.arguments), made.arguments
        assert re.fullmatch(fits, str(made.arguments["thing"])), made.arguments


def test_a_tool_whose_values_nobody_can_guess_is_named_and_never_asked_for() -> None:
    odd = tool("open_safe", "Open a safe.", ("code",), code={"type": "string", "pattern": "^(?=.*a)(?=.*b)[abc]{9}$"})
    made = described.functions([odd, CANCEL])
    assert [each.name for each in made.functions] == ["cancel_order"]
    assert [each.name for each in made.unasked] == ["open_safe"]
    assert "open_safe: offered, but never asked for" in made.notes[0] and "pattern" in made.notes[0]


def test_a_schema_that_contains_itself_ends() -> None:
    node = {"type": "object", "properties": {"child": {"$ref": "#/$defs/Node"}, "name": {"type": "string"}}}
    given = tool("grow", "Grow a tree.", ("root",), root={"$ref": "#/$defs/Node"})
    given.spec["function"]["parameters"]["$defs"] = {"Node": node}
    assert one(given).ask


def test_conversions_and_days_are_asked_for_as_people_do() -> None:
    code = {"type": "string", "description": "Three-letter code of the currency."}
    convert = tool(
        "convert", "Convert an amount of money from one currency to another.", ("amount", "source", "target"),
        amount={"type": "number"}, source=code, target=code,
    )  # fmt: skip
    assert any(re.search(r"\d [A-Z]{3} (?:to|into|in) [A-Z]{3}\b", made.text) for made in requests(one(convert)))
    listed = tool("events", "List the events of a day.", ("day",), day={"type": "string", "description": "YYYY-MM-DD"})
    assert all("of a day" not in made.text for made in requests(one(listed)) if "events o" in made.text)


def test_two_values_of_one_kind_are_told_apart_by_their_labels() -> None:
    box = tool(
        "order_box", "Order a box.", ("width_cm", "height_cm"),
        width_cm={"type": "integer"}, height_cm={"type": "integer"},
    )  # fmt: skip
    assert all("width" in made.text.lower() and "height" in made.text.lower() for made in requests(one(box)))


def test_every_kind_makes_values() -> None:
    for row in kinds.kinds()["kind"]:
        name = row["words"][0] if row["words"] else "thing"
        given = tool("use", "Use it.", (name,), **{name: {"type": "string"}})
        values = {json.dumps(made.arguments[name]) for made in requests(one(given), 80)}
        assert len(values) >= 7, (row["name"], values)
