"""Finds points at which a text can be split so that its parts have the tokens of the whole. Knows no template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

WHOLE = re.compile(r"(?s).+")
"""Matches a whole text."""
NEVER = re.compile(r"(?!)")
"""Never matches."""
_WORD = re.compile(
    r"[ \n]?[!-~]+(?= [!-~])|"  # most words; only for speed: the next line matches them too
    r"(?s:.)[^ \n]*(?:(?:(?<![!-~]) | (?![!-~])|(?<![A-Za-z0-9])\n|\n(?![!-~]))[^ \n]*)*"
)
"""A word: up to a space between two visible characters, or a newline between an alphanumeric and a visible one."""
_BORDER = re.compile(r"(?<=[!-~])(?= [!-~])|(?<=[A-Za-z0-9])(?=\n[!-~])")
"""Matches between two words."""
_KIND = re.compile(
    r"(?<=[A-Za-z])(?=[0-9!-/:-@\[-`{-~])|(?<=[0-9])(?=[A-Za-z!-/:-@\[-`{-~])|(?<=[!-/:-@\[-`{-~])(?=[0-9])"
)
"""Matches within a word: after letters, around digits. Not between punctuation and a letter, as in `(self`."""
LONG = 1 << 12
"""Texts of at least this many characters are tokenised without the GIL."""
BLOCK = 1 << 16
_PROBE = (
    "It's a test, isn't it? WE'LL see 3 of 1,234.5 (or  two   spaces)  \n\n Indented\n\ttab\n- item\nend of line \n"
    'Action: get_weather\nAction Input: {"city": "Zürich", "days": [1, 2], "note": "a\\nb"}\n\n\nObservation: \r\nok\n'
    "1\n2\nx = y  # code\n    return f(x)\n中文 and 日本語, 한국어 é e\u0301 \u0301 🙂 🙂🙂\u00a0nbsp \u3000wide\nA\n "
)  # covers all kinds of neighbours of a split point


class Encoded(NamedTuple):
    """Token ids, and the character offset at which each starts."""

    ids: list[int]
    starts: list[int]


def encode(backend: Tokenizer, text: str) -> Encoded:
    if len(text) < LONG:
        encoding = backend.encode(text, add_special_tokens=False)
    else:
        encoding = backend.encode_batch([text], add_special_tokens=False)[0]  # `encode` holds the GIL
    return Encoded(encoding.ids, [start for start, _ in encoding.offsets])


def ids(backend: Tokenizer, text: str) -> list[int]:
    """Only the token ids, which is faster. Releases the GIL."""
    found: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return found


def blocks(text: str) -> Iterator[str]:
    """Splits a text at words into blocks of about BLOCK characters."""
    start, at = 0, BLOCK
    while at < len(text):
        if border := _BORDER.search(text, at, at + LONG):
            yield text[start : border.start()]
            start = border.start()
            at = start + BLOCK
        else:
            at += LONG
    yield text[start:]


def join(texts: Sequence[str], parts: Sequence[Encoded]) -> Encoded:
    """The concatenation of `parts`, the encodings of `texts`."""
    begins = accumulate(map(len, texts), initial=0)
    starts = [begin + start for begin, part in zip(begins, parts, strict=False) for start in part.starts]
    return Encoded([token for part in parts for token in part.ids], starts)


def special_tokens(backend: Tokenizer, added: Sequence[AddedToken]) -> list[str]:
    """The special tokens around which a text can be split: all that are matched before normalisation.

    Empty if one of them also strips spaces, or if the tokenizer prepends a character to texts.
    """
    whole = [token.content for token in added if not token.normalized]
    apart = whole and not any(map(_strips_spaces, added))
    if not (apart and _ids(backend, f"{whole[0]}a") == _ids(backend, whole[0]) + _ids(backend, "a")):
        return []
    return whole


def words(backend: Tokenizer, added: Sequence[AddedToken]) -> re.Pattern[str]:
    """A pattern that splits a text into words which can be tokenised separately; WHOLE if there is none.

    Words end where no token of the vocabulary continues: BPE merges on one side of such a point do not depend on the
    other side (Sennrich et al. 2016, arXiv 1508.07909). A test text is tokenised both ways, to check that no other
    part of the tokenizer looks across.
    """
    if getattr(backend.model, "dropout", None) or any(map(_strips_spaces, added)):
        return WHOLE
    space, newline = _token_text(backend, " "), _token_text(backend, "\n")
    own = {token.content for token in added}
    if not (space and newline) or any(map(_crosses(" ", "\n").search, own)):
        return WHOLE
    if any(map(_crosses(space, newline).search, backend.get_vocab().keys() - own)):
        return WHOLE
    parts = _WORD.findall(_PROBE)
    return _WORD if join(parts, [encode(backend, part) for part in parts]) == encode(backend, _PROBE) else WHOLE


def kinds(backend: Tokenizer, added: Sequence[AddedToken]) -> re.Pattern[str]:
    """A pattern that splits words further, between letters, digits and punctuation; NEVER if that is not possible.

    For tokenizers that `words` can split, and words without added tokens. The same conditions apply.
    """
    vocabulary = "\n".join(backend.get_vocab().keys() - {token.content for token in added})
    parts = _KIND.split(_PROBE)
    same = join(parts, [encode(backend, part) for part in parts]) == encode(backend, _PROBE)
    return _KIND if same and not _KIND.search(vocabulary) else NEVER


def _crosses(space: str, newline: str) -> re.Pattern[str]:
    """Matches a token that crosses the end of a word."""
    return re.compile(rf"[!-~]{re.escape(space)}[!-~]|[A-Za-z0-9]{re.escape(newline)}")


def _token_text(backend: Tokenizer, between: str) -> str:
    """The text of a character between letters in tokens; "" if it cannot be determined."""
    found = re.search("a([^a]+)a$", "".join(backend.encode(f"a{between}a", add_special_tokens=False).tokens))
    return found[1] if found else ""


def _strips_spaces(token: AddedToken) -> bool:
    return bool(token.lstrip or token.rstrip or token.single_word)


def _ids(backend: Tokenizer, text: str) -> list[int]:
    return encode(backend, text).ids
