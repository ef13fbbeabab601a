"""The functions of a Python file run in a process of their own, which may do anything but harm the dialogue."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from swift.chat import ToolCall
from swift.tools.call import Limits, Result, call, call_all
from swift.tools.python.source import PythonFile

Open = Callable[[str], PythonFile]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens a file `mine.py` of this text; closes it when the test ends."""
    sources: list[PythonFile] = []

    def open_file(text: str) -> PythonFile:
        (tmp_path / "mine.py").write_text(text)
        sources.append(PythonFile(tmp_path / "mine.py"))
        return sources[-1]

    yield open_file
    for source in sources:
        source.close()


def asked(source: PythonFile, name: str, seconds: float = 30.0, **arguments: object) -> Result:
    return call(source.tools, ToolCall(name, json.dumps(arguments)), Limits(seconds))


def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what another process does; the test's own time limit ends what never comes."""
    while not condition():
        time.sleep(0.01)


def is_running(process: int) -> bool:
    """Whether a process exists and is no zombie."""
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout.strip()
    return bool(listed) and not listed.startswith("Z")


# Tools of a file ------------------------------------------------------------------------------------------------------


def test_the_public_functions_of_a_file_are_its_tools(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("def double(x: int) -> int:\n    return 2 * x\n")
    source = opened(
        "import functools\n"
        "from neighbour import double\n"
        "from swift import read_only\n"
        "def a(x: int) -> int:\n    '''A.\n\n    :param x: a number'''\n    return double(x)\n"
        "@read_only\n@functools.cache\ndef b() -> int:\n    'B.'\n    return 1\n"
        "also = a\n"
        "def _c() -> None: ...\n"
        "class D: ...\n"
    )
    assert source.name == "mine"
    assert [(bound.name, bound.read_only) for bound in source.tools] == [("a", False), ("b", True), ("also", False)]
    assert source.tools[0].tool.function == {
        "name": "a",
        "description": "A.",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"x": {"type": "integer", "description": "a number"}},
            "required": ["x"],
        },
    }
    assert [asked(source, "a", x=3).text, asked(source, "b").text] == ["6", "1"]
    assert asked(source, "a", x="three").failure == "bad arguments"


def test_arguments_have_the_types_of_the_signature(opened: Open) -> None:
    source = opened(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\nfrom datetime import date\n"
        "@dataclass\nclass Place:\n    town: str\n    floor: int = 0\n"
        "def go(place: Place, day: date) -> Place:\n    return Place(place.town, day.day)\n"
    )
    assert asked(source, "go", place={"town": "Oslo"}, day="2026-03-14").text == '{"town": "Oslo", "floor": 14}'


