"""What a user may have meant by a word or a path that names nothing. Standard library only."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

SHORTEST = 3
"""Letters from which on a word that is part of a longer name counts as meant for it."""
LEAST = 0.4
"""Share of letters in place below which two words only have letters in common."""
MARGIN = 0.25
"""How far below the cutoff difflib's ratio may be where the letters are only in another order."""


def closest(word: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """The at most `n` names most similar to `word`, best first; case, `-` and `_` make no difference.

    Besides wrong, missing, superfluous and swapped letters, the similarity knows initials (`lr` for learning_rate), and
    words that begin a name or are a part of it (`epochs` for num_train_epochs). Of equally similar names the first is
    taken. `cutoff`: between 0 and 1.
    """
    wanted = _plain(word)
    by_text: dict[str, str] = {}
    for name in known:
        by_text.setdefault(_plain(name), name)
    likely = set(difflib.get_close_matches(wanted, by_text, n=max(n, 8), cutoff=max(cutoff - MARGIN, 0.0)))
    scores = [
        (*_similarity(wanted, text), name)
        for text, name in by_text.items()
        if text in likely or _contained(wanted, text)
    ]
    best = sorted((each for each in scores if each[0] >= cutoff), key=lambda each: -each[1])  # ties: as they are known
    return [name for _, _, name in best[:n]]


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """ ": did you mean ...?" with the known word closest to `word`; empty if none is close."""
    close = closest(word, known, 1, cutoff)
    return f": did you mean {close[0]}?" if close else ""


def nearest_path(path: str | Path) -> str:
    """ ": did you mean ...?" with a similar path that exists: the first part that is missing is replaced."""
    wanted = Path(path).expanduser()
    present = wanted
    while not present.exists() and present != present.parent:
        present = present.parent
    missing = wanted.relative_to(present).parts
    if not missing or not present.is_dir():
        return ""
    try:
        names = [entry.name for entry in present.iterdir()]
    except OSError:  # a folder that may not be read
        return ""
    stem, suffix = Path(missing[0]).stem, Path(missing[0]).suffix
    # of names with the same ending only the rest is compared, which else would be similar by its ending alone
    by_stem = {Path(name).stem: name for name in names if suffix and Path(name).suffix == suffix}
    close = [by_stem[each] for each in closest(stem, by_stem)] or closest(missing[0], names, cutoff=0.75)
    if not close:
        return ""
    found = present / close[0]
    whole = found.joinpath(*missing[1:])
    return f": did you mean {whole if whole.exists() else found}?"


def _plain(word: str) -> str:
    return word.casefold().replace("-", "_")


def _contained(word: str, name: str) -> bool:
    """Whether `name` may be meant though few of its letters are typed."""
    return word in name if len(word) >= SHORTEST and "_" not in word else _abbreviated(word, name) > 0


def _abbreviated(word: str, name: str) -> float:
    """How likely `word` is a short form of `name`, 0 for none."""
    of_word, of_name = ([part for part in text.split("_") if part] for text in (word, name))
    if len(word) > 1 and len(of_name) > 1 and word == "".join(part[0] for part in of_name):
        return 0.95
    if len(word) < SHORTEST:
        return 0.0
    if name.startswith(word):
        return 0.9
    if set(of_word) <= set(of_name):
        return 0.85
    if all(any(part.startswith(short) for part in of_name) for short in of_word):
        return 0.8
    return 0.0


def _similarity(word: str, name: str) -> tuple[float, float]:
    """What must reach the cutoff, and what ranks the names that do."""
    edits = 1 - _edits(word, name) / max(len(word), len(name), 1)
    ratio = difflib.SequenceMatcher(None, word, name).ratio()
    short = _abbreviated(word, name)
    return max(edits, ratio if edits >= LEAST else 0.0, short), max((edits + ratio) / 2, short)


def _edits(one: str, other: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        earlier, before, row = before, row, [i]
        for j, wanted in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]
