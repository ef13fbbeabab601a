"""Images -> placeholder text and tensors, by transformers' processor. Does not import torch.

The number of tokens of an image follows from the image sizes of a dialogue, so rows are counted without pixels. The
pixels are computed whenever a batch needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from swift import images
from swift.chat import Image

OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets")


class ImageProcessor:
    """A model's processor for the Renderer.

    `kinds`: the model's argument for token types (image or text), "" if it has none. Images of more than `max_pixels`
    are scaled down.
    """

    def __init__(self, processor: Any, kinds: str = "", max_pixels: int | None = None) -> None:
        self.mark: str = processor.image_token
        self.max_pixels = max_pixels
        self._processor = processor
        self._kinds = kinds
        self._stand_ins = lru_cache(maxsize=4096)(self._count)

    def texts(self, shown: Sequence[Image]) -> tuple[str, ...]:
        """The placeholder text of each image of a dialogue: its image tokens and the text around them."""
        return self._stand_ins(tuple(images.size(image, self.max_pixels) for image in shown))

    def inputs(self, shown: Sequence[Image], tokens: Sequence[int]) -> dict[str, Any]:
        """The image tensors for the prompt `tokens`."""
        made = self._process([images.picture(image, self.max_pixels) for image in shown])
        unused = {*OF_TEXT, *self._processor.unused_input_names}
        tensors = {name: value for name, value in made.items() if name not in unused}
        if self._kinds:
            kinds = self._processor.create_mm_token_type_ids([list(tokens)])
            tensors[self._kinds] = type(made["input_ids"])(kinds)
        return tensors

    def _count(self, sizes: tuple[tuple[int, int], ...]) -> tuple[str, ...]:
        from PIL import Image as pillow

        made = self._process([pillow.new("RGB", size) for size in sizes])
        return tuple(each["replacement"] for each in made["text_replacement_offsets"][0])

    def _process(self, pictures: list[Any]) -> Any:
        text = self.mark * len(pictures)
        return self._processor(
            images=[pictures], text=[text], return_text_replacement_offsets=True, return_tensors="pt"
        )
