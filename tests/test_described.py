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


def tool(name: str, description: str, required: tuple[str, ...] = (), /, **properties: Mapping[str, Any]) -> Tool:
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
        assert "percent" in words or "%" in words or words in ("a quarter", "half", "halfway", "three quarters")


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
        assert re.search("订单|单子", made.text) and re.search(r"DD\d{8}", made.text)


PICKUP = tool(
    "book_pickup",
    "预约快递员上门取件。",
    ("address", "time"),
    address={"type": "string", "description": "取件地址"},
    time={"type": "string", "description": "取件时间"},
)
DROP = tool(
    "cancel_order", "取消订单。", ("order_id",), order_id={"type": "string", "description": "订单号,例如 DD20240001"}
)
FARE = tool(
    "estimate_fare",
    "计算寄件运费。",
    ("from_city", "to_city"),
    from_city={"type": "string", "description": "寄件城市"},
    to_city={"type": "string", "description": "收件城市"},
)
CART = tool("add_cart", "将商品加入购物车。", ("product",), product={"type": "string", "description": "商品名称"})


@pytest.mark.parametrize(
    ("given", "words"),
    [(ORDER, "查|看|状态"), (PICKUP, "预约|快递员"), (DROP, "取消"), (FARE, "计算|运费"), (CART, "将|加入|商品")],
    ids=lambda each: getattr(each, "name", ""),
)
def test_many_chinese_questions_have_none_of_the_words_of_the_description(given: Tool, words: str) -> None:
    made = described.functions([given])
    texts = made.functions[0].zh
    without = [text for text in texts if not re.search(words, re.sub(r"\{[^}]*\}", "", text))]
    assert len(without) >= len(texts) / 8, texts
    assert not made.dropped


def test_a_chinese_question_that_could_be_for_another_tool_is_not_asked() -> None:
    refund = tool("refund_order", "订单退款。", ("order_id",), **DROP.parameters["properties"])
    alone, beside = (described.functions(tools).functions[0].zh for tools in ([DROP], [DROP, refund]))
    assert any("不要了" in text for text in alone) and not any("不要了" in text for text in beside)


def test_another_noun_for_an_object_is_not_one_of_another_tool() -> None:
    slip = tool("print_slip", "打印单子。", ("slip_no",), slip_no={"type": "string", "description": "编号,例如 A12"})
    alone, beside = (described.functions(tools).functions[0].zh for tools in ([ORDER], [ORDER, slip]))
    assert any("单子" in text for text in alone) and not any("单子" in text for text in beside)


def test_a_chinese_question_gives_no_reason_where_the_reason_is_a_parameter() -> None:
    reason = {"type": "string", "description": "取消原因"}
    with_reason = tool("cancel_order", "取消订单。", ("order_id",), reason=reason, **DROP.parameters["properties"])
    assert any("计划有变" in text or "家里有事" in text or "弄错了" in text for text in one(DROP).zh)
    assert not any("计划有变" in text or "家里有事" in text or "弄错了" in text for text in one(with_reason).zh)


def test_two_cities_of_a_chinese_question_are_told_apart() -> None:
    for text in one(FARE).zh:
        told = re.sub(r"[\[\],。\s\uff0c]", "", text)
        assert re.search(
            r"(?:从|寄件城市[是为::\uff1a]?|拿)\{from_city\}|\{from_city\}(?:寄|到|出发)", told
        ) and re.search(r"(?:到|去|寄|发|收件城市[是为::\uff1a]?)\{to_city\}", told), text


def test_chinese_descriptions_are_read_with_the_marks_of_chinese_texts() -> None:
    wide = str.maketrans(",", "\uff0c")
    given = tool(
        "query_order",
        "查询订单状态,返回文字。".translate(wide),
        ("order_id",),
        order_id={"type": "string", "description": "订单号,13位".translate(wide)},
    )
    texts = one(given).zh
    assert not any("返回" in text or "13位" in text for text in texts)
    assert any("\uff0c" in text or "\uff1f" in text for text in texts)


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


