"""How each known model is loaded: by transformers, by a converter, or with something else. Loads nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from swift.model import convert, quantise
from swift.model.catalog import ModelSpec

Kind = Literal["native", "converted", "needs a package", "remote code", "own function", "by its files", "adapter"]


class LoadingMethod(NamedTuple):
    """`needs`: packages to install in addition to SWIFT."""

    kind: Kind
    why: str
    needs: tuple[str, ...] = ()


def loading_method(spec: ModelSpec) -> LoadingMethod:
    """How a model of the catalog is loaded, and why in one sentence."""
    if spec.adapter:
        return LoadingMethod("adapter", f"a LoRA adapter that the first use merges into {spec.base}")
    if spec.model:
        return LoadingMethod("own function", f"{Path(spec.model).name} reads it")
    if not spec.arch:
        return LoadingMethod("by its files", "its config.json names its class")
    if not (spec.convert or spec.arch in native()):
        return LoadingMethod("remote code", _foreign(spec))
    if spec.quant == "own":
        return LoadingMethod("remote code", "its 4-bit weights are in a format of the model's own Python code")
    if spec.quant:
        needs = quantise.READERS.get(spec.quant, (spec.quant,))
        why = f"its {spec.quant.upper()} weights are read by {' and '.join(needs)}: pip install {' '.join(needs)}"
        return LoadingMethod("needs a package", why, needs)
    if spec.convert:
        saves = convert.families()[spec.convert].SAVES
        return LoadingMethod(
            "converted", f"swift.model.convert.{spec.convert} maps {spec.arch} onto another class. {saves}"
        )
    blind = "" if spec.modality == "text" or spec.arch in shown_images() else "; it takes only text here, no images"
    return LoadingMethod("native", f"{spec.arch} is a class of transformers{blind}")


@cache
def native() -> frozenset[str]:
    """The causal and image-text-to-text classes that transformers ships."""
    from transformers.models.auto import modeling_auto

    tables = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    names = (name for table in tables for value in table.values() for name in _names(value))
    return frozenset(names)


@cache
def shown_images() -> frozenset[str]:
    """The classes of models that can be trained and served with images."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES

    from swift.model.vision import IMAGE_MODELS

    return frozenset(name for family in IMAGE_MODELS for name in _names(NAMES[family]))


def _names(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else value


def _foreign(spec: ModelSpec) -> str:
    if spec.modality == "text":
        return f"{spec.arch} is in the model's own Python code: --trust_remote_code true, if that code still runs"
    takes = {"vision": "images", "audio": "audio"}[spec.modality]
    return (
        f"{spec.arch}, which takes {takes}, is in the model's own Python code: "
        "--trust_remote_code true runs it on text only, if that code still runs"
    )
