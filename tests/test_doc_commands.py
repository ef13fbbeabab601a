"""Every command in a block of README.md or docs/ parses, and runs with a tiny model where that takes seconds."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from doc_blocks import PAGES, ROOT, Block, Command, blocks, commands, swift_commands
from test_review import trace
from test_sft import plain_rows, write
from tiny import tiny_model_folder

from swift import cli, flags

MODEL = "smollm2-135m-instruct"
NOT_RUN = {
    r"^(teach|practice|demo)\b": "trains and measures for minutes: test_teach.py, test_practice.py, test_demo.py",
    r"^deploy\b": "serves until a signal ends it: test_deploy.py",
    r"^eval (?!--compare)": "asks hundreds of questions: test_eval_command.py",
    r"^eval --compare output": "needs two folders of results: test_eval_command.py",
    r"--endpoint|https?://": "needs a server: test_endpoint.py, test_openapi_tools.py, test_mcp_tools.py",
    r"(?i)\bqwen\S*-|/models/70b|smolvlm": "downloads a model",
    r"\bnpx\b": "needs Node.js",
    r"--api_key KEY|api\.yaml": "needs a server of your own",
    r"^runs (stop|log v3 --follow|log NAME --follow)": "needs a training that runs: test_runs.py",
    r"^runs resume": "starts a process: test_runs.py",
    r"^(export|merge-lora).*--to_(gguf|ollama)": "needs a real tokenizer: test_gguf.py, test_ollama.py",
    r"botocore": "needs botocore: test_service_catalogues.py",
    r"^(studio|app-ui|web-ui)\b": "serves until a signal ends it: test_studio.py",
    r"^doctor": "compiles and measures kernels: test_native_runner.py",
    r"-n 2000|--rows 2000": "makes rows for a minute; a command with fewer rows runs",
    r"^(infer|agent run) .*--mcp": "needs the package mcp: test_mcp_tools.py",
    r"output/demo/data": "needs the rows of the demo: test_demo.py",
    r"^report .*(NAME.* NAME|v3 v4|\[)": "compares several runs: test_run_pages.py",
    r"^agent run .*fire_alarm": "needs a model that can look: test_agent_examples.py",
}
"""What is not run -> why, and which tests run such a command with fakes."""
SWIFT = swift_commands()


def config_and_words(command: Command) -> tuple[str, type, list[str]]:
    """The command's name, the dataclass of its flags, and the words after its name."""
    verb, *rest = [each for word in command.words for each in (("--ckpt_dir", "a") if word == "CKPT" else (word,))]
    if verb not in cli.verbs():
        raise ValueError(f"unknown command {verb}")
    known = cli.configs(verb)
    name = f"{verb} {rest[0]}" if rest and f"{verb} {rest[0]}" in known else verb
    return name, known[name], rest[1:] if name != verb else rest


@pytest.mark.parametrize("command", SWIFT, ids=lambda each: f"{each.where} {each}")
def test_a_command_parses(command: Command) -> None:
    if command.words[0].startswith("--"):  # of the program itself
        assert f"swift {command.words[0]}" in cli._overview()
        return
    name, config, words = config_and_words(command)
    flags.parse(config, words[:-1] if words[-1:] == ["..."] else words, prog=f"swift {name}")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The checkpoint of README's training with a tiny model, in a folder with the files that commands name."""
    folder = tmp_path_factory.mktemp("docs")
    tiny_model_folder(folder / MODEL)
    (folder / "experiments").mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    for name in ("my_tools.py", "tools.py", "shop.py"):
        (folder / name).symlink_to(ROOT / "examples" / "agent" / "house_tools.py")
    for name in ("my_rows.jsonl", "train.jsonl", "more.jsonl"):
        write(folder / name, plain_rows(12))
    write(folder / "pairs.jsonl", [{"query": f"{n}?", "response": "yes", "rejected_response": "no"} for n in range(12)])
    write(folder / "labels.jsonl", [{"query": f"{n}?", "response": "yes", "label": n % 2 == 0} for n in range(12)])
    write(folder / "tasks.jsonl", [{"task": "Add 1 and 2."}])
    write(folder / "traces.jsonl", [trace("a", "answered", {"role": "user", "content": "a"})])
    described = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    (folder / "tools.json").write_text(json.dumps([described]))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        torch.set_num_threads(1)
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setenv("SHELL", "/bin/bash")  # a machine that runs tests may have none
        patch.setenv("SWIFT_OFFLINE", "1")
        patch.setattr(sys, "stdin", io.StringIO())
        train = next(each for each in SWIFT if each.words[0] == "sft" and "my_rows.jsonl" in each.words)
        assert cli.main([*train.words, "--max_steps", "2", "--val_dataset_sample", "2"]) == 0
        (found,) = folder.glob(f"output/{MODEL}/v0-*/checkpoint-*")
        yield found
    torch.set_num_threads(threads)


