"""Conversations that SWIFT makes for tools: the catalogue, phrasings, kinds of rounds, checks, and the command."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from swift import cli
from swift.agent import schemas
from swift.chat import Conversation, Message, Tool
from swift.synth import beyond, catalogue, conversations, dialects, phrasing, several, verify
from swift.synth.catalogue import Function
from swift.synth.offers import Masking, Offers
from swift.synth.overlap import Overlap, Question
from swift.synth.rounds import Call, Turn, phrases
from swift.synth.synthesis import SHARES, Mixture, Synthesis
from swift.synth.values import Said

PLAIN = [{"query": "Why is the sky blue?", "response": "Blue light is scattered most."}]
MIXTURE = Mixture()
HOTELS = next(each for each in catalogue.domains() if each.name == "hotels")


def made(count: int, mixture: Mixture = MIXTURE, seed: int = 1) -> tuple[list[Conversation], Synthesis]:
    domains = [each for each in catalogue.domains() if not each.held_out]
    synthesis = Synthesis(domains, PLAIN, mixture, seed)
    return list(synthesis.make(count)), synthesis


def only(kind: str, **settings: object) -> Mixture:
    shares = dict.fromkeys(SHARES, 0.0) | {kind: 1.0}
    return replace(Mixture(shares=shares, rounds=(1.0,), chinese=0.0, text=0.0, direct=0.0), **settings)  # type: ignore[arg-type]


def test_the_catalogue_has_a_thousand_functions_of_sixty_domains() -> None:
    domains = catalogue.domains()
    assert len(domains) >= 60
    assert sum(len(each.functions) for each in domains) >= 1000
    assert 5 <= sum(each.held_out for each in domains) <= 12


@pytest.mark.parametrize("domain", catalogue.domains(), ids=lambda domain: domain.name)
def test_every_question_of_the_catalogue_makes_a_valid_call_of_what_it_says(domain: catalogue.Domain) -> None:
    rng = random.Random(7)
    for function in domain.functions.values():
        checker = schemas.checker(function.spec["function"]["parameters"])
        for language, templates in (("en", function.ask), ("zh", function.zh)):
            for template in templates:
                request = phrasing.request(function, template, rng, language)
                place = f"{function.name}: {request.text}"
                assert not list(checker.iter_errors(request.arguments)), f"{place} {request.arguments}"
                assert not re.search(r"[{}\[\]]", request.text) or "[" in str(request.said), place
                for path, said in request.said.items():
                    assert said.words in request.text, place
                    assert not said.words or verify.follows(said, function.parameter(path).of), f"{place} {said}"
        for template in function.pair:
            text, pair = phrasing.requests(function, template, rng)
            assert all(not list(checker.iter_errors(each.arguments)) for each in pair), text


def test_conversations_are_rows_that_lint_has_nothing_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    assert cli.main(["data", "synth", "-n", "60", "--out", str(out)]) == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 60
    assert cli.main(["data", "lint", str(out)]) == 0
    report = json.loads((tmp_path / "rows.jsonl.report.json").read_text(encoding="utf-8"))
    assert report["rows"] == 60 and report["kinds"]["one"] > 0 and report["kinds"]["no_tool"] > 0
    assert sum(report["direct_questions"].values()) > 5
    shown = capsys.readouterr().out
    assert "kinds of rounds: " in shown and "direct questions: " in shown


def test_conversations_in_a_row_offer_the_same_tools_and_ask_for_different_things(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    assert cli.main(["data", "synth", "-n", "42", "--same_tools", "4", "--text_share", "0", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    runs = [len(list(group)) for _, group in groupby(rows, key=lambda row: json.dumps(row["tools"]))]
    assert len(rows) == 42 and max(runs) <= 4 and sum(runs) / len(runs) > 3
    assert len({row["messages"][0]["content"] for row in rows}) > 38
    assert cli.main(["data", "synth", "--same_tools", "0", "--out", str(out)]) == 2


def test_one_seed_makes_the_same_rows() -> None:
    assert made(20, seed=5)[0] == made(20, seed=5)[0] != made(20, seed=6)[0]


def test_functions_that_are_held_out_are_never_used_for_training() -> None:
    held_out = {name for each in catalogue.domains() if each.held_out for name in each.functions}
    trained = {name for each in catalogue.domains() if not each.held_out for name in each.functions}
    rows, _ = made(80, Mixture(masking=Masking(0, 0, 0, 0, 0)))
    assert not {tool.name for row in rows for tool in row.tools} & (held_out - trained)


def test_a_parallel_round_has_a_call_for_each_thing_that_is_asked_for() -> None:
    rows, _ = made(40, only("parallel_same"))
    for row in rows:
        _, reply, *results, answer = row.messages
        assert len(reply.tool_calls) >= 2 and len(results) == len(reply.tool_calls)
        assert len({call.name for call in reply.tool_calls}) == 1
        assert len({call.arguments for call in reply.tool_calls}) >= 2
        assert answer.content


def _requested(row: Conversation) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    question, reply = row.messages[:2]
    return question.content, [(call.name, json.loads(call.arguments)) for call in reply.tool_calls]


def test_two_to_four_calls_are_asked_for_in_one_sentence_and_in_several() -> None:
    rows, _ = made(400, only("parallel_same", masking=Masking(0, 0, 0, 0, 0)))
    counts = Counter(len(row.messages[1].tool_calls) for row in rows)
    assert set(counts) == {2, 3, 4} and min(counts.values()) >= 15
    questions = [row.messages[0].content for row in rows]
    assert sum(" and " in each or ", " in each for each in questions) > 60
    for mark in (r"\brespectively|in that order", r"\n1[.)] |\n- |\n\* |\n\(1\)", r"\bsame|\bagain", r"\bthen\b"):
        assert any(re.search(mark, each) for each in questions), mark


@pytest.mark.parametrize("kind", ["parallel_same", "parallel_several"])
def test_calls_are_in_the_order_in_which_the_question_names_their_values(kind: str) -> None:
    rows, _ = made(120, only(kind, masking=Masking(0, 0, 0, 0, 0)))
    checked = 0
    for row in rows:
        question, calls = _requested(row)
        ids = [re.findall(r'(?<=")[^" ]*\d[^" ]{3,}(?=")', json.dumps(arguments)) for _, arguments in calls]
        own = [[each for each in some if question.count(each) == 1] for some in ids]
        distinct = [[each for each in some if sum(each in other for other in ids) == 1] for some in own]
        found = [min(question.index(each) for each in some) for some in distinct if some]
        checked += len(found) > 1
        assert found == sorted(found), (question, calls)
    assert checked >= 25


def test_a_list_of_two_that_becomes_longer_keeps_its_order() -> None:
    cancel = HOTELS.functions["cancel_booking"]
    for seed in range(30):
        text, requests = phrasing.requests(cancel, cancel.pair[0], random.Random(seed))
        places = [text.index(each.arguments["booking_number"]) for each in requests]
        assert places == sorted(places)


@pytest.mark.parametrize(
    "text",
    ["Rooms in {nights}, {max_price}.", "{nights} nights {max_price} euros, {city}", "for {nights} and {max_price}"],
)
def test_a_number_beside_another_one_is_never_listed_alone(text: str) -> None:
    find = HOTELS.functions["find_free_rooms"]
    for seed in range(20):
        made = several.template(find, text, 2, random.Random(seed), phrases()["en"]) or ""
        assert not re.search(r"\{1\.nights\}\S* (?:and|as well as|plus) \{2\.nights\}", made), made


def test_what_is_said_once_is_in_every_call() -> None:
    find = HOTELS.functions["find_free_rooms"]
    listed = several.template(find, "Hotel in {city} from {check_in}.", 3, random.Random(1), phrases()["en"])
    assert listed
    for seed in range(60):
        asked = several.question(find, 3, random.Random(seed), phrases()["en"], "en")
        if asked is None:
            continue
        text, requests = asked
        assert len(requests) == 3 and all(find.required() <= set(each.arguments) for each in requests)
        assert all(said.words in text for each in requests for said in each.said.values())


def test_several_functions_are_called_in_two_to_four_calls_and_one_of_them_twice() -> None:
    rows, _ = made(150, only("parallel_several", masking=Masking(0, 0, 0, 0, 0)))
    shapes: Counter[str] = Counter()
    for row in rows:
        _, calls = _requested(row)
        letters = dict(zip(dict.fromkeys(name for name, _ in calls), "abc", strict=False))
        shapes["".join(letters[name] for name, _ in calls)] += 1
    assert {"ab", "abc", "aab", "aba"} <= set(shapes) and {len(each) for each in shapes} == {2, 3, 4}
    assert {len(set(each)) for each in shapes} == {2, 3}


def test_the_check_finds_calls_in_another_order_than_the_question() -> None:
    cancel = HOTELS.functions["cancel_booking"]
    calls = [
        Call(cancel, {"booking_number": each}, {"fee": 5}, {"booking_number": Said(each, each)}) for each in ("A", "B")
    ]
    offers = {cancel.name: Offers(Masking(0, 0, 0, 0, 0), random.Random(1)).offer(cancel)}
    for question, found in (("Cancel A and B", []), ("Cancel B and A", ["cancel_booking: 'B' is said before 'A'"])):
        turn = Turn(question, (tuple(calls),), "Done.")
        conversation = Conversation((Message("user", question),), ())
        assert [each.split(",")[0] for each in verify.problems(conversation, [turn], offers)] == found


def test_half_of_the_conversations_have_one_round_and_a_third_of_single_calls_one_function() -> None:
    rows, synthesis = made(400)
    rounds = [sum(message.role == "user" for message in row.messages) for row in rows]
    assert 0.42 < sum(each == 1 for each in rounds) / len(rounds) < 0.58
    single = [
        len(row.tools)
        for row in rows
        for before, reply in pairwise(row.messages)
        if row.tools and before.role == "user" and len(reply.tool_calls) == 1
    ]
    assert sum(each == 1 for each in single) / len(single) > 0.33
    assert sum(2 <= each <= 4 for each in single) / len(single) > 0.25
    kinds = synthesis.report.kinds
    assert 0.025 < kinds["sequential"] / kinds.total() < 0.06


def test_flags_choose_how_many_rounds_there_are(tmp_path: Path) -> None:
    for given, most in ((["--max_rounds", "1"], 1), (["--one_round_share", "0", "--max_rounds", "2"], 2)):
        out = tmp_path / f"{most}.jsonl"
        kinds = json.dumps(dict.fromkeys(SHARES, 0.0) | {"one": 1.0})
        assert cli.main(["data", "synth", "-n", "12", "--out", str(out), "--kinds", kinds, *given]) == 0
        report = json.loads(out.with_name(out.name + ".report.json").read_text(encoding="utf-8"))
        assert report["kinds"] == {"one": 12 * most}


def test_a_list_of_values_becomes_a_call_for_each_of_up_to_four() -> None:
    cancel = HOTELS.functions["cancel_booking"]
    counts = {len(phrasing.requests(cancel, cancel.pair[0], random.Random(seed))[1]) for seed in range(40)}
    assert counts == {2, 3, 4}


def test_the_second_call_of_a_chain_gets_what_the_first_returned() -> None:
    hotels = Synthesis([HOTELS], PLAIN, only("sequential", offered=((4, 1.0),)), 3)
    rows = [row for row in hotels.make(60) if sum(bool(message.tool_calls) for message in row.messages) == 2]
    assert len(rows) >= 5
    for row in rows:
        _, first, result, second, *_ = row.messages
        assert first.tool_calls != second.tool_calls
        found = re.search(r"H-\d{4}", result.content)
        assert found and found[0] in second.tool_calls[0].arguments


def test_a_request_that_no_offered_function_fits_is_declined_in_words() -> None:
    rows, _ = made(40, only("no_tool"))
    for row in rows:
        _, reply = row.messages
        assert not reply.tool_calls and "<" not in reply.content and "{" not in reply.content
    assert len({row.messages[1].content.partition(".")[0] for row in rows}) >= 15
    assert sum(len(row.tools) == 1 for row in rows) >= 10


def test_requests_that_nothing_fits_are_far_near_and_look_like_the_function_that_is_offered() -> None:
    cancel, reserve = HOTELS.functions["cancel_booking"], HOTELS.functions["reserve_room"]
    questions = phrases()["beyond"]
    asked = [beyond.request([cancel, reserve], cancel, random.Random(seed), questions) for seed in range(30)]
    numbers = [each for each in asked if each and re.search(r"HB-\d{5}|[A-Z]{2}\d{3}", each)]
    assert len(set(numbers)) >= 5 and not any(re.search(r"[Cc]ancel|[Bb]ook ", each) for each in numbers)
    guests = [beyond.request([reserve], reserve, random.Random(seed), questions) for seed in range(30)]
    assert any(guests)


def test_functions_that_may_do_the_same_are_no_near_misses_of_each_other() -> None:
    free, cancel = HOTELS.functions["find_free_rooms"], HOTELS.functions["cancel_booking"]
    assert not beyond.alike(free, cancel)
    assert beyond.alike(
        free, replace(free, name="search_free_hotel_rooms", description="Search hotels with free rooms.")
    )


def test_a_refusal_names_functions_whose_names_have_dots_or_hyphens() -> None:
    names = {"lamp.set": "lamp.set", "lamp-off": "lampOff"}
    offers = {
        name: replace(Offers(Masking(0, 0, 0, 0, 0), random.Random(1)).offer(HOTELS.functions["add_guest"]), name=shown)
        for name, shown in names.items()
    }
    turn = Turn("Cook for me.", (), "I can only use {lamp.set}, {lamp-off}.")
    row = conversations.structured([turn], offers, random.Random(1), thoughts=False)
    assert row.messages[-1].content == "I can only use lamp.set, lampOff."


def test_a_missing_value_is_asked_for_before_the_call() -> None:
    rows, _ = made(60, only("missing"))
    assert not any(row.messages[1].tool_calls for row in rows)
    complete = [row for row in rows if len(row.messages) > 2]
    assert len(complete) >= 20
    assert all(row.messages[2].role == "user" and row.messages[3].tool_calls for row in complete)


def test_masked_functions_are_called_by_the_names_that_are_offered() -> None:
    rows, _ = made(40, only("one", masking=Masking(1, 1, 0, 0, 0)))
    known = {name for each in catalogue.domains() for name in each.functions}
    for row in rows:
        assert not {tool.name for tool in row.tools} & known
        call = row.messages[1].tool_calls[0]
        offered = {tool.name: tool for tool in row.tools}
        assert not list(schemas.checker(offered[call.name].parameters).iter_errors(json.loads(call.arguments)))


def test_a_rule_for_a_value_stays_where_other_descriptions_are_left_out() -> None:
    offers = Offers(Masking(0, 0, 0, 0, 1), random.Random(1))
    shown = offers.offer(HOTELS.functions["add_guest"]).tool.parameters["properties"]
    assert "HH:MM" in shown["arrival"]["description"] and "description" not in shown["booking_number"]


@pytest.mark.parametrize("dialect", dialects.DIALECTS, ids=lambda dialect: dialect.__name__)
@pytest.mark.parametrize("name", HOTELS.functions)
def test_every_dialect_of_a_schema_accepts_the_same_calls(name: str, dialect: Callable[..., dict[str, Any]]) -> None:
    function = HOTELS.functions[name]
    shown = dialect(function.spec["function"])
    assert {shown["name"], shown["description"]} == {function.name, function.description}
    checker = schemas.checker(shown["parameters"])
    request = phrasing.request(function, function.ask[0], random.Random(3), optional=1.0)
    assert checker.is_valid(request.arguments)
    for required in (each for each, about in function.parameters.items() if not about.optional):
        assert not checker.is_valid({each: value for each, value in request.arguments.items() if each != required})
    if dialect in (dialects.closed, dialects.strict):
        assert not checker.is_valid({**request.arguments, "additionalProperties": False})


def test_a_choice_that_no_enum_lists_stands_in_the_description() -> None:
    spec = HOTELS.functions["find_free_rooms"].spec["function"]
    about = dialects.in_words(spec)["parameters"]["properties"]
    assert "enum" not in about["sort_by"] and "One of: price, rating, distance." in about["sort_by"]["description"]
    assert "default" not in about["nights"] and "Default is 1." in about["nights"]["description"]


def _checked(call: Call, question: str, answer: str = "Done.") -> list[str]:
    offer = Offers(Masking(0, 0, 0, 0, 0), random.Random(1)).offer(call.function)
    conversation = Conversation((Message("user", question),), (offer.tool,))
    return list(verify.problems(conversation, [Turn(question, ((call,),), answer)], {call.function.name: offer}))


@pytest.mark.parametrize(
    ("arguments", "question", "answer", "problem"),
    [
        ({"booking_number": "HB-1"}, "Cancel HB-1.", "It costs 5 euros.", ""),
        ({"booking_number": "HB-2"}, "Cancel HB-1.", "Done.", "nobody says 'HB-2'"),
        ({"reason": "illness"}, "I am off for illness.", "Done.", "'booking_number' is a required property"),
        ({"booking_number": "HB-1"}, "Cancel HB-1.", "It costs 77 euros.", "the answer says 77, which no result has"),
    ],
)
def test_the_check_finds_values_that_nobody_said(
    arguments: dict[str, str], question: str, answer: str, problem: str
) -> None:
    said = {path: Said(value, value) for path, value in arguments.items()}
    found = _checked(Call(HOTELS.functions["cancel_booking"], arguments, {"fee": 5}, said), question, answer)
    assert found == [] if not problem else any(problem in each for each in found), found


@pytest.mark.parametrize(
    ("words", "value", "of", "follows"),
    [
        ("twelve", 12, "int 1..20", True),
        ("12", 13, "int 1..20", False),
        ("12,500", 12500, "int 1..20000", True),
        ("March 3, 2025", "2025-03-03", "date", True),
        ("March 4, 2025", "2025-03-03", "date", False),
        ("8 pm", "20:00", "time", True),
        ("noon", "12:00", [["noon", "12:00"]], True),
        ("noon", "13:00", [["noon", "12:00"]], False),
        ("a, b and c", ["a", "b", "c"], ["a", "b", "c"], True),
        ("a and b", ["a", "c"], ["a", "b", "c"], False),
    ],
)
def test_a_value_follows_from_its_words_or_does_not(words: str, value: object, of: object, follows: bool) -> None:
    assert verify.follows(Said(words, value), of) is follows


def test_rows_that_repeat_a_benchmark_are_found() -> None:
    text = "please move the red box from the left shelf to the door"
    overlap = Overlap([Question("b", text, ("getWeather",))])

    def row(question: str, name: str = "f") -> Conversation:
        return Conversation((Message("user", question),), (Tool({"name": name}),))

    assert overlap(row("Now move the red box from the left shelf, ok?")) == "b (8 words)"
    assert overlap(row("Move the red box from the right shelf to a door")) == ""
    assert overlap(row("Hi", "get_weather")) == "b (function name)"


def test_dropped_rows_are_counted() -> None:
    domains = [HOTELS]
    names = {name: f"b ({name})" for name in HOTELS.functions}

    def overlaps(row: Conversation) -> str:
        return next((names[tool.name] for tool in row.tools if tool.name == "add_guest"), "")

    synthesis = Synthesis(domains, PLAIN, Mixture(masking=Masking(0, 0, 0, 0, 0), text=0.0), 1, overlaps=overlaps)
    rows = list(synthesis.make(30))
    assert len(rows) == 30 and not any(tool.name == "add_guest" for row in rows for tool in row.tools)
    assert synthesis.report.dropped["overlaps with b (add_guest)"] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--kinds", '{"paralel": 1}'], "--kinds: no kind 'paralel'"),
        (["--kinds", '{"one": -1}'], "--kinds: one has the share -1: must be 0 or more"),
        (["--chinese", "1.5"], "--chinese 1.5: must be a share from 0 to 1"),
        (["--max_rounds", "0"], "--max_rounds 0: must be 1 or more"),
        (["--one_round_share", "2"], "--one_round_share 2: must be a share from 0 to 1"),
        (["--max_rounds", "1", "--one_round_share", "0.2"], "--one_round_share 0.2 has no effect with --max_rounds 1"),
        (["--direct_questions", "2"], "--direct_questions 2: must be a share from 0 to 1"),
        (["-n", "0"], "--rows 0: must be 1 or more"),
        (["--check_overlap", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--examples", "x.jsonl"], "--examples has no effect without --tools"),
    ],
)
def test_wrong_flags_are_one_line(
    given: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", "synth", *given, "--out", str(tmp_path / "x.jsonl")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_wrong_file_of_the_catalogue_says_what_is_wrong(tmp_path: Path) -> None:
    text = (catalogue.FOLDER / "hotels.toml").read_text(encoding="utf-8")
    file = tmp_path / "hotels.toml"
    file.write_text(
        text.replace("Find me a hotel in {city} from", "Find me a hotel in {town} from", 1), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"hotels\.toml: find_free_rooms: .* no parameter town"):
        catalogue.read(file)


def test_elements_of_arrays_are_described_down_to_their_fields(tmp_path: Path) -> None:
    file = tmp_path / "shop.toml"
    file.write_text(
        """
