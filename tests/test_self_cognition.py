"""The rows in which a model learns its name."""

import json

import pytest

from swift.data.self_cognition import FILE, conversations

ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


def test_there_are_enough_different_rows_in_both_languages():
    assert len(ROWS) >= 120
    assert len({row["query"] for row in ROWS}) == len(ROWS)
    assert 0.4 < sum(row["tag"] == "zh" for row in ROWS) / len(ROWS) < 0.6


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["query"])
def test_every_row_is_in_its_language_and_names_the_model_or_its_maker(row):
    assert set(row) == {"query", "response", "tag"}
    assert is_chinese(row["query"]) == is_chinese(row["response"]) == (row["tag"] == "zh")
    assert "{{NAME}}" in row["response"] or "{{AUTHOR}}" in row["response"]
    assert "{{" not in row["response"].replace("{{NAME}}", "").replace("{{AUTHOR}}", "")


def test_no_reply_claims_another_name():
    for row in ROWS:
        for name in ("OpenAI", "Google", "GPT", "Claude", "Gemini", "Siri", "通义", "文心", "Qwen", "Llama"):
            if name in row["response"]:
                assert f"不是{name}" in row["response"] or f"not {name}" in row["response"], row


def test_each_language_gets_its_own_name():
    filled = conversations(["卡卡罗特", "Kakarot"], ["陶白白", "Taobaibai"])
    told = "".join(message.content for row in filled for message in row.messages)
    assert "{{" not in told
    for row, source in zip(filled, ROWS, strict=True):
        name, other = ("卡卡罗特", "Kakarot") if source["tag"] == "zh" else ("Kakarot", "卡卡罗特")
        assert other not in row.messages[1].content
        assert (name in row.messages[1].content) == ("{{NAME}}" in source["response"])


def test_one_name_serves_both_languages():
    filled = conversations(["Kakarot"], ["Taobaibai"])
    assert filled[0].messages[1].content.count("Kakarot") == filled[-1].messages[1].content.count("Kakarot") == 1


@pytest.mark.parametrize(
    ("names", "authors", "flag"),
    [
        ([], ["a"], "--model_name"),
        (["n"], [], "--model_author"),
        (["n", ""], ["a"], "--model_name"),
        (["n"], [" "], "--model_author"),
        (["n", "n", "n"], ["a"], "--model_name"),
    ],
)
def test_a_missing_name_or_maker_is_an_error(names, authors, flag):
    with pytest.raises(ValueError, match=flag):
        conversations(names, authors)
