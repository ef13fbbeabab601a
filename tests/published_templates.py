"""The chat templates that models were published with, and a small tokenizer that has their special tokens.

The files come with the trl package, a dependency of the tests. Those made for training alone are left out.
"""

from __future__ import annotations

import re
from contextlib import redirect_stderr
from functools import cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from jinja2 import nodes
from tiny import tiny_model_folder, tiny_tokenizer
from tokenizers import AddedToken
from transformers.utils.chat_template_utils import _compile_jinja_template


@cache
def templates() -> dict[str, str]:
    """File stem -> source of each published template."""
    found = find_spec("trl")
    assert found and found.origin, "the tests need trl: pip install --no-deps trl"
    files = sorted((Path(found.origin).parent / "chat_templates").glob("*.jinja"))
    return {file.stem: file.read_text(encoding="utf-8") for file in files if not file.stem.endswith("_training")}


TOKEN = re.compile(
    r"<\|[^<>|\s'\"]{1,40}\|>|<[｜|][^<>\s'\"]{1,40}[｜|]?>|<[a-z_]{2,30}\|>|\[/?[A-Z_]{3,30}\]|\[gMASK\]"
    r"|<(?:start|end)_of_[a-z_]+>|</?(?:s|sop|eop|think|tool_call|tool_response|image|fake_token_around_image)>"
)
"""What looks like a token of its own in the text that a template writes."""
PLAIN_WORDS = re.compile(r"</?(?:think|tool_call|tool_response)>")
"""Those of them that are no special tokens, as in the tokenizers of their models."""
ENDS = {
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
    "deepseekv3": "<｜end▁of▁sentence｜>",
    "glm4moe": "<|endoftext|>",
    "gptoss": "<|return|>",
    "gemma": "<eos>",
    "gemma3": "<eos>",
    "phi3": "<|endoftext|>",
    "phi3_5": "<|endoftext|>",
}
"""The eos_token of tokenizers that have another than the one which ends their turns, or that no text here names."""


def tokenizer(name: str) -> Any:
    """A byte tokenizer with the template called `name` and the special tokens that stand in it."""
    source = templates()[name]
    constants = [
        str(node.value)
        for node in _compile_jinja_template(source).environment.parse(source).find_all(nodes.Const)
        if isinstance(node.value, str)
    ]
    constants += [
        str(node.data)
        for node in _compile_jinja_template(source).environment.parse(source).find_all(nodes.TemplateData)
    ]
    words = sorted({word for text in constants for word in TOKEN.findall(text)})
    made = tiny_tokenizer()
    eos = ENDS.get(
        name, next((word for word in ("<|im_end|>", "<|eot_id|>", "<turn|>", "<|eot|>") if word in words), "</s>")
    )
    words = sorted({*words, eos, "<bos>"})
    made.add_tokens([AddedToken(word, special=not PLAIN_WORDS.fullmatch(word), normalized=False) for word in words])
    made.eos_token, made.bos_token = eos, "<bos>"
    made.chat_template = source
    return made


def model_folder(root: Path, name: str) -> str:
    """The folder under `root` of a tiny model whose tokenizer has the template called `name`."""
    if not (root / name).exists():
        with redirect_stderr(StringIO()):  # where transformers shows its progress
            tiny_model_folder(root / name)
        tokenizer(name).save_pretrained(root / name)
    return str(root / name)
