"""A folder's `tokenizer.json` -> a fast tokenizer that follows the file. Knows no family.

transformers builds the class that tokenizer_config.json names, and its Llama class silently replaces the file's
pipeline by SentencePiece's: text of a byte-level vocabulary (DeepSeek's) would lose its spaces.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from swift.model.convert import _sentencepiece

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


def overridden(folder: Path) -> bool:
    """Whether transformers would replace the pipeline of tokenizer.json by its own."""
    named = _sentencepiece.json_object(folder / "tokenizer_config.json").get("tokenizer_class")
    return str(named).startswith("Llama") and (folder / "tokenizer.json").is_file()


def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Reads tokenizer.json. Raises ValueError if it is missing or damaged."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    try:
        fast = Tokenizer.from_str(json.dumps(_repaired(_sentencepiece.json_object(file))))
    except ValueError:
        raise
    except Exception as error:  # the Rust library raises nothing narrower
        raise ValueError(f"{file}: damaged, or of a kind that cannot be read ({error})") from None
    for text, index in sorted(_sentencepiece.added_tokens(folder).items(), key=lambda token: token[1]):
        if fast.token_to_id(text) is None:
            fast.add_special_tokens([AddedToken(text, normalized=False, special=True)])
        if (got := fast.token_to_id(text)) != index:
            raise ValueError(f"{folder}: the token {text} should have id {index}, but gets {got}")
    files = ("special_tokens_map.json", "tokenizer_config.json")
    settings = {key: value for name in files for key, value in _sentencepiece.json_object(folder / name).items()}
    marks = {name: text for name in NAMES if (text := _text(settings.get(name)))}
    fast.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in marks.values()])
    _surround(fast, settings, marks)
    return _sentencepiece.wrap(fast, settings, marks)


def _surround(fast: Tokenizer, settings: dict[str, Any], marks: dict[str, str]) -> None:
    """Adds the BOS and EOS tokens that tokenizer_config.json asks for, in place of the file's own."""
    if not {"add_bos_token", "add_eos_token"} & settings.keys():
        return
    begin = marks.get("bos_token", "") if settings.get("add_bos_token") else ""
    end = marks.get("eos_token", "") if settings.get("add_eos_token") else ""
    single = " ".join(part for part in (begin, "$A", end) if part)
    ids = [(mark, fast.token_to_id(mark)) for mark in dict.fromkeys((begin, end)) if mark]
    fast.post_processor = processors.TemplateProcessing(single=single, pair=f"{single} $B", special_tokens=ids)


def _repaired(state: Any) -> Any:
    """Metaspace in the format before tokenizers 0.15, with `add_prefix_space` in place of `prepend_scheme`."""
    if isinstance(state, list):
        return [_repaired(part) for part in state]
    if not isinstance(state, dict):
        return state
    if state.get("type") == "Metaspace" and "add_prefix_space" in state:
        scheme = state.get("prepend_scheme") or ("always" if state["add_prefix_space"] else "never")
        rest = {key: value for key, value in state.items() if key not in ("add_prefix_space", "str_rep")}
        return {**rest, "prepend_scheme": scheme}
    return {key: value if key in ("vocab", "merges") else _repaired(value) for key, value in state.items()}


def _text(token: object) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")
