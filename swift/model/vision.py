"""The families of image models that are trained and served here, and their processors. Loads no weights.

A family is here once a tiny model of it went through training, saving and serving in the tests. Others of transformers'
image models are read too, for text alone.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoImageProcessor, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

FAMILIES = {
    "qwen2_vl": "mm_token_type_ids",
    "qwen2_5_vl": "mm_token_type_ids",
    "qwen3_vl": "mm_token_type_ids",
    "llava": "",
    "llava_next": "",
    "llava_onevision": "",
    "internvl": "",
    "gemma3": "token_type_ids",
    "idefics3": "",
    "smolvlm": "",
}
"""A configuration's `model_type` -> the argument that tells the model image tokens from text; empty: it has none."""

FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def sees(model_type: str) -> bool:
    """Whether the model is read as one of text with images: here it takes them, or it has no other class."""
    known = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return model_type in FAMILIES or (known and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def processor(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The processor of an image model around its tokenizer, which gets the chat template that came with it.

    Pixels are made by Pillow whatever else is installed, so that they are the same wherever a model is trained and
    served. A part for videos, which would need torchvision, is left out.
    """
    config = AutoConfig.from_pretrained(folder)
    full: Any = PROCESSOR_MAPPING[type(config)]

    class Images(full):  # type: ignore[misc]  # which class it is, is known only now
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    parts = {"image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"), "tokenizer": tokenizer}
    settings, _ = Images.get_processor_dict(folder)
    found = Images.from_args_and_dict([parts.get(name) for name in full.get_attributes()], settings)
    tokenizer.chat_template = found.chat_template or tokenizer.chat_template
    return found


def copy_processor(source: Path, folder: Path) -> None:
    """Puts what a processor is made from, beside the tokenizer, into another folder."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