def test_a_file_may_have_the_name_of_a_module(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("def read() -> list[int]:\n    return [1]\n")
    source = PythonFile(tmp_path / "json.py")
    assert asked(source, "read").text == "[1]"
    source.close()


def test_the_shop_of_the_documentation_sells(opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("shop.db") as made:
        made.execute("CREATE TABLE articles (name, price)")
        made.execute("CREATE TABLE orders (name, number)")
        made.execute("INSERT INTO articles VALUES ('lamp', 9.5)")
    page = (Path(__file__).parent.parent / "docs" / "tools.md").read_text(encoding="utf-8")
    source = opened(page.split("```python\n")[1].split("```")[0])
    assert [(bound.name, bound.read_only) for bound in source.tools] == [("price", True), ("order", False)]
    assert asked(source, "price", article="lamp").text == "9.5"
    assert asked(source, "order", article="lamp", number=2).text == "2 x lamp ordered"
    assert made.execute("SELECT * FROM orders").fetchall() == [("lamp", 2)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.py", None, "no such file: tools are the public functions of a .py file"),
        ("tools.json", "{}", "not a Python file: tools are the public functions of a .py file"),
        ("broken.py", "def a(:", r"fails to run: SyntaxError: invalid syntax \(broken.py, line 1\)"),
        ("none.py", "x = 1", "no public function, so there are no tools"),
        ("raises.py", "\nx = {}['a\\nb']", r"fails to run: KeyError: 'a\\nb' \(line 2\)"),
        ("lines.py", "raise ValueError('a\\n  b')", r"fails to run: ValueError: a b \(line 1\)"),
        ("leaves.py", "import sys\nsys.exit(3)", r"fails to run: SystemExit: 3 \(line 2\)"),
        ("ends.py", "import os\nos._exit(3)", "fails to run: its process ended with exit code 3"),
        ("signals.py", "import os\nos.kill(os.getpid(), 11)", "fails to run: its process ended with signal SIGSEGV"),
        ("latin.py", b"x = '\xe9'\ndef a(): ...", "fails to run: SyntaxError: .*utf-8"),
        ("order.py", "def a(x, /): ...", "tool 'a': positional-only parameters are not supported"),
        ("types.py", "class A: ...\ndef a(x: A): ...", "tool 'a': Unable to generate pydantic-core schema"),
    ],
)
def test_a_file_without_tools_is_told_in_one_line(
    tmp_path: Path, name: str, text: str | bytes | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"{name}: {said}") as raised:
        PythonFile(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_that_hangs_when_it_is_imported_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(600)\n")
    with pytest.raises(ValueError, match=r"slow\.py: fails to run: not imported within 0\.5 s"):
        PythonFile(tmp_path / "slow.py", start_seconds=0.5)


def test_a_worker_imports_nothing_heavy(opened: Open) -> None:
    source = opened(
        "import sys\nfrom swift import read_only\n@read_only\ndef loaded() -> list[str]: return [*sys.modules]"
    )
    assert not {"torch", "transformers", "numpy", "jsonschema", "asyncio"} & {*json.loads(asked(source, "loaded").text)}


# What tools return and raise ------------------------------------------------------------------------------------------

RETURNED = {
    "'看'": "看",
    "'看'.encode()": "看",
    "b'\\xff'": "\ufffd",
    "'\\ud800'": "\ufffd",
    "None": "null",
    "[float('nan'), float('inf'), 1.5]": "[null, null, 1.5]",
    "(i for i in range(3))": "[0, 1, 2]",
    "{1, 1}": "[1]",
    "{b'a': {'b': (b'c', Path('/d'))}}": '{"a": {"b": ["c", "/d"]}}',
    "Box(2)": '{"size": 2}',
    "Colour.RED": "red",
    "Plain()": '"plain"',
}
RAISED = {
    "1 / 0": "ZeroDivisionError: division by zero",
    "sys.exit(3)": "SystemExit: 3",
    "throw(KeyboardInterrupt('no'))": "KeyboardInterrupt: no",
    "throw(Odd())": "Odd: odd",
    "throw(Silent())": "Silent: (its message raised RuntimeError)",
    "throw(ToolError('the lamp is broken'))": "the lamp is broken",
    "deep()": "RecursionError: maximum recursion depth exceeded",
    "circle": "the result contains itself or is nested too deep",
    "itertools.count()": "the result is an iterator of more than 100,000 items",
    "10 ** 5000": "the result cannot be written as JSON: Exceeds the limit (4300",
    "Mute()": "RuntimeError: mute",
    "bytearray(1 << 62)": "MemoryError",
}
KINDS = """
import enum, itertools, sys
from dataclasses import dataclass
from pathlib import Path
from swift.tools.errors import ToolError

@dataclass
class Box:
    size: int

class Colour(str, enum.Enum):
    RED = "red"

class Plain:
    def __str__(self): return "plain"

class Mute:
    def __str__(self): raise RuntimeError("mute")

class Odd(BaseException):
    def __str__(self): return "odd"

class Silent(Exception):
    def __str__(self): raise RuntimeError

circle = []
circle.append(circle)

def _throw(error): raise error
def _deep(): return _deep()
def give(expression: str):
    return eval(expression, {**globals(), "throw": _throw, "deep": _deep})
"""


def test_what_a_tool_returns_is_text_and_what_it_raises_is_an_error(opened: Open) -> None:
    source = opened(KINDS)
    process = source.tools[0]
    for expression, text in RETURNED.items():
        result = asked(source, "give", expression=expression)
        assert (result.text, result.failure) == (text, ""), expression
        assert result.replaced == ("\ufffd" in text)
    for expression, text in RAISED.items():
        result = asked(source, "give", expression=expression)
        assert result.text.startswith(f"Error: {text}"), result.text
        assert result.failure == "raised"
    assert source.tools[0] is process


def test_a_long_result_is_cut_before_it_leaves_the_process_and_its_characters_are_counted(opened: Open) -> None:
    source = opened(
        "def long() -> str:\n    return '看' * 50_000_000\ndef fails():\n    raise ValueError('x' * 50_000_000)\n"
    )
    [invoke, _] = [bound.invoke for bound in source.tools]
    assert len(invoke({}, 30.0)[0]) == 1_000_000
    result = call(source.tools, ToolCall("long"), Limits(30.0, 10))
    assert result.text == "看" * 10 + "\n[cut: the result has 50,000,000 characters, these are the first 10]"
    assert result.cut == 49_999_990
    result = call(source.tools, ToolCall("fails"), Limits(30.0, 10))
    assert result.text == "Error: Val\n[cut: the result has 50,000,019 characters, these are the first 10]"
    assert result.cut == 50_000_009


def test_what_a_tool_prints_is_shown_on_standard_error_and_corrupts_nothing(
    opened: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    source = opened(
        "import os, sys\n"
        "print('ready')\n"
        "def speak() -> str:\n"
        "    print('one\\ntwo', '看')\n"
        "    print('three', file=sys.stderr)\n"
        "    os.system('echo four')\n"
        '    os.write(1, b\'{"id": 1, "text": "no"}\\n\\xff\')\n'
        "    return input() if False else sys.stdin.read() + 'said'\n"
    )
    assert asked(source, "speak").text == "said"
    source.close()
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = ["ready", "one", "two 看", "three", "four", '{"id": 1, "text": "no"}', "\ufffd"]
    assert shown.err == "".join(f"mine.py: {line}\n" for line in lines)


def test_a_coroutine_is_awaited_on_one_loop(opened: Open) -> None:
    source = opened(
        "import asyncio\n"
        "loops = []\n"
        "async def look(x: int) -> int:\n"
        "    await asyncio.sleep(0)\n"
        "    loops.append(asyncio.get_running_loop())\n"
        "    return len(set(loops)) + x\n"
        "async def leave() -> None:\n"
        "    raise SystemExit(2)\n"
    )
    answers = [asked(source, "look", x=1), asked(source, "leave"), asked(source, "look", x=2)]
    assert [answer.text for answer in answers] == ["2", "Error: SystemExit: 2", "3"]


# Time limits and ends of processes ------------------------------------------------------------------------------------

COUNTER = """
import ctypes, os, re, signal, subprocess, sys, threading, time
from pathlib import Path
count = 0
def up() -> int:
    global count
    count += 1
    return count
def hang() -> None:
    time.sleep(600)
def spin() -> None:
    re.match(r"(a*)*b", "a" * 60)
def children(file: str) -> None:
    child = subprocess.Popen(["sleep", "600"])
    Path(file).write_text(str(child.pid))
    child.wait()
def leave() -> None:
    os._exit(3)
def crash() -> None:
    ctypes.string_at(0)
def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
def fork() -> str:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return "parent" if child else "child"
def fork_and_raise() -> str:
    child = os.fork()
    if not child:
        raise SystemExit(5)
    return str(os.waitpid(child, 0)[0] == child)
def close() -> str:
    os.closerange(0, 3)
    return "closed"
def garble() -> None:
    for descriptor in range(3, 4096):
        try:
            os.write(descriptor, b"[]\\n")
        except OSError:
            pass
    time.sleep(600)
def close_all() -> str:
    os.closerange(0, 4096)
    return "closed"
def threads() -> str:
    threading.Thread(target=lambda: 1 / 0).start()
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    return "started"
"""
LOST = "so what it kept in memory is lost"


@pytest.mark.parametrize("name", ["hang", "spin"])
def test_a_call_past_its_time_limit_is_stopped_and_the_next_one_has_a_new_process(opened: Open, name: str) -> None:
    source = opened(COUNTER)
    assert [asked(source, "up").text, asked(source, "up").text] == ["1", "2"]
    result = asked(source, name, seconds=0.2)
    assert result.text == f"Error: no result within 0.2 s; the tool's process was ended, {LOST}"
    assert result.failure == "timeout"
    assert asked(source, "up").text == "1"


@pytest.mark.parametrize("characters", [1, 3_000_000])
def test_a_call_that_a_hanging_process_does_not_even_take_ends_in_time(opened: Open, characters: int) -> None:
    source = opened(
        "import re, threading\n"
        "def begin() -> None:\n"
        "    threading.Timer(0.1, re.match, [r'(a*)*b', 'a' * 60]).start()\n"
        "def nap(text: str) -> None:\n"
        "    threading.Event().wait(600)\n"
    )
    asked(source, "begin")
    assert asked(source, "nap", seconds=0.3, text="x").failure == "timeout"
    asked(source, "begin")
    time.sleep(0.2)
    assert asked(source, "nap", seconds=0.3, text="x" * characters).failure == "timeout"


def test_processes_that_a_tool_started_end_with_it(opened: Open, tmp_path: Path) -> None:
    source = opened(COUNTER)
    assert asked(source, "children", seconds=0.5, file=str(tmp_path / "pid")).failure == "timeout"
    child = int((tmp_path / "pid").read_text())
    eventually(lambda: not is_running(child))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("leave", "exit code 3"),
        ("crash", "signal SIGSEGV"),
        ("killed", "signal SIGKILL"),
        ("close_all", "(exit code 1|signal SIGKILL)"),  # it ends itself, or is ended first
        ("garble", "signal SIGKILL"),
    ],
)
def test_a_process_that_ends_during_a_call_is_an_error_and_is_replaced(opened: Open, name: str, how: str) -> None:
    source = opened(COUNTER)
    result = asked(source, name)
    assert re.fullmatch(f"Error: the tool's process ended with {how}, {re.escape(LOST)}", result.text)
    assert result.failure == "raised"
    assert asked(source, "up").text == "1"


def test_forks_threads_and_closed_descriptors_of_a_tool_leave_its_process_as_it_is(opened: Open) -> None:
    source = opened(COUNTER)
    names = ["up", "fork", "fork_and_raise", "threads", "close", "up"]
    assert [asked(source, name).text for name in names] == ["1", "parent", "True", "started", "closed", "2"]


def test_a_process_that_was_killed_between_two_calls_is_replaced(opened: Open) -> None:
    source = opened("import os\ndef number() -> int:\n    return os.getpid()\n")
    first = int(asked(source, "number").text)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not is_running(first))
    second = asked(source, "number")
    assert second.failure in ("", "raised")  # "raised": the call was on its way
    assert int(asked(source, "number").text) != first


