"""Finds the places of a row's images in its messages. Opens no image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from swift.chat import PLACE, Image, Message
from swift.data.row_values import BadRow, Row, first, kind, parsed_field, text_of
from swift.images import is_image_name

IMAGE_KEYS = ("images", "image")

_TAG = re.compile(f"<img>(.*?)</img>|(<image>)|{PLACE}")


def with_images(row: Row, turns: list[Message]) -> list[Message]:
    """Gives each image its place: `<img>path</img>`, a content part, or `<image>` for the images that the row lists.

    If no place is marked, listed images come before the first user text. Raises BadRow if the numbers differ.
    """
    listed = _listed(row)
    if not listed and not any(turn.images or "<img>" in turn.content for turn in turns if turn.role == "user"):
        return turns
    left = iter(listed)
    shown = [_placed(turn, left) if turn.role == "user" else turn for turn in turns]
    unplaced = list(left)
    if unplaced and len(unplaced) == len(listed):
        first = next(number for number, turn in enumerate(shown) if turn.role == "user")
        asked = shown[first]
        shown[first] = replace(asked, content=PLACE * len(listed) + asked.content, images=(*listed, *asked.images))
    elif unplaced:
        raise BadRow("image-count", f"the row lists {len(listed)} images, {len(unplaced)} more than it has places for")
    return shown


def _placed(turn: Message, listed: Iterator[Image]) -> Message:
    """A turn with its tags replaced by places; a place without an image takes the next listed image."""
    parts, images, done = iter(turn.images), [], 0
    content = ""
    for match in _TAG.finditer(turn.content):
        if match[1] is not None:
            image = Image(match[1]) if is_image_name(match[1]) else None
        elif match[2]:
            image = next(listed, None)
        else:
            image = next(parts, None)
            if image is not None and not (image.source or image.data):
                image = next(listed, None)
                if image is None:
                    raise BadRow("image-count", "a place has no image: the row lists too few")
        if image is None:
            continue  # literal text
        content += turn.content[done : match.start()] + PLACE
        done = match.end()
        images.append(image)
    content += turn.content[done:]
    if images and content.count(PLACE) != len(images):
        raise BadRow(
            "image-count", f"the text contains U+FFFC, which marks an image, in addition to its {len(images)} images"
        )
    return replace(turn, content=content, images=tuple(images))


def _listed(row: Row) -> list[Image]:
    key = first(row, IMAGE_KEYS)
    if key is None:
        return []
    value = row[key]
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed_field(value, key)
    return [_image(each, repr(key)) for each in (value if isinstance(value, list) else [value])]


def _image(value: Any, where: str) -> Image:
    """A path or URL, or an object with one (`url`, `path`, `image`) or with the `bytes` of a file."""
    if isinstance(value, dict):
        data, name = value.get("bytes"), next((value[key] for key in ("url", "path", "image") if value.get(key)), "")
        if isinstance(data, bytes) and data:
            return Image(str(name) or where, data)
        value = name
    if not isinstance(value, str) or not value:
        raise BadRow("bad-image", f"{where} must be paths, URLs or files, not {kind(value)}")
    return Image(value)


def content_with_images(value: Any, where: str) -> tuple[str, tuple[Image, ...]]:
    """(text with places, images) of a content; an image part without a source takes one from the row's list."""
    if not isinstance(value, list) or not any(isinstance(part, dict) and _is_image(part) for part in value):
        return text_of(value, where), ()
    content, images = "", []
    for part in value:
        if isinstance(part, dict) and _is_image(part):
            given = next((part[key] for key in ("image_url", "image", "url", "path") if part.get(key)), None)
            images.append(Image("") if given is None else _image(given, f"{where}, an image"))
            content += PLACE
        else:
            content += text_of([part], where)
    return content, tuple(images)


def _is_image(part: Row) -> bool:
    return part.get("type") in ("image", "image_url")
