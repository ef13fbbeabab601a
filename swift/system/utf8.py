"""Text with lone surrogates, which UTF-8 cannot encode, at input and output. Standard library only.

Python decodes a byte that is not UTF-8 to a lone surrogate; JSON and YAML can contain one as an escape. Tokenizers and
files accept none, so inputs replace or refuse them.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

REPLACEMENT = "\ufffd"
READ = ("SWIFT_", "MODELSCOPE_", "HF_", "TMPDIR", "CXX", "NPROC_PER_NODE", "NNODES")
"""Prefixes of the environment variables that are checked."""
_ESCAPE = "swift.escape"


def is_encodable(text: str) -> bool:
    """Whether UTF-8 can encode `text`."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def replace_surrogates(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate; a pair of surrogates becomes its character."""
    return text if is_encodable(text) else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decoded(data: bytes) -> str:
    """A file's bytes as text, without a byte order mark. Raises ValueError with the line of an invalid byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ValueError(
            f"'utf-8' codec can't decode byte 0x{byte:02x} in line {line}: save the file as UTF-8"
        ) from None


def read(file: Path) -> str:
    """The content of a text file. Raises ValueError, without the file's name, for bytes that are not UTF-8."""
    return decoded(file.read_bytes())


def check_words(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Raises ValueError for a word of the command line, or an environment variable, that is not UTF-8."""
    for before, word in zip(["", *argv], argv, strict=False):
        if not is_encodable(word):
            flag = f"{before} " if before.startswith("--") and "=" not in before else ""
            raise ValueError(
                f"{flag}{replace_surrogates(word)}: not UTF-8: type it in a UTF-8 locale, or rename the file"
            )
    for name, value in environ.items():
        if name.startswith(READ) and not is_encodable(value):
            raise ValueError(f"environment variable {name}: its value is not UTF-8")  # not shown: it may be a secret


def escape_unencodable(stream: TextIO) -> None:
    r"""Makes a stream write \uXXXX for characters that its encoding lacks, instead of failing."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors != _ESCAPE:
        stream.reconfigure(errors=_ESCAPE)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)), error.end


codecs.register_error(_ESCAPE, _escaped)