def test_a_file_that_no_longer_runs_is_told_to_the_model(opened: Open, tmp_path: Path) -> None:
    source = opened(COUNTER)
    (tmp_path / "mine.py").write_text("x = 1 / 0\n")
    asked(source, "leave")
    text = "Error: mine.py does not start again: fails to run: ZeroDivisionError: division by zero (line 1)"
    assert [asked(source, "up").text, asked(source, "up").text] == [text, text]
    (tmp_path / "mine.py").write_text("def other() -> int:\n    return 1\n")
    assert asked(source, "up").text == "Error: the file has no function 'up' any more"


def test_a_closed_source_runs_nothing_and_its_exit_handlers_have_run(opened: Open, tmp_path: Path) -> None:
    source = opened(
        "import atexit, os\nfrom pathlib import Path\n"
        "def later(file: str) -> int:\n"
        "    atexit.register(Path(file).write_text, 'left')\n"
        "    return os.getpid()\n"
    )
    process = int(asked(source, "later", file=str(tmp_path / "said")).text)
    source.close()
    assert (tmp_path / "said").read_text() == "left"
    assert not is_running(process)
    assert asked(source, "later", file="x").text == "Error: the tools of mine.py are closed"
    source.close()


# Several calls --------------------------------------------------------------------------------------------------------

