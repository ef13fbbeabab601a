"""The terminal dialogue, line by line, against a scripted Chat."""

import io
import json
import re
import signal
import threading
from dataclasses import replace
from queue import SimpleQueue

import pytest

from swift.agent import TOOL_FORMATS, tool_format
from swift.chat import Delta, Message, Tool, ToolCall, Usage
from swift.engine.sampling import SamplingParams
from swift.infer.confirmation import Confirmation
from swift.infer.repl import RULE, Repl, run_dialogue
from swift.infer.terminal_input import LineCleared, line_reader
from swift.infer.terminal_output import supports_colour
from swift.tools.bound_tool import from_function, from_schema
from swift.tools.described import from_description
from swift.tools.in_process import on_thread

REACT = tool_format("react_en")


class ScriptedChat:
    """Answers with the next text of its script, letter by letter; a function in the script is called in its place."""

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
end_input = raising(EOFError())


def talk(chat, typed, **options):
    """What the terminal shows when `typed` is piped in; a trailing newline in `typed` is understood."""
    out = io.StringIO()
    run_dialogue(Repl(chat, SamplingParams(), REACT, out, **options), line_reader(io.StringIO(typed + "\n"), out))
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


def test_the_tutorials_dialogue_with_a_system_prompt_in_one_line_works_as_typed():
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


def test_the_tutorials_dialogue_with_a_system_prompt_in_many_lines_works_as_typed():
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


def test_a_new_system_prompt_clears_the_dialogue():
    chat = ScriptedChat("one", "two")
    talk(chat, "first\nreset-system\nBe brief.\nsecond")
    assert chat.asked[1] == [Message("system", "Be brief."), Message("user", "second")]


def test_an_empty_system_prompt_restores_the_first_one():
    chat = ScriptedChat("one", "two")
    talk(chat, "reset-system\nBe brief.\na\nreset-system\n\nb", system="Be kind.")
    assert [asked[0].content for asked in chat.asked] == ["Be brief.", "Be kind."]


def test_clear_clears_the_dialogue_and_keeps_the_system_prompt():
    chat = ScriptedChat("one", "two")
    shown = talk(chat, "first\nclear\nsecond", system="Be kind.")
    assert "[the dialogue is cleared; the system prompt stays]" in shown
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
    assert "so far\n[the reply reached its maximum length]\n" in talk(ScriptedChat("so far", finish="length"), "go")


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


def typing(chat, *steps, **options):
    """What is shown to somebody who types at a terminal: each step is a line, or a function called in its place."""
    out, prompts, typed = io.StringIO(), [], iter(steps)

    def read(prompt):
        prompts.append(prompt)
        step = next(typed, None)
        if step is None:
            raise EOFError
        return step() if callable(step) else step

    run_dialogue(Repl(chat, SamplingParams(), options.pop("tool_format", REACT), out, terminal=True, **options), read)
    return out.getvalue(), prompts


def test_ctrl_c_at_an_empty_prompt_asks_for_a_second_one_that_leaves():
    shown, prompts = typing(ScriptedChat("ok"), "one", press_ctrl_c, press_ctrl_c, "never asked")
    assert shown == f"ok\n{RULE}\n[press Ctrl-C again, or type exit, to leave]\n"
    assert len(prompts) == 3


@pytest.mark.parametrize("between", ["one", "", raising(LineCleared())])
def test_a_single_ctrl_c_at_the_prompt_never_leaves(between):
    chat = ScriptedChat("ok", "ok")
    typing(chat, press_ctrl_c, between, press_ctrl_c, "two")
    assert chat.asked[-1][-1] == Message("user", "two")


def test_ctrl_c_discards_an_entry_of_several_lines_and_a_new_system_prompt():
    chat = ScriptedChat("ok")
    shown, prompts = typing(chat, "multi-line#", "first", press_ctrl_c, "reset-system#", press_ctrl_c, "go#")
    assert "[the entry is discarded]" in shown and "[the system prompt is unchanged]" in shown
    assert chat.asked == [[Message("user", "go")]]
    assert prompts == ["<<< ", "<<<[M] ", "", "<<<[M] ", "<<<[MS] ", "<<<[M] ", "<<<[M] "]


