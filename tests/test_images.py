"""A model that sees through the front door: trained on rows with images, asked in the terminal, served, merged."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image as Pillow
from safetensors.torch import load_file
from tiny_images import png, tiny_image_model

from swift import cli, flags
from swift.assembly.rendering import make_renderer
from swift.chat import PLACE, Conversation, Image, Message
from swift.commands import deploy, sft
from swift.flag_groups import TemplateFlags
from swift.model import load
from swift.train.batch import collate
from swift.train.loss import output_head, score
from swift.tuner import adapter_files

COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
Story = tuple[Path, Path, Path]


def picture(folder: Path, colour: str) -> Path:
    file = folder / f"{colour}.png"
    Pillow.new("RGB", (56, 56), COLOURS[colour]).save(file)
    return file


def rows(folder: Path) -> Path:
    """Rows whose answers nothing but the image gives away."""
    lines = []
    for colour in COLOURS:
        file = picture(folder, colour)
        data = f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
        question = [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": "colour?"}]
        lines += [
            {"query": "<image>colour?", "response": colour, "images": [file.name]},
            {"query": "colour?", "response": colour, "images": [str(file)]},
            {"query": f"<img>{file.name}</img>colour?", "response": colour},
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": colour}]},
        ]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module", params=["qwen2_vl", "llava", "gemma3"])
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A model, its rows, and the LoRA checkpoint that learned them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp(request.param)
    model, data = tiny_image_model(folder / "tiny", request.param), rows(folder)
    held_out = folder / "held_out.jsonl"
    held_out.write_text(data.read_text())
    settings: dict[str, Any] = {
        "model": str(model),
        "dataset": [str(data)],
        "val_dataset": [str(held_out)],
        "output_dir": str(folder / "output"),
        **{"batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 60, "eval_steps": 30, "device": "cpu"},
        **{"learning_rate": 2e-2, "lora_rank": 16, "lora_dropout_p": 0.0, "lora_target_modules": ["ALL"]},
        **{"lr_scheduler_type": "constant", "weight_decay": 0.0, "dtype": "fp32"},
    }
    result = sft.main(flags.from_dict(sft.Config, settings))
    right = [line["eval_acc"] for line in result["log_history"] if "eval_acc" in line]
    assert right[-1] == 1  # its frozen random head keeps the loss above nothing
    return model, data, Path(result["last_model_checkpoint"])


def scored(model: Any, base: Path, colour: str, folder: Path) -> torch.Tensor:
    image = Image(str(folder / f"{colour}.png"))
    row = Conversation((Message("user", f"{PLACE}colour?", images=(image,)), Message("assistant", colour)))
    renderer = make_renderer(base, TemplateFlags(), None)
    with torch.no_grad():
        return score(model, output_head(model), collate([renderer.encode(row)])).nll


def test_lora_leaves_the_part_that_sees_alone(story: Story) -> None:
    _, _, checkpoint = story
    names = {name.split(".layers.")[0] for name in load_file(checkpoint / "adapter_model.safetensors")}
    assert names == {"base_model.model.model.language_model"}


def test_an_adapter_comes_back_and_merges_to_the_same_predictions(story: Story, tmp_path: Path) -> None:
    model, data, checkpoint = story
    recorded = map(json.loads, (checkpoint.parent / "logging.jsonl").read_text().splitlines())
    trained = [line["eval_loss"] for line in recorded if "eval_loss" in line][-1]
    tuned = adapter_files.load(load.load_model(model, "fp32", "cpu"), checkpoint)
    loaded = {colour: scored(tuned, model, colour, data.parent) for colour in COLOURS}
    assert torch.cat(list(loaded.values())).mean().item() == pytest.approx(trained, rel=1e-3)

    merged = tmp_path / "merged"
    argv = ["export", "--ckpt_dir", str(checkpoint), "--merge_lora", "true", "--output_dir", str(merged)]
    assert cli.main([*argv, "--device", "cpu"]) == 0
    again = load.load_model(merged, "fp32", "cpu")
    for colour in COLOURS:
        torch.testing.assert_close(scored(again, merged, colour, data.parent), loaded[colour], rtol=1e-3, atol=1e-4)


def test_rows_with_images_are_answered_and_saved(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, data, checkpoint = story
    argv = ["infer", "--ckpt_dir", str(checkpoint), "--val_dataset", str(data), "--result_dir", str(tmp_path)]
    assert cli.main([*argv, "--do_sample", "false", "--max_new_tokens", "8", "--device", "cpu"]) == 0
    assert "8 rows: 8 replies equal the reference" in capsys.readouterr().out
    (file,) = tmp_path.glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert {record["query"] for record in records} == {"<image>colour?"}
    assert records[0]["images"] == [str(data.parent / "red.png")]


def test_an_image_is_shown_in_the_terminal(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data, checkpoint = story
    monkeypatch.chdir(data.parent)
    typed = "<img>red.png</img>colour?\nclear\n<img>blue.png</img>colour?\nclear\n<img>none.png</img>colour?\nexit\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    argv = ["infer", "--ckpt_dir", str(checkpoint), "--result_dir", str(tmp_path), "--max_new_tokens", "8"]
    assert cli.main([*argv, "--do_sample", "false", "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert re.findall(r"colour\?\n(.*)\n", out)[:2] == ["red", "blue"]
    assert f"error: image none.png: no such file in {data.parent}" in out
    assert "<img>path or URL</img> in a message attaches an image" in err
    (file,) = tmp_path.glob("*.jsonl")
    first = json.loads(file.read_text().splitlines()[0])
    assert (first["query"], first["images"]) == ("<image>colour?", [str(data.parent / "red.png")])


# Served ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def web(story: Story) -> Iterator[str]:
    """A server of the rows' folder, as elsewhere on the network."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(story[1].parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def client(story: Story) -> Iterator[openai.OpenAI]:
    """`swift deploy` of the checkpoint: files of the rows' folder may be named, any address is fetched from."""
    _, data, checkpoint = story
    argv = [sys.executable, "-m", "swift.cli", "deploy", "--ckpt_dir", str(checkpoint), "--port", "0"]
    argv += ["--allowed_local_media_path", str(data.parent), "--fetch_images", "any", "--device", "cpu"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}) as served:
        assert served.stdout
        ready = re.search(r"http://\S+", served.stdout.readline())
        assert ready
        yield openai.OpenAI(base_url=ready[0], api_key="none", max_retries=0)
        served.terminate()


