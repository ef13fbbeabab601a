"""Dialogues of the studio: files, replies of served models, tools that run, edits and corrected rows."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import scripted_model

from swift.assembly.endpoint import connect_to
from swift.assembly.tool_sources import open_tools
from swift.chat import Delta, Message, Tool, ToolCall
from swift.data.rows import conversation
from swift.flag_groups import ToolFlags
from swift.studio import dialogues
from swift.studio.dialogues import Dialogue, Dialogues, Served, Setup
from swift.studio.replies import Live, Replies
from swift.tools.bound_tool import BoundTool, from_function
from swift.tools.described import from_description
from swift.tools.toolbox import Listed, Toolbox

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TWO = (Served("http://one/v1", "before"), Served("http://two/v1", "after"))


class Studio:
    """Dialogues in a folder, with models that are functions: the messages so far -> the reply."""

    def __init__(self, folder: Path, *models: Callable[[Sequence[Message]], Message | Iterator[Delta]]) -> None:
        self.files = Dialogues(folder)
        self.models = models
        self.visited: list[list[str]] = []
        self.replies = Replies(self.files, self._connect, self._tools)
        self.described: list[BoundTool] = []

    def _connect(self, served: Served, left: frozenset[str]) -> Any:
        reply = self.models[served.model == "after" and len(self.models) > 1]

        def chat(messages: Sequence[Message], tools: Sequence[Tool], params: object) -> Iterator[Delta]:
            said = reply(messages)
            if not isinstance(said, Message):
                yield from said
                return
            yield Delta(said.content, reasoning=said.reasoning)
            for call in said.tool_calls:
                yield Delta(tool_call=call)
            yield Delta(finish="tool_calls" if said.tool_calls else "stop")

        return chat

    def _tools(self, setup: Setup) -> Toolbox:
        visits: list[str] = []
        self.visited.append(visits)

        def visit(city: str) -> str:
            """Visit a city."""
            visits.append(city)
            return f"visited {', '.join(visits)}"

        return Toolbox([Listed("trip", [from_function(visit), *self.described])])

    def begin(self, models: Sequence[Served] = TWO[:1], **setup: Any) -> str:
        return self.files.new(Setup(tuple(models), **setup)).id

    def wait(self, id: str, until: Callable[[Live], bool] = lambda live: False) -> Dialogue:
        """The dialogue when no reply is under way, or when `until` is true of one."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            dialogue = self.files.read(id)
            under_way = [live for n in range(len(dialogue.sides)) if (live := self.replies.live(id, n))]
            if not under_way or any(map(until, under_way)):
                return self.files.read(id)
            time.sleep(0.005)
        raise AssertionError("the reply did not end")

    def asks(self, id: str, text: str) -> Dialogue:
        self.replies.ask(id, text)
        return self.wait(id)


def visits_oslo(messages: Sequence[Message]) -> Message:
    if messages[-1].role == "tool":
        return Message("assistant", f"Done: {messages[-1].content}")
    return Message("assistant", "", (ToolCall("visit", '{"city": "Oslo"}', "call_0", 0.25),), reasoning="North.")


def says(text: str) -> Callable[[Sequence[Message]], Message]:
    return lambda messages: Message("assistant", text)


def roles(dialogue: Dialogue, side: int = 0) -> list[str]:
    return [message.role for message in dialogue.sides[side].messages]


def is_asked(live: Live) -> bool:
    return live.asked is not None


def test_a_call_that_may_write_is_asked_for_and_then_runs(tmp_path: Path) -> None:
    studio = Studio(tmp_path, visits_oslo)
    id = studio.begin()
    studio.replies.ask(id, "Go to Oslo")
    waiting = studio.wait(id, is_asked)
    live = studio.replies.live(id, 0)
    assert live and live.asked and live.asked.call.arguments == '{"city": "Oslo"}'
    assert roles(waiting) == ["user", "assistant"], "the call is on the disk while the user decides"
    assert studio.visited == [[]]
    live.answer("yes")
    done = studio.wait(id)
    assert studio.visited == [["Oslo"]]
    assert [message.content for message in done.sides[0].messages[2:]] == ["visited Oslo", "Done: visited Oslo"]
    assert done.sides[0].messages[1].reasoning == "North."
    assert done.sides[0].messages[1].tool_calls[0].confidence == 0.25
    assert Dialogues(tmp_path).read(id) == done


def test_a_doubtful_call_that_the_model_did_not_make_is_kept_with_the_reply(tmp_path: Path) -> None:
    doubtful = ToolCall("visit", '{"city": "Oslo"}', "c1", 0.03)
    studio = Studio(tmp_path, lambda _: iter([Delta("Where to?"), Delta(finish="stop", declined=(doubtful,))]))
    id = studio.begin()
    studio.replies.ask(id, "Go!")
    reply = studio.wait(id).sides[0].messages[-1]
    assert (reply.content, reply.tool_calls, reply.declined) == ("Where to?", (), (doubtful,))
    assert Dialogues(tmp_path).read(id).sides[0].messages[-1].declined == (doubtful,)