def as_run(command: Command, checkpoint: Path) -> list[str]:
    """The words with `checkpoint` and its run in place of CKPT, output/... and NAME."""
    words: list[str] = []
    for word in command.words:
        if word == "CKPT":
            words += ["--ckpt_dir", str(checkpoint)]
        elif re.match(r"output/.*checkpoint-", word):
            words.append(str(checkpoint))
        elif command.words[0] in ("runs", "report") and word in ("NAME", "v3"):
            words.append(str(checkpoint.parent))
        else:
            is_new = word == "traces.jsonl" and command.words[0] == "agent"
            words.append("new.jsonl" if is_new else str(Path(word).expanduser()) if word[:2] == "~/" else word)
    words = [word.replace("smollm2-135m-agent", MODEL) for word in words]
    # less of the same, where the docs leave a flag out
    fewer = {"sft": ["--max_steps", "2"], "rlhf": ["--max_steps", "2"], "agent": ["--max_new_tokens", "8"]}
    return [*words, *fewer.get(words[0], [])]


RUN = {str(each): each for each in SWIFT if not any(re.search(pattern, str(each)) for pattern in NOT_RUN)}


@pytest.mark.timeout(300)  # a command that waits for something needs a line in NOT_RUN
@pytest.mark.parametrize("command", RUN.values(), ids=RUN.keys())
def test_a_command_runs(command: Command, checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = cli.main(as_run(command, checkpoint))
    unanswered = command.words[0] == "agent" and code == 1  # a model without knowledge finds no answer
    assert code == 0 or unanswered, capfd.readouterr().err


def test_every_reason_not_to_run_is_that_of_a_command_and_names_tests_that_exist() -> None:
    for pattern, reason in NOT_RUN.items():
        assert any(re.search(pattern, str(each)) for each in SWIFT), pattern
        assert all((ROOT / "tests" / name).exists() for name in re.findall(r"test_\w+\.py", reason)), reason


OTHERS = [each for page in PAGES for block in blocks(page) for each in commands(block)]


@pytest.mark.parametrize(
    "command", [each for each in OTHERS if each.words[0] in ("make", "pip", "python")], ids=lambda each: str(each)
)
def test_a_command_of_another_program_names_what_exists(command: Command) -> None:
    program, *rest = command.words
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "pip":
        settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        for extra in re.findall(r"(?:\.|swift-agents)\[([\w,-]+)\]", " ".join(rest)):
            assert all(re.search(rf"^{name} = \[", settings, re.MULTILINE) for name in extra.split(",")), extra
    elif script := next((word for word in rest if word.endswith(".py")), ""):
        assert (ROOT / script).exists()
        folder = (ROOT / script).parent
        sources = "".join(each.read_text(encoding="utf-8") for each in folder.glob("*.py"))
        assert all(f'"{flag}"' in sources for flag in re.findall(r"--[a-z][\w-]*", shlex.join(rest)))


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]
JSON = [block for page in PAGES for block in blocks(page) if block.language == "json"]
JSON = [block for page in PAGES for block in blocks(page) if block.language == "json"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page.name}:{block.line}")
def test_a_block_of_python_compiles_and_imports_what_swift_has(block: Block) -> None:
    compile(block.text, f"{block.page}:{block.line}", "exec")
    for line in re.findall(r"^(?:from swift|import swift).*$", block.text, re.MULTILINE):
        exec(line, {})


@pytest.mark.parametrize("block", JSON, ids=lambda block: f"{block.page.name}:{block.line}")
def test_a_block_of_json_is_json(block: Block) -> None:
    text = block.text.strip()
    while text:  # one value, or several
        _, end = json.JSONDecoder().raw_decode(text)
        text = text[end:].strip()