def ask(client: openai.OpenAI, url: str, question: str = "colour?") -> str:
    content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    name = client.models.list().data[0].id
    reply = client.chat.completions.create(
        model=name, messages=[{"role": "user", "content": content}], temperature=0, max_tokens=8
    )
    return str(reply.choices[0].message.content)


def test_the_openai_client_shows_images_as_data_files_and_urls(story: Story, client: openai.OpenAI, web: str) -> None:
    for colour in COLOURS:
        file = story[1].parent / f"{colour}.png"
        data = base64.b64encode(file.read_bytes()).decode()
        for url in (f"data:image/png;base64,{data}", file.name, str(file), file.as_uri(), f"{web}/{file.name}"):
            assert ask(client, url) == colour, url


def test_what_cannot_be_shown_is_refused_with_one_line(story: Story, client: openai.OpenAI, web: str) -> None:
    for url, said in (
        ("data:image/png;base64,AAAA", "not an image in a supported format"),
        ("data:image/png;base64,!!!", "not base64"),
        ("/etc/hostname", "files outside the permitted folder are rejected"),
        ("../x.png", "files outside the permitted folder are rejected"),
        (f"{web}/none.png", "download failed: File not found"),
        ("none.png", "no such file"),
    ):
        with pytest.raises(openai.BadRequestError, match=re.escape(said)):
            ask(client, url)
    assert ask(client, "red.png") == "red"