STATUS = tool(
    "set_room_status",
    "Set the status of an examination room.",
    ("room", "status"),
    room={"type": "integer", "minimum": 1, "maximum": 20, "description": "Number of the room."},
    status={"type": "string", "enum": ["free", "occupied"], "description": "The new status."},
)
SUPPLIES = tool(
    "order_supplies",
    "Order supplies for the clinic.",
    ("item", "boxes"),
    item={"type": "string", "enum": ["gloves", "masks"], "description": "What is ordered."},
    boxes={"type": "integer", "description": "How many boxes."},
)
CALL = tool(
    "call_contact",
    "Call a person of the address book.",
    ("name",),
    name={"type": "string", "description": "Name of the person."},
)
DRIVE = tool(
    "navigate_to",
    "Start the navigation to a destination.",
    ("destination",),
    destination={"type": "string", "description": "An address or the name of a place."},
)
STATIONS = tool(
    "find_stations",
    "Find charging stations near the car.",
    ("radius_km",),
    radius_km={"type": "integer", "description": "How far away at most, in kilometres."},
    min_kilowatts={"type": "integer", "description": "The least power in kilowatts."},
)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (CANCEL, "cancel|call off|scrap|drop"),
        (STATUS, "set|change|adjust|put|bring|status"),
        (SUPPLIES, "order|buy|get|pick up|supplies"),
        (CALL, "call"),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_many_questions_have_none_of_the_words_that_the_description_has_for_the_deed(given: Tool, words: str) -> None:
    texts = one(given).ask
    without = [text for text in texts if not re.search(rf"\b(?:{words})", re.sub(r"\{[^}]*\}", "", text.lower()))]
    assert len(without) >= len(texts) / 8, texts


@pytest.mark.parametrize("given", [STATUS, SUPPLIES, CALL, DRIVE, STATIONS, LEND], ids=lambda each: each.name)
def test_sentences_in_other_words_say_every_required_value_once(given: Tool) -> None:
    function = one(given)
    for text in function.ask:
        said = re.findall(r"\{([\w.]+)", re.sub(r"\[[^\]]*\]", "", text))
        assert sorted(path for path in said if path in function.required()) == sorted(function.required()), text


def test_a_value_is_what_something_is_set_to_and_no_part_of_its_name() -> None:
    texts = one(STATUS).ask
    assert [text for text in texts if "{status} of a" in text or "of them" in text] == []
    assert [text for text in texts if re.search(r"room (?:number )?\{room\}", text)]


def test_a_number_counts_what_its_parameter_is_called() -> None:
    texts = one(SUPPLIES).ask
    assert [text for text in texts if "of them" in text or "pieces" in text] == []
    assert [text for text in texts if "{boxes} boxes of {item}" in text]


def test_a_place_or_a_person_that_the_object_names_is_said_there() -> None:
    assert [text for text in one(DRIVE).ask if "to a destination" in text] == []
    assert [text for text in one(DRIVE).ask if "navigation to {destination}" in text]
    assert [text for text in one(CALL).ask if "a person" in text or "{name} book" in text] == []


def test_a_least_number_is_said_with_what_it_counts() -> None:
    texts = " ".join(one(STATIONS).ask)
    assert "at least {min_kilowatts} kilowatts" in texts and "within {radius_km}" in texts
    assert "min kilowatts" not in texts


def ends(name: str, description: str, /, **properties: str) -> tuple[str, ...]:
    given = {each: {"type": "string", "description": about} for each, about in properties.items()}
    (function,) = described.functions([tool(name, description, tuple(given), **given)]).functions
    return function.ask or function.zh


TRANSFER = {"from_account": "Account that pays", "to_account": "Account that receives"}


