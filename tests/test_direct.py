"""Direct questions for the catalogue's functions: every value is said in full, and nothing else is an argument."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest

from swift.agent import schemas
from swift.synth import catalogue, direct, phrasing, plain_values, values, verify
from swift.synth.catalogue import Function, Parameter
from swift.synth.phrasing import Request
from swift.synth.synthesis import SHARES, Mixture, Synthesis
from swift.synth.values import Said

FUNCTIONS = [each for domain in catalogue.domains() for each in domain.functions.values()]
SAMPLE = random.Random(3).sample(FUNCTIONS, 25)


def named(name: str) -> Function:
    return next(each for each in FUNCTIONS if each.name == name)


def versions(function: Function, style: str) -> Iterator[Function]:
    for seed in range(direct.VERSIONS):
        if made := direct.version(function, style, seed):
            yield made


def requests(function: Function, style: str, count: int = 60) -> list[Request]:
    rng = random.Random(1)
    made = list(versions(function, style))
    chosen = [rng.choice(made) for _ in range(count)]
    return [phrasing.request(each, rng.choice(each.ask), rng) for each in chosen]


@pytest.mark.parametrize("style", direct.STYLES)
def test_a_direct_question_says_the_words_of_every_argument(style: str) -> None:
    rng = random.Random(2)
    for function in SAMPLE:
        checker = schemas.checker(function.spec["function"]["parameters"])
        for made in versions(function, style):
            assert not [each for each in catalogue.problems(made) if style != "literal"], function.name
            for text in rng.sample(made.ask, min(3, len(made.ask))):
                request = phrasing.request(made, text, rng)
                place = f"{function.name}: {request.text} {request.arguments}"
                assert checker.is_valid(request.arguments), place
                for path, said in request.said.items():
                    assert said.words in request.text, place
                    assert not said.words or verify.follows(said, made.parameter(path).of), f"{place} {said}"
            for text in made.pair[:2]:
                _, pair = phrasing.requests(made, text, rng)
                assert all(checker.is_valid(each.arguments) for each in pair), f"{function.name}: {text}"


def test_nearly_every_function_has_a_dozen_direct_questions_in_each_style() -> None:
    for style in direct.STYLES:
        counts = [len(made.ask) for each in SAMPLE if each.parameters for made in versions(each, style)]
        assert sum(count >= 10 for count in counts) > 0.8 * len(counts), (style, counts)


@pytest.mark.parametrize("style", direct.STYLES)
def test_an_optional_argument_is_said_half_of_the_time_and_never_filled_when_it_is_not(style: str) -> None:
    made = requests(named("savings_growth"), style, 300)
    optional = [path for path, each in named("savings_growth").parameters.items() if each.optional]
    assert optional
    for path in optional:
        assert 0.3 < sum(path in each.arguments for each in made) / len(made) < 0.7
    assert all(set(each.arguments) == {path.partition(".")[0] for path in each.said} for each in made)


def test_a_literal_question_has_the_arguments_as_json() -> None:
    found = 0
    for request in requests(named("battery_pack"), "literal", 80) + requests(named("box_preferences"), "literal", 80):
        text = request.text
        if re.search(r'\{"', text) and "=" not in text:
            shown = json.loads(text[text.index("{") : text.rindex("}") + 1])
            assert len(shown) == len(request.arguments)
            assert all(value in request.arguments.values() for value in shown.values()), text
            found += 1
    assert found > 20


def test_a_written_question_names_each_parameter_beside_its_value() -> None:
    texts = " ".join(each.text for each in requests(named("percent_change"), "written", 80))
    assert re.search(r"(?:old value|value before) = [\d.]+", texts)
    assert re.search(r"(?:[Nn]ew value|[Vv]alue after): [\d.]+", texts)


def numbers(what: str, of: object, name: str = "rate") -> list[list[object]]:
    parameter = Parameter(what, "number", of)
    function = replace(named("percent_change"), parameters={name: parameter}, say=(), say_zh=())
    found: list[list[object]] = []
    for seed in range(12):
        (made,) = plain_values.properties(function, "spoken", random.Random(seed))
        found += [list(made.parameter.draw(random.Random(each))) for each in range(20)]
    return found


def test_the_description_tells_whether_percent_are_a_fraction() -> None:
    fractions = numbers("Interest rate per year as a fraction: 0.05 is 5 percent", [0.05, 0.125])
    assert ["5%", 0.05] in fractions and ["12.5 percent", 0.125] in fractions
    percents = numbers("Interest rate in percent", [5, 12.5])
    assert ["5%", 5] in percents and ["12.5 percent", 12.5] in percents


def test_large_amounts_are_said_in_several_ways_that_all_mean_the_value() -> None:
    drawn = numbers("Price of the house", "int 200000..900000", "price")
    words = {str(each[0]) for each in drawn}
    assert any("million" in each for each in words) and any(re.fullmatch(r"\d{3},\d{3}", each) for each in words)
    assert any(re.search(r"\d(?:k| thousand)$", each) for each in words)
    for said, value in drawn:
        assert verify.follows(Said(str(said), value), None), (said, value)


@pytest.mark.parametrize(
    ("words", "value", "follows"),
    [
        ("2.5 million", 2_500_000, True),
        ("2.5 million", 2_500_001, False),
        ("40k", 40_000, True),
        ("$1.2 billion", 1_200_000_000, True),
        ("5%", 0.05, True),
        ("5 percent", 0.5, False),
        ("-12.5%", -0.125, True),
    ],
)
def test_a_scaled_number_follows_from_its_words(words: str, value: float, follows: bool) -> None:
    assert verify.follows(Said(words, value), None) is follows


def test_a_longer_text_is_quoted_and_kept_whole() -> None:
    made = [each for style in ("spoken", "written", "literal") for each in requests(named("write_review"), style)]
    texts = {str(each.arguments["text"]): each.text for each in made if "text" in each.arguments}
    long = [text for text in texts if len(text.split()) >= 12]
    assert len(long) > 10 and all(8 <= len(text.split()) <= 25 for text in long)
    assert all(f'"{text}"' in texts[text] for text in long if "=" not in texts[text] and ":" not in texts[text])


def test_a_place_with_its_country_or_state_is_one_value() -> None:
    names = ("wx_current", "current_time_in", "daily_forecast", "aqiReading", "historical_weather")
    made = [each for name in names for each in requests(named(name), "spoken", 40)]
    places = {str(each.arguments.get("location") or each.arguments.get("city")) for each in made}
    assert {each for each in places if re.search(r", [A-Z]", each)} and {each for each in places if "," not in each}


@pytest.mark.parametrize("of", sorted(values.VERBATIM))
def test_formulas_and_code_are_drawn_as_they_stand(of: str) -> None:
    drawn = {values.draw(of, random.Random(seed)).value for seed in range(30)}
    assert len(drawn) >= 4
    assert not any('"' in each or "`" in each or "<n>" in each for each in drawn)


def rows(share: float, count: int = 40) -> Synthesis:
    shares = dict.fromkeys(SHARES, 0.0) | {"one": 0.6, "parallel_several": 0.2, "no_tool": 0.2}
    mixture = Mixture(shares=shares, rounds=(1.0,), chinese=0.0, direct=share)
    domains = [each for each in catalogue.domains() if not each.held_out]
    made = Synthesis(domains, [], mixture, 4)
    assert len(list(made.make(count))) == count
    return made


def test_the_share_of_direct_questions_is_that_of_the_mixture() -> None:
    assert not rows(0.0).report.direct
    report = rows(1.0).report
    assert set(report.direct) == set(direct.STYLES)
    assert report.direct.total() > 0.9 * report.kinds.total()


def test_direct_questions_rarely_fail_their_check() -> None:
    report = rows(1.0, 60).report
    assert report.dropped["failed its check"] <= 3, report.examples
