"""The terminal dialogue, line by line, against a scripted Chat."""

import io
import signal
import threading
from dataclasses import replace
from queue import SimpleQueue

import pytest

from swift.agent import form
from swift.agent.tools import from_function
from swift.chat import Delta, Message, ToolCall, Usage
from swift.infer.repl import RULE, Repl, converse, reader
from swift.infer.sample import SamplingParams

REACT = form("react_en")


class ScriptedChat:
    """Answers with the next text of its script, letter by letter; a function in a script is called there."""

    def __init__(self, *script, finish="stop"):
        self.script, self.finish = list(script), finish
        self.asked = []
        self.closed = 0

    def __call__(self, messages, tools=(), params=None):
        self.asked.append(list(messages))
        return self.deltas(self.script.pop(0))

    def deltas(self, parts):
        try:
            for part in [parts] if isinstance(parts, str) else parts:
                for letter in part if isinstance(part, str) else part():
                    yield Delta(letter)
            yield Delta(finish=self.finish, usage=Usage(1, 1))
        finally:
            self.closed += 1


def raising(error):
    def fail():
        raise error

    return fail


press_ctrl_c = raising(KeyboardInterrupt())


def talk(chat, typed, **options):
    """What the terminal shows when `typed` is piped in; a trailing newline in `typed` is understood."""
    out = io.StringIO()
    converse(Repl(chat, SamplingParams(), REACT, out, **options), reader(io.StringIO(typed + "\n"), out))
    return out.getvalue()


