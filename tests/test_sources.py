"""Names and files -> rows."""

import csv
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from swift.data import repositories
from swift.data.readers import read_rows
from swift.data.rows import BadRow, conversation
from swift.data.sources import Item, parse, resolve

ROWS = [{"query": "q1", "response": "é 北京"}, {"query": "q2", "response": "r2"}]


def write(path: Path, text: str | bytes) -> Path:
    data = text.encode() if isinstance(text, str) else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture(autouse=True)
def no_network_and_empty_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)


# --- files


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(
    ("name", "text", "numbers"),
    [
        ("a.jsonl", lines(ROWS), [1, 2]),
        ("a.jsonl", "\n" + lines(ROWS).replace("\n", "\r\n\r\n"), [2, 4]),
        ("a.json", json.dumps(ROWS), [1, 1]),
        ("a.json", json.dumps(ROWS, indent=1), [2, 6]),
        ("a.json", lines(ROWS), [1, 2]),
        ("a.csv", "query,response\nq1,é 北京\nq2,r2\n", [2, 3]),
        ("A.JSONL", lines(ROWS), [1, 2]),
    ],
)
def test_every_text_format_gives_the_same_rows_with_their_lines(tmp_path, name, text, numbers, mark, gz):
    path = write(tmp_path / (name + gz), mark + text.encode())
    assert list(read_rows(path)) == list(zip(numbers, ROWS, strict=True))


@pytest.mark.parametrize("gz", [False, True])
def test_parquet_gives_plain_rows_without_the_empty_cells(tmp_path, gz):
    tools = '[{"name": "f", "parameters": {"a": 1}}]'
    table = pa.table({"query": ["q1", "q2"], "system": [None, "s"], "tools": [tools, ""], "n": [float("nan"), 1.0]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    if gz:
        path = write(tmp_path / "a.parquet.gz", path.read_bytes())
    assert list(read_rows(path)) == [
        (1, {"query": "q1", "tools": tools}),
        (2, {"query": "q2", "system": "s", "tools": "", "n": 1.0}),
    ]


def test_messages_from_parquet_may_miss_keys(tmp_path):
    call = {"name": "f", "arguments": '{"a":  1}'}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "a.parquet")
    ((_, row),) = read_rows(tmp_path / "a.parquet")
    assert conversation(row).messages[-1].tool_calls[0].arguments == '{"a":  1}'


def test_one_object_in_a_json_file_is_one_row(tmp_path):
    path = write(tmp_path / "a.json", json.dumps(ROWS[0], indent=2))
    assert list(read_rows(path)) == [(1, ROWS[0])]


def test_a_cell_may_hold_lines_and_more_than_128_kilobytes(tmp_path):
    long = "x" * 200_000
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["query", "response"], ["one\ntwo", long], ["q", "r"]])
    assert list(read_rows(tmp_path / "a.csv")) == [
        (2, {"query": "one\ntwo", "response": long}),
        (4, {"query": "q", "response": "r"}),
    ]


@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("above", ["", "sep={}\r\n"])
def test_a_csv_may_have_another_separator_which_is_told(tmp_path, separator, above):
    text = 'query;response;note\r\n"one; two, three";r1;\r\nq2;r2;n\r\n'.replace(";", separator)
    path = write(tmp_path / "a.csv", "\ufeff" + above.format(separator) + text)
    said, at = [], 3 if above else 2
    assert list(read_rows(path, said.append)) == [
        (at, {"query": "one; two, three".replace(";", separator), "response": "r1", "note": ""}),
        (at + 1, {"query": "q2", "response": "r2", "note": "n"}),
    ]
    name = {";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}[separator]
    assert said == [f"{path}: columns are separated by {name}"]


def test_a_csv_with_commas_keeps_other_separators_in_its_cells(tmp_path):
    said = []
    path = write(tmp_path / "a.csv", "query,response\na;b|c,d;e;f\n")
    assert list(read_rows(path, said.append)) == [(2, {"query": "a;b|c", "response": "d;e;f"})]
    assert said == []


BROKEN = {"query": "café", "response": "r"}


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.jsonl", lines([ROWS[0], BROKEN, ROWS[1]]), 2),
        ("a.json", json.dumps([ROWS[0], BROKEN, ROWS[1]], ensure_ascii=False, indent=1), 6),
        ("a.json", lines([ROWS[0], BROKEN, ROWS[1]]), 2),
        ("a.csv", "query,response\nq1,é 北京\ncafé,r\nq2,r2\n", 3),
    ],
)
def test_a_stray_byte_costs_its_row_alone(tmp_path, name, text, line):
    found = list(read_rows(write(tmp_path / name, text.encode().replace("café".encode(), b"caf\xe9"))))
    assert [row for _, row in found if isinstance(row, dict)] == ROWS
    ((at, bad),) = [(at, row) for at, row in found if isinstance(row, BadRow)]
    assert (at, bad.rule) == (line, "not-utf8")
    assert "is not UTF-8" in bad.message and "GB18030" not in bad.message
    bad.excerpt.encode()