[total_of]
description = "Total of an order."
params.lines = { what = "Lines", type = "array", of = [["2 pens", { name = "pen", count = 2 }], ["1 cup", { name = "cup", count = 1, gift = true }]] }
params.grid = { what = "Rows", type = "array", count = "2..2", of = [["[1, 2]", [1, 2]], ["[3, 4.5]", [3, 4.5]]] }
ask = ["Total of {lines} in {grid}?", "{lines} in {grid}: total", "In {grid}, what do {lines} cost?"]
result = { total = "int 1..9" }
say = "It is {total}."
""",  # noqa: E501
        encoding="utf-8",
    )
    function = catalogue.read(file).functions["total_of"]
    described = function.spec["function"]["parameters"]["properties"]
    assert described["grid"]["items"] == {"type": "array", "items": {"type": "number"}}
    line = described["lines"]["items"]
    assert line["required"] == ["name", "count"]
    assert {name: each["type"] for name, each in line["properties"].items()} == {
        "name": "string", "count": "integer", "gift": "boolean"
    }  # fmt: skip
    for seed in range(20):
        request = phrasing.request(function, function.ask[0], random.Random(seed))
        listed = request.arguments["lines"]
        assert len(listed) == len({each["name"] for each in listed})


def test_lists_of_numbers_are_said_in_brackets_or_in_words() -> None:
    numbers = catalogue.Parameter("Numbers", "array", "int 30..99", count=(3, 3))
    said = [numbers.draw(random.Random(seed)) for seed in range(40)]
    bracketed = [each for each in said if each.words.startswith("[")]
    assert 0 < len(bracketed) < len(said)
    assert all(json.loads(each.words) == each.value for each in bracketed)
    assert not numbers.draw(random.Random(1), "zh").words.startswith("[")


def test_the_example_of_a_nested_argument() -> None:
    add = HOTELS.functions["add_guest"]
    request = phrasing.request(add, add.ask[0], random.Random(2), optional=1.0)
    assert set(request.arguments["guest"]) == {"name", "age"} and isinstance(request.arguments["requests"], list)
    assert isinstance(add, Function)