MEETING = """
import os, threading, time
from swift import read_only
both = threading.Barrier(2)
@read_only
def meet() -> str:
    both.wait()
    return "met"
@read_only
def hang() -> None:
    time.sleep(600)
@read_only
def last(file: str) -> str:
    "Hangs in the first process only."
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "done"
    time.sleep(600)
def main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
"""


def every(source: PythonFile, calls: Sequence[ToolCall], limits: Limits) -> list[str]:
    return [result.text for result in call_all(source.tools, calls, limits)]


def test_calls_of_read_only_functions_run_in_parallel_and_others_on_the_main_thread(opened: Open) -> None:
    source = opened(MEETING)
    calls = [ToolCall("meet"), ToolCall("main_thread"), ToolCall("meet")]
    assert every(source, [calls[0], calls[2], calls[1]], Limits(30.0)) == ["met", "met", "true"]


def test_a_call_beside_one_that_hangs_runs_again_in_the_new_process(opened: Open, tmp_path: Path) -> None:
    source = opened(MEETING)
    limited = {"hang": 0.5, "last": 30.0}
    texts: dict[str, str] = {}

    def work(name: str, arguments: str) -> None:
        texts[name] = call(source.tools, ToolCall(name, arguments), Limits(limited[name])).text

    last = threading.Thread(target=work, args=("last", json.dumps({"file": str(tmp_path / "began")})))
    last.start()
    eventually((tmp_path / "began").exists)
    work("hang", "{}")
    last.join()
    assert texts["hang"].startswith("Error: no result within 0.5 s")
    assert texts["last"] == "done"


