"""Image models small enough to make afresh in each test, as their folders are published. Knows nothing of swift."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from PIL import Image
from tiny import SIZES, tiny_tokenizer

MARKS = (
    *("<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<start_of_image>"),
    *("<end_of_image>", "<image_soft_token>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    *("<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
)
TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
SIGLIP = {**TOWER, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14, "vision_use_head": False}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2]}
QWEN_TEXT = {**SIZES, "model_type": "qwen2_vl_text", "rope_parameters": ROPE}
NORM = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "do_normalize": True, "do_resize": True}
SQUARE = {"height": 28, "width": 28}


class Family(NamedTuple):
    """What makes a family's folder: configuration, files of its processor, what its template writes for an image."""

    config: dict[str, Any]
    pixels: dict[str, Any]
    processor: dict[str, Any]
    shown: str
    tokens: dict[str, str] = {}  # noqa: RUF012
    images_first: bool = False


def _qwen(pixels: dict[str, Any], processor: str, **config: Any) -> Family:
    ids = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    ids |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    image = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 28 * 28, "max_pixels": 56 * 84, **NORM}
    return Family(
        {**ids, **config},
        {**image, "merge_size": 2, "temporal_patch_size": 2, **pixels},
        {"processor_class": processor},
        "<|vision_start|><|image_pad|><|vision_end|>",
    )


def _llava(of: str, pixels: dict[str, Any], processor: dict[str, Any], **config: Any) -> Family:
    tower = {**TOWER, "model_type": "clip_vision_model", "image_size": 28, "patch_size": 14, "projection_dim": 16}
    return Family(
        {
            "model_type": of,
            "vision_config": tower,
            "text_config": {**SIZES, "model_type": "llama"},
            "image_token_id": "<image>",
            "image_seq_length": 4,
            "vision_feature_layer": -1,
            **config,
        },
        {"size": {"shortest_edge": 28}, "crop_size": SQUARE, "do_center_crop": True, **NORM, **pixels},
        {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1, **processor},
        "<image>\n",
        images_first=True,
    )


def _idefics(of: str, processor: str, image: str) -> Family:
    return Family(
        {
            "model_type": of,
            "vision_config": {**TOWER, "image_size": 28, "patch_size": 14},
            "text_config": {**SIZES, "model_type": "llama"},
            "scale_factor": 2,
            "image_token_id": "<image>",
        },
        {
            "image_processor_type": image,
            "size": {"longest_edge": 56},
            "max_image_size": {"longest_edge": 28},
            "do_image_splitting": True,
            "do_pad": True,
            **NORM,
        },
        {"processor_class": processor, "image_seq_len": 1},
        "<image>",
    )