def test_a_declined_call_does_not_run_and_always_asks_once(tmp_path: Path) -> None:
    studio = Studio(tmp_path, visits_oslo)
    id = studio.begin()
    for answer, visited in (("no", []), ("always", ["Oslo"])):
        studio.replies.ask(id, "Go to Oslo")
        studio.wait(id, is_asked)
        live = studio.replies.live(id, 0)
        assert live
        live.answer(answer)
        studio.wait(id)
        assert studio.visited == [visited]
    assert "declined" in studio.files.read(id).sides[0].messages[2].content
    studio.asks(id, "Go to Oslo")
    assert studio.visited == [["Oslo", "Oslo"]]


def test_the_result_of_a_described_tool_is_typed_in(tmp_path: Path) -> None:
    studio = Studio(tmp_path, lambda messages: both(messages))
    studio.described = [from_description({"name": "weather", "parameters": WEATHER})]

    def both(messages: Sequence[Message]) -> Message:
        if messages[-1].role == "tool":
            return Message("assistant", " and ".join(each.content for each in messages if each.role == "tool"))
        calls = (ToolCall("weather", '{"city": "Oslo"}'), ToolCall("visit", '{"city": "Rome"}'))
        return Message("assistant", "", calls)

    id = studio.begin(confirm="none")
    waits = studio.asks(id, "Oslo?")
    (open_call,) = dialogues.open_calls(waits.sides[0].messages)
    assert open_call.name == "weather" and studio.visited == [["Rome"]]
    with pytest.raises(ValueError, match="first type what weather returned"):
        studio.replies.ask(id, "And now?")
    studio.replies.observe(id, 0, open_call.id, "rain")
    assert studio.wait(id).sides[0].messages[-1].content == "visited Rome and rain"
    with pytest.raises(ValueError, match="has a result already"):
        studio.replies.observe(id, 0, open_call.id, "sun")


def test_two_models_get_the_same_question_and_tools_of_their_own(tmp_path: Path) -> None:
    studio = Studio(tmp_path, visits_oslo, says("I stay."))
    id = studio.begin(TWO, confirm="none")
    studio.asks(id, "Go to Oslo")
    done = studio.asks(id, "Again")
    assert [side.messages[-1].content for side in done.sides] == ["Done: visited Oslo, Oslo", "I stay."]
    assert sorted(studio.visited) == [[], ["Oslo", "Oslo"]]


def test_a_stop_keeps_what_was_said_and_hears_nothing_more(tmp_path: Path) -> None:
    going, closed = threading.Event(), threading.Event()

    def slow(messages: Sequence[Message]) -> Iterator[Delta]:
        try:
            yield Delta("Once upon")
            going.wait(30)
            yield Delta(" a time")
        finally:
            closed.set()

    studio = Studio(tmp_path, slow)
    id = studio.begin()
    studio.replies.ask(id, "Tell me")
    studio.wait(id, lambda live: live.message.content != "")
    with pytest.raises(ValueError, match="under way"):
        studio.replies.ask(id, "Faster")
    studio.replies.stop(id)
    assert studio.replies.live(id, 0) is None
    going.set()
    assert closed.wait(30), "the request ends, so the server stops too"
    side = studio.files.read(id).sides[0]
    assert (side.messages[-1].content, side.note) == ("Once upon", "stopped")


def test_a_stop_before_the_answer_declines_the_call(tmp_path: Path) -> None:
    studio = Studio(tmp_path, visits_oslo)
    id = studio.begin()
    studio.replies.ask(id, "Go to Oslo")
    studio.wait(id, is_asked)
    studio.replies.stop(id)
    side = studio.files.read(id).sides[0]
    assert side.messages[-1].content == dialogues.STOPPED and side.note == "stopped"
    studio.replies.ask(id, "Go on")
    live = studio.replies.live(id, 0)
    assert live
    studio.wait(id, is_asked)
    assert studio.visited == [[]]
    studio.replies.close()


def test_an_error_is_a_note_and_the_question_can_be_asked_again(tmp_path: Path) -> None:
    down = [True]

    def model(messages: Sequence[Message]) -> Message:
        if down:
            raise OSError("http://one/v1: no server can be reached there")
        return Message("assistant", "Hello")

    studio = Studio(tmp_path, model)
    id = studio.begin()
    assert studio.asks(id, "Hi").sides[0].note == "error: http://one/v1: no server can be reached there"
    down.clear()
    restarted = Studio(tmp_path, model)
    restarted.replies.go_on(id)
    done = restarted.wait(id)
    assert [*roles(done), done.sides[0].note] == ["user", "assistant", ""]


def test_an_edited_question_goes_on_in_a_new_dialogue(tmp_path: Path) -> None:
    studio = Studio(tmp_path, lambda messages: Message("assistant", f"{len(messages)}"), says("ok"))
    id = studio.begin(TWO)
    studio.asks(id, "one")
    before = studio.asks(id, "two")
    edited = studio.files.save(dialogues.edited(before, 0, 2, Message("user", "three")))
    studio.replies.go_on(edited.id)
    after = studio.wait(edited.id)
    for side in (0, 1):
        said = [message.content for message in after.sides[side].messages if message.role == "user"]
        assert said == ["one", "three"]
    assert studio.files.read(id) == before and after.origin == id
    assert studio.files.list(9)[0].id == edited.id