TRANSFER_ZH = {"from_account": "付款账户", "to_account": "收款账户"}
TWO_ENDS: list[tuple[str, dict[str, str], str]] = [
    ("Transfer money from one account to another.", TRANSFER, "from {from_account} to {to_account}"),
    ("Find trains between two cities.", {"origin": "Start", "destination": "End"}, "between {origin} and {"),
    ("Merge one branch into another.", {"source": "To merge", "target": "Kept"}, "{source} into {target}"),
    ("Swap the shifts of two nurses.", {"nurse_a": "One", "nurse_b": "Two"}, "shifts of {nurse_a} and {nurse_b}"),
    ("Compare two books.", {"first_id": "First book", "second_id": "Second book"}, "{first_id} and {second_id}"),
    ("Rename a file.", {"old_name": "Current name", "new_name": "New name"}, "{old_name} to {new_name}"),
    ("Get the rate between two currencies.", {"base": "Base", "quote": "Quote"}, "between {base} and {quote}"),
    ("Create a lead.", {"first_name": "First name", "last_name": "Last name"}, "{first_name} {last_name}"),
    ("从一个账户向另一个账户转账", TRANSFER_ZH, "从{from_account}向{to_account}转账"),
]


@pytest.mark.parametrize(("description", "properties", "said"), TWO_ENDS, ids=[each[2] for each in TWO_ENDS])
def test_two_ends_are_said_as_the_description_names_them_together(
    description: str, properties: dict[str, str], said: str
) -> None:
    questions = ends(description.split()[0].lower(), description, **properties)
    assert sum(said in each for each in questions) > 5, questions
    assert not [each for each in questions if re.search(r"\bone (?:account|branch)|\btwo\b|another", each)]


def test_a_value_does_not_come_from_where_it_goes_to() -> None:
    questions = ends("pay", "Transfer money from one account to another.", **TRANSFER)
    assert not [each for each in questions if re.search(r"[Ff]rom \{to_account\}|\bto \{from_account\}", each)]
    assert not [each for each in questions if re.search(r", account[: ]", each)], "which of the two accounts?"


ON = {"type": "boolean", "description": "True for on, false for off"}
DOOR = {"type": "string", "enum": ["front", "garage"]}
ACTION = {"type": "string", "enum": ["lock", "unlock"]}
CARD = {"type": "string", "description": "Last four digits, such as 4471"}
DOES_ONE_OF_TWO = [
    (tool("light", "Turn a light on or off.", ("room", "on"), room={"type": "string"}, on=ON), "turn off", "on=false"),
    (
        tool("door_lock", "Lock or unlock a door.", ("door", "action"), door=DOOR, action=ACTION),
        "unlock",
        "action=unlock",
    ),
    (tool("alarm", "Arm or disarm the alarm.", ("armed",), armed={"type": "boolean"}), "disarm", "armed=false"),
    (
        tool("freeze_card", "Freeze or unfreeze a card.", ("card", "frozen"), card=CARD, frozen={"type": "boolean"}),
        "unfreeze",
        "frozen=false",
    ),
    (
        tool("deng", "打开或关闭某个房间的灯", ("room", "on"), room={"type": "string", "description": "房间"}, on=ON),
        "关闭",
        "on=false",
    ),
]


@pytest.mark.parametrize(("given", "verb", "value"), DOES_ONE_OF_TWO, ids=lambda each: getattr(each, "name", ""))
def test_a_tool_that_does_one_of_two_things_is_asked_for_the_one_that_its_value_means(
    given: Tool, verb: str, value: str
) -> None:
    function = one(given)
    texts = function.ask or function.zh
    said = [text for text in texts if re.search(rf"\b{verb}\b" if verb.isascii() else verb, text.lower())]
    assert len(said) > 5 and all(value in text for text in said)
    assert not [text for text in texts if " or " in text or "或" in text]
    assert 0.3 < sum(value in text for text in texts) / len(texts) < 0.7


