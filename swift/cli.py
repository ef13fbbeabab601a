"""The program `swift`: runs the module of `swift.commands` that a command line names. Knows no command."""

from __future__ import annotations

import ast
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from swift import flags
from swift.system import invocation, torchrun, utf8

MULTIPROCESS = ("sft", "rlhf")  # verbs that NPROC_PER_NODE or NNODES starts in several processes


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code: 2 for wrong input, 130 for Ctrl-C.

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
    except (ValueError, OSError) as error:
        if os.environ.get("SWIFT_TRACEBACK"):
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


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] in ("-V", "--version"):
        from importlib.metadata import version  # slow to import

        print(f"swift {version('swift-agents')}")
        return 0
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
    notes = ["swift COMMAND --help lists its flags", "SWIFT_TRACEBACK=1 shows where an error comes from"]
    return "\n".join(["usage: swift COMMAND [--flag value ...]", "", "commands:", *listed, "", *notes])


def _summary(file: Path) -> str:
    """The first line of a module's docstring, without importing the module."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _line(error: Exception) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