SYSTEM_LINES = """Answer the following questions as best you can. You have access to the following APIs:
1. fire_recognition: Call this tool to interact with the fire recognition API. This API is used to recognize whether \
there is fire in the image. Parameters: [{"name": "image", "description": "The input image to recognize fire", \
"required": "True"}]
2. fire_alert: Call this tool to interact with the fire alert API. This API will start an alert to warn the \
building's administraters. Parameters: []
3. call_police: Call this tool to interact with the police calling API. This API will call 110 to catch the thief. \
Parameters: []
4. call_fireman: Call this tool to interact with the fireman calling API. This API will call 119 to extinguish the \
fire. Parameters: []
Use the following format:
Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[fire_recognition, fire_alert, call_police, call_fireman]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""
SYSTEM_LINE = SYSTEM_LINES.replace("\n", "\\n")
QUESTION = "输入图片是/tmp/1.jpg,协助判断图片中是否存在着火点"
CALL = """Thought: I need to use the fire_recognition API to analyze the input image and determine if there are any \
signs of fire.
Action: Use the fire_recognition API to analyze the input image.
Action Input: /tmp/1.jpg
Observation:"""
OBSERVED = "[{'coordinate': [101.1, 200.9], 'on_fire': True}]"
ANSWER = """Thought: The fire_recognition API has returned a result indicating that there is fire in the input image.
Final Answer: There is fire in the input image."""


def test_the_tutorials_dialogue_with_a_system_text_in_one_line_works_as_typed():
    chat, saved = ScriptedChat(CALL, ANSWER), []
    shown = talk(chat, "\n".join(["reset-system", SYSTEM_LINE, QUESTION, OBSERVED]), save=saved.append)
    assert shown == (
        f"<<< reset-system\n<<<[S] {SYSTEM_LINE}\n<<< {QUESTION}\n{CALL}\n{RULE}\n<<< {OBSERVED}\n{ANSWER}\n{RULE}\n"
    )
    system, asked = Message("system", SYSTEM_LINES), Message("user", QUESTION)
    assert chat.asked[0] == [system, asked]
    assert chat.asked[1] == [system, asked, Message("assistant", f"{CALL}{OBSERVED}\n")]
    assert saved == [
        {"system": SYSTEM_LINES, "query": QUESTION, "response": f"{CALL}{OBSERVED}\n{ANSWER}", "history": []}
    ]


def test_the_tutorials_dialogue_with_a_system_text_in_many_lines_works_as_typed():
    chat = ScriptedChat(CALL, ANSWER)
    typed = ["multi-line#", "reset-system#", f"{SYSTEM_LINES}#", f"{QUESTION}#", f"{OBSERVED}#"]
    shown = talk(chat, "\n".join(typed))
    assert shown == (
        f"<<< multi-line#\n<<<[M] reset-system#\n<<<[MS] {SYSTEM_LINES}#\n"
        f"<<<[M] {QUESTION}#\n{CALL}\n{RULE}\n<<<[M] {OBSERVED}#\n{ANSWER}\n{RULE}\n"
    )
    assert chat.asked[1] == [
        Message("system", SYSTEM_LINES),
        Message("user", QUESTION),
        Message("assistant", f"{CALL}{OBSERVED}\n"),
    ]


def test_the_dialogue_goes_on_after_the_answer():
    chat = ScriptedChat(CALL, ANSWER, "Call 119.")
    saved = []
    talk(chat, f"{QUESTION}\n{OBSERVED}\nAnd now?", save=saved.append)
    whole = f"{CALL}{OBSERVED}\n{ANSWER}"
    assert chat.asked[2] == [Message("user", QUESTION), Message("assistant", whole), Message("user", "And now?")]
    assert saved[1] == {"system": None, "query": "And now?", "response": "Call 119.", "history": [[QUESTION, whole]]}


def test_several_observations_grow_the_same_reply():
    chat = ScriptedChat("a\nObservation:", "b\nObservation:", "c")
    saved = []
    shown = talk(chat, "go\n1\n2", save=saved.append)
    assert shown == f"<<< go\na\nObservation:\n{RULE}\n<<< 1\nb\nObservation:\n{RULE}\n<<< 2\nc\n{RULE}\n"
    assert [row["response"] for row in saved] == ["a\nObservation:1\nb\nObservation:2\nc"]


@pytest.mark.parametrize("leaving", ["clear", "exit", "reset-system\nother", ""])
def test_a_reply_whose_observation_never_came_is_saved_all_the_same(leaving):
    saved = []
    talk(ScriptedChat("a\nObservation:"), f"go\n{leaving}", save=saved.append)
    assert [row["response"] for row in saved] == ["a\nObservation:"]


def test_without_streaming_the_reply_comes_at_once_and_reads_the_same():
    def shown(stream):
        return talk(ScriptedChat(CALL, ANSWER), f"{QUESTION}\n{OBSERVED}", stream=stream)

    assert shown(False) == shown(True)


def test_streaming_shows_text_as_it_comes():
    class Watched(io.StringIO):
        def flush(self):
            seen.append(self.getvalue())

    seen = []
    Repl(ScriptedChat("ab"), SamplingParams(), REACT, Watched()).feed("go")
    assert seen[:2] == ["a", "ab"]


@pytest.mark.parametrize("word", ["exit", "quit", "EXIT", " Quit ", "exit#"])
def test_exit_and_quit_leave_in_any_letter_case(word):
    chat = ScriptedChat()
    assert talk(chat, f"{word}\nnever asked") == f"<<< {word}\n"


@pytest.mark.parametrize("word", ["exit#", "exit", "quit#"])
def test_multi_line_mode_is_left_with_or_without_the_mark(word):
    assert talk(ScriptedChat(), f"multi-line\n{word}\nnever asked#") == f"<<< multi-line\n<<<[M] {word}\n"


def test_in_multi_line_mode_an_entry_ends_with_its_mark_and_keeps_its_lines():
    chat = ScriptedChat("ok", "ok")
    shown = talk(chat, "multi-line\nfirst\n\nexit\n# last#\nsingle-line#\none line")
    assert chat.asked[0] == [Message("user", "first\n\nexit\n# last")]
    assert chat.asked[1][-1] == Message("user", "one line")
    assert shown == (
        f"<<< multi-line\n<<<[M] first\n\nexit\n# last#\nok\n{RULE}\n<<<[M] single-line#\n<<< one line\nok\n{RULE}\n"
    )


def test_a_literal_backslash_n_means_a_new_line_in_a_system_line_only():
    chat = ScriptedChat("ok")
    talk(chat, r"reset-system" + "\n" + r"a\nb" + "\n" + r"c\nd")
    assert chat.asked[0] == [Message("system", "a\nb"), Message("user", r"c\nd")]
    chat = ScriptedChat("ok")
    talk(chat, "multi-line\nreset-system#\n" + r"a\nb#" + "\ngo#")
    assert chat.asked[0][0] == Message("system", r"a\nb")


def test_a_new_system_text_forgets_the_dialogue():
    chat = ScriptedChat("one", "two")
    talk(chat, "first\nreset-system\nBe brief.\nsecond")
    assert chat.asked[1] == [Message("system", "Be brief."), Message("user", "second")]


def test_an_empty_system_text_brings_back_the_first_one():
    chat = ScriptedChat("one", "two")
    talk(chat, "reset-system\nBe brief.\na\nreset-system\n\nb", system="Be kind.")
    assert [asked[0].content for asked in chat.asked] == ["Be brief.", "Be kind."]


def test_clear_forgets_the_dialogue_and_keeps_the_system_text():
    chat = ScriptedChat("one", "two")
    talk(chat, "first\nclear\nsecond", system="Be kind.")
    assert chat.asked[1] == [Message("system", "Be kind."), Message("user", "second")]


def test_clear_while_a_reply_waits_for_its_observation_is_no_observation():
    chat = ScriptedChat("a\nObservation:", "two")
    talk(chat, "first\nclear\nsecond")
    assert chat.asked[1] == [Message("user", "second")]


def test_an_empty_line_is_ignored():
    chat = ScriptedChat("ok")
    assert talk(chat, "\n  \ngo").startswith("<<< \n<<<   \n<<< go\nok\n")
    assert len(chat.asked) == 1


def test_an_error_is_one_line_and_leaves_the_dialogue_as_it_was():
    chat = ScriptedChat("fine", [raising(ValueError("the prompt has 9 tokens, too many"))], "fine again")
    shown = talk(chat, "one\ntwo\nthree")
    assert "<<< two\nerror: the prompt has 9 tokens, too many\n<<< three" in shown
    assert [message.content for message in chat.asked[2]] == ["one", "fine", "three"]


def test_an_error_in_mid_reply_has_a_line_of_its_own():
    assert "hal\nerror: server gone\n<<< two\nok" in talk(
        ScriptedChat(["hal", raising(OSError("server gone"))], "ok"), "one\ntwo"
    )


def test_a_cut_reply_says_so():
    assert "so far\n[the reply reached its greatest length]\n" in talk(ScriptedChat("so far", finish="length"), "go")


def test_ctrl_c_stops_the_reply_and_the_dialogue_goes_on_with_what_was_said():
    chat = ScriptedChat(["half a rep", press_ctrl_c], "ok")
    shown = talk(chat, "one\ntwo")
    assert f"<<< one\nhalf a rep\n[stopped]\n{RULE}\n<<< two" in shown
    assert [message.content for message in chat.asked[1]] == ["one", "half a rep", "two"]
    assert chat.closed == 2


def test_ctrl_c_before_the_first_word_takes_the_question_back():
    chat = ScriptedChat([press_ctrl_c], "ok")
    talk(chat, "one\ntwo")
    assert [message.content for message in chat.asked[1]] == ["two"]


def test_ctrl_c_reaches_a_chat_that_waits_for_its_model():
    def wait_for_ctrl_c():
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            SimpleQueue().get(timeout=10)  # as the engine's steps wait
        finally:
            signal.signal(signal.SIGALRM, before)

    assert "half\n[stopped]" in talk(ScriptedChat(["half", wait_for_ctrl_c], "ok"), "one\ntwo")


def test_ctrl_c_at_the_prompt_leaves():
    out = io.StringIO()
    typed = iter([lambda: "one", press_ctrl_c, lambda: "two"])
    converse(Repl(ScriptedChat("ok"), SamplingParams(), REACT, out), lambda prompt: next(typed)())
    assert out.getvalue() == f"ok\n{RULE}\n"


def test_a_second_ctrl_c_while_the_reply_is_being_stopped_leaves():
    class Slow(ScriptedChat):
        def deltas(self, parts):
            try:
                yield Delta("half")
            finally:
                press_ctrl_c()

    class Interrupted(io.StringIO):
        def write(self, text):
            return press_ctrl_c() if text == "half" else super().write(text)

    chat, out = Slow("x", "y"), Interrupted()
    converse(Repl(chat, SamplingParams(), REACT, out), reader(io.StringIO("one\ntwo\n"), out))
    assert out.getvalue() == "<<< one\n"
    assert len(chat.asked) == 1


def test_lines_pasted_together_are_taken_one_by_one():
    chat = ScriptedChat("ok")
    pasted = iter(["multi-line#\nreset-system#\nBe\nbrief.#\ngo#", "exit#"])
    converse(Repl(chat, SamplingParams(), REACT, io.StringIO()), lambda prompt: next(pasted))
    assert chat.asked == [[Message("system", "Be\nbrief."), Message("user", "go")]]


class CallingChat(ScriptedChat):
    """Scripted with deltas, as a chat that reads calls gives them."""

    def deltas(self, parts):
        for part in parts:
            yield part() if callable(part) else part

    def __call__(self, messages, tools=(), params=None):
        self.offered = [tool.name for tool in tools]
        return super().__call__(messages, tools, params)


def add(numbers: list[float]) -> float:
    """Adds."""
    return sum(numbers)


def calling(thought, name, arguments):
    """As a model writes: a call begins with its name, and its arguments come piece by piece."""
    return [
        Delta(thought),
        Delta(tool_call=ToolCall(name, "", "c1")),
        *[Delta(tool_call=ToolCall("", letter)) for letter in arguments],
        Delta(finish="tool_calls", usage=Usage(1, 1)),
    ]


def saying(text):
    return [Delta(text), Delta(finish="stop", usage=Usage(1, 1))]


ADD = from_function(add)
ADDED = (
    'Thought: I add.\nAction: add\nAction Input: {"numbers": [1, 2]}\nObservation:3.0\nThought: Done.\nFinal Answer: 3'
)


@pytest.mark.parametrize("stream", [True, False])
def test_tools_really_run_and_the_whole_of_it_is_shown_and_saved(stream):
    chat = CallingChat(
        calling("Thought: I add.", "add", '{"numbers": [1, 2]}'),
        saying("Thought: Done.\nFinal Answer: 3"),
        saying("Yes."),
    )
    saved = []
    shown = talk(chat, "1 + 2?\nSure?", tools=[ADD], save=saved.append, stream=stream)
    assert shown == f"<<< 1 + 2?\n{ADDED}\n{RULE}\n<<< Sure?\nYes.\n{RULE}\n"
    assert chat.offered == ["add"]
    assert [message.role for message in chat.asked[2]] == ["user", "assistant", "tool", "assistant", "user"]
    assert saved[0] == {"system": None, "query": "1 + 2?", "response": ADDED, "history": []}
    assert saved[1] == {"system": None, "query": "Sure?", "response": "Yes.", "history": [["1 + 2?", ADDED]]}


def test_a_form_whose_results_are_turns_shows_them_between_the_replies():
    chat = CallingChat(calling("", "add", '{"numbers": [1]}'), saying("One."))
    out = io.StringIO()
    Repl(chat, SamplingParams(), form("hermes"), out, tools=[ADD]).feed("1?")
    assert out.getvalue() == (
        '<tool_call>\n{"name": "add", "arguments": {"numbers": [1]}}\n</tool_call>\n'
        f"<tool_response>\n1.0\n</tool_response>\nOne.\n{RULE}\n"
    )


def test_a_model_that_never_answers_is_stopped_after_the_turns_allowed():
    chat = CallingChat(*[calling("", "add", '{"numbers": []}')] * 3)
    shown = talk(chat, "go", tools=[ADD], max_turns=2)
    assert shown.endswith(f"[no answer within the turns allowed]\n{RULE}\n")
    assert len(chat.script) == 1


@pytest.fixture
def terminal():
    """Ctrl-C interrupts; a shell that starts a program in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_while_a_tool_is_at_work_takes_the_question_back():
    chat = CallingChat(calling("", "add", '{"numbers": []}'), saying("ok"))

    def interrupted(numbers):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as a terminal does
        SimpleQueue().get(timeout=10)

    shown = talk(chat, "one\ntwo", tools=[replace(ADD, function=interrupted)])
    assert f"[stopped]\n{RULE}\n<<< two\nok" in shown
    assert [message.content for message in chat.asked[1]] == ["two"]
