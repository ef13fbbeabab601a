"""`swift data`: what is wrong with rows, and what is trained of them."""

import html
import json
import re
from pathlib import Path

import pytest
from tiny import thinking_tokenizer, tiny_model_folder

from swift import cli

GOOD = {"query": "Q", "response": "Thought: t\nAction: a\nAction Input: {}\nObservation: c\nFinal Answer: d"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model_folder(folder)
    return str(folder)


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("verb", [["lint"], ["show", "--model", "tiny"], ["review"]])
def test_a_file_that_is_missing_ends_with_2_and_the_nearest_name(
    tmp_path: Path, verb: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "collected").mkdir()
    write(tmp_path / "collected" / "rows.jsonl", GOOD)
    for name, meant in (("collected/row.jsonl", "rows.jsonl"), ("colected/rows.jsonl", "collected/rows.jsonl")):
        assert cli.main(["data", verb[0], name, *verb[1:]]) == 2
        line = capsys.readouterr().err
        assert line.startswith(f"swift: error: {name}: no such file") and f"did you mean {meant}?" in line
        assert line.count("\n") == 1


def test_show_writes_the_row_as_it_is_trained(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, {"query": "你好", "response": "再见"})
    assert cli.main(["data", "show", file, "--model", model, "--template_type", "qwen", "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["pieces"] == [
        [
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
            "<|im_start|>assistant\n",
            0.0,
        ],
        ["Thought: t\n", 1.0],
        ["Action: a\nAction Input: {}\nObservation:", 2.0],
        [" c\n", 0.0],
        ["Final Answer: d<|im_end|>", 1.0],
    ]
    assert len(first["tokens"]) == len(first["weights"])
    assert first["text"] == "".join(piece for piece, _ in first["pieces"])
    assert second["pieces"][-1] == ["再见<|im_end|>", 1.0]


def test_show_shows_one_row_with_the_flags_of_training(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = [{"name": "look", "description": "Look", "parameters": {}}]
    row = {"query": "Q", "response": "A", "tools": tools}
    file = write(tmp_path / "a.jsonl", GOOD, row)
    words = ["--row", "2", "--template_type", "chatml", "--agent_template", "hermes", "--loss_scale", "none"]
    assert cli.main(["data", "show", file, "--model", model, *words]) == 0
    out = capsys.readouterr().out
    assert "<tools>" in out and "a.jsonl:2" in out and "a.jsonl:1" not in out
    assert "[1] 'A<|im_end|>'" in out
    assert out.startswith("loss weight of each piece: [0] x0, not trained; [1] x1, trained; [2] x2, counts twice")


def test_a_terminal_has_a_legend_of_its_colours(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    words = ["data", "show", write(tmp_path / "a.jsonl", GOOD), "--model", model, "--template_type", "qwen"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "\x1b[90mgrey x0, not trained\x1b[0m" in out
    assert "\x1b[1;31mred more than x1, such as x2\x1b[0m" in out
    assert "\x1b[1;31mAction: a\x1b[0m" in out
    assert re.search(r"\d+ tokens, \d+ trained \(\d+%\): \d+ x0, \d+ x1, \d+ x2", out)
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(words) == 0
    assert "\n[2] 'Action: a" in capsys.readouterr().out


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model whose chat template leaves out the thoughts of earlier rounds."""
    folder = tmp_path_factory.mktemp("thinking") / "tiny"
    tiny_model_folder(folder)
    thinking_tokenizer().save_pretrained(folder)
    return str(folder)


def dialogue(*replies: str, ask: str = "Q") -> dict[str, object]:
    turns = []
    for reply in replies:
        turns += [
            {"role": "user", "content": ask},
            {"role": "assistant", "content": reply, "reasoning_content": "Hm."},
        ]
    return {"messages": turns}


def test_a_row_of_several_samples_is_shown_sample_by_sample_and_says_why(
    tmp_path: Path, thinking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", dialogue("A", "B"), dialogue("C", "D"))
    assert cli.main(["data", "show", file, "--model", thinking]) == 0
    out = capsys.readouterr().out
    heads = [line for line in out.splitlines() if line.startswith("───")]
    assert heads == [f"─── {file}:{row}, sample {sample} of 2" for row in (1, 2) for sample in (1, 2)]
    why = "several samples: the chat template rewrites earlier rounds once a later one follows\n"
    assert out.count(why) == 1 and f"{heads[0]}\n{why}" in out
    assert "[1] 'Hm.\\n'\n    '</think>\\n\\n'\n    'A<|im_end|>'\n" in out


def test_a_long_beginning_that_samples_share_is_written_once(
    tmp_path: Path, thinking: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", dialogue("A", "B", ask="\n".join(f"line {n}" for n in range(20))))
    assert cli.main(["data", "show", file, "--model", thinking]) == 0
    out = capsys.readouterr().out
    [first, second] = out.split("─── ")[1:]
    assert first.count("line 7") == 1 and second.count("line 7") == 1  # that of the second round
    assert "... begins with the same 22 lines as sample 1 ...\n[0] 'A<|im_end|>\\n'\n" in second
    assert cli.main(["data", "show", file, "--model", thinking, "--json", "true"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["source"], each["line"], each["sample"], each["of"]) for each in shown] == [
        (file, 1, 1, 2),
        (file, 1, 2, 2),
    ]
    assert shown[1]["text"].count("line 7") == 2


def test_a_row_that_is_cut_to_its_limit_is_shown_as_it_is_trained(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "a.jsonl", {"text": "one two three"}, dialogue("A", "B"))
    words = ["--template_type", "chatml", "--system", "", "--truncation_strategy", "truncation_left"]
    assert cli.main(["data", "show", file, "--model", model, *words, "--max_length", "9"]) == 1
    out, err = capsys.readouterr()
    assert f"─── {file}:1, its oldest part cut off\n[1] 'wo three<|im_end|>'\n9 tokens" in out
    assert f"{file}:2: length: " in err
    assert cli.main(["data", "show", file, "--model", model, *words, "--max_length", "70"]) == 0
    assert f"─── {file}:2, its oldest part cut off\n[0] '<|im_start|>user\\n'\n    'Q" in capsys.readouterr().out


def test_show_goes_on_behind_a_row_that_cannot_be_shown(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = {"query": "Q", "response": "R", "history": [["a", "b"]]}
    file = write(tmp_path / "a.jsonl", GOOD, torn, GOOD)
    with Path(file).open("a") as out:
        out.write(json.dumps({"query": "Q", "response": "\ud83d"}) + "\n" + json.dumps(GOOD) + "\n")
    words = ["--model", model, "--template_type", "default-generation", "--json"]
    assert cli.main(["data", "show", file, *words]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 3
    refused, lone = sorted(shown.err.splitlines())
    assert refused.startswith(f"{file}:2: unrendered: template 'default-generation' supports a single round")
    assert lone.startswith(f"{file}:4: lone-surrogate: response holds \\ud83d")


def page_of(path: Path, file: str, model: str, *words: str, status: int = 0) -> str:
    """The page that `swift data show --html` writes."""
    flags = ["--model", model, "--template_type", "chatml", "--html", str(path)]
    assert cli.main(["data", "show", file, *flags, *words]) == status
    return path.read_text(encoding="utf-8")


def marked(page: str, level: str) -> list[str]:
    """The texts of a level of weights, in the chats alone."""
    return [html.unescape(text) for text in re.findall(rf'<span class="w {level}" title="[^"]*">([^<]*)</span>', page)]


def test_a_page_shows_each_row_as_a_chat_in_the_weights_of_its_tokens(tmp_path: Path, model: str) -> None:
    half = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r", "weight": 0.5}]}
    page = page_of(tmp_path / "a.html", write(tmp_path / "a.jsonl", GOOD, half), model)
    assert marked(page, "w1") == ["Thought: t\n", "Final Answer: d<|im_end|>"]
    assert marked(page, "w-high") == ["Action: a\nAction Input: {}\nObservation:"]
    assert marked(page, "w-low") == ["r<|im_end|>"]
    between = "&lt;|im_end|&gt;&#10;&lt;|im_start|&gt;user&#10;"
    for role, text in (("user", "Q"), ("tool", " c&#10;"), ("template", between)):
        assert f'<div class="{role}"><b>{role}</b><pre><span class="w w0" title="x0">{text}</span></pre></div>' in page
    assert "x1, trained" in page
    assert re.search(r"\d+ tokens, \d+ trained \(\d+%\): \d+ x0, \d+ x1, \d+ x2", page)


def test_a_page_shows_html_in_rows_as_text_and_holds_nothing_from_elsewhere(tmp_path: Path, model: str) -> None:
    evil = "<script>alert(1)</script></pre><img src=x onerror=alert(2)>"
    roles = ("system", "user", "assistant")
    row = {"messages": [{"role": role, "content": f"{evil} {role}"} for role in roles], evil: 1}
    bad = {"messages": [{"role": evil, "content": evil}]}
    page = page_of(tmp_path / "a.html", write(tmp_path / "a.jsonl", row, bad, row), model)
    assert "<script" not in page and "<img" not in page and "http" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&lt;/pre&gt;") >= 7
    assert "duplicate-row" in page and "unread-key" in page and "unknown-role" in page


def test_a_page_lists_findings_with_links_to_their_rows_and_names_lines_that_are_not_json(
    tmp_path: Path, model: str
) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, GOOD)
    with Path(file).open("a") as out:
        out.write('{"query": \n')
    page = page_of(tmp_path / "a.html", file, model)
    link = re.search(r'<a href="#(row-\d+)">[^<]*a.jsonl:2: warning: duplicate-row', page)
    assert link and f'<h3 id="{link[1]}">{file}:2</h3><p class="finding warning">' in page
    assert f"{file}:3: bad-json: Expecting value" in page
    assert "remove it, or repeat rows with name#N" in page
    only = page_of(tmp_path / "b.html", file, model, "--row", "1")
    assert "duplicate-row" not in only and f"{file}:1" in only and f"{file}:2" not in only


def test_a_page_counts_rows_that_it_does_not_show_and_text_that_it_cuts(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swift.assembly.rows_page.ROWS", 1)
    long = {"query": "x" * 200_100, "response": "never shown"}
    page = page_of(tmp_path / "a.html", write(tmp_path / "a.jsonl", long, GOOD), model)
    assert "The first 1 of 2 rows; --row N shows another." in page and "Final Answer" not in page
    assert re.search(r"… \d\d\d more characters, which are not shown", page) and "never shown" not in page
    assert capsys.readouterr().out == f"{tmp_path / 'a.html'}: 1 of 2 rows\n"
    short = page_of(tmp_path / "b.html", str(tmp_path / "a.jsonl"), model, "--max_length", "300", status=1)
    assert "a.jsonl:1: length: " in short and "Final Answer" in short


def test_lint_names_a_lone_surrogate_and_prints_it_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", {"query": "q", "response": "r"})
    with Path(file).open("a") as out:
        out.write(json.dumps({"query": "Q", "response": "R", "meta": {"\udc00": [1]}}) + "\n")
    assert cli.main(["data", "lint", file]) == 1
    found = capsys.readouterr()
    assert found.out.startswith(f"{file}:2: lone-surrogate: a key of meta holds \\udc00")
    found.out.encode()


def test_lint_names_every_bad_row_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "a.jsonl", GOOD, {"query": "Q"}, {"messages": [{"role": "wizard", "content": "x"}]})
    with Path(file).open("a") as out:
        out.write('{"query": \n')
    assert cli.main(["data", "lint", file]) == 1
    found = capsys.readouterr()
    assert [line.split(": ")[0] for line in found.out.splitlines()] == [f"{file}:{line}" for line in (2, 3, 4)]
    assert "bad rows: " in found.err


def test_lint_names_each_key_that_nobody_reads_once_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(number: int, **keys: object) -> dict[str, object]:
        turns = [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "r", **keys}]
        return {"id": number, "topic": number, "messages": turns}

    file = write(tmp_path / "a.jsonl", row(1), row(2, wieght=0), row(3, wieght=0, train=False, reasoning="t"))
    assert cli.main(["data", "lint", file]) == 0
    found = capsys.readouterr()
    assert found.out.splitlines() == [
        f"{file}:2: warning: unread-key: the key 'wieght' of messages is ignored; did you mean 'weight'? (2 times)",
        f"{file}:1: warning: unread-key: the key 'topic' of rows is ignored (3 times)",
    ]
    assert "warnings: 2 unread-key" in found.err


def test_lint_names_each_thought_that_would_train_something_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(content: str, **keys: object) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content, **keys}]}

    odd = row("r", reasoning="I call <tool_call>.")
    good = {"query": "q", "response": "r", "reasoning_content": "hm", "enable_thinking": True}
    bad = [row("", thinking="hm"), row("<think>a</think>r", thinking="b"), row("r", thinking=["hm"])]
    file = write(tmp_path / "a.jsonl", good, odd, *bad, good | {"enable_thinking": "often"})
    assert cli.main(["data", "lint", file]) == 1
    found = capsys.readouterr()
    assert [line[len(file) + 1 :].split(": ")[:3] for line in found.out.splitlines()] == [
        ["2", "warning", "call-in-thought"],
        ["3", "empty-reply", "message 2 has reasoning, but no content and no call"],
        ["4", "two-thoughts", "message 2 has reasoning, and <think> in its content"],
        ["5", "wrong-type", "message 2"],
        ["6", "bad-variables", "'enable_thinking' must be true or false, not text"],
    ]


def test_lint_names_the_separator_of_a_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text("query;response\nq;r\n")
    assert cli.main(["data", "lint", str(tmp_path / "a.csv")]) == 0
    out = capsys.readouterr().out
    assert out == f"{tmp_path / 'a.csv'}: warning: csv-separator: columns are separated by a semicolon\n"


def test_lint_is_content_with_good_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "lint", write(tmp_path / "a.jsonl", GOOD)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["lnt", "x"], "did you mean lint?"),
        (["show", "{file}"], "needs --model"),
        (["show", "{file}", "--model", "{model}", "--template_type", "qwenn"], "did you mean 'qwen'"),
        (["show", "{file}", "--model", "{model}", "--row", "0"], "counted from 1"),
        (["show", "{file}", "--model", "{model}", "--row", "9"], "1 good rows"),
        (["show", "{file}", "--model", "{model}", "--loss_scale", "reakt"], "did you mean 'react'"),
        (["show", "{file}", "--model", "{model}", "--agent_template", "hermess"], "did you mean 'hermes'"),
        (["show", "/nowhere.jsonl", "--model", "{model}"], "/nowhere.jsonl"),
        (["show", "{file}", "--model", "{model}", "--html", "{file}"], "name a file that ends in .html"),
        (["show", "{file}", "--model", "{model}", "--html", "a.html", "--json"], "--html and --json true exclude"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    file = write(tmp_path / "a.jsonl", GOOD)
    code = cli.main(["data", *(word.format(file=file, model=model) for word in words)])
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and complaint in error
