"""What is an image and what is not: in rows, in requests, from files, data: URLs and the network."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from tiny import tiny_model_folder, tiny_tokenizer
from tiny_images import png, tiny_image_model

from swift import cli, images
from swift.assembly.rendering import make_renderer
from swift.chat import PLACE, Image, Message, Tool, ToolCall
from swift.data.linting import Report, checked
from swift.data.rows import BadRow, conversation
from swift.data.sources import resolve
from swift.flag_groups import TemplateFlags
from swift.images import Access, as_url, picture, read, size
from swift.infer import remote_chat
from swift.model import load
from swift.serve.bad_request import BadRequest
from swift.serve.formats import request_fields
from swift.serve.formats.chat_completions_request import ChatRequest
from swift.template import Renderer, jinja, template
from swift.template.image_processor import ImageProcessor
from swift.tuner.apply import tune
from swift.tuner.registry import TUNERS

A, B = Image("a.png"), Image("b.png")


# Rows -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "content", "shown"),
    [
        ({"query": "<image>q", "response": "r", "images": ["a.png"]}, f"{PLACE}q", [A]),
        ({"query": "q", "response": "r", "images": ["a.png", "b.png"]}, f"{PLACE}{PLACE}q", [A, B]),
        ({"query": "x<image>y<image>", "response": "r", "images": '["a.png", "b.png"]'}, f"x{PLACE}y{PLACE}", [A, B]),
        ({"query": "<img>a.png</img>q", "response": "r"}, f"{PLACE}q", [A]),
        ({"query": "<img>a.png</img>q<image>", "response": "r", "images": "b.png"}, f"{PLACE}q{PLACE}", [A, B]),
        ({"query": "q", "response": "r", "image": {"path": "a.png"}}, f"{PLACE}q", [A]),
        ({"query": "q", "response": "r", "image": {"path": "a", "bytes": b"x"}}, f"{PLACE}q", [Image("a", b"x")]),
        ({"instruction": "<image>", "input": "q", "output": "r", "images": ["a.png"]}, f"{PLACE}\nq", [A]),
        ({"query": "see <img>this</img> and <image>", "response": "r"}, "see <img>this</img> and <image>", []),
        ({"query": "q\ufffc", "response": "r"}, "q\ufffc", []),
    ],
)  # fmt: skip
def test_a_row_shows_images_where_it_says(row: dict[str, Any], content: str, shown: list[Image]) -> None:
    asked = conversation(row).messages[0]
    assert (asked.content, list(asked.images)) == (content, shown)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "image_url", "image_url": "a.png"},
        {"type": "image", "image": "a.png"},
        {"type": "image", "url": "a.png"},
        {"type": "image"},
    ],
)
def test_a_message_shows_images_as_parts(part: dict[str, Any]) -> None:
    text = {"type": "text", "text": "q"}
    turns = [{"role": "user", "content": [text, part, text]}, {"role": "assistant", "content": "r"}]
    row = {"messages": turns, **({"images": ["a.png"]} if part == {"type": "image"} else {})}
    asked = conversation(row).messages[0]
    assert asked.parts == ("q", A, "q")


def test_images_of_a_row_with_several_turns_are_dealt_out_in_order() -> None:
    row = {"query": "<image>now?", "response": "r", "history": [["<image>then?", "h"]], "images": ["a.png", "b.png"]}
    assert [message.images for message in conversation(row).messages] == [(A,), (), (B,), ()]


@pytest.mark.parametrize(
    ("rule", "row"),
    [
        ("image-count", {"query": "<image>q", "response": "r", "images": ["a.png", "b.png"]}),
        ("image-count", {"query": "\ufffcq<image>", "response": "r", "images": ["a.png"]}),
        ("image-count", {"messages": [{"from": "user", "value": [{"type": "image"}]}, {"from": "bot", "value": "r"}]}),
        ("bad-image", {"query": "q", "response": "r", "images": [3]}),
        ("bad-image", {"query": "q", "response": "r", "images": [{}]}),
        ("no-query", {"response": "a caption", "images": ["a.png"]}),
    ],
)  # fmt: skip
def test_a_row_whose_images_have_no_place_is_bad(rule: str, row: dict[str, Any]) -> None:
    with pytest.raises(BadRow) as caught:
        conversation(row)
    assert caught.value.rule == rule


def test_paths_begin_at_the_files_folder_and_broken_images_are_bad_rows(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "good.png").write_bytes(png())
    (tmp_path / "cut.png").write_bytes(png()[:-900])
    (tmp_path / "empty.png").write_bytes(b"")
    names = ["pictures/good.png", "gone.png", "cut.png", "empty.png", "data:image/png;base64,QUJD"]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"query": "q", "response": "r", "images": [name]}) + "\n" for name in names))
    report, said = Report(), list[str]()
    kept = list(checked(resolve(str(file)), "warning", report, said.append))
    assert [row.images for row in kept] == [(Image(str(tmp_path / "pictures" / "good.png")),)]
    assert [finding.line for finding in report.findings] == [2, 3, 4, 5]
    assert {finding.rule for finding in report.findings} == {"bad-image"}
    assert said[0].startswith(f"{file}:2: bad-image: image gone.png: no such file in {tmp_path}: {{")
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: bad-image"):
        list(checked(resolve(str(file)), "error", Report(), said.append))
    assert cli.main(["data", "lint", str(file)]) == 1


def test_a_model_that_sees_nothing_leaves_rows_with_images_out_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(png())
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"query": "q", "response": "r", "images": ["a.png"]}) + "\n")
    argv = ["sft", "--model", str(tiny_model_folder(tmp_path / "tiny")), "--dataset", str(file)]
    assert cli.main([*argv, "--template_type", "chatml", "--output_dir", str(tmp_path / "o")]) == 2
    assert f"no row is left to train on: {file}:1: this model takes no images" in capsys.readouterr().err


def test_a_token_cache_does_not_forget_images(qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png())
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"query": "q", "response": "r", "images": ["a.png"]}) + "\n")
    argv = ["sft", "--model", str(qwen), "--dataset", str(file), "--output_dir", str(tmp_path / "o"), "--device", "cpu"]
    assert cli.main([*argv, "--token_cache", str(tmp_path / "cache")]) == 2
    assert "--token_cache cannot hold images: use --lazy_tokenize true" in capsys.readouterr().err
    assert cli.main([*argv, "--lazy_tokenize", "true", "--max_steps", "1"]) == 0


# Files, URLs ----------------------------------------------------------------------------------------------------------


def saved(name: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Pillow.new("RGB", (40, 20), (200, 10, 10)).save(file, name, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_common_format_is_read(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(saved(kind))
    found = picture(read("x", Access(tmp_path)))
    assert (found.mode, found.size) == ("RGB", (40, 20))


def test_a_format_that_runs_programs_is_not(tmp_path: Path) -> None:
    (tmp_path / "x.eps").write_bytes(saved("EPS"))
    with pytest.raises(ValueError, match=r"^image x\.eps: not an image in a supported format \(PNG"):
        read("x.eps", Access(tmp_path))


def test_photographs_are_turned_upright_and_their_size_is_known_unread() -> None:
    turned = Pillow.Exif()
    turned[images.ORIENTATION] = 6
    photo = Image("photo", saved("JPEG", exif=turned))
    assert size(photo) == picture(photo).size == (20, 40)
    assert size(photo, max_pixels=200) == picture(photo, max_pixels=200).size == (10, 20)


def test_an_image_that_unpacks_to_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    url = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    with pytest.raises(ValueError, match="decompression bomb"):
        read(url, Access(None))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("data:image/png;base64", "a comma before its data"),
        ("data:image/png;base64,*", "not base64"),
        ("data:image/png;base64,", "the file is empty"),
        ("x.png", "local files are not permitted"),
        ("file:///etc/passwd", "local files are not permitted"),
        ("http://127.0.0.1:9/x.png", "download failed: [Errno 111] Connection refused"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(url: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(url, Access(None))
    assert str(caught.value).startswith(f"image {url}: ") and said in str(caught.value)


def test_a_folder_that_is_served_is_not_left(tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    (tmp_path / "x.png").write_bytes(png())
    (served / "link.png").symlink_to(tmp_path / "x.png")
    (served / "in.png").write_bytes(png())
    assert read("in.png", Access(served, within=True)).source == str(served / "in.png")
    for name in ("../x.png", str(tmp_path / "x.png"), "link.png", f"file://{tmp_path}/x.png"):
        with pytest.raises(ValueError, match="files outside the permitted folder"):
            read(name, Access(served, within=True))


class Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]  # counted for the test
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "ftp://127.0.0.1/x.png")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            if self.path == "/good.png":
                self.wfile.write(png())
            while self.path == "/endless":
                self.wfile.write(bytes(1 << 16))
            while self.path == "/slow":
                self.wfile.write(b".")
                time.sleep(0.05)
        except OSError:
            pass  # the client had enough

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.asked = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_fetching_has_limits(web: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "TIMEOUT", 0.4)
    at = f"http://127.0.0.1:{web.server_port}"
    near = Access(None, network="any")
    assert read(f"{at}/good.png", near).data == png()
    for path, said in (
        ("endless", "larger than"),
        ("slow", "not downloaded within 0.4 seconds"),
        ("away", "download failed"),
    ):
        with pytest.raises(ValueError, match=said):
            read(f"{at}/{path}", near)
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 is not a public address"):
        read(f"{at}/good.png", Access(None))
    with pytest.raises(ValueError, match="images from the network are not permitted"):
        read(f"{at}/good.png", Access(None, network="none"))
    monkeypatch.setenv("SWIFT_OFFLINE", "1")
    with pytest.raises(ValueError, match="SWIFT_OFFLINE"):
        read(f"{at}/good.png", near)


def test_an_image_of_a_row_is_fetched_once(web: ThreadingHTTPServer, tmp_path: Path) -> None:
    access = Access(tmp_path, network="any", keep=tmp_path / "kept")
    url = f"http://127.0.0.1:{web.server_port}/good.png"
    assert read(url, access) == read(url, access)
    assert web.asked == 1  # type: ignore[attr-defined]


# Requests -------------------------------------------------------------------------------------------------------------


def asked_with(content: Any, role: str = "user") -> tuple[Message, ...]:
    body = {"model": "m", "messages": [{"role": role, "content": content}]}
    return request_fields.parse(ChatRequest, json.dumps(body).encode()).inner.messages


def part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def test_parts_of_a_request_become_a_text_with_places() -> None:
    def text(value: str) -> dict[str, str]:
        return {"type": "text", "text": value}

    [asked] = asked_with([text("one"), text("two"), part("a.png"), part("b.png"), text("what is <image>?")])
    assert asked.content == f"one\ntwo{PLACE}{PLACE}what is <image>?"
    assert asked.images == (A, B)
    for content, said in (
        ([part("")], '{"url": ...}'),
        ([part("a.png"), text(PLACE)], "U+FFFC"),
        ([part("a.png"), {"type": "input_audio"}], "only parts of type text"),
    ):
        with pytest.raises(BadRequest) as refused:
            asked_with(content)
        assert refused.value.param == "messages[0].content" and said in str(refused.value)
    with pytest.raises(BadRequest, match=r"messages\[0\]\.content: only user and tool messages can have images"):
        asked_with([part("a.png")], "assistant")


def test_images_are_sent_on_to_another_server() -> None:
    file = Image("file", png())
    sent = remote_chat._message(Message("user", f"{PLACE}q{PLACE}", images=(file, Image("https://x/y.png"))))["content"]
    assert [each["type"] for each in sent] == ["image_url", "text", "image_url"]
    assert sent[0]["image_url"]["url"] == as_url(file) == f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    assert sent[2]["image_url"]["url"] == "https://x/y.png"


# Prompts --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_model(tmp_path_factory.mktemp("model") / "qwen", "qwen2_vl")


def test_a_table_and_a_jinja_template_made_of_it_show_an_image_alike(qwen: Path) -> None:
    table = make_renderer(qwen, TemplateFlags(template_type="qwen2-vl"), None)
    messages = [Message("user", f"see {PLACE}!", images=(Image("a", png()),)), Message("assistant", "yes")]
    text = table.decode(table.prompt_tokens([*messages, Message("user", "sure?")]))
    frame = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
    assert f"<|im_start|>user\nsee {frame}!<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n" in text
    tokenizer = load.load_tokenizer(qwen)
    processor: Any = load.load_processor(qwen, tokenizer)
    tokenizer.chat_template = jinja(template("qwen2-vl"), processor.image_token)
    own = Renderer(tokenizer, None, image_processor=ImageProcessor(processor, load.image_token_kinds(qwen)))
    assert own.prompt_tokens([*messages, Message("user", "sure?")]) == table.prompt_tokens(
        [*messages, Message("user", "sure?")]
    )


def test_the_mark_of_an_image_that_somebody_typed_is_text(qwen: Path) -> None:
    renderer = make_renderer(qwen, TemplateFlags(), None)
    mark = renderer.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    asked = Message("user", f"<|image_pad|>{PLACE}", images=(Image("a", png()),))
    assert renderer.prompt_tokens([asked]).count(mark) == 2
    assert "<|image_pad|>" in renderer.decode(renderer.prompt_tokens([Message("user", "<|image_pad|>")]))
    assert mark not in renderer.prompt_tokens([Message("user", "<|image_pad|>")])


def test_larger_images_are_made_smaller_where_it_is_asked_for(qwen: Path) -> None:
    asked = [Message("user", PLACE, images=(Image("a", png((84, 56))),))]
    whole, less = (make_renderer(qwen, TemplateFlags(max_pixels=most), None) for most in (None, 28 * 28))
    assert len(whole.prompt_tokens(asked)) - len(less.prompt_tokens(asked)) == 5
    inputs = less.inputs(asked, less.prompt_tokens(asked))
    assert inputs is not None and inputs["image_grid_thw"].tolist() == [[1, 2, 2]]


def test_max_pixels_of_a_model_that_sees_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--max_pixels is for models that see images"):
        make_renderer(tiny_model_folder(tmp_path / "tiny"), TemplateFlags(template_type="chatml", max_pixels=9), None)


LOOKED = [Message("user", "look"), Message("assistant", "", (ToolCall("camera", "{}", "c1"),))]
CAMERA = Tool({"type": "function", "function": {"name": "camera", "parameters": {"type": "object", "properties": {}}}})
SEEN = Message("tool", f"seen {PLACE}!", tool_call_id="c1", images=(Image("a", png()),))


def with_tool_turns(qwen: Path, result: str) -> Renderer:
    """A renderer with a chat template that writes tools, calls and results itself. `result`: Jinja for a result."""
    tokenizer = load.load_tokenizer(qwen)
    processor: Any = load.load_processor(qwen, tokenizer)
    tokenizer.chat_template = (
        "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
        "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n" + result + "\n"
        "</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n"
        "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ p.text }}{% endif %}{% endfor %}{% endif %}"
        "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return Renderer(tokenizer, None, image_processor=ImageProcessor(processor, load.image_token_kinds(qwen)))


def test_a_chat_template_with_tools_of_its_own_shows_images_in_results_if_it_can(qwen: Path) -> None:
    image = "{% if p.type == 'image' %}[<|image_pad|>]{% endif %}"
    own = with_tool_turns(qwen, f"{{% for p in m.content %}}{image}{{{{ p.text }}}}{{% endfor %}}")
    text = own.decode(own.prompt_tokens([*LOOKED, SEEN], [CAMERA]))
    assert own.format_name == "hermes" and "<tool_response>\nseen [<|image_pad|><|image_pad|>]!</tool" in text
    blind = with_tool_turns(qwen, "{% for p in m.content %}{{ p.text }}{% endfor %}")
    with pytest.raises(ValueError, match="images in tool results are not supported by the model's chat template"):
        blind.prompt_tokens([*LOOKED, SEEN], [CAMERA])


def test_a_format_whose_results_are_in_the_assistants_turn_shows_no_images_in_them(qwen: Path) -> None:
    for flags in (TemplateFlags(agent_template="react_en"), TemplateFlags("qwen2-vl", agent_template="react_en")):
        with pytest.raises(ValueError, match="images in tool results are not supported by react_en"):
            make_renderer(qwen, flags, None).prompt_tokens([*LOOKED, SEEN], [CAMERA])


def test_a_table_shows_images_in_results_where_the_format_has_them(qwen: Path) -> None:
    table = make_renderer(qwen, TemplateFlags("qwen2-vl", agent_template="hermes"), None)
    frame = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
    text = table.decode(table.prompt_tokens([*LOOKED, SEEN], [CAMERA]))
    assert f"<|im_start|>user\n<tool_response>\nseen {frame}!\n</tool_response><|im_end|>" in text


def test_a_place_that_somebody_typed_is_text(qwen: Path) -> None:
    for flags in (TemplateFlags(), TemplateFlags("qwen2-vl")):
        renderer = make_renderer(qwen, flags, None)
        shown = Message("user", f"{PLACE} and", images=(Image("a", png()),))
        typed = Message("user", f"this: {PLACE}!")
        text = renderer.decode(renderer.prompt_tokens([typed, Message("assistant", "so"), shown]))
        assert text.count("<|vision_start|>") == 1 and f"this: {PLACE}!" in text


def test_only_users_and_tools_show_images_and_to_models_that_see(qwen: Path) -> None:
    renderer = make_renderer(qwen, TemplateFlags(), None)
    shown = Message("user", PLACE, images=(Image("a", png()),))
    with pytest.raises(ValueError, match="only user messages and tool results can have images, not assistant mes"):
        renderer.prompt_tokens([shown, Message("assistant", PLACE, images=shown.images)])
    with pytest.raises(ValueError, match="this model takes no images"):
        Renderer(tiny_tokenizer(), template("chatml")).prompt_tokens([shown])
    with pytest.raises(ValueError, match="1 images for 0 places in the user message"):
        renderer.prompt_tokens([Message("user", "none", images=shown.images)])


def test_a_checkpoint_in_its_first_authors_layout_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}')
    with pytest.raises(ValueError, match=r"LlavaLlamaForCausalLM is not in transformers' layout"):
        load.load_processor(tmp_path, tiny_tokenizer())


# What is trained ------------------------------------------------------------------------------------------------------


def trained(folder: Path, name: str, **flags: Any) -> set[str]:
    """The parts of the model that have something to train."""
    values: dict[str, Any] = {"lora_target_modules": ("ALL",), "lora_modules_to_save": (), "lora_rank": 2}
    values |= {"lora_alpha": 4, "lora_dropout_p": 0.0, "lora_bias_trainable": "none", "lora_dtype": "AUTO"}
    values |= {"use_rslora": False, "use_dora": False, "init_lora_weights": "true", "lora_lr_ratio": None}
    values |= {"init_adapter": None}
    values |= {flag: flags.get(flag, 0.0 if flag == "freeze_parameters" else ()) for flag in TUNERS["full"].flags}
    tuned = tune(load.load_model(folder), name, values | flags)
    names = (name for name, parameter in tuned.named_parameters() if parameter.requires_grad)
    return {"aligner" if "merger" in name else "tower" if "visual" in name else "language" for name in names}


def test_the_parts_that_see_stay_as_they_are_unless_a_flag_says_otherwise(qwen: Path, tmp_path: Path) -> None:
    for name in ("lora", "full"):
        assert trained(qwen, name) == {"language"}
        assert trained(qwen, name, freeze_vit=False) == {"language", "tower"}
        assert trained(qwen, name, freeze_aligner=False) == {"language", "aligner"}
    assert trained(qwen, "lora", lora_target_modules=("q_proj", "fc1"), freeze_vit=False) == {"language", "tower"}
    with pytest.raises(ValueError, match="fc1: only in the vision tower or projector: --freeze_vit false"):
        trained(qwen, "lora", lora_target_modules=("fc1",))
    with pytest.raises(ValueError, match="--freeze_vit false is for vision-language models; llama takes no images"):
        trained(tiny_model_folder(tmp_path / "tiny"), "lora", freeze_vit=False)


def test_pillow_missing_is_told_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(ValueError, match=r"needs the package pillow: pip install 'swift-agents\[images\]'"):
        read("data:image/png;base64,AAAA", Access(None))