# The program that owns the worker -------------------------------------------------------------------------------------

PROGRAM = """
import sys, threading
from pathlib import Path
from swift.chat import ToolCall
from swift.tools.call import call
from swift.tools.python.source import PythonFile
source = PythonFile(Path(sys.argv[1]))
print(call(source.tools, ToolCall("number")).text, flush=True)
if len(sys.argv) > 2:
    print(call(source.tools, ToolCall(sys.argv[2])).text)
"""
HANGING = """
import os, re, time
def number() -> int:
    return os.getpid()
def hang() -> None:
    print("hanging", flush=True)
    time.sleep(600)
def spin() -> None:
    print("hanging", flush=True)
    re.match(r"(a*)*b", "a" * 60)
"""


def program(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    (tmp_path / "mine.py").write_text(HANGING)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "mine.py"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def test_a_worker_ends_with_its_program(tmp_path: Path) -> None:
    with program(tmp_path) as running:
        out, _ = running.communicate()
    assert running.returncode == 0
    assert not is_running(int(out))


@pytest.mark.parametrize(
    "name",
    [
        "hang",
        pytest.param("spin", marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux signals closed pipes")),
    ],
)
def test_a_worker_ends_with_its_program_that_is_killed_also_while_a_tool_hangs(tmp_path: Path, name: str) -> None:
    with program(tmp_path, name) as running:
        assert running.stdout is not None and running.stderr is not None
        worker = int(running.stdout.readline())
        assert running.stderr.readline() == "mine.py: hanging\n"
        running.kill()
    eventually(lambda: not is_running(worker))


def test_ctrl_c_stops_the_call_and_not_the_worker(tmp_path: Path) -> None:
    with program(tmp_path, "hang") as running:
        assert running.stdout is not None and running.stderr is not None
        worker = int(running.stdout.readline())
        assert running.stderr.readline() == "mine.py: hanging\n"
        time.sleep(0.2)  # until the program waits for the result
        os.killpg(running.pid, signal.SIGINT)
        assert running.stderr.read().rstrip().endswith("KeyboardInterrupt")
    assert not is_running(worker)