@pytest.mark.parametrize(
    ("name", "schema", "value"),
    [
        ("starts", {"type": "string", "description": "ISO 8601 start time"}, r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"),
        ("origin", {"type": "string", "description": "IATA code of the airport"}, r"[A-Z]{3}"),
        ("guests", {"type": "string", "description": "Email addresses of the guests"}, r"\S+@\S+"),
        ("target_lang", {"type": "string", "description": "ISO 639-1 code"}, r"[a-z]{2}"),
        ("lastName", {"type": "string"}, r"[A-Z][a-z]+"),
        ("speed_kmh", {"type": "integer"}, r"\d{2,3}"),
        ("priority", {"type": "string", "description": "low, medium or high"}, "low|medium|high"),
        ("annual_rate", {"type": "number", "description": "Annual rate in percent"}, r"(?:1?\d|2[0-5])(?:\.\d+)?"),
        ("sport", {"type": "string"}, ".*ball|.*tennis|.*ing|judo|ice hockey|golf"),
    ],
)  # fmt: skip
def test_values_are_those_that_the_name_and_the_description_ask_for(
    name: str, schema: dict[str, Any], value: str
) -> None:
    made = requests(one(tool("use", "Use it.", (name,), **{name: schema})), 40)
    assert [each for each in made if not re.fullmatch(value, str(each.arguments[name]))] == []


def test_a_parameter_is_called_by_its_name_where_its_description_lists_its_values() -> None:
    level = {"type": "string", "description": "low, medium or high"}
    texts = " ".join(one(tool("open_ticket", "Open a ticket.", ("priority",), priority=level)).ask)
    assert "priority" in texts and "low" not in texts


def test_two_values_that_belong_together_make_sense_together() -> None:
    unit = {"type": "string", "enum": ["celsius", "fahrenheit", "kelvin"]}
    convert = tool(
        "convert", "Convert a temperature between two units.", ("value", "from_unit", "to_unit"),
        value={"type": "number"}, from_unit=unit, to_unit=unit,
    )  # fmt: skip
    assert all(each.arguments["from_unit"] != each.arguments["to_unit"] for each in requests(one(convert), 40))
    when = {"type": "string", "format": "date"}
    leave = tool("ask_for_leave", "Ask for leave.", ("start", "end"), start=when, end=when)
    assert all(each.arguments["start"] <= each.arguments["end"] for each in requests(one(leave), 40))


def test_what_a_clause_asks_for_is_no_thing_that_one_has() -> None:
    day = {"type": "string", "format": "date"}
    shift = tool(
        "works_on", "Check whether a nurse works on a day.", ("nurse", "day"), nurse={"type": "string"}, day=day
    )
    texts = one(shift).ask
    assert [text for text in texts if re.search(r"whether (?:the nurse )?\{nurse\} works", text)], texts[:20]
    assert not [text for text in texts if re.search(r"need whether|lost track of whether|on whether", text)]


def test_a_name_that_begins_with_a_verb_is_a_deed_unless_it_ends_with_what_is_measured() -> None:
    number = {"type": "string", "description": "Such as A-12"}
    track = one(tool("track_parcel", "Gets the position of a parcel.", ("parcel_no",), parcel_no=number)).ask
    assert [text for text in track if re.search(r"[Tt]rack (?:the )?p", text)]
    assert not [text for text in track if "the track" in text]
    claim = one(tool("claim_status", "Gets the state of a claim.", ("claim_no",), claim_no=number)).ask
    assert not [text for text in claim if text.startswith("Claim the status")]


def test_words_that_only_stand_for_what_is_not_said_are_left_out() -> None:
    room = {"type": "string", "description": "Where it is heard"}
    play = tool("play_song", "Play a song in a room.", ("song",), song={"type": "string"}, room=room)
    assert not [text for text in one(play).ask if "in a room" in text]
    home = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
        "required": ["name"],
    }
    send = tool("send_gift", "Send a gift to an address.", ("address",), address=home)
    assert not [text for text in one(send).ask if "to an address" in text]
    assert not [each for each in requests(one(send), 40) if re.search(r"\d", each.arguments["address"]["name"])]
    pay = tool(
        "pay", "Pay from one of the user's accounts.", ("account",), account={"type": "string", "enum": ["a", "b"]}
    )
    assert not [text for text in one(pay).ask if "one of" in text]


