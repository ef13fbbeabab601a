"""/tokenize, /detokenize and /version are vLLM's, and give the tokens that a reply to the same body would read."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny import CHATML, thinking_tokenizer, tiny_tokenizer

from swift.engine.interface import TokenOutput
from swift.engine.sampling import SamplingParams
from swift.infer.local_chat import LocalChat
from swift.infer.prompt_tokens import PromptTokens
from swift.serve.body_reader import Limits
from swift.serve.server import create_app
from swift.template import Renderer, template

ASK = {"role": "user", "content": "hi"}
SAID = {"role": "assistant", "content": "Well, "}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


class Engine:
    """Records prompts and replies with nothing."""

    context = 512

    def __init__(self) -> None:
        self.prompts: list[list[int]] = []

    def submit(self, tokens: Sequence[int], params: SamplingParams, inputs: Any = None) -> Any:
        self.prompts.append(list(tokens))
        return Nothing()

    def close(self) -> None: ...


class Nothing:
    def __init__(self) -> None:
        self._steps = iter([TokenOutput(2, 0.0, "stop")])

    def __iter__(self) -> Nothing:
        return self

    def __next__(self) -> TokenOutput:
        return next(self._steps)

    def close(self) -> None: ...


def renderer(kind: str) -> Renderer:
    if kind == "table":
        return Renderer(tiny_tokenizer(), template("chatml"))
    if kind == "thinking":
        return Renderer(thinking_tokenizer(), None)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    return Renderer(tokenizer, None)


def server(kind: str = "own", **options: Any) -> tuple[TestClient, Engine]:
    engine, known = Engine(), renderer(kind)
    chat = LocalChat(engine, known)
    tokenization = PromptTokens(known, engine.context)
    return TestClient(create_app(chat, "tiny", complete=chat.complete, tokenization=tokenization, **options)), engine


def post(http: TestClient, path: str, status: int = 200, headers: Any = None, **body: Any) -> Any:
    answer = http.post(path, json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json() if status == 200 else answer.json()["error"]


@pytest.mark.parametrize("kind", ["own", "table", "thinking"])
@pytest.mark.parametrize(
    "body",
    [
        {"messages": [ASK]},
        {"messages": [{"role": "system", "content": "be"}, ASK, SAID, ASK]},
        {"messages": [ASK, SAID]},
        {"messages": [ASK], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a <|im_end|> b"}]}]},
    ],
    ids=["question", "rounds", "continued", "tools", "parts"],
)
def test_the_tokens_of_messages_are_those_of_the_same_chat_completion(kind: str, body: dict[str, Any]) -> None:
    http, engine = server(kind)
    answer = post(http, "/tokenize", **body)
    assert post(http, "/v1/chat/completions", model="tiny", **body)["usage"]["prompt_tokens"] == answer["count"]
    assert engine.prompts == [answer["tokens"]]
    assert answer["max_model_len"] == 512 and answer["token_strs"] is None


def test_the_tokens_of_a_text_are_those_of_the_same_completion() -> None:
    http, engine = server()
    answer = post(http, "/tokenize", prompt="Once <|im_end|>", model="tiny", return_token_strs=True)
    post(http, "/v1/completions", model="tiny", prompt="Once <|im_end|>")
    assert engine.prompts == [answer["tokens"]]
    assert answer["token_strs"] == ["O", "n", "c", "e", "Ġ", "<|im_end|>"] and answer["count"] == 6
    assert post(http, "/tokenize", prompt="")["count"] == 0


def test_special_tokens_around_a_text_can_be_left_out() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokens = PromptTokens(Renderer(tokenizer, template("chatml")), None)
    assert tokens.of_text("a")[0] == 1 and tokens.of_text("a", special=False) == tokens.of_text("a")[1:]


@pytest.mark.parametrize("kind", ["own", "table"])
def test_without_a_generation_prompt_the_last_turn_is_closed(kind: str) -> None:
    http, _ = server(kind)

    def text(**body: Any) -> str:
        said: str = post(http, "/detokenize", tokens=post(http, "/tokenize", **body)["tokens"])["prompt"]
        return said

    opened = text(messages=[ASK])
    assert opened.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert text(messages=[ASK], add_generation_prompt=False) == opened.removesuffix("<|im_start|>assistant\n")
    assert text(messages=[ASK, SAID], continue_final_message=True, add_generation_prompt=False) == opened + "Well, "
    closed = text(messages=[ASK, SAID], add_generation_prompt=False)
    assert closed.rstrip("\n") == opened + "Well, <|im_end|>"


def test_variables_reach_the_chat_template() -> None:
    http, _ = server("thinking")
    on = post(http, "/tokenize", messages=[ASK], chat_template_kwargs={"enable_thinking": True})["count"]
    off = post(http, "/tokenize", messages=[ASK], enable_thinking=False)["count"]
    assert off - on == len("\n</think>\n\n")


def test_tokens_become_their_text_again() -> None:
    http, _ = server()
    for text in ("Once upon", "雨 ☔ <|im_start|>x", ""):
        tokens = post(http, "/tokenize", prompt=text)["tokens"]
        assert post(http, "/detokenize", tokens=tokens, model="tiny") == {"prompt": text}


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "what"),
    [
        ("/tokenize", {}, 400, None, "needs prompt or messages"),
        ("/tokenize", {"prompt": "a", "messages": [ASK]}, 400, None, "has both"),
        ("/tokenize", {"prompt": 3}, 400, "prompt", "string"),
        ("/tokenize", {"prompt": "a", "tools": [TOOL]}, 400, "tools", "requires messages"),
        ("/tokenize", {"prompt": "a", "model": "big"}, 404, "model", "available models: tiny"),
        ("/tokenize", {"messages": []}, 400, "messages", "at least 1"),
        ("/tokenize", {"messages": [{"role": "x", "content": "a"}]}, 400, "messages[0].role", "user"),
        ("/tokenize", {"messages": [ASK], "add_special_tokens": True}, 400, "add_special_tokens", "chat template"),
        ("/tokenize", {"messages": [ASK], "continue_final_message": True}, 400, "continue_final_message", "assistant"),
        ("/tokenize", {"messages": [ASK], "chat_template": "{{ 1 }}"}, 400, "chat_template", "only null"),
        ("/tokenize", {"messages": [ASK], "chat_template_kwargs": {"tools": 1}}, 400, "chat_template_kwargs", "set by"),
        ("/tokenize", {"messages": [ASK], "tools": [TOOL, TOOL]}, 400, "tools", "two tools"),
        ("/detokenize", {}, 400, "tokens", "required"),
        ("/detokenize", {"tokens": [1, "x"]}, 400, "tokens[1]", "integer"),
        ("/detokenize", {"tokens": [1, -1]}, 400, "tokens[1]", "greater than or equal to 0"),
        (
            "/detokenize",
            {"tokens": [1, 10**6]},
            400,
            "tokens",
            "tokens[1]: 1000000 is not a token of the model (0 to 258)",
        ),
        ("/detokenize", {"tokens": [1], "model": "big"}, 404, "model", "tiny"),
    ],
)
def test_wrong_bodies_are_errors_that_name_the_field(
    path: str, body: dict[str, Any], status: int, param: str | None, what: str
) -> None:
    told = post(server()[0], path, status, **body)
    assert told["param"] == param and what in told["message"]


def test_keys_limits_and_absence_are_those_of_other_routes() -> None:
    http, _ = server(api_keys=["k"], limits=Limits(body=100))
    for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [3]})):
        assert post(http, path, 401, **body)["code"] == "invalid_api_key"
        assert post(http, path, 413, headers={"x-api-key": "k"}, prompt="a" * 101)["message"].startswith("the body is")
        assert post(http, path, headers={"Authorization": "Bearer k"}, **body)
    without = TestClient(create_app(LocalChat(Engine(), renderer("own")), "tiny"))
    assert post(without, "/tokenize", 404, prompt="a")["code"] == "not_offered"


def test_the_version_needs_no_key() -> None:
    http, _ = server(api_keys=["k"])
    assert http.get("/version").json() == {"version": version("swift-agents")}
    assert http.head("/version").status_code == 200