def test_an_entry_without_its_end_is_named_when_the_input_ends():
    assert "[not sent: the last entry does not end with #]" in talk(ScriptedChat(), "multi-line\nfirst\nsecond")


@pytest.mark.parametrize("word", ["help", "?", "HELP", "reset-system\nhelp", "multi-line\nhelp#"])
def test_help_lists_the_commands_with_a_line_each(word):
    chat = ScriptedChat()
    shown = talk(chat, word)
    for name in ("help", "reset-system", "multi-line", "single-line", "clear", "exit"):
        assert len([line for line in shown.splitlines() if line.split()[:1] == [name] and len(line.split()) > 2]) == 1
    assert "Ctrl-C stops a reply" in shown
    assert chat.asked == []


@pytest.mark.parametrize(
    "word, meant",
    [
        ("reset-systm", "reset-system"),
        ("reset_system", "reset-system"),
        ("multi line", "multi-line"),
        ("/clear", "clear"),
        ("exti", "exit"),
        ("Quit.", "quit"),
    ],
)
def test_a_misspelt_command_is_sent_only_when_it_is_entered_again(word, meant):
    chat = ScriptedChat("ok")
    shown = talk(chat, f"{word}\n")
    assert f"[not sent: did you mean {meant}? Enter {word} again to send it]" in shown
    assert chat.asked == []
    talk(chat, f"{word}\n{word}")
    assert chat.asked == [[Message("user", word)]]


@pytest.mark.parametrize(
    "text", ["hello", "exit the building", "help me", "clearly", "你好", "quote", "rest", "exiting"]
)
def test_other_short_texts_are_sent(text):
    chat = ScriptedChat("ok")
    talk(chat, text)
    assert chat.asked == [[Message("user", text)]]


def test_a_short_word_is_an_observation_where_one_is_expected():
    chat = ScriptedChat("a\nObservation:", "b")
    talk(chat, "go\nexist")
    assert chat.asked[1][-1].content == "a\nObservation:exist\n"


def test_at_a_terminal_the_prompt_shows_that_an_observation_is_expected():
    chat = ScriptedChat("a\nObservation:", "b", "c\nObservation:", "d")
    _, prompts = typing(chat, "go", "1", "multi-line", "go#", "2#")
    assert prompts == ["<<< ", "<<<[Observation] ", "<<< ", "<<<[M] ", "<<<[M Observation] ", "<<<[M] "]


def test_invalid_utf_8_is_replaced_and_reported():
    chat = ScriptedChat("ok", "ok")
    piped = io.TextIOWrapper(io.BytesIO("你好".encode("gbk") + b"\nfine\n"), "utf-8")
    out = io.StringIO()
    run_dialogue(Repl(chat, SamplingParams(), REACT, out), line_reader(piped, out))
    assert chat.asked[0] == [Message("user", "\ufffd" * 4)]
    assert chat.asked[1][-1] == Message("user", "fine")
    assert out.getvalue().count("[invalid UTF-8: U+FFFD replaces each byte that could not be decoded]") == 1
    chat = ScriptedChat("ok")
    typing(chat, "\udcc4 and \ud83d\ude00")
    assert chat.asked == [[Message("user", "\ufffd and 😀")]]


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
    run_dialogue(Repl(chat, SamplingParams(), REACT, out), line_reader(io.StringIO("one\ntwo\n"), out))
    assert out.getvalue() == "<<< one\n"
    assert len(chat.asked) == 1


def test_lines_pasted_together_are_taken_one_by_one():
    chat = ScriptedChat("ok")
    pasted = iter(["multi-line#\nreset-system#\nBe\nbrief.#\ngo#", "exit#"])
    run_dialogue(Repl(chat, SamplingParams(), REACT, io.StringIO()), lambda prompt: next(pasted))
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
def test_tools_run_and_everything_is_shown_and_saved(stream):
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


