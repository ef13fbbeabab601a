"""The rows of the studio: opening files, findings, filters, edits, and new files."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from swift.data import linting
from swift.data.data_file import DataFile, Filter
from swift.data.row_edits import Edits, save
from swift.data.row_fields import Field, changed, fields, row_of
from swift.data.row_values import BadRow, Row
from swift.studio import rows
from swift.studio.rows import Opened

CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
CALLS: Row = {
    "messages": [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "1", "content": "a cat"},
        {"role": "assistant", "content": "A cat.", "loss": True},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}],
}
PAIR: Row = {"query": "2 + 2?", "response": "4", "id": "sums_1"}


def write(path: Path, *lines: object) -> Path:
    """JSON lines; texts are lines as they are."""
    text = "".join((each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)) + "\n" for each in lines)
    path.write_text(text, encoding="utf-8")
    return path


def whole(path: Path) -> DataFile:
    """An opened file that has been read to its end."""
    found = DataFile(path)
    assert found.done.wait(20)
    return found


def row(data: DataFile, at: int) -> Row:
    found = data.row(at)
    assert isinstance(found, dict), found
    return found


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "jsonl.gz"])
def test_rows_of_every_type_of_file_are_read_where_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    found = [{"query": f"q{n}", "response": "r"} for n in range(3)]
    if kind == "jsonl":
        write(path, *found)
    elif kind == "json":
        path.write_text(json.dumps(found))
    elif kind == "csv":
        path.write_text("query,response\n" + "".join(f"{each['query']},r\n" for each in found))
    elif kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(found), path)
    else:
        import gzip

        path.write_bytes(gzip.compress("".join(json.dumps(each) + "\n" for each in found).encode()))
    data = whole(path)
    assert [row(data, at) for at in range(len(data))] == found
    assert data.kinds == {"question and answer": 3} and len(data.sizes()) == 3
    assert list(data.lines) == ([2, 3, 4] if kind == "csv" else [1, 1, 1] if kind == "json" else [1, 2, 3])


def test_findings_are_those_of_lint_and_lead_to_their_rows(tmp_path: Path) -> None:
    unknown = json.loads(json.dumps(CALLS).replace('"name": "look", "arguments"', '"name": "lok", "arguments"'))
    path = write(tmp_path / "a.jsonl", PAIR, '{"query": ', "", unknown, PAIR, {**CALLS, "topic": "x"}, CALLS)
    data = whole(path)
    expected = [each._replace(excerpt="") for each in linting.lint([path])]
    assert data.findings == expected and len(expected) == 5
    assert [each.rule for each in data.found(1)] == ["bad-json"] and data.lines[1] == 2
    at = data.at_line(4)
    assert at is not None and [each.rule for each in data.found(at)] == ["unknown-tool"]
    assert data.at_line(3) is None and data.at_line(99) is None
    assert [data.lines[at] for at in data.find(Filter(found=True), 0, 10)] == [2, 4, 5, 6, 7]
    assert [data.lines[at] for at in data.find(Filter(rule="duplicate-row"), 0, 10)] == [5, 7]
    assert data.rules["duplicate-row", True] == 2 and data.rules["bad-json", False] == 1
    assert data.sources == {"sums": 2, "": 4}


def test_text_is_found_in_any_case_and_language_page_by_page(tmp_path: Path) -> None:
    lines = [json.dumps({"query": f"Frage {n} Übel 你好" if n % 2 else "x", "response": "r"}) for n in range(10)]
    data = whole(write(tmp_path / "a.jsonl", *lines))
    for text in ("übel", "你好", "frage"):
        assert data.find(Filter(text=text), 0, 2) == [1, 3]
        assert data.find(Filter(text=text), 4, 2) == [5, 7]
        assert data.find(Filter(text=text), 4, 2, backwards=True) == [1, 3]
    assert data.find(Filter(text="nothing of this"), 0, 2) == []
    assert data.find(Filter(), 8, 5) == [8, 9] and data.find(Filter(), 99, 5, backwards=True) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.jsonl", b"", "the file is empty"),
        ("a.csv", b"", "the file is empty"),
        ("a.parquet", b"PAR1 torn", "not a readable Parquet file"),
        ("a.jsonl", '{"query": "q", "response": "r"}'.encode("utf-16"), "it is UTF-16 or UTF-32; save it as UTF-8"),
        ("a.json", b"\xff\xfe[]", "it is UTF-16"),
    ],
)
def test_an_unreadable_file_is_a_finding(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    data = whole(tmp_path / name)
    assert len(data) == 0 and [each.rule for each in data.findings] == ["unreadable-file"]
    assert complaint in data.findings[0].message


@pytest.mark.parametrize("name", ["nowhere.jsonl", "a.txt", "."])
def test_a_path_that_is_no_data_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"no such file|No such file|unknown file type|is a folder"):
        DataFile(tmp_path / name)


def test_a_file_that_changes_is_opened_again_and_never_read_at_old_places(tmp_path: Path) -> None:
    opened = Opened(most=2)
    data = opened.open(write(tmp_path / "a.jsonl", PAIR))
    assert data.done.wait(20) and opened.open(tmp_path / "a.jsonl") is data
    write(tmp_path / "a.jsonl", CALLS, PAIR)
    with pytest.raises(ValueError, match="has changed on the disk"):
        data.row(0)
    again = opened.open(tmp_path / "a.jsonl")
    assert again is not data and again.done.wait(20) and len(again) == 2
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(ValueError, match="No such file"):
        opened.open(tmp_path / "a.jsonl")


# Edits ---------------------------------------------------------------------------------------------------------------


def field(of: Row, what: str, number: int = 0) -> Field:
    return next(each for each in fields(of) if each.what == what and each.number == number)


def edit(of: Row, what: str, number: int, text: str) -> Row:
    return changed(of, {field(of, what, number).keys: text})


def test_an_answer_a_call_and_a_weight_of_messages_can_be_edited() -> None:
    assert [(each.number, each.role, each.what) for each in fields(CALLS)] == [
        (1, "user", "content"),
        (2, "assistant", "content"),
        (2, "assistant", "name"),
        (2, "assistant", "arguments"),
        (2, "assistant", "weight"),
        (3, "tool", "content"),
        (4, "assistant", "content"),
        (4, "assistant", "weight"),
    ]
    assert field(CALLS, "weight", 4).text == "1" and field(CALLS, "weight", 2).text == ""
    assert edit(CALLS, "content", 4, "Two.")["messages"][3]["content"] == "Two."
    call = edit(CALLS, "arguments", 2, '{"at":  2}')["messages"][1]["tool_calls"][0]["function"]
    assert call == {"name": "look", "arguments": '{"at":  2}'}  # text stays text, byte for byte
    assert edit(CALLS, "weight", 4, "0.5")["messages"][3] == {"role": "assistant", "content": "A cat.", "weight": 0.5}
    assert edit(CALLS, "weight", 4, "")["messages"][3] == {"role": "assistant", "content": "A cat."}
    assert CALLS["messages"][3]["loss"] is True  # the row itself is not touched


def test_other_shapes_are_edited_in_their_own_keys_and_text_of_json_stays_text() -> None:
    assert edit(PAIR, "content", 0, "3 + 3?")["query"] == "3 + 3?"
    cell: Row = {"messages": json.dumps(CALLS["messages"]), "tools": json.dumps(CALLS["tools"])}
    new = edit(cell, "name", 2, "see")
    assert isinstance(new["messages"], str)
    assert json.loads(new["messages"])[1]["tool_calls"][0]["function"]["name"] == "see"
    pairs: Row = {"conversation": [{"human": "a", "assistant": "b"}]}
    assert [each.text for each in fields(pairs)] == ["a", "b"]
    instruct: Row = {"instruction": "Add", "input": "1 2", "output": "3"}
    assert [each.text for each in fields(instruct)] == ["Add", "1 2", "3"]
    objects: Row = {"messages": [{"role": "gpt", "function_call": {"name": "a", "arguments": {"x": 1}}}]}
    assert edit(objects, "arguments", 1, '{"x": 2}')["messages"][0]["function_call"]["arguments"] == {"x": 2}
    parts: Row = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}
    assert edit(parts, "value", 1, '"b"')["messages"][0]["content"] == "b"
    assert fields({"something": "else"}) == [] and fields({"messages": "[torn"}) == []


@pytest.mark.parametrize(
    ("what", "number", "text", "complaint"),
    [
        ("arguments", 2, "{'at': 1}", "message 2, arguments: "),
        ("arguments", 2, "[1]", "arguments must be a JSON object"),
        ("arguments", 2, '{"a": 1, "a": 2}', "message 2, arguments: "),
        ("name", 2, " ", "message 2, name: the name is empty"),
        ("weight", 4, "much", "message 4, weight: 'much' is not a number of at least 0"),
        ("weight", 4, "-1", "'-1' is not a number of at least 0"),
        ("weight", 4, "nan", "'nan' is not a number of at least 0"),
    ],
)
def test_a_wrong_edit_is_one_line_that_names_the_field(what: str, number: int, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        edit(CALLS, what, number, text)
    assert "\n" not in str(error.value)


def test_a_row_can_be_typed_as_json() -> None:
    assert row_of(' {"query": "q", "response": "r"}\n') == {"query": "q", "response": "r"}
    for text in ("[1]", '{"query"', '{"a": NaN}', "\ud83d"):
        with pytest.raises(ValueError, match=r"not-an-object|bad-json|surrogate"):
            row_of(text)


def test_edits_outlive_the_server_and_are_never_applied_to_another_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", PAIR, CALLS)
    new = {**PAIR, "response": "four"}
    Edits(tmp_path / "studio", path).set(1, PAIR, new)
    later = Edits(tmp_path / "studio", path)
    assert later.get(1, PAIR) == new and later.get(2, CALLS) is None and later.all() == {1: new}
    with pytest.raises(ValueError, match="line 1 has changed on the disk since it was edited"):
        later.get(1, CALLS)
    later.set(1, PAIR, PAIR)  # back to what it was: no edit
    assert later.all() == {} and list((tmp_path / "studio").iterdir()) == []


def test_a_new_file_keeps_every_other_line_byte_for_byte_also_those_that_are_not_json(tmp_path: Path) -> None:
    odd = '{"response":"\\u4f60",   "query": "q"}'
    path = write(tmp_path / "a.jsonl", odd, '{"torn": ', PAIR, "", CALLS)
    before = path.read_bytes()
    edits = Edits(tmp_path / "studio", path)
    edits.set(3, PAIR, {**PAIR, "response": "four"})
    saved = save(whole(path), edits, tmp_path / "new" / "b.jsonl")
    assert saved == (4, 1, [2], True) and path.read_bytes() == before
    lines = (tmp_path / "new" / "b.jsonl").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == [odd, '{"torn": '] and json.loads(lines[2])["response"] == "four"
    assert json.loads(lines[3]) == CALLS and [each.name for each in (tmp_path / "new").iterdir()] == ["b.jsonl"]


def test_a_line_that_is_not_json_can_be_replaced(tmp_path: Path) -> None:
    data = whole(write(tmp_path / "a.jsonl", PAIR, '{"query": "q", "response": "r"'))
    edits = Edits(tmp_path / "studio", data.path)
    torn = data.row(1)
    assert isinstance(torn, BadRow)
    edits.set(2, torn, row_of('{"query": "q", "response": "r"}'))
    assert save(data, edits, tmp_path / "b.jsonl") == (2, 1, [], True)
    assert list(linting.lint([tmp_path / "b.jsonl"])) == []


def test_rows_of_other_files_are_saved_as_json_lines_and_those_left_out_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("query,response\nq,r\na,b,c\nx,y\n")
    saved = save(whole(tmp_path / "a.csv"), Edits(tmp_path / "studio", tmp_path / "a.csv"), tmp_path / "b.jsonl")
    assert saved == (2, 0, [3], False)
    assert [json.loads(line) for line in (tmp_path / "b.jsonl").read_text().splitlines()] == [
        {"query": "q", "response": "r"},
        {"query": "x", "response": "y"},
    ]


def test_no_file_is_ever_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = whole(write(tmp_path / "a.jsonl", PAIR))
    edits = Edits(tmp_path / "studio", data.path)
    for target, complaint in ((data.path, "exists"), (tmp_path / "b.json", "ends in .jsonl")):
        with pytest.raises(ValueError, match=complaint):
            save(data, edits, target)
    target = tmp_path / "b.jsonl"
    raw = DataFile.raw

    def slow(self: DataFile, at: int) -> bytes:  # another program takes the name while rows are written
        target.write_text("theirs")
        return raw(self, at)

    monkeypatch.setattr(DataFile, "raw", slow)
    with pytest.raises(ValueError, match=r"b.jsonl exists: choose another name"):
        save(data, edits, target)
    assert target.read_text() == "theirs"


# Corrected rows ------------------------------------------------------------------------------------------------------


def test_corrected_rows_are_appended_whole_also_by_several_at_once(tmp_path: Path) -> None:
    file = tmp_path / "corrections" / "a.jsonl"
    threads = [threading.Thread(target=rows.add, args=(file, {**PAIR, "query": "x" * 9000})) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in file.read_text().splitlines()]) == 8
    assert rows.add(file, CALLS) == 9
    with file.open("a") as out:
        out.write('{"torn"')
    assert rows.add(file, PAIR) == 11 and json.loads(file.read_text().splitlines()[10]) == PAIR


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("a.jsonl", {"messages": [{"role": "user", "content": "q"}]}, "no-reply: "),
        ("a.jsonl", {"query": "q", "response": "\ud83d"}, "lone-surrogate: "),
        ("a.csv", PAIR, "ends in .jsonl"),
    ],
)
def test_a_row_that_cannot_be_trained_is_not_appended(
    tmp_path: Path, name: str, value: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        rows.add(tmp_path / name, value)
    assert not (tmp_path / name).exists()
