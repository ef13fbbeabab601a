"""The borders between the rooms, read from the imports."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

import swift

ROOT = Path(swift.__file__).parent
MAY_IMPORT = {
    "chat": set(),
    "system": set(),
    "flags": {"system"},
    "cli": {"flags", "system"},
    "native": {"system"},
    "runs": {"system"},
    "pages": set(),
    "images": {"chat", "system"},
    "agent": {"chat", "system"},
    "tools": {"agent", "chat", "system"},
    "data": {"chat", "agent", "images", "system"},
    "synth": {"agent", "chat", "system"},
    "template": {"chat", "agent", "images", "system"},
    "model": {"system"},
    "tuner": {"native", "model", "system"},
    "train": {"chat", "runs", "system"},
    "engine": {"guided", "native", "model", "system"},
    "guided": {"chat", "agent"},
    "infer": {"chat", "tools", "images", "template", "agent", "engine", "guided", "system"},
    "serve": {"chat", "infer", "agent", "engine", "guided", "system"},
    "eval": {"chat", "data", "agent", "infer", "engine", "guided", "pages", "system", "tools", "train"},
    "traces": {"chat", "agent", "data", "engine", "flags", "infer", "system", "tools"},
    "practice": {"agent", "chat", "data", "engine", "eval", "flags", "infer", "synth", "system", "tools"},
    "flag_groups": {"flags"},
    "studio": {
        "agent", "assembly", "chat", "data", "engine", "eval", "flag_groups", "flags", "images", "infer", "pages",
        "runs", "system", "template", "tools", "traces",
    },
    "api": {
        "agent", "assembly", "chat", "commands", "data", "eval", "flag_groups", "flags", "guided", "infer", "tools",
    },
    "assembly": {
        "chat", "flags", "flag_groups", "agent", "data", "pages", "train", "model", "native", "system",
        "practice", "runs", "synth", "tools", "traces", "tuner", "template", "engine", "guided", "infer", "eval",
    },
    "commands": {
        "chat", "flags", "flag_groups", "assembly", "cli", "pages", "images", "agent", "data", "train", "model",
        "native", "system", "tools", "traces", "tuner", "template", "engine", "guided", "infer", "serve", "eval",
        "practice", "runs", "studio",
    },
}  # fmt: skip
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name != "__init__.py" or path.parent != ROOT)


def rooms_imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names = [node.module or ""] if node.module != "swift" else [f"swift.{each.name}" for each in node.names]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("swift.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may_know(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert rooms_imported(path) - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_begins_by_saying_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree), f"{path} has no first line"


@pytest.mark.parametrize(
    "words", [["--help"], ["sft", "--help"], ["infer", "--help"], ["deploy", "--help"], ["runs", "--help"]]
)
def test_help_never_imports_torch(words: list[str]) -> None:
    code = (
        "import sys, swift.cli\n"
        f"try: swift.cli.main({words!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'fastapi'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def name_of(path: Path) -> str:
    """The module of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class Imports(ast.NodeVisitor):
    """Modules that a file imports, also within functions and for type checkers."""

    def __init__(self, modules: Collection[str]) -> None:
        self.modules, self.found = modules, set[str]()

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {each.name for each in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        for each in node.names:
            inner = f"{module}.{each.name}"
            self.found.add(inner if inner in self.modules else module)


def test_no_module_imports_itself_through_others() -> None:
    modules = {name_of(path): path for path in ROOT.rglob("*.py")}
    imported: dict[str, set[str]] = {}
    for name, path in modules.items():
        imports = Imports(modules)
        imports.visit(ast.parse(path.read_text(encoding="utf-8")))
        imported[name] = imports.found & modules.keys() - {name}
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        raise AssertionError(" -> ".join(reversed(error.args[1]))) from None