_PINS = [[28, 56], [56, 28], [56, 56]]
FAMILIES = {
    "qwen2_vl": _qwen(
        {"patch_size": 14},
        "Qwen2VLProcessor",
        model_type="qwen2_vl",
        text_config=QWEN_TEXT,
        vision_config={"depth": 2, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": _qwen(
        {"patch_size": 14},
        "Qwen2_5_VLProcessor",
        model_type="qwen2_5_vl",
        text_config={**QWEN_TEXT, "model_type": "qwen2_5_vl_text"},
        vision_config={
            **{"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32},
            "fullatt_block_indexes": [1],
        },
    ),
    "qwen3_vl": _qwen(
        {"patch_size": 14},
        "Qwen3VLProcessor",
        model_type="qwen3_vl",
        text_config={
            **SIZES,
            "model_type": "qwen3_vl_text",
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0},
        },
        vision_config={
            **{"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32},
            **{"patch_size": 14, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        },
    ),
    "llava": _llava("llava", {"image_processor_type": "CLIPImageProcessor"}, {"processor_class": "LlavaProcessor"}),
    "llava_next": _llava(
        "llava_next",
        {"image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": _PINS},
        {"processor_class": "LlavaNextProcessor"},
        image_grid_pinpoints=_PINS,
    ),
    "llava_onevision": _llava(
        "llava_onevision",
        {"image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": _PINS, "size": SQUARE},
        {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": 4, "vision_feature_select_strategy": "full"},
        image_grid_pinpoints=_PINS,
        vision_config=SIGLIP,
        vision_feature_select_strategy="full",
        video_token_id="<video>",
        vision_aspect_ratio="anyres_max_9",
    ),
    "internvl": Family(
        {
            "model_type": "internvl",
            "vision_config": {**TOWER, "image_size": [28, 28], "patch_size": [14, 14]},
            "text_config": {**SIZES, "model_type": "qwen2"},
            "image_token_id": "<IMG_CONTEXT>",
            "image_seq_length": 1,
        },
        {
            "image_processor_type": "GotOcr2ImageProcessor",
            **{"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 4},
            **NORM,
        },
        {"processor_class": "InternVLProcessor", "image_seq_length": 1},
        "<IMG_CONTEXT>\n",
        {
            **{"start_image_token": "<img>", "end_image_token": "</img>"},
            **{"context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"},
        },
    ),
    "gemma3": Family(
        {
            "model_type": "gemma3",
            "vision_config": SIGLIP,
            "text_config": {**SIZES, "model_type": "gemma3_text", "head_dim": 8, "sliding_window": 64},
            "mm_tokens_per_image": 4,
            "image_token_id": "<image_soft_token>",
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
        },
        {"image_processor_type": "Gemma3ImageProcessor", "size": SQUARE, **NORM},
        {"processor_class": "Gemma3Processor", "image_seq_length": 4},
        "<start_of_image>",
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
    "idefics3": _idefics("idefics3", "Idefics3Processor", "Idefics3ImageProcessor"),
    "smolvlm": _idefics("smolvlm", "SmolVLMProcessor", "SmolVLMImageProcessor"),
}

_TURNS = (
    "{%- for m in messages -%}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}PARTS"
    "{% endif %}<|im_end|>\n{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif %}"
)
_IN_PLACE = (
    "{% for p in m.content %}{% if p.type == 'image' %}{{ 'IMAGE' }}{% else %}{{ p.text }}{% endif %}{% endfor %}"
)
_FIRST = (
    "{% for p in m.content %}{% if p.type == 'image' %}{{ 'IMAGE' }}{% endif %}{% endfor %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
)


def chat_template(family: str) -> str:
    """ChatML with the family's text for an image, where it stands or before the texts."""
    of = FAMILIES[family]
    parts = (_FIRST if of.images_first else _IN_PLACE).replace("IMAGE", of.shown.replace("\n", "\\n"))
    return _TURNS.replace("PARTS", parts)


def tiny_image_model(path: Path, family: str) -> Path:
    """Saves a random two-layer model of the family with its tokenizer and the files of its processor."""
    torch.manual_seed(0)
    of = FAMILIES[family]
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}

    def with_ids(value: Any) -> Any:
        return tokenizer.convert_tokens_to_ids(value) if isinstance(value, str) and value in MARKS else value

    settings = {name: with_ids(value) for name, value in of.config.items()}
    text = {**settings.pop("text_config"), **ids, "vocab_size": len(tokenizer)}
    config = transformers.AutoConfig.for_model(**settings, text_config=text, tie_word_embeddings=False, **ids)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    for weights in model.parameters():  # large enough that an image decides what is said of it
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.2)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    names = path / "tokenizer_config.json"
    names.write_text(json.dumps({**json.loads(names.read_text()), **of.tokens}))
    (path / "chat_template.jinja").write_text(chat_template(family))
    (path / "preprocessor_config.json").write_text(json.dumps(of.pixels))
    (path / "processor_config.json").write_text(json.dumps(of.processor))
    return path


def png(size: tuple[int, int] = (60, 40), seed: int = 0) -> bytes:
    """A file of coloured noise."""
    noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(seed))
    file = io.BytesIO()
    Image.fromarray(noise.to(torch.uint8).numpy()).save(file, "PNG")
    return file.getvalue()
