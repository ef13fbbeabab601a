"""The vision-language models that are trained and served with images, and their processors. Loads no weights.

A model type is listed once a tiny model of it passes the tests of training, saving and serving. transformers' other
vision-language models are loaded for text only.
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

IMAGE_MODELS = {
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
"""A configuration's `model_type` -> the model's argument that marks image tokens; empty if it has none."""

FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def is_image_text_model(model_type: str) -> bool:
    """Whether to load the image-text-to-text class: the model takes images here, or has no causal class."""
    known = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return model_type in IMAGE_MODELS or (known and model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def processor(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The processor of a vision-language model around its tokenizer, which gets the processor's chat template.

    Pillow computes the pixels even if torchvision is installed, so that they are the same on all machines. The video
    processor, which needs torchvision, is left out.
    """
    config = AutoConfig.from_pretrained(folder)
    full: Any = PROCESSOR_MAPPING[type(config)]

    class Images(full):  # type: ignore[misc]  # the base class is known only at run time
        @classmethod
        def get_attributes(cls) -> list[str]:
            return ["image_processor", "tokenizer"]

    parts = {"image_processor": AutoImageProcessor.from_pretrained(folder, backend="pil"), "tokenizer": tokenizer}
    settings, _ = Images.get_processor_dict(folder)
    found = Images.from_args_and_dict([parts.get(name) for name in full.get_attributes()], settings)
    tokenizer.chat_template = found.chat_template or tokenizer.chat_template
    return found


def copy_processor(source: Path, folder: Path) -> None:
    """Copies the processor's files into another folder."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
