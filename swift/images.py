"""What somebody calls an image -> a picture: files, data: URLs, the network within limits. Knows no row and no model.

Pillow is imported when the first image is met.
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

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What Pillow may take a file for; it knows others, some of which run programs."""
LARGEST = 20 * 2**20
"""Bytes of a file from the network or a request."""
PATIENCE = 10.0
"""Seconds that fetching one may take."""
ORIENTATION = 0x0112
"""EXIF's tag; from 5 on, width and height are exchanged."""


def kept() -> Path:
    """Where images that training rows name by URL are kept: `$SWIFT_CACHE/images`, or in `~/.cache/swift`."""
    return cache_root() / "images"


@dataclass(frozen=True, slots=True)
class Access:
    """Where images may come from.

    Relative paths begin at `folder`; None: no files. With `within`, files outside of it are refused. `keep` is a
    folder for what was fetched; None: it stays in memory.
    """

    folder: Path | None
    within: bool = False
    network: Literal["public", "any", "none"] = "public"
    keep: Path | None = None


def read(source: str, access: Access) -> Image:
    """An image that can be opened. Raises ValueError that names it and says what is wrong."""
    scheme = source.partition(":")[0].lower()
    with _named(source):
        if scheme == "data":
            image = Image(f"{source[:32]}...", _decoded(source))
        elif scheme in ("http", "https"):
            image = _fetched(source, access)
        else:
            image = Image(str(_file(source, access)))
        return _whole(image)


def read_all(messages: Sequence[Message], access: Access) -> list[Message]:
    """The messages with images that can be opened in place of what they are called."""

    def found(image: Image) -> Image:
        if not image.data:
            return read(image.source, access)
        with _named(image.source):
            return _whole(image)

    return [replace(each, images=tuple(map(found, each.images))) if each.images else each for each in messages]


def looks_like_one(source: str) -> bool:
    """Whether a text is a data: URL, or a path or URL that ends as image files do."""
    return source.startswith("data:image/") or source.lower().partition("?")[0].endswith(SUFFIXES)


TAG = re.compile("<img>(.*?)</img>")


def tagged(text: str) -> tuple[str, tuple[Image, ...]]:
    """A text with places where it has `<img>path or URL</img>`, and the images that stand there."""
    found = tuple(Image(name) for name in TAG.findall(text) if looks_like_one(name))
    return TAG.sub(lambda match: PLACE if looks_like_one(match[1]) else match[0], text), found


def told(message: Message) -> str:
    """A message's text as rows write it: `<image>` for each of its images."""
    return message.content.replace(PLACE, "<image>") if message.images else message.content


def as_url(image: Image) -> str:
    """What shows the image to another machine: its URL, or a data: URL that holds its file."""
    if not image.data and image.source.startswith(("http://", "https://")):
        return image.source
    with _named(image.source), _opened(image) as found:
        kind = found.get_format_mimetype() or "image"
        data = image.data or Path(image.source).read_bytes()
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture(image: Image, max_pixels: int | None = None) -> Picture:
    """The pixels, RGB and upright, made smaller where they are more than `max_pixels`."""
    from PIL import ImageOps

    with _named(image.source), _opened(image) as found:
        upright = ImageOps.exif_transpose(found).convert("RGB")
    size = _within(upright.size, max_pixels)
    return upright if size == upright.size else upright.resize(size)


def size(image: Image, max_pixels: int | None = None) -> tuple[int, int]:
    """Width and height of `picture`, from the file's header; PNG may say at its end only how it is turned."""
    with _named(image.source), _opened(image) as found:
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


def _whole(image: Image) -> Image:
    """The image, once its file was read to the end, at the size that is cheapest to decode."""
    with _opened(image) as found:
        found.draft("RGB", (32, 32))
        found.load()
    return image


def _opened(image: Image) -> Picture:
    try:
        from PIL import Image as pillow
        from PIL import UnidentifiedImageError
    except ImportError:
        raise ValueError("it needs the package pillow: pip install -e '.[images]'") from None
    try:
        return pillow.open(io.BytesIO(image.data) if image.data else image.source, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"no image of a known kind ({', '.join(FORMATS)})") from None
    except pillow.DecompressionBombError as error:
        raise ValueError(str(error)) from None


@contextmanager
def _named(source: str) -> Iterator[None]:
    """What Pillow and the file system say within, as one line about the image."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        name = source if len(source) <= 80 else source[:77] + "..."
        raise ValueError(f"image {name}: {reason or ' '.join(str(error).split())}") from None


# Where they come from -------------------------------------------------------------------------------------------------


def _file(source: str, access: Access) -> Path:
    if access.folder is None:
        raise ValueError("files of this machine are not served")
    path = access.folder / Path(unquote(source[7:]) if source.startswith("file://") else source).expanduser()
    if access.within and not path.resolve().is_relative_to(access.folder.resolve()):
        raise ValueError("files outside the folder that is served are refused")
    if not path.is_file():
        raise ValueError(f"there is no such file{'' if Path(source).is_absolute() else f' in {access.folder}'}")
    return path.absolute()


def _decoded(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise ValueError("a data: URL has a comma before its data")
    if not head.endswith(";base64"):
        return _small(unquote_to_bytes(body))
    try:
        return _small(base64.b64decode("".join(unquote(body).split()), validate=True))
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"not base64: {error}") from None


def _small(data: bytes) -> bytes:
    if not data:
        raise ValueError("it is empty")
    if len(data) > LARGEST:
        raise ValueError(f"{len(data):,} bytes are more than {LARGEST:,}")
    return data


def _fetched(url: str, access: Access) -> Image:
    if access.network == "none":
        raise ValueError("images are not fetched from the network")
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
        raise ValueError(f"not fetched ({variable} is set)")
    # Only these: the usual opener would follow a redirect to ftp, and a proxy would hide whom it reaches.
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler({} if public else None),
        *((_Http(), _Https()) if public else (request.HTTPHandler(), request.HTTPSHandler())),
        *(request.HTTPRedirectHandler(), request.HTTPDefaultErrorHandler(), request.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    ends = time.monotonic() + PATIENCE
    data = bytearray()
    try:
        asked = request.Request(url, headers={"User-Agent": "swift", "Accept": "image/*"})
        with opener.open(asked, timeout=PATIENCE) as answer:
            while part := answer.read1(1 << 16):
                data += part
                if len(data) > LARGEST:
                    raise ValueError(f"it is larger than {LARGEST:,} bytes")
                if time.monotonic() > ends:
                    raise ValueError(f"not fetched within {PATIENCE:g} seconds")
    except (HTTPException, URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise ValueError(f"not fetched: {reason}") from None
    return _small(bytes(data))


def _refuse_private(connected: socket.socket) -> None:
    """A client must not read, through this server, what only its own network sees."""
    address = ipaddress.ip_address(connected.getpeername()[0].partition("%")[0])
    if not address.is_global:
        raise ValueError(f"{address} is no public address")


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
