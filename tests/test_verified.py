"""What `swift models` says is verified: each claim of verified.toml is put to the test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import published_templates
import pytest
import test_convert_baichuan
import test_convert_chatglm
import test_convert_internlm
import test_convert_minicpm
import test_convert_others
import test_convert_qwen
import test_published_formats
import test_published_templates
import torch
from dialogues import dialogues
from jinja2 import TemplateError
from original import SENTENCE, logits
from tiny_classes import tiny_checkpoint

from swift.cli import main
from swift.model import catalog, convert, load, verified
from swift.model.config_files import json_object
from swift.model.loading_methods import loading_method
from swift.template import Renderer, template

ORIGINALS: dict[str, Callable[[Path], Any]] = {
    "baichuan": partial(test_convert_baichuan.baichuan, kind="7b"),
    "baichuan_alibi": partial(test_convert_baichuan.baichuan, kind="13b"),
    "bluelm": test_convert_others.bluelm,
    "chatglm": test_convert_chatglm.chatglm,
    "deepseek": test_convert_others.deepseek,
    "internlm": partial(test_convert_internlm.llama_named, config=test_convert_internlm.FIRST),
    "internlm2": test_convert_internlm.second,
    "minicpm": test_convert_minicpm.minicpm,
    "orion": test_convert_others.orion,
    "qwen": test_convert_qwen.qwen,
    "skywork": partial(test_convert_internlm.llama_named, config=test_convert_internlm.SKYWORK),
    "xverse": test_convert_others.xverse,
}
"""Writers of tiny checkpoints in the layouts that are converted; `test_convert_*` check their logits by equations."""


@pytest.mark.parametrize("architecture", sorted(verified.classes()))
def test_a_tiny_checkpoint_of_the_class_is_read_and_computes_the_same(architecture: str, tmp_path: Path) -> None:
    original = tiny_checkpoint(tmp_path, architecture)
    assert json_object(tmp_path / "config.json")["architectures"] == [architecture]
    wanted = logits(original.float())
    assert wanted.std() > 0
    torch.testing.assert_close(logits(load.load_model(tmp_path, "fp32", "cpu")), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(verified.converters()))
def test_a_tiny_checkpoint_of_the_original_layout_is_converted(family: str, tmp_path: Path) -> None:
    ORIGINALS[family](tmp_path)
    assert convert.find(json_object(tmp_path / "config.json")) == convert.families()[family]
    found = logits(load.load_model(tmp_path, "fp32", "cpu"))
    assert found.shape[:2] == SENTENCE.shape and found.isfinite().all() and found.std() > 0


def test_the_claims_are_about_models_classes_and_converters_that_exist() -> None:
    known = catalog.table()
    assert verified.classes() <= {spec.arch for spec in known.values()}
    assert verified.converters() <= {spec.convert for spec in known.values()}
    named = [model for each in verified.templates().values() for model in each.models]
    assert set(named) <= known.keys() and len(named) == len(set(named))


def test_nothing_is_claimed_of_weights_that_no_test_reads() -> None:
    for name in ("qwen-7b-chat-int4", "yuan2-2b-instruct", "paligemma-3b-mix-224", "gpt-oss-20b", "deepseek-v3"):
        assert not verified.verified(catalog.table()[name]).weights, name
    for name, spec in catalog.table().items():
        if verified.verified(spec).weights:
            assert loading_method(spec).kind in ("native", "converted", "adapter"), name


def test_a_model_of_the_users_own_is_not_said_to_bring_a_template(tmp_path: Path) -> None:
    registry = tmp_path / "my.toml"
    registry.write_text('[models.mine]\nof = "qwen3_5-4b"\npath = "x"\n[models.odd]\npath = "x"\nmodel = "m.py:f"\n')
    own = catalog.table([str(registry)])
    assert verified.verified(own["mine"]) == verified.Verified(weights=True)
    assert str(verified.verified(own["odd"])) == "nothing"


def test_each_model_says_what_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "qwen-7b"]) == 0
    said = capsys.readouterr().out
    assert "  weights  " in said and "  nothing  " in said and "verified by tests: weights of 3" in said
    assert main(["models", "calls (harmony)"]) == 0
    assert "gpt-oss-20b" in capsys.readouterr().out


TEMPLATES = sorted(verified.templates())


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_claimed_of_a_published_template_is_what_the_tests_of_templates_show(name: str) -> None:
    each = verified.templates()[name]
    assert name in test_published_templates.NAMES
    assert not each.tools or name not in test_published_templates.NO_TOOLS
    rounds = [dialogue for dialogue in dialogues() if bool(dialogue.tools) == each.tools]
    assert 0 < each.rounds <= max(sum(message["role"] == "user" for message in each.wire) for each in rounds)
    read, renderer = test_published_formats.TEMPLATES.get(name), Renderer(published_templates.tokenizer(name), None)
    assert each.form in ("", read.format_name if read else "", renderer.format_name if each.tools else "")


def served_by_ours() -> list[tuple[str, str]]:
    """Published templates, and the templates of ours by which models that bring them are served."""
    known = catalog.table()
    pairs = {(name, known[model].template) for name in TEMPLATES for model in verified.templates()[name].models}
    return sorted(pair for pair in pairs if pair[1])


@pytest.mark.parametrize(("published", "ours"), served_by_ours())
def test_a_template_of_ours_writes_the_prompts_of_the_published_one(published: str, ours: str) -> None:
    tokenizer = published_templates.tokenizer(published)
    if ours == "llama3":  # whose own text the beginning is
        tokenizer.bos_token = "<|begin_of_text|>"
    renderer = Renderer(tokenizer, template(ours))
    compared = set()
    for dialogue in dialogues():
        if dialogue.tools or any("reasoning_content" in message for message in dialogue.wire):
            continue
        for number in dialogue.asks:
            asked = dialogue.wire[:number]
            try:
                wanted = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
            except TemplateError:  # it knows no system text
                continue
            assert renderer.prompt_tokens(dialogue.conversation.messages[:number]) == wanted, dialogue.name
            compared.add(sum(message["role"] == "user" for message in asked))
    assert max(compared) >= verified.templates()[published].rounds
