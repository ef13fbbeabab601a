"""The program `swift` from outside: verbs, errors, exit codes, and what it takes care not to import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import swift.commands
from swift import cli
from swift.system import completion, torchrun

GREET = '''
"""Greets people. Knows nothing of models."""

from dataclasses import dataclass

from swift.flag_groups import DataFlags, GenerationFlags, LoraFlags, ModelFlags, TemplateFlags
from swift.flags import flag


@dataclass(frozen=True)
class Config:
    model: ModelFlags = ModelFlags()
    template: TemplateFlags = TemplateFlags()
    data: DataFlags = DataFlags()
    lora: LoraFlags = LoraFlags()
    generation: GenerationFlags = GenerationFlags()
    whom: str = "world"
    """Who is greeted"""


def main(config):
    if config.whom == "nobody":
        raise ValueError("--whom: nobody\\n  is there")
    if config.whom == "boom":
        raise KeyError("a bug")
    if config.whom == "stop":
        raise KeyboardInterrupt
    if config.whom.endswith(".txt"):
        open(config.whom)
    print("hello", config.whom)
    return "what a command returns is no exit code"
'''
COUNT = '''
"""Counts its words."""


def run(argv):
    print(argv)
    return len(argv) or None
'''


@pytest.fixture(autouse=True)
def commands(tmp_path, monkeypatch):
    """Two commands beside the program's own."""
    for name, text in {"greet": GREET, "count_words": COUNT, "sft": GREET}.items():
        (tmp_path / f"{name}.py").write_text(text.lstrip(), encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"swift.commands.{name}", raising=False)
    monkeypatch.setattr(swift.commands, "__path__", [str(tmp_path), *swift.commands.__path__])
    for name in ("NPROC_PER_NODE", "NNODES", "LOCAL_RANK", "SWIFT_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    for name in ("greet", "count_words", "sft"):
        sys.modules.pop(f"swift.commands.{name}", None)


def swift_(folder: Path, *argv: str, before: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, with the commands in `folder`."""
    code = f"import sys, swift.commands; swift.commands.__path__.insert(0, {str(folder)!r})\n{before}\n"
    code += "import swift.cli\nsys.exit(swift.cli.main(sys.argv[1:]))"
    env = {name: value for name, value in os.environ.items() if name not in torchrun.SETTINGS} | env
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        env=env,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=60,
    )


def test_a_verb_runs_its_module_with_its_config(capsys):
    assert cli.main(["greet", "--whom", "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"


@pytest.mark.parametrize("verb", ["count-words", "count_words"])
def test_a_command_with_run_gets_the_words_and_gives_the_exit_code(capsys, verb):
    assert cli.main([verb, "a", "--b"]) == 2
    assert cli.main([verb]) == 0
    assert capsys.readouterr().out == "['a', '--b']\n[]\n"


def test_the_overview_lists_each_verb_with_its_first_line_and_imports_none(capsys):
    assert cli.main(["--help"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "greet Greets people. Knows nothing of models." in lines
    assert "count-words Counts its words." in lines
    assert not any(line.startswith("groups") for line in lines)
    assert "swift.commands.greet" not in sys.modules


def test_help_before_a_command_shows_its_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["help", "greet"])
    assert capsys.readouterr().out.startswith("usage: swift greet ")


def test_no_verb_at_all_shows_five_commands_to_begin_with_and_fails(capsys):
    assert cli.main([]) == 2
    said = capsys.readouterr().out
    commands = [line.split() for line in said.splitlines() if line.startswith("  swift ")]
    assert len(commands) == 5 and {words[1] for words in commands} <= set(cli.verbs())
    assert "swift --help" in said


def test_the_version_names_python_and_torch_without_importing_it():
    code = "import sys, swift.cli; swift.cli.main(['--version']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert re.fullmatch(r"swift \S+, Python 3\.\d+\.\S+, torch \S+\n", done.stdout)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("gre", ["greet"]),
        ("greet --lora_ra", ["--lora_rank"]),
        ("greet --lora-ra", ["--lora-rank"]),
        ("greet --who", ["--whom"]),
        ("greet --whom you --who", []),  # it is given
        ("greet --use_dora t", ["true"]),
        ("greet --whom ", []),  # anything, such as a file
        ("greet --dataset a --data", ["--dataset", "--dataset_test_ratio"]),  # a list may be given again
        ("data li", ["lint"]),
        ("data lint --col", ["--columns"]),
        ("runs --js", ["--json"]),
        ("runs stop --no", ["--now"]),
        ("nothing --wh", []),
    ],
)
def test_a_command_line_is_completed(capsys, line, found):
    assert cli.main(["--complete", *line.split(" ")]) == 0
    said = capsys.readouterr().out.split()
    assert set(found) <= set(said) and (found or not said)
    assert all(word.startswith(line.split(" ")[-1]) for word in said)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed_once(tmp_path, monkeypatch, capsys, shell):
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    for startup in (".bashrc", ".zshrc"):
        (tmp_path / startup).write_text("alias x=y")  # without a newline at the end
    assert cli.main(["--install-completion"]) == 0
    assert cli.main(["--install-completion", shell]) == 0
    (script,) = [file for file in tmp_path.rglob("*") if file.name in (f"completion.{shell}", "swift.fish")]
    assert "swift" in script.read_text()
    lines = [line for name in (".bashrc", ".zshrc") for line in (tmp_path / name).read_text().splitlines()]
    assert sum(str(script) in line for line in lines) == (shell != "fish")
    assert lines.count("alias x=y") == 2
    assert str(script) in capsys.readouterr().out


def test_an_unknown_shell_is_an_error(capsys, monkeypatch):
    assert cli.main(["--install-completion", "bas"]) == 2
    assert "must be one of bash, zsh, fish: did you mean bash?" in capsys.readouterr().err
    monkeypatch.delenv("SHELL", raising=False)
    assert cli.main(["--install-completion"]) == 2
    assert "SHELL is not set: name the shell, one of bash, zsh, fish" in capsys.readouterr().err


def test_bash_completes_by_asking_the_program(tmp_path):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "swift"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m swift.cli "$@"\n')
    program.chmod(0o755)
    script = tmp_path / "completion.bash"
    script.write_text(completion.BASH)
    code = (
        f'source "{script}"; COMP_WORDS=(swift tuners --mark); COMP_CWORD=2; _swift_complete; echo "${{COMPREPLY[@]}}"'
    )
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    env["PYTHONPATH"] = str(Path(cli.__file__).parent.parent)
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout == "--markdown\n", done.stderr


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("gret", "unknown command gret: did you mean greet?"),
        ("xyzzy", "unknown command xyzzy (swift --help lists them)"),
        ("greet --who you", "unknown flag --who: did you mean --whom?"),
        ("greet --lora_rank many", "--lora_rank: 'many' is not a whole number"),
        ("greet none.yaml", "none.yaml: No such file or directory"),
        ("greet --whom missing.txt", "missing.txt: No such file or directory"),
        ("greet --whom nobody", "--whom: nobody is there"),
    ],
)
def test_wrong_input_is_one_line_on_standard_error_and_exit_code_2(capsys, argv, line):
    assert cli.main(argv.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"swift: error: {line}\n")


def test_ctrl_c_ends_with_130():
    assert cli.main(["greet", "--whom", "stop"]) == 130


def test_a_bug_keeps_its_traceback():
    with pytest.raises(KeyError):
        cli.main(["greet", "--whom", "boom"])


def test_a_traceback_of_wrong_input_can_be_requested(monkeypatch):
    monkeypatch.setenv("SWIFT_TRACEBACK", "1")
    with pytest.raises(ValueError, match="nobody"):
        cli.main(["greet", "--whom", "nobody"])
    monkeypatch.setenv("SWIFT_TRACEBACK", "0")
    assert cli.main(["greet", "--whom", "nobody"]) == 2


@pytest.mark.parametrize("argv", [("--help",), ("greet", "--help"), ("greet", "--whm", "x")])
def test_help_and_errors_import_nothing_heavy(commands, argv):
    heavy = "import atexit; atexit.register(lambda: print(*sorted({n.partition('.')[0] for n in sys.modules})))"
    done = swift_(commands, *argv, before=heavy)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "argparse" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "rich", "yaml", "peft", "fastapi", "prompt_toolkit"}


def test_the_help_of_every_command_of_the_program_imports_no_model_code():
    verbs = [verb for verb, file in cli.verbs().items() if file.parent == Path(cli.__file__).parent / "commands"]
    for verb in verbs:
        code = "import sys, atexit, swift.cli\natexit.register(lambda: print(*sorted(sys.modules)))\n"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}sys.exit(swift.cli.main([{verb!r}, '--help']))"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not {"torch", "transformers", "peft", "rich"} & set(done.stdout.splitlines()[-1].split()), verb


def test_a_closed_pipe_ends_the_program_quietly(commands):
    before = "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1)"
    done = swift_(commands, "greet", before=before)
    assert (done.returncode, done.stderr) == (1, "")


# Several processes

LAUNCHER = """
import argparse, json, sys
get_args_parser, parse_args = argparse.ArgumentParser, list
def run(words):
    print(json.dumps(words))
    sys.exit(7)
"""
ERRORS = "class ChildFailedError(Exception): pass\nclass SignalException(Exception): pass"


@pytest.fixture
def launcher(tmp_path) -> str:
    """A folder in which torch's launcher only says how it was called."""
    elastic = "distributed/elastic/__init__.py", "distributed/elastic/multiprocessing/__init__.py"
    texts = {"__init__.py": "", "distributed/__init__.py": "", "distributed/run.py": LAUNCHER}
    texts |= {elastic[0]: "", elastic[1]: ERRORS, "distributed/elastic/multiprocessing/errors.py": ERRORS}
    for name, text in texts.items():
        path = tmp_path / "fake" / "torch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return os.pathsep.join([str(tmp_path / "fake"), str(Path(cli.__file__).parents[1])])


def test_training_becomes_several_processes_where_the_environment_asks(commands, launcher):
    done = swift_(
        commands, "sft", "--whom", "a b", PYTHONPATH=launcher, NPROC_PER_NODE="2", MASTER_PORT="29511", NODE_RANK="0"
    )
    assert done.returncode == 7, done.stderr
    options = ["--nproc_per_node=2", "--node_rank=0", "--master_port=29511"]
    assert json.loads(done.stdout) == [*options, "-m", "swift.cli", "sft", "--whom", "a b"]


def test_the_processes_themselves_train(commands, launcher):
    done = swift_(commands, "sft", PYTHONPATH=launcher, NPROC_PER_NODE="2", LOCAL_RANK="0")
    assert (done.returncode, done.stdout) == (0, "hello world\n")


def test_other_verbs_stay_one_process(commands, launcher):
    assert swift_(commands, "greet", PYTHONPATH=launcher, NPROC_PER_NODE="2").stdout == "hello world\n"


def test_an_error_of_all_processes_of_torchrun_is_printed_by_one(commands, tmp_path):
    told = []
    for rank in "01":
        file = tmp_path / "attempt_0" / rank / "error.json"
        file.parent.mkdir(parents=True)
        env = {"LOCAL_RANK": rank, "TORCHELASTIC_ERROR_FILE": str(file)}
        told.append(swift_(commands, "greet", "--whom", "nobody", **env))
    assert [done.returncode for done in told] == [2, 2]
    assert [done.stderr for done in told] == ["swift: error: --whom: nobody is there\n", ""]


def test_a_wrong_flag_is_named_once_before_processes_start(commands, launcher):
    done = swift_(commands, "sft", "--whm", "x", PYTHONPATH=launcher, NNODES="2")
    assert (done.returncode, done.stderr) == (2, "swift: error: unknown flag --whm: did you mean --whom?\n")


def test_the_program_can_be_started_as_a_module():
    done = subprocess.run([sys.executable, "-m", "swift.cli", "nothing"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr == textwrap.dedent("swift: error: unknown command nothing (swift --help lists them)\n")


def test_a_word_that_is_not_utf_8_is_refused_in_a_line(commands):
    word = os.fsdecode("你".encode("gbk"))
    ran = swift_(commands, "greet", "--whom", word)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("swift: error: --whom \ufffd\ufffd: not UTF-8")
    assert ran.stderr.count("\n") == 1


def test_a_variable_that_is_not_utf_8_is_refused_without_showing_its_value(commands):
    ran = swift_(commands, "greet", HF_TOKEN=os.fsdecode(b"secret\xff"))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "swift: error: environment variable HF_TOKEN: its value is not UTF-8\n"
    assert swift_(commands, "greet", OTHERS=os.fsdecode(b"\xff")).returncode == 0


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"hello \u4f60\ud83d\ude00 \u00e9"), ("utf-8", "hello 你😀 é"), ("gbk", None)]
)
def test_what_standard_output_cannot_show_is_escaped_as_json_does(commands, encoding, shown):
    ran = swift_(commands, "greet", "--whom", "你😀 é", PYTHONIOENCODING=encoding)
    assert ran.returncode == 0
    assert shown is None or ran.stdout == f"{shown}\n"


def test_in_the_plain_locale_text_is_utf_8(commands):
    ran = swift_(commands, "greet", "--whom", "你", LC_ALL="C")
    assert (ran.returncode, ran.stdout) == (0, "hello 你\n")