def test_a_line_in_gb18030_says_what_it_is(tmp_path):
    path = write(
        tmp_path / "a.jsonl", lines([{"text": "ascii"}]).encode() + '{"text": "北京欢迎你"}\n'.encode("gb18030")
    )
    (_, good), (_, bad) = read_rows(path)
    assert good == {"text": "ascii"}
    assert bad.message == "byte 11 is not UTF-8; the text is valid GB18030 (GBK): save it as UTF-8"


def test_files_that_were_joined_may_hold_marks_in_the_middle(tmp_path):
    path = write(tmp_path / "a.jsonl", b"".join(b"\xef\xbb\xbf" + lines([row]).encode() for row in ROWS))
    assert [row for _, row in read_rows(path)] == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "list.json"])
@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        ("NaN", "bad-json", "NaN is not JSON"),
        ("[-Infinity]", "bad-json", "-Infinity is not JSON"),
        ("1e999", "bad-json", "1e999 is beyond"),
        ('"\\ud83d"', "lone-surrogate", r"deep\.x holds \\ud83d"),
        ('{"\\udc00": 1}', "lone-surrogate", r"a key of deep\.x holds \\udc00"),
        ('{"k": 1, "k": 2}', "duplicate-key", "the key 'k' twice"),
    ],
)
def test_a_row_that_is_no_strict_json_is_bad_and_the_others_are_read(tmp_path, name, value, rule, message):
    rows = [lines([ROWS[0]]), f'{{"query": "q", "response": "r", "deep": {{"x": {value}}}}}\n', lines([ROWS[1]])]
    path = write(tmp_path / name, f"[{','.join(rows)}]" if name == "list.json" else "".join(rows))
    first, (line, bad), last = read_rows(path)
    assert [first[1], last[1]] == ROWS
    assert (line, bad.rule) == (2, rule)
    assert re.search(message, bad.message)
    bad.excerpt.encode()


def test_one_row_over_many_lines_that_is_no_strict_json_is_one_bad_row(tmp_path):
    ((line, bad),) = read_rows(write(tmp_path / "a.json", '{\n"query": "q",\n"response": NaN\n}\n'))
    assert (line, bad.rule, bad.message) == (1, "bad-json", "NaN is not JSON")


