"""Rows in Parquet are the rows that JSON lines would be."""

import gzip
import io
import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model_folder

from swift import cli
from swift.data import arrow
from swift.data.readers import read_rows
from swift.data.rows import BadRow, conversation


def tool(name, **properties):
    return {"name": name, "parameters": {"type": "object", "properties": properties, "required": list(properties)[:1]}}


STOP = tool("stop", line={"type": "string", "enum": ["M4", None]}, now={"type": "boolean"})
OPEN = tool("open", port={"type": "integer", "minimum": 1, "units": {"of": "pins"}})


def row(offered, arguments):
    call = {"type": "function", "function": {"name": offered["name"], "arguments": arguments}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "ok"},
        {"role": "assistant", "content": "r"},
    ]
    return {"tools": [STOP, OPEN], "messages": turns}


ROWS = [row(STOP, {"line": "M4", "now": True}), row(OPEN, {"port": 3}), row(STOP, {"line": "M4"})]


def parquet(path: Path, rows, schema=None) -> Path:
    stored = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), stored)
    path.write_bytes(gzip.compress(stored.getvalue()) if path.suffix == ".gz" else stored.getvalue())
    return path


def read(path):
    return [conversation(row) for _, row in read_rows(path)]


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz"])
def test_tools_and_arguments_in_structs_have_no_key_of_another_row(tmp_path, name):
    found = read(parquet(tmp_path / name, ROWS))
    assert [each.messages[1].tool_calls[0].arguments for each in found] == [
        '{"line": "M4", "now": true}',
        '{"port": 3}',
        '{"line": "M4"}',
    ]
    assert [each.spec for each in found[0].tools] == [STOP, OPEN]
    assert found == [conversation(row) for row in ROWS]


def test_rows_in_parquet_are_trained_as_rows_in_json_lines(tmp_path, capsys):
    tiny_model_folder(tmp_path / "model")
    parquet(tmp_path / "a.parquet", ROWS)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shown = []
    for name in ("a.parquet", "a.jsonl"):
        words = ["--model", str(tmp_path / "model"), "--template_type", "qwen", "--agent_template", "hermes", "--json"]
        assert cli.main(["data", "show", str(tmp_path / name), *words]) == 0
        shown.append([json.loads(line) | {"source": ""} for line in capsys.readouterr().out.splitlines()])
    assert shown[0] == shown[1] and len(shown[0]) == 3
    text = json.dumps(shown[0])
    assert "null}" not in text and "port" in text


def test_a_null_in_json_text_a_list_or_a_map_was_written_by_somebody(tmp_path):
    written = pa.map_(pa.string(), pa.int64())
    kind = pa.struct([("name", pa.string()), ("arguments", written)])
    message = pa.struct([("role", pa.string()), ("content", pa.string()), ("tool_calls", pa.list_(kind))])
    schema = pa.schema([("messages", pa.list_(message)), ("tools", pa.string())])
    calls = [{"name": "f", "arguments": {"a": None, "b": 1}}, {"name": "f", "arguments": {"c": 2}}]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": calls}]
    tools = json.dumps([{"name": "f", "parameters": {"default": None, "properties": {"a": {"enum": ["a", None]}}}}])
    (found,) = read(parquet(tmp_path / "a.parquet", [{"messages": turns, "tools": tools}], schema))
    assert [call.arguments for call in found.messages[1].tool_calls] == ['{"a": null, "b": 1}', '{"c": 2}']
    assert found.tools[0].parameters == {"default": None, "properties": {"a": {"enum": ["a", None]}}}


def test_parameters_may_be_json_text_in_a_struct(tmp_path):
    text = [{"name": each["name"], "parameters": json.dumps(each["parameters"])} for each in (STOP, OPEN)]
    (found,) = read(parquet(tmp_path / "a.parquet", [ROWS[0] | {"tools": text}]))
    assert [each.spec for each in found.tools] == [STOP, OPEN]


def test_a_map_with_a_key_twice_is_a_bad_row_and_the_others_are_read(tmp_path):
    kind = pa.map_(pa.string(), pa.string())
    stored = pa.table({"text": ["a", "b"], "meta": pa.array([[("k", "1"), ("k", "2")], [("k", "1")]], kind)})
    pq.write_table(stored, tmp_path / "a.parquet")
    (_, bad), (_, good) = read_rows(tmp_path / "a.parquet")
    assert isinstance(bad, BadRow) and bad.rule == "duplicate-key"
    assert good == {"text": "b", "meta": {"k": "1"}}


def test_a_text_that_is_not_utf8_is_a_bad_row_and_the_others_are_read(tmp_path):
    offsets = pa.py_buffer(bytes(b for n in (0, 1, 5, 6) for b in n.to_bytes(4, "little")))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"acaf\xe9c")])
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    (_, first), (_, bad), (_, last) = read_rows(tmp_path / "a.parquet")
    assert (first, last) == ({"text": "a"}, {"text": "c"})
    assert isinstance(bad, BadRow) and bad.rule == "not-utf8" and "byte 4" in bad.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_arguments_that_json_cannot_hold_are_a_bad_row(tmp_path, value):
    ((_, bad),) = read_rows(parquet(tmp_path / "a.parquet", [row(OPEN, {"port": value})]))
    with pytest.raises(BadRow, match=r"open: arguments cannot be written as JSON") as caught:
        conversation(bad)
    assert caught.value.rule == "bad-arguments"


@pytest.mark.parametrize("default", [float("nan"), datetime(2024, 1, 1)])
def test_tools_that_json_cannot_hold_are_a_bad_row(tmp_path, default):
    offered = tool("at", when={"type": "string", "default": default})
    ((_, bad),) = read_rows(parquet(tmp_path / "a.parquet", [{"query": "q", "response": "r", "tools": [offered]}]))
    with pytest.raises(BadRow, match=r"tool 1 cannot be written as JSON") as caught:
        conversation(bad)
    assert caught.value.rule == "bad-tools"


# --- any rows that have types

LEAVES = {"a": st.booleans(), "b": st.integers(-9, 9), "c": st.text(st.characters(codec="utf-8"), max_size=3)}
LISTS = {"d": st.lists(st.integers(0, 9), max_size=2)}
INNER = st.fixed_dictionaries({}, optional=LEAVES)
DEEP = {"e": INNER, "f": st.lists(INNER, max_size=2)}
ARGUMENTS = st.fixed_dictionaries({}, optional={**LEAVES, **LISTS, **DEEP})


@given(st.lists(ARGUMENTS, min_size=1, max_size=4))
def test_what_goes_into_parquet_comes_out_as_it_would_of_json_lines(arguments):
    rows = [{"query": "q", "call": each, "calls": [each, {}]} for each in arguments]
    inner = [("a", pa.bool_()), ("b", pa.int64()), ("c", pa.string())]
    kind = pa.struct([*inner, ("d", pa.list_(pa.int64())), ("e", pa.struct(inner)), ("f", pa.list_(pa.struct(inner)))])
    schema = pa.schema([("query", pa.string()), ("call", kind), ("calls", pa.list_(kind))])
    stored = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), stored)
    assert [json.dumps(each, sort_keys=True) for each in arrow.rows(stored)] == [
        json.dumps(each, sort_keys=True) for each in rows
    ]
