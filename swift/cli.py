"""The program `swift`: runs the module of `swift.commands` that a command line names. Knows no command."""

from __future__ import annotations

import ast
import gc
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swift import flags
from swift.flags import completion
from swift.system import completion as shell_completion
from swift.system import invocation, torchrun, utf8
from swift.system.nearest import nearest_path

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MULTIPROCESS = ("sft", "rlhf")  # verbs that NPROC_PER_NODE or NNODES starts in several processes
WELCOME = """SWIFT fine-tunes an open language model into an agent, and serves it.

  swift demo                                 train a small model, and see what it learns, in minutes
  swift infer --model smollm2-135m-agent     talk to a model
  swift teach --tools my_tools.py            have a model learn your own functions
  swift sft --model MODEL --dataset FILE     train a model on your own conversations
  swift runs                                 which trainings run, ran or died

swift --help lists every command, swift COMMAND --help its flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code: 2 for wrong input, 130 for Ctrl-C (docs/terminal.md).

    A command is a module with `Config` and `main(config)`, or with `run(argv) -> exit code or None`.
    """
    gc.set_threshold(20_000)  # fewer collections: nearly all objects that imports create stay
    utf8.escape_unencodable(sys.stdout)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        utf8.check_words(words, os.environ)
        invocation.set_started(words)
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader has closed the pipe (`swift data show ... | head`); flushing at exit must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        from swift.system.hubs import is_set  # imports what an ordinary start does not need

        if is_set("SWIFT_TRACEBACK") or (isinstance(error, ModuleNotFoundError) and _is_ours(error)):
            raise
        line = _line(error)
        if not (torchrun.report_to_launcher(line, os.environ) or torchrun.already_printed(line, os.environ)):
            print(f"swift: error: {line}", file=sys.stderr)
        return 2


def verbs() -> dict[str, Path]:
    """Verb -> its file."""
    folders = importlib.import_module("swift.commands").__path__
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.py"))]
    return {file.stem.replace("_", "-"): file for file in files if file.stem != "__init__"}


def configs(verb: str) -> dict[str, type[DataclassInstance]]:
    """The words after `swift` -> the dataclass of their flags: `{"data lint": Lint, ...}` for the verb `data`."""
    module = importlib.import_module(f"swift.commands.{verbs()[verb].stem}")
    own = {verb: module.Config} if "Config" in vars(module) else {}
    below = module.VERBS if "VERBS" in vars(module) else {}
    return own | {f"{verb} {name}": config for name, config in below.items()}


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(WELCOME)
        return 2
    if argv[0] == "help" and argv[1:]:
        argv = [*argv[1:], "--help"]  # `swift help sft`, as git and others take it
    if argv[0] in ("-h", "--help", "--help-all", "help"):
        print(_overview())
        return 0
    if argv[0] in ("-V", "--version"):
        print(_version())
        return 0
    if argv[0] == "--complete":
        print("\n".join(_completions(argv[1:])))
        return 0
    if argv[0] == "--install-completion":
        return _install_completion(argv[1:])
    verb, rest, known = argv[0].replace("_", "-"), argv[1:], verbs()
    if verb not in known:
        raise ValueError(f"unknown command {argv[0]}{flags.nearest(verb, known) or ' (swift --help lists them)'}")
    module = importlib.import_module(f"swift.commands.{known[verb].stem}")
    runs = "run" in vars(module)
    # before processes start, so that a wrong flag is reported once
    parsed = None if runs else flags.parse(module.Config, rest, prog=f"swift {verb}")
    if verb in MULTIPROCESS and torchrun.requested(os.environ):
        return torchrun.launch(argv)
    if parsed is None:
        return int(module.run(rest) or 0)
    module.main(parsed.config)
    return 0


def _overview() -> str:
    known = verbs()
    width = max(map(len, known), default=0)
    listed = [f"  {verb:<{width}}  {_summary(file)}".rstrip() for verb, file in known.items()]
    notes = [
        "swift COMMAND --help shows its flags, swift COMMAND --help WORD those about a word",
        "swift --version names this program's version, Python's and torch's",
        "swift --install-completion [bash|zsh|fish] completes commands, flags and values in a shell",
        "SWIFT_TRACEBACK=1 shows where an error comes from",
    ]
    return "\n".join(["usage: swift COMMAND [--flag value ...]", "", "commands:", *listed, "", *notes])


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # slow to import

    try:
        torch = f"torch {version('torch')}"  # from its files, without importing it
    except PackageNotFoundError:
        torch = "no torch"
    return f"swift {version('swift-agents')}, Python {platform.python_version()}, {torch}"


# --- completion -------------------------------------------------------------------------------------------------------


def _completions(argv: Sequence[str]) -> list[str]:
    """What the last word of a command line may become; none means that anything may, such as a file."""
    *words, last = argv or [""]
    known = verbs()
    if not words:
        return [verb for verb in known if verb.startswith(last)]
    verb, rest = words[0].replace("_", "-"), words[1:]
    if verb not in known:
        return []
    module, offered = importlib.import_module(f"swift.commands.{known[verb].stem}"), configs(verb)
    if rest and f"{verb} {rest[0]}" in offered:
        found = completion.candidates(offered[f"{verb} {rest[0]}"], rest[1:], last)
    else:
        names = [words.removeprefix(f"{verb} ") for words in offered if words != verb]
        found = [] if rest else [name for name in names if name.startswith(last)]
        found += completion.candidates(offered[verb], rest, last) if verb in offered else []
    return found or (module.complete(rest, last) if "complete" in vars(module) else [])


def _install_completion(argv: Sequence[str]) -> int:
    shells = shell_completion.SCRIPTS
    shell = argv[0] if argv else Path(os.environ.get("SHELL", "")).name
    if not shell:
        raise ValueError(f"--install-completion: SHELL is not set: name the shell, one of {', '.join(shells)}")
    if shell not in shells:
        raise ValueError(
            f"--install-completion {shell}: must be one of {', '.join(shells)}{flags.nearest(shell, shells)}"
        )
    if argv[1:]:
        raise ValueError(f"unexpected argument {argv[1]!r}")
    print("\n".join(shell_completion.install(shell)))
    return 0


def _summary(file: Path) -> str:
    """The first line of a module's docstring, without importing the module."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _is_ours(error: ModuleNotFoundError) -> bool:
    """Whether a module of this program is missing, which is a bug; any other is a package that is not installed."""
    return (error.name or "swift").partition(".")[0] == "swift"


def _line(error: Exception) -> str:
    """The error as one line."""
    if isinstance(error, ModuleNotFoundError):
        return f"the package {error.name} is not installed: swift doctor names what is missing, and the command for it"
    if isinstance(error, OSError) and error.filename is not None:
        missing = isinstance(error, FileNotFoundError)
        return f"{error.filename}: {error.strerror}{nearest_path(os.fsdecode(error.filename)) if missing else ''}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