def test_a_broken_line_is_a_bad_row_and_the_file_goes_on(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"query": "q1"\n[1]\n\n{"query": "\xff"}\n{"query": "q2"}\n'.encode("latin-1"))
    found = dict(read_rows(path))
    assert {line: row.rule for line, row in found.items() if isinstance(row, BadRow)} == {
        1: "bad-json",
        2: "not-an-object",
        4: "not-utf8",
    }
    assert '{"query": "q1"' in found[1].excerpt
    assert found[5] == {"query": "q2"}


@pytest.mark.parametrize(
    ("text", "bad_line"),
    [('[{"a": 1},\n{"a": }\n]', 2), ('[{"a": 1}\n', 2), ('[{"a": 1}]\n{"b": 1}', 1), ('[\n{"a": 1},\n3]', 3)],
)
def test_a_broken_list_keeps_the_rows_before_the_break(tmp_path, text, bad_line):
    found = list(read_rows(write(tmp_path / "a.json", text)))
    assert found[0][1] == {"a": 1}
    assert [line for line, row in found if isinstance(row, BadRow)] == [bad_line]


def test_a_csv_row_with_too_many_cells_is_a_bad_row(tmp_path):
    found = list(read_rows(write(tmp_path / "a.csv", "query,response\na,b,c\nd,e\n")))
    assert found[0][0] == 2 and isinstance(found[0][1], BadRow) and found[0][1].rule == "bad-csv"
    assert found[1] == (3, {"query": "d", "response": "e"})


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\n \n", "empty"),
        ("a.json", b" ", "empty"),
        ("a.json", b"[]", "empty"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"query,response\n", "empty"),
        ("a.csv", b"query,query\na,b\n", "duplicate column"),
        ("a.csv", b"query,r\xe9ponse\na,b\n", "header: byte 8 is not UTF-8"),
        ("a.csv", "问题,答案\na,b\n".encode("gb18030"), "not UTF-8.*GB18030"),
        ("a.json", json.dumps(ROWS, ensure_ascii=False).encode("gb18030"), "not UTF-8.*GB18030.*save it as UTF-8"),
        ("a.jsonl", lines(ROWS).encode("utf-16-le"), "UTF-16"),
        ("a.csv", "query\tresponse\na\tb".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "t"}'.encode("utf-16"), "UTF-16"),
        ("a.parquet", b"", "Parquet"),
        ("a.parquet", b"PAR1 and nothing else", "Parquet"),
        ("a.txt", b"hello", "unknown file type"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        list(read_rows(path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"no gzip at all", gzip.compress(lines(ROWS * 99).encode())[:-20]])
def test_a_broken_archive_is_named(tmp_path, data):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read"):
        list(read_rows(path))


def test_a_folder_is_no_file_and_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path / "train.jsonl", lines(ROWS))
    with pytest.raises(ValueError, match="is a folder"):
        read_rows(tmp_path)
    with pytest.raises(ValueError, match=r"did you mean train\.jsonl"):
        read_rows(tmp_path / "trian.jsonl")


# --- names


@pytest.mark.parametrize(
    ("text", "item"),
    [
        ("ms-agent", Item("ms-agent")),
        ("ms-bench#60000", Item("ms-bench", 60000)),
        ("MS::iic/ms_bench", Item("iic/ms_bench", hub="MS")),
        ("hf::a/b:x/y#5", Item("a/b", 5, "HF", ("x", "y"))),
    ],
)
def test_a_name_is_taken_apart(text, item):
    assert parse(text) == item


def test_a_path_that_exists_is_never_taken_apart(tmp_path):
    path = write(tmp_path / "a:b#3.jsonl", lines(ROWS))
    assert parse(str(path)) == Item(str(path))
    assert parse(f"{path}#2") == Item(str(path), 2)


@pytest.mark.parametrize("text", ["a.jsonl#", "a.jsonl#x", "a.jsonl#0", "a.jsonl#-1", "a.jsonl#1.5"])
def test_a_count_must_be_a_number_from_one_on(text):
    with pytest.raises(ValueError, match="number of rows"):
        parse(text)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    for name in ("b.csv", "a.jsonl", "c.json.gz", "README.md", "dataset_infos.json"):
        write(tmp_path / "set" / name, '{"default": {"x": 1}}')
    assert [file.name for file in resolve(str(tmp_path / "set")).files] == ["a.jsonl", "b.csv", "c.json.gz"]
    with pytest.raises(ValueError, match="no data file"):
        (tmp_path / "none").mkdir()
        resolve(str(tmp_path / "none"))


@pytest.mark.parametrize("layout", ["hub/datasets", "datasets", "hub"])
def test_a_known_name_is_found_in_every_layout_of_the_modelscope_cache(tmp_path, layout):
    folder = tmp_path / "modelscope" / layout / "iic" / "ms_bench"
    write(folder / "ms_bench.json", '{"default": {"train": {"meta": "data/train.jsonl"}}}')
    file = write(folder / "data" / "train.jsonl", lines(ROWS))
    for name in ("ms-bench", "iic/ms_bench", "MS::iic/ms_bench"):
        source = resolve(name)
        assert (source.name, source.files) == ("ms-bench", (file,))


def test_a_dot_in_a_name_may_be_spelled_with_underscores(tmp_path):
    file = write(tmp_path / "modelscope" / "datasets" / "org" / "set-1___5" / "a.jsonl", lines(ROWS))
    assert resolve("org/set-1.5").files == (file,)


def test_a_hub_id_is_found_in_the_hugging_face_cache(tmp_path):
    snapshot = tmp_path / "huggingface" / "hub" / "datasets--org--name" / "snapshots" / "abc"
    train = write(snapshot / "en" / "train-00000.jsonl", lines(ROWS))
    write(snapshot / "en" / "test-00000.jsonl", lines(ROWS))
    other = write(snapshot / "zh" / "train-00000.jsonl", lines(ROWS))
    write(snapshot / ".temp" / "train-00000.jsonl", lines(ROWS))
    assert resolve("HF::org/name").files == (train, other)
    assert resolve("org/name:zh#5").files == (other,)
    with pytest.raises(ValueError, match=r"no data file of the subset .z."):
        resolve("org/name:z")


def test_a_file_comes_before_a_known_name(tmp_path):
    file = write(tmp_path / "ms-agent" / "mine.jsonl", lines(ROWS))
    assert [path.resolve() for path in resolve("ms-agent").files] == [file]


def test_what_is_not_found_says_everything_that_was_tried(tmp_path):
    with pytest.raises(ValueError) as caught:
        resolve("ms-agent")
    for tried in ("file or folder", str(tmp_path / "modelscope"), "SWIFT_OFFLINE"):
        assert tried in str(caught.value)
    assert "did you mean" not in str(caught.value)
    with pytest.raises(ValueError, match="did you mean ms-agent"):
        resolve("ms-agnet")


def test_the_network_is_asked_last_and_its_refusal_is_told(monkeypatch):
    asked = []

    def refuse(repository: str, pick: repositories.Pick) -> Path:
        asked.append(repository)
        raise ConnectionError("nobody there")

    monkeypatch.setattr(repositories, "from_modelscope", refuse)
    monkeypatch.setattr(repositories, "from_hugging_face", refuse)
    with pytest.raises(ValueError, match="SWIFT_OFFLINE"):
        resolve("org/name")
    assert asked == []
    monkeypatch.delenv("SWIFT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(ValueError, match=r"ModelScope \(nobody there\), Hugging Face \(nobody there\)"):
        resolve("org/name")
    assert asked == ["org/name", "org/name"]


def test_what_the_network_brings_is_read(tmp_path, monkeypatch):
    file = write(tmp_path / "fetched" / "train.jsonl", lines(ROWS))
    monkeypatch.delenv("SWIFT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(repositories, "from_modelscope", lambda repository, pick: file.parent)
    assert resolve("ms-agent").files == (file,)
