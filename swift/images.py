"""Loads images from files, data: URLs and, within limits, the network. Knows no row and no model.

Pillow is imported when the first image is loaded.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import ipaddress
import math
import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib import request
from urllib.error import URLError
from urllib.parse import unquote, unquote_to_bytes

from swift.chat import PLACE, Image, Message
from swift.system import hubs
from swift.system.atomic_write import atomic_file
from swift.system.cache import cache_root

if TYPE_CHECKING:
    from PIL.Image import Image as Picture
    from PIL.ImageFile import ImageFile

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that Pillow may detect. Others are excluded: some of them run programs."""
MAX_BYTES = 20 * 2**20
"""Size limit in bytes of a file from the network or a request."""
TIMEOUT = 10.0
"""Time limit in seconds of a download."""
ORIENTATION = 0x0112
"""The EXIF tag; for values >= 5 width and height are swapped."""


def cache_folder() -> Path:
    """The cache of downloaded training images: `$SWIFT_CACHE/images`, by default in `~/.cache/swift`."""
    return cache_root() / "images"


@dataclass(frozen=True, slots=True)
class Access:
    """The permitted sources of images.

    `folder`: base of relative paths; None: no files. `within`: reject files outside of it. `network`: "public" permits
    only public addresses. `keep`: a folder that caches downloads; None: they stay in memory.
    """

    folder: Path | None
    within: bool = False
    network: Literal["public", "any", "none"] = "public"
    keep: Path | None = None


def read(source: str, access: Access) -> Image:
    """Loads an image and checks that it can be decoded. Raises ValueError with its name and the reason."""
    scheme = source.partition(":")[0].lower()
    with _named_errors(source):
        if scheme == "data":
            image = Image(f"{source[:32]}...", _from_data_url(source))
        elif scheme in ("http", "https"):
            image = _from_network(source, access)
        else:
            image = Image(str(_file(source, access)))
        return _decodable(image)


def read_all(messages: Sequence[Message], access: Access) -> list[Message]:
    """The messages with all images loaded. Raises ValueError like `read`."""

    def found(image: Image) -> Image:
        if not image.data:
            return read(image.source, access)
        with _named_errors(image.source):
            return _decodable(image)

    return [replace(each, images=tuple(map(found, each.images))) if each.images else each for each in messages]


def is_image_name(source: str) -> bool:
    """Whether a text is a data: URL of an image, or a path or URL with the suffix of an image."""
    return source.startswith("data:image/") or source.lower().partition("?")[0].endswith(SUFFIXES)


TAG = re.compile("<img>(.*?)</img>")


def parse_tags(text: str) -> tuple[str, tuple[Image, ...]]:
    """(text with a PLACE for each `<img>path or URL</img>`, the images)."""
    found = tuple(Image(name) for name in TAG.findall(text) if is_image_name(name))
    return TAG.sub(lambda match: PLACE if is_image_name(match[1]) else match[0], text), found


def row_text(message: Message) -> str:
    """A message's content as in rows, with `<image>` for each image."""
    return message.content.replace(PLACE, "<image>") if message.images else message.content


def as_url(image: Image) -> str:
    """A URL of the image for another machine: its own, or a data: URL with its file."""
    if not image.data and image.source.startswith(("http://", "https://")):
        return image.source
    with _named_errors(image.source), _opened(image) as found:
        kind = found.get_format_mimetype() or "image"
        data = image.data or Path(image.source).read_bytes()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(image: Image, max_pixels: int | None = None) -> Picture:
    """The image in RGB, with EXIF rotation applied, scaled down to at most `max_pixels`."""
    from PIL import ImageOps

    with _named_errors(image.source), _opened(image) as found:
        upright = ImageOps.exif_transpose(found).convert("RGB")
    size = _within(upright.size, max_pixels)
    return upright if size == upright.size else upright.resize(size)


def size(image: Image, max_pixels: int | None = None) -> tuple[int, int]:
    """(width, height) of `picture`, from the file's header; a PNG may have its EXIF data at its end."""
    with _named_errors(image.source), _opened(image) as found:
        width, height = found.size
        if found.getexif().get(ORIENTATION, 1) >= 5:
            width, height = height, width
    return _within((width, height), max_pixels)