def test_what_is_checked_in_and_out_begins_and_ends() -> None:
    day = {"type": "string", "format": "date"}
    stay = tool("book_stay", "Book a stay.", ("check_in", "check_out"), check_in=day, check_out=day)
    assert [text for text in one(stay).ask if re.search(r"from \{check_in\}.* (?:to|until) \{check_out\}", text)]
    assert all(each.arguments["check_in"] <= each.arguments["check_out"] for each in requests(one(stay), 40))


def test_examples_with_digits_are_followed_by_others_of_their_shape() -> None:
    mode = {"type": "string", "description": "Octal mode, e.g. 644"}
    made = requests(one(tool("chmod", "Change the permissions of a file.", ("mode",), mode=mode)), 40)
    assert [each for each in made if not re.fullmatch(r"\d{3}", each.arguments["mode"])] == []


def test_a_parameter_may_be_called_label() -> None:
    label = {"type": "string", "description": "What it is for"}
    function = one(tool("set_alarm", "Set an alarm.", ("time", "label"), time={"type": "string"}, label=label))
    assert all("{label}" in text for text in function.ask)


def test_a_verb_that_another_tool_has_for_the_same_things_brings_none_of_its_sentences() -> None:
    remove = tool(
        "remove_lamp", "Remove a lamp.", ("lamp_id",), lamp_id={"type": "string", "description": "Such as L-12."}
    )
    erase = tool("erase_lamp", "Erase the settings of a lamp.", ("lamp_id",), lamp_id={"type": "string"})
    alone = described.functions([remove]).functions[0].ask
    beside = described.functions([remove, erase]).functions[0].ask
    assert [text for text in alone if "can go" in text or "in the way" in text]
    assert [text for text in beside if "can go" in text or "in the way" in text] == []


def test_nouns_are_said_in_other_words_unless_another_tool_has_them() -> None:
    light = tool("set_light", "Set the light of the garden.", ("percent",), percent={"type": "integer"})
    assert [text for text in described.functions([LAMP]).functions[0].ask if "light" in text]
    assert [text for text in described.functions([LAMP, light]).functions[0].ask if "light" in text] == []


def test_values_of_an_enum_are_said_in_other_words_unless_another_value_has_them() -> None:
    heat = tool("set_heat", "Set the heat.", ("level",), level={"type": "string", "enum": ["low", "high"]})
    said = {made.said["level"].words: made.arguments["level"] for made in requests(one(heat))}
    assert {"low", "high"} < said.keys()
    near = tool(
        "set_heat", "Set the heat.", ("level",), level={"type": "string", "enum": ["high", *said.keys() - {"high"}]}
    )
    again = {made.said["level"].words: made.arguments["level"] for made in requests(one(near), 600)}
    assert all(value == words for words, value in again.items() if words in said.keys() - {"high"})


def test_numbers_are_also_said_as_people_say_them_within_the_limits() -> None:
    pause = tool("pause", "Pause.", ("minutes",), minutes={"type": "integer", "description": "Minutes.", "maximum": 60})
    said = {made.said["minutes"].words: made.arguments["minutes"] for made in requests(one(pause), 900)}
    assert {"half an hour": 30, "an hour": 60}.items() <= said.items()
    assert {"an hour and a half", "two hours"} & said.keys() == set()
    assert {"thirty minutes", "forty minutes", "fifty minutes", "sixty minutes"} & said.keys()


def test_a_time_is_also_said_as_people_say_it() -> None:
    wake = tool("wake", "Set an alarm.", ("at",), at={"type": "string", "description": "The time as HH:MM."})
    function = one(wake)
    made = [each.said["at"] for each in requests(function, 600)]
    assert {"half past", "noon", "quarter to"} <= {
        found[0] for each in made if (found := re.search("half past|noon|quarter to", each.words))
    }
    assert all(verify.follows(each, function.parameters["at"].of) for each in made)
