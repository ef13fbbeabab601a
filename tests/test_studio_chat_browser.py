"""The chat, evaluation and server pages in a real browser, with a scripted model behind a real server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import scripted_model
import test_server
from studio_pages import PATIENCE, Server, address_of, chromium, needs_browser, opened, served, visit, wait_for
from tiny import tiny_model_folder

from swift.chat import Delta, ToolCall, Usage
from swift.data.rows import conversation
from swift.serve.server import create_app

pytestmark = needs_browser
TOOLS = '''
from swift import read_only


def weather(city: str) -> str:
    """The weather in a city."""
    return f"<b>rain</b> in {city}"


@read_only
def time_of(city: str) -> str:
    """The time in a city."""
    return "noon"
'''
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = "What is the weather in Oslo?"
ANSWER = "The tools say: <b>rain</b> in Oslo."


class Place(NamedTuple):
    """`model`: the address of the scripted model."""

    folder: Path
    server: Server
    browser: Any
    model: str

    @contextmanager
    def page(self, path: str = "", tools: str = "") -> Iterator[Any]:
        """A page of a new browser profile; by default an empty chat with the scripted model and a file of tools."""
        with opened(self.browser, self.server.address) as page:
            visit(page, f"{self.server.root}{path or f'/chat?endpoint={self.model}'}")
            if not path:
                set_up(page, tools)
            yield page


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("studio")
    (folder / "tools.py").write_text(TOOLS)
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    (folder / "only.json").write_text(json.dumps([{"name": "weather", "parameters": parameters}]))
    with scripted_model.serving() as (_, url), served(folder) as server, chromium() as browser:
        yield Place(folder, server, browser, f"{url}/v1")


def set_up(page: Any, tools: str) -> None:
    """Fills in the settings of an empty chat."""
    page.get_by_text("Settings").click()
    page.get_by_label("API key (kept in memory only)").first.fill(scripted_model.KEY)
    fill(page, "Tools: Python files", tools)


def fill(page: Any, label: str, text: str) -> None:
    """Fills in a setting, and leaves the field, which saves it."""
    page.get_by_label(label).first.fill(text)
    page.get_by_label("System prompt").click()


def ask(page: Any, text: str) -> None:
    page.wait_for_function("window.did_handshake")  # before, a page of a server that is gone loads itself again
    entry = page.get_by_label("Message (Enter")
    entry.fill(text)
    entry.press("Enter")


def sees(page: Any, text: str, times: int = 1) -> None:
    """Waits for a text of the dialogue, and for the end of the replies."""
    shown = page.locator(".chat-text", has_text=text)
    wait_for(lambda: shown.count() == times and page.get_by_role("button", name="Send").last.is_enabled(), text)


def test_a_tool_runs_when_the_user_agrees_and_the_chat_outlives_page_and_server(place: Place) -> None:
    with place.page(tools="tools.py") as page:
        page.get_by_role("button", name="Show the tools").click()
        page.get_by_text("weather · may write · The weather in a city.").wait_for()
        ask(page, QUESTION)
        page.get_by_text("Run weather, which may change something?").wait_for()
        visit(page)
        page.get_by_role("button", name="Run", exact=True).click()
        sees(page, ANSWER)
        titles = page.locator(".chat-title > :first-child").all_inner_texts()
        assert [title.partition(" · ")[0] for title in titles] == ["Question", "Text", "Call", "Observation", "Answer"]
        assert "confidence" in titles[2]
        assert page.locator(".chat-text b").count() == 0, "HTML of a reply is text"
        chat = address_of(page)
        page.goto("about:blank")  # the page would load itself again
        place.server.kill()
        place.server.start()
        visit(page, chat)
        sees(page, ANSWER)
        ask(page, "And now?")  # the key was in memory only
        page.get_by_text("the server requires an API key").wait_for()


def test_a_doubtful_call_that_was_not_made_is_shown(place: Place) -> None:
    doubtful = ToolCall("weather", '{"city": "Oslo"}', "c1", 0.03)
    chat = test_server.Scripted(
        lambda _: iter([Delta("Which city?", finish="stop", usage=Usage(3, 2), declined=(doubtful,))])
    )
    with test_server.served(create_app(chat, "tiny")) as url, place.page(f"/chat?endpoint={url}/v1") as page:
        ask(page, "Rain?")
        sees(page, "Which city?")
        titles = page.locator(".chat-title > :first-child").all_inner_texts()
        assert titles == ["Question", "Answer", "Doubtful call, not made · weather · confidence 3%"]


def test_a_declined_call_and_a_stop_are_told(place: Place) -> None:
    with place.page(tools="tools.py") as page:
        ask(page, QUESTION)
        page.get_by_role("button", name="Do not run").click()
        sees(page, "The tools say: Error: the user declined this call")
        ask(page, QUESTION)
        page.get_by_role("button", name="Run", exact=True).wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped", exact=True).wait_for()
        assert page.get_by_role("button", name="Send").is_enabled()


def test_a_result_is_typed_where_a_tool_is_only_described(place: Place) -> None:
    with place.page(tools="only.json") as page:
        ask(page, QUESTION)
        page.get_by_label("What did weather return?").fill("hail")
        page.get_by_role("button", name="Send").first.click()
        sees(page, "The tools say: hail.")


def test_two_models_answer_side_by_side(place: Place) -> None:
    with place.page() as page:
        page.get_by_label("Second model, side by side").click()
        page.get_by_role("option", name="another server").click()
        page.get_by_label("Address of the server").last.fill(place.model)
        page.get_by_label("System prompt").click()
        ask(page, "Hello")
        sees(page, "Nothing to look up.", 2)
        assert page.locator(".chat-sides section").count() == 2
        boxes = "sections => sections.map(each => each.getBoundingClientRect().toJSON())"
        left, right = page.locator(".chat-sides section").evaluate_all(boxes)
        assert left["top"] == right["top"] and left["right"] <= right["left"]
        page.get_by_label("System prompt").wait_for()
        page.set_viewport_size({"width": 400, "height": 800})
        ask(page, "Hello again")
        page.get_by_label("System prompt").wait_for(state="hidden")  # they would cover the dialogue


def test_a_wrong_answer_becomes_a_training_row_and_the_chat_goes_on_from_the_right_one(place: Place) -> None:
    with place.page(tools="tools.py") as page:
        ask(page, "Hello")
        sees(page, "Nothing to look up.")
        first = address_of(page)
        page.get_by_role("button", name="Change this").nth(1).click()
        page.get_by_label("Calls, as JSON").fill('{"name": "wether", "arguments": {"city": "Oslo"}}')
        page.get_by_role("button", name="Save as the right answer").click()
        page.get_by_text("wether").last.wait_for()
        page.get_by_label("Text", exact=True).fill("")
        page.get_by_label("Calls, as JSON").fill('{"name": "weather", "arguments": {"city": "Oslo"}}')
        page.get_by_role("button", name="Save as the right answer").click()
        page.get_by_text("corrections.jsonl, line 1").wait_for()
        (line,) = (place.folder / "output/studio/corrections.jsonl").read_text().splitlines()
        row = conversation(json.loads(line))
        assert [message.role for message in row.messages] == ["user", "assistant"]
        assert row.messages[1].tool_calls[0].name == "weather" and len(row.tools) == 2
        page.get_by_role("button", name="Change this").nth(0).click()
        page.get_by_label("Text", exact=True).fill("What is the time_of Rome?")
        page.get_by_role("button", name="Go on from here").click()
        sees(page, "The tools say: noon.")  # read-only, so nobody is asked
        assert address_of(page) != first
        visit(page, first)
        sees(page, "Nothing to look up.")


def test_what_is_wrong_is_one_line_and_nothing_typed_is_lost(place: Place) -> None:
    with place.page() as page:
        fill(page, "Tools: Python files", "missing.py")
        ask(page, QUESTION)
        page.get_by_role("alert").get_by_text("missing.py").wait_for()
        for label, text, reason in (
            ("Tools: Python files", "../secret.py", "outside the folders of the studio"),
            ("Tools: Python files", "", ""),
            ("Address of the server", "ftp://elsewhere", "must be a URL such as"),
            ("Address of the server", place.model.replace("/v1", ""), "/v1?"),
        ):
            fill(page, label, text)
            if reason:
                page.get_by_role("button", name="Go on").click()
                page.get_by_role("alert").get_by_text(reason).wait_for()
        fill(page, "Address of the server", place.model)
        page.get_by_label("API key (kept in memory only)").first.fill(scripted_model.KEY)
        page.get_by_label("System prompt").click()
        page.get_by_role("button", name="Go on").click()
        sees(page, "Nothing to look up.")
        visit(page, f"{place.server.root}/chat?dialogue=none")
        page.get_by_text("there is no dialogue none").wait_for()


def test_a_served_model_answers_the_openai_client_until_it_is_stopped(place: Place) -> None:
    folder = tiny_model_folder(place.folder / "tiny")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHATML}))
    with place.page("/serve?ckpt_dir=no/such/model") as page:
        model = page.get_by_label("Model or checkpoint", exact=True)
        page.get_by_role("button", name="Serve", exact=True).click()
        page.get_by_text("no such folder").wait_for()
        model.fill("tiny")
        page.get_by_role("button", name="Serve", exact=True).click()
        page.get_by_text("Chat with it").wait_for()
        page.get_by_text("Connect a client").click()
        code = page.locator(".studio-command", has_text="import openai").inner_text()
        url = re.search(r'base_url="([^"]+)"', code)
        assert url
        client = openai.OpenAI(base_url=url[1], api_key="EMPTY", timeout=PATIENCE)
        name = client.models.list().data[0].id
        assert f'model="{name}"' in code
        reply = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
        )
        assert reply.usage and reply.usage.completion_tokens <= 4
        visit(page, f"{place.server.root}/chat?ckpt_dir={folder}")
        page.get_by_text(re.compile("Settings · .*/tiny$")).wait_for()
        visit(page, f"{place.server.root}/serve")
        page.get_by_text("Log", exact=True).click()
        page.locator(".studio-log", has_text="POST /v1/chat/completions 200").wait_for()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text(re.compile("^(stopped|finished)$")).wait_for()


def test_an_evaluation_shows_figures_failures_and_flips(place: Place) -> None:
    tools = json.loads((place.folder / "only.json").read_text())
    asked = {QUESTION: "Oslo", "Is it dry in Rome?": "Rome"}
    rows = [
        {
            "messages": [{"role": "user", "content": text}],
            "tools": tools,
            "expected": [{"name": "weather", "arguments": {"city": city}}],
        }
        for text, city in asked.items()
    ]
    (place.folder / "held_out.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with place.page("/evaluate") as page:
        page.get_by_text("No results yet").wait_for()
        page.get_by_label("Model or checkpoint", exact=True).fill(scripted_model.MODEL)
        page.get_by_label("Held-out rows").fill("held_out.jsonl")
        more = page.get_by_label("Other flags of swift eval")
        more.fill("--limmit 3")
        page.get_by_role("button", name="Evaluate", exact=True).click()
        page.get_by_text("--limmit").wait_for()
        more.fill(f"--endpoint {place.model} --api_key {scripted_model.KEY} --report output/eval/first")
        page.get_by_role("button", name="Evaluate", exact=True).click()
        page.get_by_text("finished").wait_for()
        first, second = (place.folder / "output/eval" / name for name in ("first", "second"))
        shutil.copytree(first, second)
        answers = (second / "answers.jsonl").read_text().splitlines()
        changed = [_flipped(json.loads(line)) for line in answers]
        (second / "answers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in changed))
        visit(page)
        page.get_by_label("Result", exact=True).click()
        page.get_by_role("option", name="eval/first").click()
        page.get_by_role("cell", name=re.compile(r"^50\.0 \[")).first.wait_for()
        page.get_by_text("no call (1)").click()
        page.get_by_role("cell", name='weather({"city": "Rome"})').wait_for()
        page.get_by_label("Compare with", exact=True).click()
        page.get_by_role("option", name="eval/second").click()
        page.get_by_text("1 became right and 1 wrong").wait_for()
        page.get_by_text("became wrong (1)").click()
        page.get_by_role("cell", name=re.compile(QUESTION[:-1])).wait_for()
        assert "second=" in address_of(page)


def _flipped(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the other judgement."""
    scores = {name: 1.0 - value for name, value in record["scores"].items()}
    return {**record, "correct": not record["correct"], "scores": scores}


def test_app_ui_is_the_chat_alone_with_its_model(place: Place) -> None:
    words = ("--endpoint", place.model)
    with (
        served(place.folder, *words, "--lang", "zh", verb="app-ui") as server,
        opened(place.browser, server.address) as page,
    ):
        page.get_by_label("消息（回车").wait_for()
        assert page.locator("nav a").all_inner_texts() == ["对话"]
        page.get_by_text(re.compile("设置 · http")).wait_for()
