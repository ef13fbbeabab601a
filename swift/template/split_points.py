"""Where a text may be cut so that its parts, tokenised alone, give the tokens of the whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

WHOLE = re.compile(r"(?s).+")
"""Finds a text as one word."""
NEVER = re.compile(r"(?!)")
"""Finds nothing."""
_WORD = re.compile(
    r"[ \n]?[!-~]+(?= [!-~])|"  # what most are, for speed alone: the next line finds them too
    r"(?s:.)[^ \n]*(?:(?:(?<![!-~]) | (?![!-~])|(?<![A-Za-z0-9])\n|\n(?![!-~]))[^ \n]*)*"
)
"""Up to a space between two visible characters, or a newline between a letter or digit and a visible character."""
_BORDER = re.compile(r"(?<=[!-~])(?= [!-~])|(?<=[A-Za-z0-9])(?=\n[!-~])")
"""Between two of these words."""
_KIND = re.compile(
    r"(?<=[A-Za-z])(?=[0-9!-/:-@\[-`{-~])|(?<=[0-9])(?=[A-Za-z!-/:-@\[-`{-~])|(?<=[!-/:-@\[-`{-~])(?=[0-9])"
)
"""Within a word: behind letters, around digits. Not between a mark and a letter: many vocabularies have `(self`."""
LONG = 1 << 12
"""Characters of a text that is tokenised without Python's lock, so that other threads go on."""
BLOCK = 1 << 16
_PROBE = (
    "It's a test, isn't it? WE'LL see 3 of 1,234.5 (or  two   spaces)  \n\n Indented\n\ttab\n- item\nend of line \n"
    'Action: get_weather\nAction Input: {"city": "Zürich", "days": [1, 2], "note": "a\\nb"}\n\n\nObservation: \r\nok\n'
    "1\n2\nx = y  # code\n    return f(x)\n中文 and 日本語, 한국어 é e\u0301 \u0301 🙂 🙂🙂\u00a0nbsp \u3000wide\nA\n "
)  # every kind of neighbour that a cut can have


class Encoded(NamedTuple):
    """Token ids, and where in the text each begins (in characters)."""

    ids: list[int]
    starts: list[int]


def encode(backend: Tokenizer, text: str) -> Encoded:
    if len(text) < LONG:
        encoding = backend.encode(text, add_special_tokens=False)
    else:
        encoding = backend.encode_batch([text], add_special_tokens=False)[0]  # `encode` alone keeps the lock
    return Encoded(encoding.ids, [start for start, _ in encoding.offsets])


def ids(backend: Tokenizer, text: str) -> list[int]:
    """The tokens alone, which takes less time; without Python's lock."""
    found: list[int] = backend.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return found


def blocks(text: str) -> Iterator[str]:
    """The text in parts of whole words, each of about BLOCK characters where there are words at all."""
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
    """The tokens of `texts` one behind the other, of which `parts` are each by itself."""
    begins = accumulate(map(len, texts), initial=0)
    starts = [begin + start for begin, part in zip(begins, parts, strict=False) for start in part.starts]
    return Encoded([token for part in parts for token in part.ids], starts)


def special_tokens(backend: Tokenizer, added: Sequence[AddedToken]) -> list[str]:
    """Tokens before and behind which a text can be cut: all that are found before a text is normalised.

    None of them where one takes spaces beside it along, or where a text's beginning gets a mark of its own.
    """
    whole = [token.content for token in added if not token.normalized]
    apart = whole and not any(map(_takes_more, added))
    if not (apart and _ids(backend, f"{whole[0]}a") == _ids(backend, whole[0]) + _ids(backend, "a")):
        return []
    return whole


def words(backend: Tokenizer, added: Sequence[AddedToken]) -> re.Pattern[str]:
    """A pattern that finds the words of a text, joined the whole of it; each can be tokenised alone.

    They end where no token of the vocabulary goes on: what is merged on one side of such a place does not depend on
    the other (Sennrich et al. 2016, arXiv 1508.07909). A text of many kinds is tokenised both ways to see that
    nothing else of the tokenizer looks beyond. WHOLE, where words cannot be told.
    """
    if getattr(backend.model, "dropout", None) or any(map(_takes_more, added)):
        return WHOLE
    space, newline = _written(backend, " "), _written(backend, "\n")
    own = {token.content for token in added}
    if not (space and newline) or any(map(_goes_on(" ", "\n").search, own)):
        return WHOLE
    if any(map(_goes_on(space, newline).search, backend.get_vocab().keys() - own)):
        return WHOLE
    parts = _WORD.findall(_PROBE)
    return _WORD if join(parts, [encode(backend, part) for part in parts]) == encode(backend, _PROBE) else WHOLE


def kinds(backend: Tokenizer, added: Sequence[AddedToken]) -> re.Pattern[str]:
    """A pattern that finds where words can be cut once more, between letters, digits and marks.

    For tokenizers of which `words` finds words, and words that hold no added token; held to the same conditions.
    NEVER, where such places cannot be told.
    """
    vocabulary = "\n".join(backend.get_vocab().keys() - {token.content for token in added})
    parts = _KIND.split(_PROBE)
    same = join(parts, [encode(backend, part) for part in parts]) == encode(backend, _PROBE)
    return _KIND if same and not _KIND.search(vocabulary) else NEVER


def _goes_on(space: str, newline: str) -> re.Pattern[str]:
    """Finds a token that lies on both sides of where a word ends."""
    return re.compile(rf"[!-~]{re.escape(space)}[!-~]|[A-Za-z0-9]{re.escape(newline)}")


def _written(backend: Tokenizer, between: str) -> str:
    """How tokens write a character that stands between letters; "": not to be seen."""
    found = re.search("a([^a]+)a$", "".join(backend.encode(f"a{between}a", add_special_tokens=False).tokens))
    return found[1] if found else ""


def _takes_more(token: AddedToken) -> bool:
    return bool(token.lstrip or token.rstrip or token.single_word)


def _ids(backend: Tokenizer, text: str) -> list[int]:
    return encode(backend, text).ids