def test_a_format_whose_results_are_turns_shows_them_between_the_replies():
    chat = CallingChat(calling("", "add", '{"numbers": [1]}'), saying("One."))
    out = io.StringIO()
    Repl(chat, SamplingParams(), tool_format("hermes"), out, tools=[ADD]).feed("1?")
    assert out.getvalue() == (
        '<tool_call>\n{"name": "add", "arguments": {"numbers": [1]}}\n</tool_call>\n'
        f"<tool_response>\n1.0\n</tool_response>\nOne.\n{RULE}\n"
    )


def test_a_model_that_never_answers_is_stopped_after_max_turns():
    chat = CallingChat(*[calling("", "add", '{"numbers": []}')] * 3)
    shown = talk(chat, "go", tools=[ADD], max_turns=2)
    assert shown.endswith(f"[no answer within the maximum number of turns]\n{RULE}\n")
    assert len(chat.script) == 1


@pytest.fixture
def terminal():
    """Ctrl-C interrupts; a shell that starts a program in the background has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("terminal")
def test_ctrl_c_while_a_tool_runs_takes_the_question_back():
    chat = CallingChat(calling("", "add", '{"numbers": []}'), saying("ok"))

    def interrupted(numbers):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as a terminal does
        SimpleQueue().get(timeout=10)

    shown = talk(chat, "one\ntwo", tools=[replace(ADD, invoke=on_thread(interrupted))])
    assert f"[stopped]\n{RULE}\n<<< two\nok" in shown
    assert [message.content for message in chat.asked[1]] == ["two"]


# Tools whose observations are typed in


DESCRIBED = [from_description({"name": name, "parameters": {}}) for name in ("look", "add")]


@pytest.mark.parametrize("format_name", ["react_en", "hermes"])
def test_the_result_of_a_described_tool_is_typed_in_and_the_reply_continues(format_name):
    chat = CallingChat(calling("Thought: I look.", "look", '{"at": 1}'), saying("Seen."), saying("Yes."))
    saved = []
    typed = {"tools": DESCRIBED, "save": saved.append, "tool_format": tool_format(format_name)}
    shown, prompts = typing(chat, "go", "a cat", "sure?", **typed)
    assert chat.offered == ["look", "add"]
    assert prompts == ["<<< ", "<<<[Observation look] ", "<<< ", "<<< "]
    call = tool_format(format_name).call("Thought: I look.", [ToolCall("look", '{"at": 1}')])
    assert shown == f"{call}\n{RULE}\nSeen.\n{RULE}\nYes.\n{RULE}\n"
    asked = [Message("user", "go"), Message("assistant", "Thought: I look.", (ToolCall("look", '{"at": 1}', "c1"),))]
    assert chat.asked[1] == [*asked, Message("tool", "a cat", tool_call_id="c1", name="look")]
    assert [row["query"] for row in saved][-1] == "sure?"
    assert len(saved) == 2


def test_each_call_of_a_reply_has_its_own_observation_also_from_a_pipe():
    both = [
        Delta(tool_call=ToolCall("look", '{"at": 1}', "c1")),
        Delta(tool_call=ToolCall("add", "{}", "c2")),
        Delta(finish="tool_calls", usage=Usage(1, 1)),
    ]
    chat = CallingChat(both, saying("Done."))
    shown = talk(chat, "go\n1\n2", tools=DESCRIBED)
    assert "<<<[Observation look] 1\n<<<[Observation add] 2\nDone.\n" in shown
    assert [message.content for message in chat.asked[1][-2:]] == ["1", "2"]


def test_commands_work_while_a_tools_observation_is_awaited():
    chat = CallingChat(calling("", "look", "{}"), saying("Hello."))
    _, prompts = typing(chat, "go", "clear", "hello", tools=DESCRIBED)
    assert chat.asked[1] == [Message("user", "hello")]
    assert prompts == ["<<< ", "<<<[Observation look] ", "<<< ", "<<< "]


def test_half_a_call_of_a_stopped_reply_asks_for_no_observation():
    chat = CallingChat([Delta("I look."), Delta(tool_call=ToolCall("look", '{"a', "c1")), press_ctrl_c], saying("ok"))
    _, prompts = typing(chat, "go", "again", tools=DESCRIBED)
    assert prompts[1] == "<<< "
    assert chat.asked[1][1] == Message("assistant", "I look.")


def test_an_observation_that_does_not_fit_can_be_typed_again():
    chat = CallingChat(calling("", "look", "{}"), [raising(ValueError("too long"))], saying("Seen."))
    shown, prompts = typing(chat, "go", "x" * 9, "short", tools=DESCRIBED)
    assert "error: too long" in shown
    assert prompts[1:3] == ["<<<[Observation look] "] * 2
    assert [message.content for message in chat.asked[2] if message.role == "tool"] == ["short"]


# Tools that run beside tools that are described


def several(*calls):
    return [*[Delta(tool_call=ToolCall(*call)) for call in calls], Delta(finish="tool_calls", usage=Usage(1, 1))]


@pytest.mark.parametrize("order", ["run first", "run last", "run between"])
def test_in_one_reply_tools_that_run_run_and_the_results_of_others_are_typed_in_in_the_order_of_the_calls(order):
    run, look = ("add", '{"numbers": [1]}', "c1"), ("look", '{"at": 1}', "c2")
    calls = {"run first": [run, look], "run last": [look, run], "run between": [look, run, (*look[:2], "c3")]}[order]
    chat = CallingChat(several(*calls), saying("Done."))
    saved = []
    options = {"tools": [ADD, DESCRIBED[0]], "tool_format": tool_format("hermes"), "save": saved.append}
    shown, prompts = typing(chat, "go", *["a cat"] * (len(calls) - 1), **options)
    assert chat.offered == ["add", "look"]
    assert prompts == ["<<< ", *["<<<[Observation look] "] * (len(calls) - 1), "<<< "]
    assert f"<tool_response>\n1.0\n</tool_response>\n{RULE}\nDone.\n{RULE}\n" in shown
    results = [message for message in chat.asked[1] if message.role == "tool"]
    assert [(each.tool_call_id, each.name) for each in results] == [(id, name) for name, _, id in calls]
    assert [each.content for each in results] == ["1.0" if name == "add" else "a cat" for name, *_ in calls]
    assert len(saved) == 1


def test_a_tool_that_runs_and_a_described_one_take_turns():
    chat = CallingChat(
        calling("", "add", '{"numbers": [1]}'), calling("", "look", "{}"), calling("", "add", '{"numbers": [2]}'),
        saying("Done."),
    )  # fmt: skip
    shown, prompts = typing(chat, "go", "seen", tools=[ADD, DESCRIBED[0]])
    assert prompts == ["<<< ", "<<<[Observation look] ", "<<< "]
    assert shown == (
        'Action: add\nAction Input: {"numbers": [1]}\nObservation:1.0\nAction: look\nAction Input: {}\nObservation:\n'
        f'{RULE}\nAction: add\nAction Input: {{"numbers": [2]}}\nObservation:2.0\nDone.\n{RULE}\n'
    )


def test_an_observation_beside_a_tool_that_ran_can_be_typed_again_where_it_does_not_fit():
    calls = several(("look", "{}", "c1"), ("add", '{"numbers": [1]}', "c2"))
    chat = CallingChat(calls, [raising(ValueError("too long"))], saying("Seen."))
    _, prompts = typing(chat, "go", "x" * 9, "short", tools=[ADD, DESCRIBED[0]], tool_format=tool_format("hermes"))
    assert prompts[1:3] == ["<<<[Observation look] "] * 2
    assert [message.content for message in chat.asked[2] if message.role == "tool"] == ["short", "1.0"]


def test_tools_are_read_anew_for_each_reply():
    present = [ADD]
    chat = CallingChat(saying("One."), saying("Two."))
    repl = Repl(chat, SamplingParams(), REACT, io.StringIO(), tools=lambda: present)
    repl.feed("a")
    assert chat.offered == ["add"]
    present.append(DESCRIBED[0])
    repl.feed("b")
    assert chat.offered == ["add", "look"]


@pytest.mark.parametrize("tools", [[ADD, *DESCRIBED[:1]], DESCRIBED])
def test_the_tools_that_are_selected_are_offered(tools):
    chat = CallingChat(saying("One."))
    Repl(chat, SamplingParams(), REACT, io.StringIO(), tools=tools, offer=lambda messages: tools[:1]).feed("a")
    assert chat.offered == [tools[0].name]


# Confirmation


SUMS = (replace(ADD, source="sums.py"), replace(from_function(add, "total"), read_only=True, source="sums.py"))


def confirming(chat, *answers, mode="all", ask_below=None, tools=SUMS, entries=("go",)):
    """(what is shown, the questions) where `answers` are typed when a call is to be confirmed."""
    out, asked, typed = io.StringIO(), [], iter(answers)

    def read(prompt):
        asked.append(prompt)
        answer = next(typed)
        return answer() if callable(answer) else answer

    options = {"tools": tools, "confirmation": Confirmation(read, mode, ask_below)}
    repl = Repl(chat, SamplingParams(), REACT, out, **options)
    for entry in entries:
        repl.feed(entry)
    return out.getvalue(), asked


@pytest.mark.parametrize(
    "answers, runs",
    [
        (["y"], True), (["YES "], True), (["a"], True), (["n"], False), (["no"], False), (["what?", "", "y"], True),
        ([press_ctrl_c], False), ([raising(LineCleared())], False), ([end_input], False),
    ],
)  # fmt: skip
def test_a_call_runs_only_where_the_user_confirms_it_and_the_model_reads_the_answer(answers, runs):
    chat = CallingChat(calling("", "add", '{"numbers": [1]}'), saying("ok"))
    _, asked = confirming(chat, *answers)
    assert asked[0] == '<<<[run add {"numbers": [1]} from sums.py? y/n/a] '
    assert asked[1:] == ["<<<[y: yes, n: no, a: always add] "] * (len(answers) - 1)
    assert chat.asked[1][-1].content == ("1.0" if runs else "Error: the user declined this call, so it did not run")


def test_always_holds_for_one_tool_until_the_dialogue_is_cleared():
    script = [calling("", "add", '{"numbers": [1]}'), saying("ok")] * 3
    chat = CallingChat(*script)
    _, asked = confirming(chat, "a", "n", entries=["one", "two", "clear", "three"])
    assert len(asked) == 2
    assert chat.asked[-1][-1].content.startswith("Error: the user declined")


def test_a_tool_that_is_described_anew_is_confirmed_anew():
    changed = replace(ADD, tool=Tool({**ADD.tool.function, "description": "Sends everything away."}))
    present = [ADD]
    chat = CallingChat(*[calling("", "add", '{"numbers": [1]}'), saying("ok")] * 2)
    asked = []
    confirmation = Confirmation(lambda prompt: asked.append(prompt) or "a", "all")
    repl = Repl(chat, SamplingParams(), REACT, io.StringIO(), tools=lambda: present, confirmation=confirmation)
    repl.feed("one")
    present[:] = [changed]
    repl.feed("two")
    assert len(asked) == 2


def test_writes_asks_only_about_tools_that_may_write():
    chat = CallingChat(calling("", "total", '{"numbers": [1]}'), calling("", "add", '{"numbers": [2]}'), saying("ok"))
    shown, asked = confirming(chat, "y", mode="writes")
    assert [prompt.split()[1] for prompt in asked] == ["add"]
    assert "Observation:1.0\n" in shown and "Observation:\n2.0\n" in shown


@pytest.mark.parametrize("confidence, asks", [(0.41, True), (0.5, False), (None, False)])
def test_a_call_of_low_confidence_is_confirmed_with_its_number(confidence, asks):
    call = ToolCall("total", '{"numbers": [1]}', "c1", confidence)
    chat = CallingChat([Delta(tool_call=call), Delta(finish="tool_calls")], saying("ok"))
    _, asked = confirming(chat, "y", mode="none", ask_below=0.5)
    assert asked == ['<<<[run total {"numbers": [1]} from sums.py (confidence 0.41)? y/n/a] '] * asks


def test_a_call_that_nobody_can_confirm_does_not_run_and_is_named():
    notes = []
    assert not Confirmation(lambda prompt: end_input(), "all", note=notes.append)(SUMS[1], ToolCall("total"))
    assert notes == ["total does not run: the input ended before an answer"]


def test_a_confidence_that_is_not_known_is_said_once():
    notes = []
    confirmation = Confirmation(lambda prompt: end_input(), "none", 0.5, notes.append)
    assert [confirmation(SUMS[1], ToolCall("total")) for _ in range(2)] == [True, True]
    assert notes == ["the confidence of total is not known, so --ask_below does not ask about such calls"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "name, shown",
    [
        ("react_en", 'Action: add\nAction Input: {"numbers": [1]}\n[add: 0.93]\nObservation:1.0\nOne.\n'),
        (
            "hermes",
            '<tool_call>\n{"name": "add", "arguments": {"numbers": [1]}}\n</tool_call>\n[add: 0.93]\n'
            "<tool_response>\n1.0\n</tool_response>\nOne.\n",
        ),
    ],
)
def test_the_confidence_of_a_call_is_shown_dim_where_tools_run(name, shown, stream):
    call = [*calling("", "add", '{"numbers": [1]}')[1:-1], Delta(tool_call=ToolCall("", "", "", 0.927))]
    end = Delta(finish="tool_calls")
    options = {"tool_format": tool_format(name), "stream": stream}
    text, _ = typing(CallingChat([*call, end], saying("One.")), "go", tools=[ADD], **options)
    assert text == f"{shown}{RULE}\n"
    coloured, _ = typing(CallingChat([*call, end], saying("One.")), "go", tools=[ADD], colours=True, **options)
    assert ("[add: 0.93]\n", DIM) in colours_of(coloured)
    described, _ = typing(CallingChat([*call, end]), "go", tools=DESCRIBED, **options)
    assert "0.93" not in described


def test_a_call_is_asked_about_on_a_line_of_its_own_and_answered_by_the_next_line_of_a_pipe():
    chat = CallingChat(calling("", "add", '{"numbers": [1]}'), saying("One."))
    out, lines = io.StringIO(), io.StringIO("go\ny\n")
    read = line_reader(lines, out)
    options = {"tools": [ADD], "confirmation": Confirmation(read, "all")}
    run_dialogue(Repl(chat, SamplingParams(), REACT, out, **options), read)
    assert out.getvalue() == (
        '<<< go\nAction: add\nAction Input: {"numbers": [1]}\nObservation:\n'
        f'<<<[run add {{"numbers": [1]}}? y/n/a] y\n1.0\nOne.\n{RULE}\n'
    )


def test_arguments_are_shown_whole_and_cannot_hide_behind_control_characters():
    text = "x" * 500 + "\x1b[2K\u202e\u009b"
    chat = CallingChat(calling("", "add", json.dumps({"numbers": [1], "note": text})), saying("ok"))
    loose = replace(ADD, validator=from_schema({"name": "add"}, lambda arguments, seconds: 1).validator)
    _, (asked,) = confirming(chat, "n", tools=[loose])
    assert "x" * 500 + "\\u001b[2K\\u202e\\u009b" in asked
    assert asked.isprintable()


# Reasoning and colours

DIM, YELLOW, BLUE, RESET = "\x1b[2m", "\x1b[33m", "\x1b[34m", "\x1b[0m"


def colours_of(shown):
    """(text, colour) of what a terminal would show."""
    parts, colour = [], ""
    for piece in re.split(r"(\x1b\[\d*m)", shown):
        if piece.startswith("\x1b"):
            colour = "" if piece == RESET else piece
        elif piece and parts and parts[-1][1] == colour:
            parts[-1] = (parts[-1][0] + piece, colour)
        elif piece:
            parts.append((piece, colour))
    return parts


def test_the_parts_of_a_reply_that_is_all_text_have_colours_by_the_words_that_open_their_lines():
    text = "Thought: t\nmore: Action: no\nAction: a\nAction Input: {\n1}\nObservation: o\nThought: t\nFinal Answer: d"
    shown, _ = typing(ScriptedChat(text), "go", colours=True)
    assert colours_of(shown) == [
        ("Thought: t\nmore: Action: no\n", DIM),
        ("Action: a\nAction Input: {\n1}\n", YELLOW),
        ("Observation: o\n", BLUE),
        ("Thought: t\n", DIM),
        (f"Final Answer: d\n{RULE}\n", ""),
    ]


def test_colours_change_no_letter_and_hold_back_only_what_may_open_a_part():
    seen = []

    class Watched(io.StringIO):
        def flush(self):
            seen.append(re.sub(r"\x1b\[\d*m", "", self.getvalue()))

    text = "That is\nAct one.\n"
    Repl(ScriptedChat(text), SamplingParams(), REACT, Watched(), colours=True).feed("go")
    assert seen[-1] == f"{text}{RULE}\n"
    assert "Tha" in seen and "That is\nAct " in seen and "That is\nAc" not in seen


@pytest.mark.parametrize("stream", [True, False])
def test_a_thought_a_call_and_what_it_gave_have_colours_where_tools_run(stream):
    thought = [Delta(reasoning="I "), Delta(reasoning="add.")]
    chat = CallingChat(
        [*thought, *calling("", "add", '{"numbers": [1]}')[1:]],
        [Delta(reasoning="Done."), *saying("It is 1.")],
    )
    shown, _ = typing(chat, "1?", tools=[ADD], colours=True, stream=stream)
    parts = [(text.strip("\n"), colour) for text, colour in colours_of(shown) if text.strip("\n")]
    assert parts == [
        ("Thought: I add.", DIM),
        ('Action: add\nAction Input: {"numbers": [1]}', YELLOW),
        ("Observation:1.0", BLUE),
        ("Thought: Done.", DIM),
        (f"It is 1.\n{RULE}", ""),
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_without_colours_reasoning_has_its_own_line_with_its_label(stream):
    chat, saved = CallingChat([Delta(reasoning="Easy."), *saying("It is 1.")]), []
    shown = talk(chat, "1?", tools=[ADD], save=saved.append, stream=stream)
    assert shown == f"<<< 1?\nThought: Easy.\nIt is 1.\n{RULE}\n"
    assert saved[0]["response"] == "Thought: Easy.\nFinal Answer: It is 1."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", ["react_en", "hermes"])
def test_reasoning_without_a_label_is_shown_dim_in_tags_and_saved_so(stream, name):
    reply = [Delta(reasoning="Ea"), Delta(reasoning="sy."), *saying("It is 1.")]
    chat, saved = CallingChat(reply, saying("Yes.")), []
    shown, _ = typing(
        chat, "1?", "Sure?", tool_format=tool_format(name), colours=True, save=saved.append, stream=stream
    )
    assert colours_of(shown) == [
        ("<think>\nEasy.\n</think>\n\n", DIM),
        (f"It is 1.\n{RULE}\nYes.\n{RULE}\n", ""),
    ]
    assert chat.asked[1][1] == Message("assistant", "It is 1.", reasoning="Easy.")
    assert saved[0]["response"] == saved[1]["history"][0][1] == "<think>\nEasy.\n</think>\n\nIt is 1."
    assert talk(CallingChat(reply), "1?", stream=stream).endswith(f"<think>\nEasy.\n</think>\n\nIt is 1.\n{RULE}\n")


@pytest.mark.parametrize("stream", [True, False])
def test_a_block_before_a_call_alone_and_cut_is_shown_as_far_as_it_came(stream):
    thought = [Delta(reasoning="I add.")]
    chat = CallingChat(
        [*thought, *calling("", "add", '{"numbers": [1]}')[1:]],
        [*thought, Delta("So: "), *thought, *saying("1")],
        [*thought, Delta(finish="stop")],
        [*thought, Delta(finish="length")],
    )
    shown, _ = typing(chat, "1?", "a", "b", tools=[ADD], tool_format=tool_format("hermes"), stream=stream)
    block = "<think>\nI add.\n</think>\n"
    call = tool_format("hermes").call("", [ToolCall("add", '{"numbers": [1]}')])
    assert shown.startswith(f"{block}\n{call}")
    assert shown.endswith(f"{RULE}\n{block}{RULE}\n<think>\nI add.\n[the reply reached its maximum length]\n{RULE}\n")


def test_a_block_before_a_typed_observation_stays_with_its_reply():
    chat = CallingChat(
        [Delta(reasoning="I look."), *saying("Action: look\nObservation:")],
        [Delta(reasoning="A cat."), *saying("It is a cat.")],
        saying("Yes."),
    )
    saved = []
    typing(chat, "go", "seen", "Sure?", save=saved.append)
    begun = "Action: look\nObservation:seen\n"
    assert chat.asked[1][-1] == Message("assistant", begun, reasoning="I look.")
    assert chat.asked[2][1] == Message("assistant", f"{begun}It is a cat.", reasoning="I look.\nA cat.")
    assert saved[0]["response"] == f"<think>\nI look.\nA cat.\n</think>\n\n{begun}It is a cat."


def test_reasoning_that_is_the_answer_too_is_shown_once():
    chat = CallingChat([Delta(reasoning="It is 1."), Delta("It is 1."), Delta(finish="stop", usage=Usage(1, 1))])
    assert talk(chat, "1?", tools=[ADD]) == f"<<< 1?\nThought: It is 1.\n{RULE}\n"


def test_a_reply_goes_on_in_order_after_the_observation_of_a_call_that_could_not_be_read():
    chat = CallingChat(
        [Delta(reasoning="I look."), *saying("Action: look\nObservation:")],
        [Delta(reasoning="A cat."), *saying("It is a cat.")],
    )
    saved = []
    _, prompts = typing(chat, "go", "seen", tools=DESCRIBED, save=saved.append)
    assert prompts[1] == "<<<[Observation] "
    begun = "Thought: I look.\nAction: look\nObservation:seen\n"
    assert chat.asked[1][-1] == Message("assistant", begun)
    assert saved[0]["response"] == f"{begun}Thought: A cat.\nFinal Answer: It is a cat."


def test_a_call_is_shown_while_it_is_written():
    seen = []

    class Watched(io.StringIO):
        def flush(self):
            seen.append(self.getvalue())

    chat = CallingChat(calling("I add.", "add", '{"numbers": [1]}'), saying("1"))
    Repl(chat, SamplingParams(), REACT, Watched(), tools=[ADD]).feed("1?")
    assert 'I add.\nAction: add\nAction Input: {"num' in seen


@pytest.mark.parametrize("name", TOOL_FORMATS)
@pytest.mark.parametrize("content", ["", "I add."])
def test_a_call_reads_the_same_whether_it_is_shown_piece_by_piece_or_at_once(name, content):
    asked = [("add", '{"numbers": [1, 2]}'), ("look", '{"at": {"x": "}"}}')]
    deltas = [delta for each in asked for delta in calling("", *each)[1:-1]]

    def shown(stream):
        chat = CallingChat([Delta(content), *deltas, Delta(finish="tool_calls")])
        return typing(chat, "go", tools=DESCRIBED, stream=stream, tool_format=tool_format(name))[0]

    whole = tool_format(name).call(content, [ToolCall(*each) for each in asked])
    assert shown(True) == shown(False) == f"{whole.rstrip(chr(10))}\n{RULE}\n"


@pytest.mark.parametrize(
    "terminal, env, wanted",
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_colours_are_for_terminals_without_no_color(monkeypatch, terminal, env, wanted):
    class Out(io.StringIO):
        def isatty(self):
            return terminal

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert supports_colour(Out()) is wanted


def test_invalid_utf_8_from_a_tool_is_reported_and_the_model_reads_replacements():
    chat = CallingChat(calling("", "add", '{"numbers": [1]}'), saying("ok"))
    shown = talk(chat, "go", tools=[replace(ADD, invoke=lambda arguments, seconds: "你".encode("gbk"))])
    assert "[a tool returned invalid UTF-8" in shown
    assert chat.asked[1][-1].content == "\ufffd\ufffd"
