"""Every family of image models: what it reads is what its own processor makes, alone, in a batch and as it replies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Pillow
from tiny_images import FAMILIES, png, tiny_image_model

from swift.assembly.rendering import make_renderer
from swift.chat import PLACE, Conversation, Image, Message, ToolCall
from swift.engine.sampling import SamplingParams
from swift.engine.torch_engine import TorchEngine
from swift.flag_groups import TemplateFlags
from swift.model import load, vision
from swift.template import Renderer
from swift.train.batch import collate
from swift.train.loss import output_head, score

FIRST, SECOND = Image("first", png((60, 40), 1)), Image("second", png((30, 70), 2))
ROWS = [
    (Message("user", f"{PLACE}what is it?", images=(FIRST,)), Message("assistant", "noise")),
    (Message("user", "hello there, you"), Message("assistant", "hi")),
    (
        Message("user", f"{PLACE}this", images=(SECOND,)),
        Message("assistant", "more noise"),
        Message("user", f"and {PLACE} this?", images=(FIRST,)),
        Message("assistant", "also"),
    ),
]
ROWS = [Conversation(messages) for messages in ROWS]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_image_model(tmp_path_factory.mktemp("model") / request.param, request.param)


def renderer_of(folder: Path) -> Renderer:
    return make_renderer(folder, TemplateFlags(system=""), None)


def as_parts(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """The messages as chat templates of transformers take them."""

    def part(each: str | Image) -> dict[str, Any]:
        return {"type": "text", "text": each} if isinstance(each, str) else {"type": "image"}

    return [{"role": message.role, "content": [part(each) for each in message.parts]} for message in messages]


def test_every_family_that_is_said_to_work_has_a_tiny_model_here() -> None:
    assert set(FAMILIES) == set(vision.IMAGE_MODELS)


def test_prompts_and_tensors_are_those_of_the_models_own_processor(folder: Path) -> None:
    renderer = renderer_of(folder)
    tokenizer = load.load_tokenizer(folder)
    processor: Any = load.load_processor(folder, tokenizer)
    for messages in (ROWS[0].messages[:1], ROWS[2].messages[:3]):
        text = tokenizer.apply_chat_template(as_parts(messages), tokenize=False, add_generation_prompt=True)
        images = [Pillow.open(io.BytesIO(image.data)) for image in Conversation(messages).images]
        own = processor(images=[images], text=[text], return_tensors="pt")
        prompt = renderer.prompt_tokens(messages)
        assert prompt == own["input_ids"][0].tolist()
        inputs = renderer.inputs(messages, prompt)
        assert inputs is not None
        for name, tensor in inputs.items():
            assert torch.equal(tensor, own[name]), name
    assert renderer.inputs(ROWS[1].messages, [1]) is None


def test_an_image_in_a_tool_result_reads_as_one_of_the_user_who_pastes_the_result(folder: Path) -> None:
    renderer = make_renderer(folder, TemplateFlags(system="", agent_template="hermes"), None)
    asked, call = Message("user", "look"), ToolCall("camera", "{}")
    tools = [Message("tool", f"seen {PLACE}", images=(FIRST,)), Message("tool", PLACE, images=(SECOND,))]
    given = [asked, Message("assistant", "", (call, call)), *tools]
    text = renderer.tool_format.result([message.content for message in tools])
    pasted = [asked, Message("assistant", renderer.tool_format.call("", (call, call)))]
    pasted.append(Message("user", text, images=(FIRST, SECOND)))
    prompt = renderer.prompt_tokens(given)
    assert prompt == renderer.prompt_tokens(pasted)
    inputs, those = renderer.inputs(given, prompt), renderer.inputs(pasted, prompt)
    assert inputs is not None and those is not None
    assert all(torch.equal(tensor, those[name]) for name, tensor in inputs.items())


def test_image_tokens_are_never_trained_and_replies_are(folder: Path) -> None:
    renderer = renderer_of(folder)
    for row in ROWS:
        sample = renderer.encode(row)
        trained = renderer.decode([token for token, weight in zip(*sample[:2], strict=True) if weight])
        assert trained == "".join(m.content + "<|im_end|>" for m in row.messages if m.role == "assistant")


def test_a_batch_has_the_losses_of_its_single_rows(folder: Path) -> None:
    renderer, model = renderer_of(folder), load.load_model(folder)
    samples = [renderer.encode(row) for row in ROWS]
    head = output_head(model)
    with torch.no_grad():
        together = score(model, head, collate(samples)).nll
        alone = torch.cat([score(model, head, collate([sample])).nll for sample in samples])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_the_image_changes_what_is_predicted(folder: Path) -> None:
    renderer, model = renderer_of(folder), load.load_model(folder)
    other = Image("other", png((60, 40), 3))
    rows = [ROWS[0], Conversation((Message("user", f"{PLACE}what is it?", images=(other,)), ROWS[0].messages[1]))]
    head = output_head(model)
    with torch.no_grad():
        first, second = (score(model, head, collate([renderer.encode(row)])).nll for row in rows)
    assert not torch.allclose(first, second, atol=1e-6)


def test_replies_are_those_of_transformers_whatever_is_served_concurrently(folder: Path) -> None:
    renderer, model = renderer_of(folder), load.load_model(folder)
    asked = [ROWS[0].messages[:1], ROWS[1].messages[:1], ROWS[2].messages[:3]]
    prompts = [renderer.prompt_tokens(messages) for messages in asked]
    given = [renderer.inputs(messages, prompt) for messages, prompt in zip(asked, prompts, strict=True)]
    engine = TorchEngine(model, [2])
    params = SamplingParams(temperature=0, max_tokens=12)
    replies = [engine.submit(prompt, params, inputs) for prompt, inputs in zip(prompts, given, strict=True)]
    found = [[step.token for step in steps] for steps in replies]
    again = [step.token for step in engine.submit(prompts[1] + [5] * 200, params)]  # a long text after an image
    engine.close()
    model = load.load_model(folder)
    for prompt, inputs, tokens in zip([*prompts, prompts[1] + [5] * 200], [*given, None], [*found, again], strict=True):
        made = model.generate(torch.tensor([prompt]), **(inputs or {}), max_new_tokens=12, do_sample=False)
        assert tokens == made[0, len(prompt) :].tolist()
