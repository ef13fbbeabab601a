"""`swift practice`: tasks with known answers, attempts, what is kept of them, and rounds with a scripted model."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_model_folder

from swift import cli, flags
from swift.agent import tool_format
from swift.agent.schemas import argument_schema, checker
from swift.assembly import practice_setup
from swift.chat import Conversation, Delta, Message, Tool, ToolCall, Usage
from swift.commands import rlhf, sft
from swift.data.general import general_rows
from swift.data.preference_rows import read_pair
from swift.data.rows import conversation
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.eval import runner
from swift.eval.records import Variant
from swift.eval.task import Settings
from swift.eval.tasks import general
from swift.infer.local_chat import LocalChat
from swift.model.load import load_model, load_tokenizer
from swift.practice import clusters, figures, judging, sampling, selection, tasks
from swift.practice.clusters import Failures, Pool
from swift.practice.figures import Measured, Outcome
from swift.practice.judging import Attempt
from swift.practice.made_tasks import MadeTasks, tasks_of
from swift.practice.sampling import Result, Sampler, Tools
from swift.practice.tasks import NO_CALL, ONE_CALL, SAME, SEVERAL, Check, Cluster, Task
from swift.synth.catalogue import domains
from swift.template import Renderer
from swift.template.template import template
from swift.tools.python.source import PythonFile
from swift.tools.toolbox import Toolbox
from swift.tuner import adapter_files

LAMP = Tool(
    {
        "name": "lamp",
        "description": "Switches a lamp.",
        "parameters": {
            "type": "object",
            "properties": {"room": {"type": "string"}, "on": {"type": "boolean"}},
            "required": ["room", "on"],
        },
    }
)
ROOMS = ("hall", "kitchen", "cellar", "attic", "garage", "bath")
BASKET = '''"""A shop."""

basket: list[str] = []


def add(item: str) -> str:
    """Puts an item into the basket."""
    if item == "moon":
        raise ValueError("not for sale")
    basket.append(item)
    return "ok"


def items() -> list[str]:
    """What is in the basket."""
    return basket
'''


def lamp(room: str, on: bool = True) -> ToolCall:
    return ToolCall("lamp", json.dumps({"room": room, "on": on}))


def task(room: str = "hall", calls: tuple[ToolCall, ...] | None = None, **more: Any) -> Task:
    right = (lamp(room),) if calls is None else calls
    return Task(room, (Message("user", f"Light in the {room}!"),), Check(right), (LAMP,), domain="house", **more)


Reply = tuple[str, Sequence[ToolCall]]


class Scripted:
    """A chat that replies as `say(messages, seed)` decides, and keeps what it was asked."""

    def __init__(self, say: Callable[[Sequence[Message], int], Reply], finish: str = "stop") -> None:
        self._say, self._finish = say, finish
        self.asked: list[tuple[str, int]] = []

    def __call__(self, messages: Sequence[Message], offered: Any, params: SamplingParams, more: Any = None) -> Any:
        assert params.seed is not None
        self.asked.append((messages[-1].content, params.seed))
        text, calls = self._say(messages, params.seed)
        yield Delta(text)
        for call in calls:
            yield Delta(tool_call=call)
        yield Delta(finish="tool_calls" if calls else self._finish, usage=Usage(9, len(text) + 5 * len(calls)))


def says(text: str, *calls: ToolCall) -> Scripted:
    return Scripted(lambda messages, seed: (text, calls))


def attempt(given: Task, chat: Any, **more: Any) -> Attempt:
    return Sampler(chat, SamplingParams(), **more).attempt(given, 0)


# Judging --------------------------------------------------------------------------------------------------------------


def test_calls_are_compared_as_swift_eval_compares_them_in_any_order() -> None:
    both = task(calls=(lamp("hall"), lamp("attic", on=False)))
    assert attempt(both, says("", lamp("attic", on=False), lamp("hall"))).succeeded
    assert attempt(both, says("", lamp("hall"))).failure == "too few calls"
    wrong = attempt(task("hall"), says("", lamp("cellar")))
    assert (wrong.failure, wrong.detail) == ("wrong value", 'lamp: room is "cellar", not "hall"')


def test_where_no_call_is_right_a_reply_must_say_something_and_come_to_its_end() -> None:
    none = task(calls=())
    assert attempt(none, says("I cannot do that.")).succeeded
    assert attempt(none, says("Sure.", lamp("hall"))).failure == "too many calls"
    assert attempt(none, says(" ")).detail == "the reply is empty"
    assert attempt(none, Scripted(lambda *_: ("I cannot", ()), finish="length")).failure == "cut"


def test_an_answer_must_contain_one_of_the_right_texts() -> None:
    sum_of = Task("1", (Message("user", "1 + 1?"),), Check(answer=("2", "two")))
    assert attempt(sum_of, says("It is two.")).succeeded
    assert attempt(sum_of, says("It is 22.")).failure == "wrong answer"


def shopping(*steps: Reply) -> Scripted:
    """A chat whose n-th reply of a run is the n-th step."""
    return Scripted(lambda messages, seed: steps[sum(message.role == "assistant" for message in messages)])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Tools]:
    file = tmp_path / "shop.py"
    file.write_text(BASKET, encoding="utf-8")
    tools = Tools(lambda: Toolbox([PythonFile(file)]))
    yield tools
    tools.close()


def add(item: str) -> ToolCall:
    return ToolCall("add", json.dumps({"item": item}))


def buy(**check: Any) -> Task:
    return tasks.read_task({"task": "Buy milk.", "check": check})


def test_calls_run_and_a_failed_one_is_a_wrong_step_of_a_run_that_succeeds(shop: Tools) -> None:
    chat = shopping(("", [add("moon")]), ("", [add("milk")]), ("Done.", ()))
    state = [{"name": "items", "result": ["milk"]}]
    for check in ({"state": state}, {"calls": [{"name": "add", "arguments": {"item": "milk"}}]}):
        made = attempt(buy(**check), chat, tools=shop)
        assert made.succeeded, made
        assert [message.weight for message in made.messages if message.role == "assistant"] == [0.0, None, None]
        assert "not for sale" in made.messages[1].content


def test_runs_do_not_see_each_others_state_and_a_wrong_state_is_a_failure(shop: Tools) -> None:
    once = shopping(("", [add("milk")]), ("Done.", ()))
    twice = shopping(("", [add("milk"), add("milk")]), ("Done.", ()))
    check = {"state": [{"name": "items", "result": ["milk"]}]}
    assert [attempt(buy(**check), once, tools=shop).failure for _ in range(2)] == ["", ""]
    wrong = attempt(buy(**check), twice, tools=shop)
    assert (wrong.failure, wrong.detail) == ("wrong state", 'items gives ["milk", "milk"], not ["milk"]')


def test_a_run_without_an_end_fails(shop: Tools) -> None:
    chat = Scripted(lambda messages, seed: ("", [add("milk")]))
    made = attempt(buy(answer="milk"), chat, tools=shop, max_turns=2)
    assert (made.failure, made.detail) == ("no end", "the run ended without an answer: max_turns")


# Sampling -------------------------------------------------------------------------------------------------------------


def test_a_prompt_is_computed_once_for_all_attempts_at_its_task(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path / "tiny")
    renderer = Renderer(load_tokenizer(folder), template("chatml"), format_name="hermes")
    engine = TorchEngine(load_model(folder, "fp32", "cpu"), renderer.stop.tokens, max_batch=4)
    computed: list[int] = []
    step = engine._runner.step

    def counted(chunks: Any) -> Any:
        computed.extend(len(chunk.tokens) for chunk in chunks if len(chunk.tokens) > 1)
        return step(chunks)

    engine._runner.step = counted  # type: ignore[method-assign]
    params = SamplingParams(max_tokens=3, clip=True)
    given = task()
    prompt, _ = renderer.prompt(given.messages, given.tools)
    [result] = sampling.sample(Sampler(LocalChat(engine, renderer), params), [given], 8, seed=1, workers=4)
    engine.close()
    assert len(result.attempts) == 8
    assert len(prompt) <= sum(computed) < 1.5 * len(prompt)


def test_attempts_depend_on_the_seed_the_task_and_their_number_alone() -> None:
    chat = Scripted(lambda messages, seed: (str(seed), ()))
    given = [task(room) for room in ROOMS]
    first, second = ({}, {})
    for found, order in ((first, given), (second, given[::-1])):
        for result in sampling.sample(Sampler(chat, SamplingParams()), order, 3, seed=5, workers=3):
            found[result.task.id] = [each.messages[0].content for each in result.attempts]
    assert first == second
    assert len(set(itertools.chain(*first.values()))) == 3 * len(ROOMS)


def test_no_task_begins_after_the_time_limit() -> None:
    chat = says("no")
    assert list(sampling.sample(Sampler(chat, SamplingParams()), [task()], 2, 1, 1, seconds=-1)) == []
    assert not chat.asked


# Figures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_attempts(samples: int) -> None:
    for right in range(samples + 1):
        marks = [1] * right + [0] * (samples - right)
        for k in range(1, samples + 1):
            drawn = list(itertools.combinations(marks, k))
            expected = sum(map(any, drawn)) / len(drawn)
            assert figures.pass_at_k(samples, right, k) == pytest.approx(expected)
    with pytest.raises(ValueError, match="pass@7"):
        figures.pass_at_k(6, 3, 7)


def of_rights(*rights: int, loss: float | None = None) -> Measured:
    outcomes = (Outcome(str(number), ONE_CALL, 4, right, 4, False) for number, right in enumerate(rights))
    return Measured(tuple(outcomes), loss)


def test_the_best_round_is_that_of_the_highest_pass_at_1_which_did_not_forget() -> None:
    rounds = [of_rights(1, 1, loss=2.0), of_rights(2, 2, loss=2.05), of_rights(4, 4, loss=2.3), of_rights(2, 2)]
    assert figures.best(rounds, loss_limit=0.1) == 1
    assert figures.best(rounds, loss_limit=0.5) == 2


def test_practice_is_settled_after_rounds_without_a_gain_outside_its_interval() -> None:
    low, high = of_rights(*[1] * 20), of_rights(*[3, 2] * 10)
    assert not figures.is_settled([low, high], patience=1)
    assert figures.is_settled([low, high, of_rights(*[2, 3] * 10)], patience=1)
    assert not figures.is_settled([low, high, high], patience=2)
    assert figures.is_settled([low, high, high, high], patience=2)


def test_calls_where_none_is_right_are_a_figure_of_their_own() -> None:
    chat = Scripted(lambda messages, seed: ("", [lamp("hall")]) if seed % 2 else ("No.", ()))
    results = list(sampling.sample(Sampler(chat, SamplingParams()), [task(calls=()), task("attic")], 8, 1, 4))
    found = Measured(figures.outcomes(results))
    wrongly = found.called_wrongly()
    assert wrongly is not None and wrongly.mean == 1 - results[0].right / 8
    assert figures.measured(json.loads(json.dumps(found.as_json()))) == found


# Selection ------------------------------------------------------------------------------------------------------------


def said(text: str = "", *calls: ToolCall, failure: str = "", tokens: int = 10) -> Attempt:
    return Attempt((Message("assistant", text, calls),), tokens, failure)


GOOD, LONG = said("", lamp("hall")), said("So: ", lamp("hall"), tokens=20)
BAD = said("", lamp("attic"), failure="wrong value")


def test_the_shortest_different_successes_of_a_task_that_is_solved_sometimes_are_trained() -> None:
    result = Result(task(), (BAD, LONG, GOOD, GOOD))
    chosen = selection.select([result], (), keep=2, always=0, seed=1, show=False)
    assert [row.messages[1:] for row in sorted(chosen.rows, key=lambda row: row.messages[-1].content)] == [
        GOOD.messages,
        LONG.messages,
    ]
    [shortest] = selection.select([result], (), keep=1, always=0, seed=1, show=False).rows
    assert shortest.messages == (*result.task.messages, *GOOD.messages)
    assert shortest.tools == (LAMP,)


def test_a_success_that_training_would_refuse_is_not_trained() -> None:
    twice = ToolCall("lamp", '{"room": "attic", "room": "hall", "on": true}')
    made = [attempt(task(), says("", twice)), attempt(task(), says("", lamp("hall"))), attempt(task(), says("no"))]
    assert [each.succeeded for each in made] == [True, True, False]
    chosen = selection.select([Result(task(), tuple(made))], [], keep=2, always=0, seed=1, show=False)
    assert [row.messages[1].tool_calls for row in chosen.rows] == [(lamp("hall"),)]
    only_that = selection.select([Result(task(), (made[0], made[2]))], [], keep=2, always=0, seed=1, show=False)
    assert (only_that.rows, only_that.sometimes, only_that.unread) == ([], 1, 0)


def test_a_few_tasks_that_are_always_solved_are_trained_and_none_that_never_is() -> None:
    sometimes = [Result(task(f"room {n}"), (GOOD, BAD)) for n in range(8)]
    solved = [Result(task(f"hall {n}"), (GOOD, LONG)) for n in range(50)]
    solved += [Result(task(f"no {n}", calls=(), reply="No."), (said("Hm."), said("Eh."))) for n in range(50)]
    never = [Result(task("moon"), (BAD, BAD))]
    chosen = selection.select([*sometimes, *solved, *never], (), keep=2, always=0.2, seed=1, show=False)
    assert (chosen.always, chosen.sometimes, chosen.never) == (100, 8, 1)
    assert len(chosen.rows) == 10
    # of the solved ones, those come first whose kind has the fewest rows
    assert sum(row.messages[-1].content == "No." for row in chosen.rows) == 2


def test_where_no_call_is_right_the_tasks_own_reply_is_trained_since_nothing_checks_a_text() -> None:
    attempts = (said("lamp lamp"), said("", lamp("hall"), failure="too many calls"))
    with_reply, without = task("hall", calls=(), reply="I can't."), task("attic", calls=())
    results = [Result(with_reply, attempts), Result(without, attempts)]
    chosen = selection.select(results, (), keep=2, always=0, seed=1, show=False)
    assert [row.messages[-1] for row in chosen.rows] == [Message("assistant", "I can't.")]
    assert (chosen.sometimes, chosen.unread) == (2, 1)
    [pair] = selection.pairs(results, (), keep=2, show=False)
    assert pair["messages"][-1]["content"] == "I can't."


def test_the_known_reply_to_a_task_that_is_never_solved_is_shown() -> None:
    silent = task("cellar", calls=(), reply="I can't.")
    by_answer = replace(task("attic"), check=Check(None, ("dark",)))
    runs = replace(task("porch"), tools=())  # its calls run, so their results are not known
    never = [Result(each, (BAD, BAD)) for each in (task(), silent, by_answer, runs)]
    chosen = selection.select(never, (), keep=2, always=0, seed=1, show=True)
    assert sorted((row.messages[-1].content, row.messages[-1].tool_calls) for row in chosen.rows) == [
        ("", (lamp("hall"),)),
        ("I can't.", ()),
    ]
    assert (chosen.never, chosen.shown) == (4, 2)
    shown = [pair["messages"][-1] for pair in selection.pairs(never, (), keep=1, show=True)]
    assert [each["content"] for each in shown] == ["", "I can't."] and shown[0]["tool_calls"]


def test_rows_of_a_round_are_read_back_with_wrong_steps_untrained(tmp_path: Path) -> None:
    from swift.practice.record import Round

    given = task()
    wrong = Message("assistant", "", (lamp("attic"),), 0.0)
    run = Attempt((wrong, Message("tool", "no such lamp"), Message("assistant", "", (lamp("hall"),))), 9)
    at = Round(tmp_path, 1)
    at.keep_tasks([given])
    at.keep(Result(given, (run, BAD)))
    [read] = at.results()
    assert read == Result(given, (run, BAD))
    at.keep_rows(selection.select([read], (), 2, 0, 1, show=False), None)
    [line] = at.rows_file.read_text(encoding="utf-8").splitlines()
    row = conversation(json.loads(line))
    assert [message.weight for message in row.messages if message.role == "assistant"] == [0.0, None]


def test_the_line_that_an_interruption_cut_is_tried_again(tmp_path: Path) -> None:
    from swift.practice.record import Round

    at = Round(tmp_path, 1)
    at.keep_tasks([task("hall"), task("attic")])
    at.keep(Result(task("hall"), (GOOD,)))
    with at.attempts_file.open("a") as file:
        file.write('{"task": "att')
    assert [result.task.id for result in at.results()] == ["hall"]
    at.keep(Result(task("attic"), (BAD,)))
    assert [result.task.id for result in at.results()] == ["hall", "attic"]


def test_pairs_are_rows_of_preference_training() -> None:
    bad, cut = BAD, said("lamp lamp lamp", failure="cut")
    results = [Result(task(), (bad, cut, bad, LONG, GOOD)), Result(task(), (bad, bad))]
    [row] = selection.pairs(results, (), keep=1, show=False)
    read = read_pair(json.loads(json.dumps(row)), {}, lambda *_: None)
    assert read.messages[read.prompt :] == GOOD.messages
    assert read.rejected == bad.messages


# Where tasks come from ------------------------------------------------------------------------------------------------


def test_tasks_are_drawn_like_those_that_failed_rare_failures_too() -> None:
    counts = Counter({Failures("wrong value", ONE_CALL, "house"): 900, Failures("no call", SAME, "garden"): 100})
    drawn = Counter(clusters.wanted(counts, 4000, seed=1))
    assert drawn[None] == 1000
    assert drawn[Cluster(ONE_CALL, "house")] / drawn[Cluster(SAME, "garden")] == pytest.approx(3, rel=0.2)
    assert clusters.wanted(Counter(), 5, seed=1) == [None] * 5


def test_a_pool_gives_tasks_of_the_wanted_clusters_once_and_solved_ones_last() -> None:
    pool = [task(room) for room in ROOMS] + [task(f"no {n}", calls=()) for n in range(3)]
    supply = Pool(pool, solved=["hall"], seed=3)
    drawn = supply.draw([Cluster(NO_CALL, "house")] * 2 + [None] * 6)
    assert [each.cluster.kind for each in drawn[:2]] == [NO_CALL, NO_CALL]
    assert len({each.id for each in drawn}) == 8
    assert "hall" not in {each.id for each in drawn}
    assert {each.id for each in supply.draw([None] * 99)} == {each.id for each in pool}


def made(seed: int = 1, held_out: bool = False) -> MadeTasks:
    own = [domain for domain in domains() if domain.held_out == held_out]
    return MadeTasks(own, general_rows(), seed)


def test_made_tasks_have_right_calls_that_their_tools_accept() -> None:
    found = made().draw([None] * 60)
    assert {ONE_CALL, NO_CALL, SAME} <= {each.cluster.kind for each in found}
    for each in found:
        schemas = {tool.name: checker(argument_schema(tool)) for tool in each.tools}
        calls = each.check.calls or ()
        assert all(schemas[call.name].is_valid(json.loads(call.arguments)) for call in calls)
        text = "" if calls else "I can't."
        assert attempt(each, says(text, *calls)).succeeded
    assert [each.content for each in made().draw([None] * 60)] == [each.content for each in found]
    assert len({each.content for each in found}) == 60


def test_made_tasks_are_of_the_wanted_kinds_and_domains_and_held_out_ones_of_others() -> None:
    own = sorted(domain.name for domain in domains() if not domain.held_out)
    wanted = [Cluster(kind, domain) for domain in own[:4] for kind in (ONE_CALL, SAME, SEVERAL, NO_CALL)]
    assert [each.cluster for each in made().draw(wanted)] == wanted
    held_out = {each.domain for each in made(held_out=True).draw([None] * 30)}
    assert not held_out & set(own)


def test_an_answer_after_a_result_and_a_call_that_is_tried_again_are_no_tasks() -> None:
    ask, call, error = Message("user", "Light!"), Message("assistant", "", (lamp("hall"),)), Message("tool", "error")
    row = Conversation((ask, call, error, call, Message("tool", "ok"), Message("assistant", "Done.")), (LAMP,))
    assert [len(each.messages) for each in tasks_of(row)] == [1]


def test_tasks_are_written_and_read_back_and_split_by_their_content(tmp_path: Path) -> None:
    found = made().draw([None] * 80)
    tasks.write_tasks(found, tmp_path / "tasks.jsonl")
    assert tasks.read_tasks(tmp_path / "tasks.jsonl") == found
    practised, held_out = tasks.split(found, 0.25)
    assert len(held_out) == 20
    assert sorted(each.id for each in (*practised, *held_out)) == sorted(each.id for each in found)
    random.Random(1).shuffle(found)
    assert {each.id for each in tasks.split(found, 0.25)[1]} == {each.id for each in held_out}


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr("swift.train.report._picture", lambda *_: b"<svg></svg>")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_model_folder(tmp_path / "tiny")
    rooms = [f"{room} {number}" for room in ROOMS for number in range(3)]
    tasks.write_tasks([task(room) for room in rooms[:12]], tmp_path / "tasks.jsonl")
    tasks.write_tasks([task(room) for room in rooms[12:]], tmp_path / "held_out.jsonl")
    return tmp_path


def words(*more: str) -> list[str]:
    return [
        *("practice", "--model", "tiny", "--template_type", "chatml", "--agent_template", "hermes", "--device", "cpu"),
        *("--tasks", "tasks.jsonl", "--held_out", "held_out.jsonl", "--samples", "4", "--tasks_per_round", "8"),
        *("--output_dir", "out", "--rounds", "1", "--learning_rate", "1e-3", "--batch_size", "4", *more),
    ]


class Learner:
    """A chat that is right with a probability that is higher with an adapter."""

    def __init__(self) -> None:
        self.loaded: list[str | None] = []
        self.chats: list[Scripted] = []

    @contextmanager
    def opened(self, policy: Any) -> Iterator[Any]:
        share = 0.9 if policy.ckpt_dir else 0.4
        self.loaded.append(policy.ckpt_dir)

        def say(messages: Sequence[Message], seed: int) -> Reply:
            room = messages[-1].content.removeprefix("Light in the ").rstrip("!")
            return "", [lamp(room if random.Random(seed).random() < share else "moon")]

        chat = Scripted(say)
        self.chats.append(chat)
        renderer = SimpleNamespace(tool_format=tool_format("hermes"))
        yield _Chat(chat, renderer)


class _Chat:
    """A scripted chat with the renderer that the command asks for its format."""

    def __init__(self, chat: Scripted, renderer: Any) -> None:
        self._chat, self.renderer = chat, renderer

    def __call__(self, *about: Any) -> Any:
        return self._chat(*about)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> Learner:
    found = Learner()
    monkeypatch.setattr(practice_setup, "opened", found.opened)
    return found


@pytest.mark.parametrize("method", ["rft", "dpo"])
@pytest.mark.usefixtures("quick")
def test_a_round_trains_on_its_successes_and_keeps_the_best_adapter(
    method: str, files: Path, learner: Learner, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words("--method", method)) == 0
    out = capsys.readouterr().out
    verb = {"rft": "sft", "dpo": "rlhf"}[method]
    assert f" {verb} " in next(line for line in out.splitlines() if line.startswith("$ "))
    assert "start: pass@1 " in out and "round 1: pass@1 " in out
    rows = [json.loads(line) for line in (files / "out/round-1/rows.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        room = row["messages"][0]["content"].removeprefix("Light in the ").rstrip("!")
        assert json.loads(row["messages"][1]["tool_calls"][0]["function"]["arguments"])["room"] == room
        if method == "dpo":
            assert "moon" in row["rejected_messages"][1]["tool_calls"][0]["function"]["arguments"]
    best = files / "out" / "best"
    assert adapter_files.check(best) == "LORA"
    assert json.loads((best / "sft_args.json").read_text())["agent_template"] == "hermes"
    assert "infer --ckpt_dir out/best" in out.splitlines()[-3]
    page = (files / "out" / "practice.html").read_text(encoding="utf-8")
    assert "round 1 (best)" in page
    assert [bool(each) for each in learner.loaded] == [False, False, True]

    # the same command again loads and trains nothing; another setting is refused
    assert cli.main(words("--method", method)) == 0
    assert len(learner.loaded) == 3
    assert cli.main(words("--method", method, "--samples", "3")) == 2
    assert "this practice began with --samples 4, not 3" in capsys.readouterr().err
    tasks.write_tasks([task("roof")], files / "held_out.jsonl")
    assert cli.main(words("--method", method)) == 2
    assert "this practice began with other held-out tasks" in capsys.readouterr().err


@pytest.mark.usefixtures("quick", "learner")
def test_where_measuring_is_slow_fewer_rounds_get_more_time(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure = practice_setup.measure
    monkeypatch.setattr(practice_setup, "measure", lambda *given: replace(measure(*given), seconds=500.0))
    assert cli.main(words("--rounds", "6", "--minutes", "30")) == 0
    out = capsys.readouterr().out
    # one round of 1,800 s, of which measuring takes 500: two would leave less than 1,000 s each for the rest
    attempts, seconds = next(line for line in out.splitlines() if "for at most" in line).split(" for at most ")
    assert 640 <= int(seconds.removesuffix(" s")) <= 650, attempts


@pytest.mark.usefixtures("quick")
def test_preferences_are_learned_relative_to_the_adapter_that_is_trained_further(files: Path) -> None:
    ask = {"role": "user", "content": "Light!"}
    right, wrong = ([ask, {"role": "assistant", "content": text}] for text in ("yes", "no"))
    for name, row in (("rows", {"messages": right}), ("pairs", {"messages": right, "rejected_messages": wrong})):
        (files / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * 4, encoding="utf-8")
    common = {"model": "tiny", "template_type": "chatml", "device": "cpu", "report_to": ["none"], "logging_steps": 1}
    common |= {"dataset_test_ratio": 0, "learning_rate": 1e-1, "batch_size": 4, "gradient_accumulation_steps": 1}
    first = sft.main(
        flags.from_dict(
            sft.Config,
            {**common, "dataset": ["rows.jsonl"], "max_steps": 3, "lora_dropout_p": 0, "lora_target_modules": ["ALL"]},
        )
    )
    further = {"init_adapter": first["last_model_checkpoint"], "max_steps": 1}
    made = rlhf.main(flags.from_dict(rlhf.Config, {**common, **further, "dataset": ["pairs.jsonl"]}))
    assert made["log_history"][0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.usefixtures("quick")
def test_a_stopped_round_continues_with_the_attempts_that_it_has_and_the_next_one_with_its_adapter(
    files: Path, learner: Learner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swift.practice.record import Round

    keep, kept = Round.keep, []

    def stopped(self: Round, result: Result) -> None:
        keep(self, result)
        kept.append(result.task.id)
        if len(kept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Round, "keep", stopped)
    assert cli.main(words("--max_batch", "1")) == 130
    monkeypatch.setattr(Round, "keep", keep)
    assert cli.main(words("--rounds", "2", "--patience", "3")) == 0
    asked = Counter(question for question, _ in learner.chats[2].asked)
    assert len(asked) == 5
    assert not {f"Light in the {room}!" for room in kept[:3]} & set(asked)
    for number, checkpoint in ((1, None), (2, "round-1")):
        trained = json.loads((files / f"out/round-{number}/trained.json").read_text())
        record = json.loads((Path(trained["checkpoint"]) / "sft_args.json").read_text())
        assert checkpoint is None or checkpoint in record["init_adapter"]


@pytest.mark.usefixtures("quick")
def test_practice_ends_where_no_task_is_solved_sometimes(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def opened(policy: Any) -> Iterator[Any]:
        yield _Chat(says("I do not know."), SimpleNamespace(tool_format=tool_format("hermes")))

    monkeypatch.setattr(practice_setup, "opened", opened)
    assert cli.main(words("--show_answers", "false")) == 0
    out = capsys.readouterr().out
    assert "no task to train on is solved sometimes" in out
    assert "one call: 32 of 32 failed (no call 32)" in out
    assert out.splitlines()[-1] == "no round is better than the start, whose model stays the best"


@pytest.mark.usefixtures("quick")
def test_a_real_model_is_measured_on_made_tasks(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["practice", "--model", "tiny", "--template_type", "chatml", "--agent_template", "hermes"]
    given += ["--samples", "2", "--held_out_tasks", "2", "--max_new_tokens", "4", "--device", "cpu", "--rounds", "1"]
    assert cli.main([*given, "--tasks_per_round", "2", "--output_dir", "out"]) == 0
    out = capsys.readouterr().out
    assert "start: pass@1 0.0%" in out
    assert math.isfinite(json.loads((files / "out/round-0/held_out.json").read_text())["general_loss"])


def test_the_general_loss_is_that_of_swift_eval(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    folder = tiny_model_folder(tmp_path / "tiny")
    renderer = Renderer(load_tokenizer(folder), template("chatml"))
    engine = TorchEngine(load_model(folder, "fp32", "cpu"), renderer.stop.tokens, keep_weights=True)
    chat = LocalChat(engine, renderer)
    measured = general.load(Settings(variant="text"))
    wanted = runner.jobs([(measured, measured.questions)], [Variant()])
    losses = [each.scores["loss"] for each in runner.run(runner.Model(chat, SamplingParams()), wanted, 1)]
    found = practice_setup.general_loss(Sampler(chat, SamplingParams()))
    engine.close()
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--samples", "1"], "--samples 1: a task that is solved sometimes needs at least 2 attempts"),
        (["--temperature", "0"], "--temperature 0: must be more than 0"),
        (["--always_share", "1"], "--always_share 1: must be 0 or more and below 1"),
        (["--max_turns", "3"], "--max_turns has no effect without --tools"),
        (["--method", "dpo", "--general_ratio", "1"], "--general_ratio has no effect with --method dpo"),
        (["--held_out", "tasks.jsonl"], "--held_out tasks.jsonl: the task 'hall 0' of --tasks is among them"),
        (["--tools", "tasks.jsonl"], "--tools tasks.jsonl: swift practice runs the functions of Python files"),
        (["--tasks", "nothing.jsonl"], "nothing.jsonl: no such file"),
    ],
)
def test_wrong_flags_are_refused(
    more: list[str], problem: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(*more)) == 2
    err = capsys.readouterr().err
    assert problem in err and err.count("\n") == 1, err


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"task": "Hi"}, "a task needs 'check'"),
        ({"task": "Hi", "check": {"call": []}}, "'check' has no key 'call': did you mean calls?"),
        ({"task": "Hi", "messages": [], "check": {"calls": []}}, "a task has either 'task', a text, or 'messages'"),
        ({"task": "Hi", "check": {"calls": [{"name": "lamp"}]}}, "its tools are not described"),
        ({"messages": [{"role": "assistant", "content": "Hi"}], "check": {"calls": []}}, "the messages must end with"),
        (
            {"task": "Hi", "check": {"answer": "a"}, "reply": "b"},
            "'reply' has no effect: it is for tasks where no call",
        ),
        ({"task": "Hi", "check": {"answer": ""}}, "'check.answer' must be a text or a list of texts"),
        ({"task": "Hi", "tools": [LAMP.spec], "check": {"state": [{"name": "lamp", "result": 1}]}}, "needs tools that"),
    ],
)
def test_wrong_tasks_are_refused(
    row: dict[str, Any], problem: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "tasks.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert cli.main(words()) == 2
    err = capsys.readouterr().err
    assert problem in err and err.count("\n") == 1, err


def test_a_reply_with_markup_that_does_not_parse_is_no_success() -> None:
    syntax = tool_format("hermes").syntax
    made = attempt(task(calls=()), says('<tool_call>{"name": '), syntax=syntax)
    assert made.failure == "unparsable call"
    assert judging.not_asked("too\nlong").detail == "too long"
