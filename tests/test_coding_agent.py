"""Requests of a coding agent's shape: each turn sends the whole dialogue, and the server computes what is new."""

from __future__ import annotations

from collections.abc import Iterator

import coding_agent
import pytest
import torch
from test_server_load import running
from tiny import tiny_model_folder, tiny_tokenizer
from transformers import LlamaForCausalLM

from swift.engine.torch_engine import TorchEngine
from swift.infer.local_chat import LocalChat
from swift.serve.server import create_app
from swift.template import Renderer, template

WORDS = 1350  # 8,000 tokens of one byte
BLOCK = 64
"""More than the tokens of a block of the prefix cache and of the beginning of a reply."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    threads = torch.get_num_threads()
    folder = tiny_model_folder(tmp_path_factory.mktemp("model"), max_position_embeddings=32768)
    torch.set_num_threads(1)
    engine = TorchEngine(LlamaForCausalLM.from_pretrained(folder), [2])
    chat = LocalChat(engine, Renderer(tiny_tokenizer(), template("chatml"), "hermes"))
    with running(create_app(chat, "tiny", guide=chat.guide)) as url:
        yield url
    engine.close()
    torch.set_num_threads(threads)


def test_each_turn_computes_its_new_messages_alone(url: str) -> None:
    first, second, third = coding_agent.turns(url, "chat completions", "tiny", WORDS, "one")
    assert first.prompt > 8000 and first.cached < BLOCK
    assert first.prompt - BLOCK < second.cached <= first.prompt
    assert second.prompt - BLOCK < third.cached <= second.prompt < third.prompt


def test_the_apis_share_their_prefixes(url: str) -> None:
    messages = coding_agent.turns(url, "messages", "tiny", 100, "two")
    chat = coding_agent.turns(url, "chat completions", "tiny", 100, "two")
    assert messages[1].cached > messages[0].prompt - BLOCK and messages[2].cached > messages[1].prompt - BLOCK
    for earlier, later in zip(messages, chat, strict=True):
        assert later.prompt == earlier.prompt
        assert later.prompt - BLOCK < later.cached < later.prompt