def test_an_image_in_a_tool_result_that_the_format_cannot_show_is_refused_by_all_apis(client: openai.OpenAI) -> None:
    name, url = client.models.list().data[0].id, "data:image/png;base64," + base64.b64encode(png()).decode()
    call: Any = {"id": "c1", "type": "function", "function": {"name": "camera", "arguments": "{}"}}
    shown: Any = [{"type": "image_url", "image_url": {"url": url}}]
    said = "images in tool results are not supported by react_en"
    with pytest.raises(openai.BadRequestError, match=said):
        client.chat.completions.create(
            model=name,
            messages=[
                {"role": "user", "content": "look"},
                {"role": "assistant", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": shown},
            ],
        )
    with pytest.raises(openai.BadRequestError, match=said):
        client.responses.create(
            model=name,
            input=[
                {"role": "user", "content": "look"},
                {"type": "function_call", "call_id": "c1", "name": "camera", "arguments": "{}"},
                {
                    "type": "function_call_output",
                    "call_id": "c1",
                    "output": [{"type": "input_image", "image_url": url, "detail": "auto"}],
                },
            ],
        )
    assert ask(client, "red.png") == "red"


def test_all_apis_show_an_image_in_a_tool_result_where_the_format_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "data:image/png;base64," + base64.b64encode(png()).decode()
    question: Any = {"role": "user", "content": "look"}

    def chat(image: bool) -> dict[str, Any]:
        call = {"id": "c1", "type": "function", "function": {"name": "camera", "arguments": "{}"}}
        seen = [{"type": "text", "text": "seen"}, *[{"type": "image_url", "image_url": {"url": url}}] * image]
        called = {"role": "assistant", "tool_calls": [call]}
        return {"messages": [question, called, {"role": "tool", "tool_call_id": "c1", "content": seen}]}

    def responses(image: bool) -> dict[str, Any]:
        call = {"type": "function_call", "call_id": "c1", "name": "camera", "arguments": "{}"}
        seen = [{"type": "input_text", "text": "seen"}, *[{"type": "input_image", "image_url": url}] * image]
        return {"input": [question, call, {"type": "function_call_output", "call_id": "c1", "output": seen}]}

    def messages(image: bool) -> dict[str, Any]:
        source = {"type": "base64", "media_type": "image/png", "data": url.partition(",")[2]}
        seen = [{"type": "text", "text": "seen"}, *[{"type": "image", "source": source}] * image]
        called = {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "camera", "input": {}}]}
        result = {"type": "tool_result", "tool_use_id": "c1", "content": seen}
        return {"messages": [question, called, {"role": "user", "content": [result]}], "max_tokens": 4}

    def talk(app: Any, *_: Any) -> None:
        http = TestClient(app)
        name = http.get("/v1/models").json()["data"][0]["id"]
        sizes = []
        for image in (False, True):
            for path, body in (("chat/completions", chat), ("responses", responses), ("messages", messages)):
                reply = http.post(f"/v1/{path}", json={"model": name, "temperature": 0, **body(image)})
                assert reply.status_code == 200, reply.text
                usage = reply.json()["usage"]
                cached = usage.get("cache_read_input_tokens") or 0
                sizes.append(usage.get("prompt_tokens") or usage["input_tokens"] + cached)
        assert len(set(sizes[:3])) == len(set(sizes[3:])) == 1 and sizes[3] > sizes[0], sizes

    monkeypatch.setattr(deploy, "serve", talk)
    model = tiny_image_model(tmp_path / "model", "qwen2_vl")
    flags = ["--model_id_or_path", str(model), "--agent_template", "hermes", "--max_new_tokens", "4", "--device", "cpu"]
    assert cli.main(["deploy", *flags, "--port", "0"]) == 0
