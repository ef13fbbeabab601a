"""`swift deploy`: wrong flags show before the model is loaded; the server says where it is and ends quietly."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tiny import tiny_model_folder

from swift import cli, flags
from swift.assembly import loading
from swift.chat import Delta, Message, Tool, Usage
from swift.commands import deploy
from swift.commands.deploy import Config
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.guided.grammar import Rules
from swift.guided.guide import Guide

PLAIN = SamplingParams()


class Scripted:
    """A chat that takes its time, and keeps the options it was given."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.engine: Any = SimpleNamespace(closed=False, context=None)
        self.engine.close = lambda: setattr(self.engine, "closed", True)
        self.renderer = SimpleNamespace(
            image_processor=None, tokenizer=None, uses_tokenizer_template=False, variables=frozenset()
        )
        self.params: list[SamplingParams] = []

    def guide(self, rules: Rules) -> Guide:
        raise ValueError("a script cannot be held to anything")

    def __call__(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), params: SamplingParams = PLAIN
    ) -> Generator[Delta, None, None]:
        self.params.append(params)
        self.begun.set()
        for _ in range(5):
            time.sleep(0.05)
            yield Delta("la ")
        yield Delta(finish="stop", usage=Usage(1, 5))

    def complete(self, prompt: str | Sequence[int], params: SamplingParams) -> Generator[Delta, None, None]:
        yield from self([], (), params)

    def count_tokens(self, messages: Sequence[Message], tools: Sequence[Tool] = (), template_kwargs: Any = None) -> int:
        return len(messages)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """What is loaded in place of a model."""
    scripted = Scripted()
    monkeypatch.setattr(loading, "load_chat", lambda cfg, given: scripted)
    return scripted


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose loading is a failure of the test."""
    monkeypatch.setattr(loading, "load_chat", lambda cfg, given: pytest.fail("the model was loaded"))


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert cli.main(["deploy", *argv]) != 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("swift: error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.usefixtures("unloadable")
def test_a_port_in_use_is_an_error_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, "--model_type", "tiny", "--port", str(port))
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in said


@pytest.mark.usefixtures("unloadable")
def test_wrong_flags_are_an_error_before_the_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "no.pem"
    other.write_text("hello")
    assert "--port: 99999 is not a port" in refused(capsys, "--port", "99999")
    assert "cannot listen on no.such.host.invalid" in refused(capsys, "--host", "no.such.host.invalid")
    assert "--api_key is empty" in refused(capsys, "--api_key", "")
    assert "no such file" in refused(capsys, "--ssl_certfile", str(tmp_path / "none.pem"))
    assert "not a certificate with its key" in refused(capsys, "--ssl_certfile", str(other))
    assert "--ssl_keyfile needs --ssl_certfile" in refused(capsys, "--ssl_keyfile", str(other))
    assert "temperature must be 0 or more" in refused(capsys, "--port", "0", "--temperature", "-1")
    assert "no model is named" in refused(capsys, "--port", "0")
    assert "--max_queue 0: must be 1" in refused(capsys, "--max_queue", "0")
    assert "--lora_modules a: expected NAME=FOLDER" in refused(capsys, "--lora_modules", "a")
    held = ("--guided_tools", "true", "--infer_backend", "openvino")
    assert "--guided_tools true does not work with --infer_backend openvino" in refused(capsys, *held)
    assert "'a' is used twice" in refused(capsys, "--lora_modules", "a=/x", "a=/y")
    assert "did you mean text" in refused(capsys, "--log_format", "txt")
    same = ("--model_type", "smollm2-135m-instruct", "--lora_modules", "smollm2-135m-instruct=/x")
    assert "the name of the model itself" in refused(capsys, "--port", "0", *same)
    assert "each request decides" in refused(capsys, "--stream", "false")
    assert "did you mean --port" in refused(capsys, "--prot", "1")


def test_the_tutorials_command_line_is_understood() -> None:
    argv = ["--model_type", "chatglm3-6b-32k", "--stop_words", "Observation"]
    config = flags.parse(Config, argv).config
    assert config.model.model_type == "chatglm3-6b-32k"
    assert config.generation.stop_words == ("Observation",)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 8000)


class Adapting(TorchEngine):
    """An engine, as far as its adapters go."""

    def __init__(self) -> None:
        self.added: dict[str, str] = {}
        self.context = None

    def close(self) -> None: ...

    def add_adapter(self, name: str, folder: str) -> None:
        self.added[name] = folder

    def remove_adapter(self, name: str) -> None: ...


def test_keys_come_from_the_flag_the_file_and_the_environment(
    chat: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apps: list[Any] = []
    monkeypatch.setattr(deploy, "serve", lambda app, *_: apps.append(app))
    monkeypatch.setenv("SWIFT_API_KEY", "from the environment")
    keys, empty = tmp_path / "keys", tmp_path / "empty"
    keys.write_text("one\n\ntwo \n", encoding="utf-8")
    empty.write_text("\n", encoding="utf-8")
    how = ["deploy", "--model_type", "tiny", "--port", "0"]
    assert cli.main([*how, "--api_key", "flag", "--api_key_file", str(keys), "--allow_origins", "https://a.b"]) == 0
    http = TestClient(apps[0])
    for key, status in (("flag", 200), ("one", 200), ("two", 200), ("from the environment", 200), ("", 401)):
        assert http.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == status, key
    assert http.get("/health", headers={"Origin": "https://a.b"}).headers["access-control-allow-origin"]
    capsys.readouterr()
    assert "no key found" in refused(capsys, "--port", "0", "--api_key_file", str(empty))
    assert "no such file" in refused(capsys, "--port", "0", "--api_key_file", str(tmp_path / "none"))
    assert "without a path" in refused(capsys, "--allow_origins", "https://a.b/c")


def test_adapters_are_served_together_with_the_model(
    chat: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "x", tmp_path / "y=z"]
    for folder in folders:
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}")
    chat.engine = Adapting()
    apps: list[Any] = []
    monkeypatch.setattr(deploy, "serve", lambda app, *_: apps.append(app))
    assert (
        cli.main(
            ["deploy", "--model_type", "tiny", "--port", "0", "--lora_modules", f"a={folders[0]}", f"b={folders[1]}"]
        )
        == 0
    )
    assert chat.engine.added == {"a": str(folders[0]), "b": str(folders[1])}
    names = [model["id"] for model in TestClient(apps[0]).get("/v1/models").json()["data"]]
    assert names == ["tiny", "a", "b"]


def test_a_trained_adapter_answers_next_to_its_model_as_on_its_own_and_can_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = str(tiny_model_folder(tmp_path / "tiny")), tmp_path / "rows.jsonl"
    rows.write_text((json.dumps({"query": "hi", "response": "hello hello"}) + "\n") * 8, encoding="utf-8")
    how = f"--model {model} --dataset {rows} --output_dir {tmp_path / 'out'} --template_type chatml --max_steps 8"
    more = "--learning_rate 5e-2 --lora_target_modules ALL --dataset_test_ratio 0 --report_to none --device cpu"
    assert cli.main(["sft", *how.split(), *more.split()]) == 0
    adapter = next((tmp_path / "out").rglob("checkpoint-*"))

    def reply(http: TestClient, name: str) -> Any:
        body = {"model": name, "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 12}
        return http.post("/v1/chat/completions", json=body, headers={"Authorization": "Bearer k"})

    def deployed(words: str, use: Callable[[TestClient], None]) -> None:
        monkeypatch.setattr(deploy, "serve", lambda app, *_: use(TestClient(app)))
        assert cli.main(["deploy", "--api_key", "k", "--port", "0", *words.split()]) == 0

    said: dict[str, str] = {}

    def both(http: TestClient) -> None:
        for name in ("tiny", "kind"):
            said[name] = reply(http, name).json()["choices"][0]["message"]["content"]
        gone = {"json": {"lora_name": "kind"}, "headers": {"Authorization": "Bearer k"}}
        assert http.post("/v1/unload_lora_adapter", **gone).status_code == 200
        assert reply(http, "kind").status_code == 404

    def alone(http: TestClient) -> None:
        said["alone"] = reply(http, "tiny").json()["choices"][0]["message"]["content"]

    deployed(f"--model {model} --template_type chatml --lora_modules kind={adapter}", both)
    deployed(f"--ckpt_dir {adapter} --served_model_name tiny", alone)
    assert said["kind"] == said["alone"] != said["tiny"]


def ask(url: str, key: str = "") -> Any:
    request = urllib.request.Request(
        f"{url}/chat/completions",
        json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "sing"}]}).encode(),
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_shut_down_finishes_its_reply_and_exits_with_0(
    number: signal.Signals, chat: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    answers: list[Any] = []

    def use() -> None:
        url = f"http://127.0.0.1:{port}/v1"
        await_server(port)
        asking = threading.Thread(target=lambda: answers.append(ask(url, "k")))
        asking.start()
        chat.begun.wait(10)
        os.kill(os.getpid(), number)
        asking.join(10)

    user = threading.Thread(target=use)
    user.start()
    before = signal.getsignal(number)
    code = cli.main(["deploy", "--model_type", "tiny", "--port", str(port), "--api_key", "k", "--stop_words", "END"])
    user.join(10)
    out, err = capsys.readouterr()
    assert code == 0
    assert chat.engine.closed
    assert out == f"swift: ready at http://127.0.0.1:{port}/v1\n"
    assert answers[0]["choices"][0]["message"]["content"] == "la la la la la "
    assert err.count("\n") == 1 and "POST /v1/chat/completions 200" in err
    assert signal.getsignal(number) is before
    params = chat.params[0]
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (0.3, 0.7, 20, 1.0)
    assert (params.max_tokens, params.clip, params.stop) == (2048, True, ("END",))


def test_the_json_log_tells_that_the_server_is_ready(chat: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()

    def end() -> None:
        await_server(port)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    assert cli.main(["deploy", "--model_type", "tiny", "--port", str(port), "--log_format", "json"]) == 0
    ending.join(10)
    ready = json.loads(capsys.readouterr().err.splitlines()[0])
    assert (ready["message"], ready["url"]) == ("ready", f"http://127.0.0.1:{port}/v1")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def await_server(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