def _within(size: tuple[int, int], max_pixels: int | None) -> tuple[int, int]:
    width, height = size
    if max_pixels is None or width * height <= max_pixels:
        return size
    by = math.sqrt(max_pixels / (width * height))
    return max(1, int(width * by)), max(1, int(height * by))


def _decodable(image: Image) -> Image:
    """The image, after decoding its whole file at the cheapest size."""
    with _opened(image) as found:
        found.draft("RGB", (32, 32))
        found.load()
    return image


def _opened(image: Image) -> ImageFile:
    try:
        from PIL import Image as pillow
        from PIL import UnidentifiedImageError
    except ImportError:
        raise ValueError("needs the package pillow: pip install 'swift-agents[images]'") from None
    try:
        return pillow.open(io.BytesIO(image.data) if image.data else image.source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"not an image in a supported format ({', '.join(FORMATS)})") from None
    except pillow.DecompressionBombError as error:
        raise ValueError(str(error)) from None


@contextmanager
def _named_errors(source: str) -> Iterator[None]:
    """Turns errors of Pillow and the file system into a ValueError of one line with the image's name."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        name = source if len(source) <= 80 else source[:77] + "..."
        raise ValueError(f"image {name}: {reason or ' '.join(str(error).split())}") from None


# Sources ------------------------------------------------------------------------------------------------------------


def _file(source: str, access: Access) -> Path:
    if access.folder is None:
        raise ValueError("local files are not permitted")
    path = access.folder / Path(unquote(source[7:]) if source.startswith("file://") else source).expanduser()
    if access.within and not path.resolve().is_relative_to(access.folder.resolve()):
        raise ValueError("files outside the permitted folder are rejected")
    if not path.is_file():
        raise ValueError(f"no such file{'' if Path(source).is_absolute() else f' in {access.folder}'}")
    return path.absolute()


def _from_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise ValueError("a data: URL needs a comma before its data")
    if not head.endswith(";base64"):
        return _within_limit(unquote_to_bytes(body))
    try:
        return _within_limit(base64.b64decode("".join(unquote(body).split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from None


def _within_limit(data: bytes) -> bytes:
    if not data:
        raise ValueError("the file is empty")
    if len(data) > MAX_BYTES:
        raise ValueError(f"{len(data):,} bytes exceed the limit of {MAX_BYTES:,}")
    return data


def _from_network(url: str, access: Access) -> Image:
    if access.network == "none":
        raise ValueError("images from the network are not permitted")
    if access.keep is None:
        return Image(url, _download(url, access.network == "public"))
    file = access.keep / hashlib.sha256(url.encode()).hexdigest()
    if not file.is_file():
        data = _download(url, access.network == "public")
        with atomic_file(file) as written:
            written.write_bytes(data)
    return Image(str(file))


def _download(url: str, public: bool) -> bytes:
    if variable := hubs.offline():
        raise ValueError(f"not downloaded ({variable} is set)")
    # Only these handlers: the default opener follows redirects to ftp, and a proxy would hide the address.
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler({} if public else None),
        *((_Http(), _Https()) if public else (request.HTTPHandler(), request.HTTPSHandler())),
        *(request.HTTPRedirectHandler(), request.HTTPDefaultErrorHandler(), request.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    ends = time.monotonic() + TIMEOUT
    data = bytearray()
    try:
        asked = request.Request(url, headers={"User-Agent": "swift", "Accept": "image/*"})
        with opener.open(asked, timeout=TIMEOUT) as answer:
            while part := answer.read1(1 << 16):
                data += part
                if len(data) > MAX_BYTES:
                    raise ValueError(f"larger than the limit of {MAX_BYTES:,} bytes")
                if time.monotonic() > ends:
                    raise ValueError(f"not downloaded within {TIMEOUT:g} seconds")
    except (HTTPException, URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise ValueError(f"download failed: {reason}") from None
    return _within_limit(bytes(data))


def _refuse_private(connected: socket.socket) -> None:
    """Clients must not reach the server's private network (SSRF)."""
    address = ipaddress.ip_address(connected.getpeername()[0].partition("%")[0])
    if not address.is_global:
        raise ValueError(f"{address} is not a public address")


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_private(self.sock)


class _SecureConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _refuse_private(self.sock)


class _Http(request.HTTPHandler):
    def http_open(self, req: request.Request) -> HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(request.HTTPSHandler):
    def https_open(self, req: request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req)
