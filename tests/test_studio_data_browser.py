"""The studio's data page in a browser: from a file to its bad row, an edit, and a new file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_pages import Server, address_of, chromium, needs_browser, opened, served, visit, wait_for
from tiny import thinking_tokenizer, tiny_model_folder

from swift.data import linting
from swift.studio.language import words

pytestmark = needs_browser

EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 1'>"
TOOLS = [{"name": "look", "description": "Look", "parameters": {"type": "object", "properties": {}}}]


def called(name: str) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "What is there?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "a cat"},
        {"role": "assistant", "content": "A cat."},
    ]
    return {"messages": turns, "tools": TOOLS}


ROWS: list[Any] = [
    {"query": "2 + 2?", "response": "4"},
    called("lok"),
    {"messages": [{"role": "user", "content": EVIL}, {"role": "assistant", "content": f"</pre>{EVIL}", "loss": True}]},
    {"query": "x" * 300_000, "response": "long"},
    *({"query": f"question {number}", "response": f"answer {number}"} for number in range(40)),
]


def write(path: Path) -> Path:
    lines = [json.dumps(row) for row in ROWS]
    lines.insert(1, '{"query": "torn')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("studio")
    tiny_model_folder(folder / "tiny")
    thinking_tokenizer().save_pretrained(folder / "tiny")
    with served(folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def see(page: Any, server: Server, query: str) -> None:
    visit(page, f"{server.root}/data?{query}")


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_bad_row_is_found_through_lint_corrected_and_saved_as_a_new_file(
    server: Server, browser: Any, language: str
) -> None:
    name = f"rows-{language}.jsonl"
    data = write(server.folder / name)
    before = data.read_bytes()

    def say(text: str) -> str:
        return words()[text] if language == "zh-CN" else text

    with opened(browser, server.address, locale=language) as page:
        page.get_by_role("link", name=say("Data"), exact=True).click()
        page.get_by_text(name, exact=True).click()
        page.get_by_text(say("Lint: findings by rule")).click()
        page.get_by_role("button", name="unknown-tool").click()
        page.locator(".finding", has_text="'lok'").wait_for()
        page.wait_for_url(re.compile("line=3.*rule=unknown-tool|rule=unknown-tool.*line=3"))
        visit(page)  # the address shows the same row
        page.locator(".finding", has_text="'lok'").wait_for()
        page.locator("[data-line='3']").wait_for()
        assert page.locator("[data-line]").count() == 1

        page.get_by_text(say("Edit this row")).click()
        page.get_by_label(f"2 · {say('assistant')} · {say('name')}").fill("look")
        page.get_by_label(f"4 · {say('assistant')} · {say('content')}").fill("Two cats.")
        page.get_by_label(f"4 · {say('assistant')} · {say('weight')}").fill("0.5")
        page.get_by_role("button", name=say("Keep the edit")).click()
        page.locator(".finding").wait_for(state="detached")
        visit(page)  # and the edit, which is not saved yet
        page.get_by_text("Two cats.").first.wait_for()
        page.get_by_label(say("Save all rows as a new file")).fill(f"new/{language}.jsonl")
        page.get_by_role("button", name=say("Save"), exact=True).click()
        wait_for(lambda: (server.folder / f"new/{language}.jsonl").exists(), "the new file")
        page.get_by_text(say("kept as they are")).wait_for()
        page.get_by_role("button", name=say("Open the new file")).click()
        page.wait_for_url(re.compile(f"file=new%2F{language}.jsonl"))
        page.locator("[data-line='3']").click()
        page.locator(".rowchat", has_text="Two cats.").wait_for()
    assert data.read_bytes() == before
    lines = (server.folder / f"new/{language}.jsonl").read_text(encoding="utf-8").splitlines()
    corrected = json.loads(lines[2])
    assert corrected["messages"][3] == {"role": "assistant", "content": "Two cats.", "weight": 0.5}
    assert corrected["messages"][1]["tool_calls"][0]["function"]["name"] == "look"
    del lines[2]
    assert lines == [line for number, line in enumerate(before.decode().splitlines()) if number != 2]
    assert [each.rule for each in linting.lint([server.folder / f"new/{language}.jsonl"])] == ["bad-json"]


def test_tokens_have_the_colours_of_their_weights_as_training_sees_them(server: Server, browser: Any) -> None:
    write(server.folder / "weights.jsonl")
    visit_of = "file=weights.jsonl&model=tiny&scale=react&line=1"
    with opened(browser, server.address) as page:
        see(page, server, visit_of)
        page.locator(".rowchat").wait_for()
        assert page.locator(".rowchat .w1").all_inner_texts() == ["\n</think>\n\n4<|im_end|>"]
        page.get_by_text("Lengths and mixture").click()
        page.get_by_role("button", name="Count tokens").click()
        page.get_by_text("Tokens of the samples of the first 45 rows").wait_for()
        assert page.locator("table.counts", has_text="Kinds of rows").locator("td.count").first.inner_text() == "43"


def test_html_in_a_row_is_text_and_a_huge_row_is_cut_and_counted(server: Server, browser: Any) -> None:
    write(server.folder / "hostile.jsonl")
    with opened(browser, server.address) as page:
        for model in ("", "&model=tiny"):
            see(page, server, f"file=hostile.jsonl&line=4{model}")
            page.locator(".rowchat .assistant", has_text="</pre><script>").wait_for()
            page.get_by_text("Edit this row").click()
            assert page.evaluate("window.hit") is None and page.locator("img[src=x]").count() == 0
        see(page, server, "file=hostile.jsonl&line=5")
        page.get_by_text("more characters, which are not shown").wait_for()
        page.get_by_text("Edit this row").click()
        page.get_by_text("query: too long to be edited here").wait_for()


def test_a_line_that_is_not_json_is_listed_and_can_be_replaced(server: Server, browser: Any) -> None:
    write(server.folder / "torn.jsonl")
    with opened(browser, server.address) as page:
        see(page, server, "file=torn.jsonl&line=2")
        page.locator(".finding", has_text="bad-json").wait_for()
        page.get_by_text("Edit this row").click()
        text = page.get_by_label("The whole row as JSON")
        assert text.input_value() == '{"query": "torn'
        page.get_by_role("button", name="Keep the JSON").click()
        page.locator(".q-notification", has_text="bad-json").wait_for()
        text.fill('{"query": "torn", "response": "mended"}')
        page.get_by_role("button", name="Keep the JSON").click()
        page.locator(".rowchat", has_text="mended").wait_for()
        page.get_by_role("button", name="Discard the edit").click()
        page.locator(".finding", has_text="bad-json").wait_for()


def test_rows_are_searched_and_paged(server: Server, browser: Any) -> None:
    write(server.folder / "many.jsonl")
    with opened(browser, server.address) as page:
        see(page, server, "file=many.jsonl")
        page.locator("[data-line]").nth(19).wait_for()
        page.get_by_role("button", name="Next").click()
        page.locator("[data-line='21']").wait_for()
        page.get_by_label("Search in the rows").fill("ANSWER 3")
        page.locator("[data-line='21']").wait_for(state="detached")
        page.locator("[data-line='9']").wait_for()
        assert page.locator("[data-line]").count() == 11
        page.locator("[data-line='39']").click()
        page.locator(".rowchat", has_text="answer 33").wait_for()
        page.wait_for_url(re.compile("line=39"))
        visit(page)
        page.locator(".rowchat", has_text="answer 33").wait_for()
        page.locator("[data-line='39']").wait_for()
        assert page.locator("[data-line]").count() == 11
        page.get_by_label("Search in the rows").fill("nothing like this")
        page.get_by_text("No row fits").wait_for()


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("file=/etc/passwd", "outside the folders of the studio"),
        ("file=../x.jsonl", "outside the folders of the studio"),
        ("file=nowhere.jsonl", "nowhere.jsonl: No such file"),
        ("file=studio.log", "unknown file type"),
        ("file=wrong.jsonl&line=1&model=/etc", "outside the folders of the studio"),
        ("file=wrong.jsonl&line=1&model=smollm3-zzz", "is neither a folder nor a known model"),
        ("file=wrong.jsonl&line=1&model=tiny&scale=reakt", "did you mean 'react'"),
        ("file=wrong.jsonl&line=999", "There is no row at line 999"),
    ],
)
def test_wrong_input_is_a_line_on_the_page(server: Server, browser: Any, query: str, complaint: str) -> None:
    write(server.folder / "wrong.jsonl")
    with opened(browser, server.address) as page:
        see(page, server, query)
        page.get_by_text(complaint).wait_for()


def test_a_dropped_file_is_opened_and_another_type_is_refused(server: Server, browser: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("query,response\nq,from a table\n")
    (tmp_path / "mine.exe").write_text("x")
    with opened(browser, server.address) as page:
        see(page, server, "")
        page.locator("input[type=file]").set_input_files(tmp_path / "mine.exe")
        page.get_by_text("The file is too large, or of another type").wait_for()
        page.locator("input[type=file]").set_input_files(tmp_path / "mine.csv")
        page.locator(".rowchat", has_text="from a table").wait_for()
        assert "uploads%2Fmine.csv" in address_of(page)