def test_an_edited_reply_of_one_model_leaves_the_reply_of_the_other(tmp_path: Path) -> None:
    studio = Studio(tmp_path, says("first"), says("second"))
    id = studio.begin(TWO)
    studio.asks(id, "one")
    before = studio.asks(id, "two")
    edited = dialogues.edited(before, 0, 1, Message("assistant", "better"))
    assert [message.content for message in edited.sides[0].messages] == ["one", "better"]
    assert [message.content for message in edited.sides[1].messages] == ["one", "second"]


def test_a_corrected_answer_is_a_row_that_trains_it_alone(tmp_path: Path) -> None:
    studio = Studio(tmp_path, visits_oslo)
    id = studio.begin(confirm="none", system="Travel.")
    dialogue = studio.asks(id, "Go to Rome")
    calls = dialogues.written_calls('{"name": "visit", "arguments": {"city": "Rome"}}')
    row = dialogues.corrected(dialogue, 0, 1, Message("assistant", "", calls))
    found = conversation(row)
    assert [message.role for message in found.messages] == ["system", "user", "assistant"]
    assert found.messages[-1].tool_calls[0].arguments == '{"city": "Rome"}' and found.tools[0].name == "visit"
    last = dialogues.corrected(dialogue, 0, 3, Message("assistant", "You are in Rome."))
    assert [message.weight for message in conversation(last).messages if message.role == "assistant"] == [0, None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "vist", "arguments": {"city": "Rome"}}', "visit"),
        ('{"name": "visit", "arguments": {"town": "Rome"}}', "town|city"),
        ('{"name": "visit"', "line 1, column 17: not JSON"),
        ('[{"arguments": {}}]', "name"),
    ],
)
def test_a_correction_that_training_would_refuse_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    studio = Studio(tmp_path, visits_oslo)
    dialogue = studio.asks(studio.begin(confirm="none"), "Go to Rome")
    with pytest.raises(ValueError, match=reason):
        dialogues.corrected(dialogue, 0, 1, Message("assistant", "", dialogues.written_calls(text)))


def test_an_exported_row_does_not_train_calls_that_could_not_run(tmp_path: Path) -> None:
    def model(messages: Sequence[Message]) -> Message:
        town = "city" if any(message.role == "tool" for message in messages) else "town"
        return (
            visits_oslo(messages)
            if town == "city" and "Error" not in messages[-1].content
            else (Message("assistant", "", (ToolCall("visit", json.dumps({town: "Oslo"})),)))
        )

    studio = Studio(tmp_path, model)
    id = studio.begin(confirm="none")
    with pytest.raises(ValueError, match="no reply yet"):
        dialogues.row(studio.files.read(id), 0)
    row = dialogues.row(studio.asks(id, "Go"), 0)
    assert [message.weight for message in conversation(row).messages if message.role == "assistant"] == [0, None, None]


def test_a_file_that_is_no_dialogue_is_named_and_not_listed(tmp_path: Path) -> None:
    files = Dialogues(tmp_path)
    (tmp_path / "other.json").write_text('{"format": 1}')
    assert files.list(9) == []
    with pytest.raises(ValueError, match=r"other.json: not a dialogue"):
        files.read("other")
    for wrong in ("../secret", "", "a/b"):
        with pytest.raises(ValueError, match="not the name of a dialogue"):
            files.read(wrong)


def test_a_model_of_a_real_server_calls_a_real_file_of_tools(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text(
        'def weather(city: str) -> str:\n    """The weather."""\n    return f"rain in {city}"\n'
    )
    with scripted_model.serving() as (model, url):
        files = Dialogues(tmp_path / "dialogues")
        replies = Replies(
            files,
            lambda served, left: connect_to(served.url, served.model, scripted_model.KEY, left),
            lambda setup: open_tools(ToolFlags(tools=setup.tools)),
        )
        setup = Setup((Served(f"{url}/v1"),), "Be brief.", (str(tmp_path / "tools.py"),), sampling={"seed": 3})
        id = files.new(setup).id
        replies.ask(id, "What is the weather in Oslo?")
        while (live := replies.live(id, 0)) is not None:
            if live.asked:
                live.answer("yes")
            time.sleep(0.005)
        side = files.read(id).sides[0]
        replies.close()
    assert side.messages[-1].content == "The tools say: rain in Oslo.", side
    assert model.asked[0][0][0].content.endswith("Be brief.") and model.asked[0][1][0].name == "weather"


def test_a_call_that_the_user_writes_runs_and_the_model_goes_on(tmp_path: Path) -> None:
    studio = Studio(tmp_path, visits_oslo)
    before = studio.asks(studio.begin(confirm="none"), "Go to Rome")
    calls = dialogues.written_calls('[{"name": "visit", "arguments": {"city": "Rome"}}]')
    cut = studio.files.save(dialogues.edited(before, 0, 1, Message("assistant", "", calls)))
    studio.replies.go_on(cut.id)
    assert studio.wait(cut.id).sides[0].messages[-1].content == "Done: visited Rome"
