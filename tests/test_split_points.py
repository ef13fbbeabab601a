"""Texts tokenised word by word give the tokens of the whole, whatever the tokenizer looks like."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from swift.template import split_points
from swift.template.offset_tokenizer import LONG_WORD, OffsetTokenizer, Vocabulary
from swift.template.token_lower_bound import TokenLowerBound

TEXTS = [
    'Thought: the weather. Action: get_weather\nAction Input: {"city": "Paris", "days": 3}\nObservation: it\'s ok',
    "def f(x):\n    return x  # twice\n\n\nWE'LL see 1,234.5 of 10000 things; don't they?\r\n\tyes",
    "今天天气很好，我们去 Zürich 看看。 Ça va? naïve e\u0301 🙂",
] * 3
CL100K = (  # of Llama 3; Qwen2's differs in the digits
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HAN = "[一-龥\u0800-一゠-ヿ]+"


def _split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def _bytes(**options: Any) -> Any:
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, "use_regex": False, **options})


SPLITS = {
    "gpt2": _bytes(use_regex=True),
    "smollm2": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), _bytes(use_regex=True)]),
    "llama3": pre_tokenizers.Sequence([_split(CL100K), _bytes()]),
    "o200k": pre_tokenizers.Sequence([_split(O200K), _bytes()]),
    "deepseek": pre_tokenizers.Sequence([_split(r"\p{N}{1,3}"), _split(HAN), _split(CL100K), _bytes()]),
}
LETTERS = st.text("abzAZ19 \n\t\r.,'\"{}()_-/é\u0301中，🙂\u00a0\u3000", max_size=40)
PIECES = st.lists(st.sampled_from([*TEXTS[0].split(" "), " ", "  ", "\n", "\n\n", "<|im_end|>", "a", "1"]), max_size=12)


@cache
def _tokenizer(split: str, trim: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = SPLITS[split]
    backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator(TEXTS, trainer)
    return _named(backend)


def _sentencepiece(*more: str) -> PreTrainedTokenizerFast:
    """As Gemma's: spaces become a letter, and the text is one word."""
    letters = sorted({*"".join(TEXTS).replace(" ", "\u2581"), *"\n\u2581bz19"})
    pairs = [("t", "h"), ("\u2581", "th"), ("\u2581th", "e"), ("\u2581", "\u2581")]
    pairs += [(text[:-1], text[-1]) for word in more for text in [word[:end] for end in range(2, len(word) + 1)]]
    words = dict.fromkeys([*letters, *("".join(pair) for pair in pairs)])
    vocabulary = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(models.BPE(vocab={**vocabulary, "?": len(vocabulary)}, merges=pairs, unk_token="?"))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    return _named(backend)


def _named(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.add_special_tokens([AddedToken("<|im_end|>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _cut(tokenizer: PreTrainedTokenizerFast) -> bool:
    added = list(tokenizer.added_tokens_decoder.values())
    return split_points.words(tokenizer.backend_tokenizer, added) is not split_points.WHOLE


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=150, deadline=None)
@given(text=LETTERS | PIECES.map("".join), trim=st.booleans())
def test_words_give_the_tokens_of_the_whole_text(split, text, trim) -> None:
    tokenizer = _tokenizer(split, trim)
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    words = OffsetTokenizer(tokenizer)
    assert words.encode(text, "all") == (whole["input_ids"], [start for start, _ in whole["offset_mapping"]])
    assert words.ids(text, "all") == whole["input_ids"]


@pytest.mark.parametrize("split", SPLITS)
def test_what_the_common_tokenizers_look_like_is_cut(split) -> None:
    assert _cut(_tokenizer(split))


@pytest.mark.parametrize("split", SPLITS)
def test_words_are_cut_between_letters_digits_and_marks_where_no_token_goes_on(split) -> None:
    tokenizer = _tokenizer(split)
    added = list(tokenizer.added_tokens_decoder.values())
    assert split_points.kinds(tokenizer.backend_tokenizer, added).split('"ab12"}') == ['"ab', "12", '"}']
    assert split_points.kinds(_sentencepiece("b1").backend_tokenizer, added) is split_points.NEVER


def test_an_added_token_in_a_word_is_not_cut() -> None:
    tokenizer = _tokenizer("gpt2")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    tokenizer.add_tokens([AddedToken("<a1>", normalized=False)])
    text = 'x1<a1>"y2'
    assert OffsetTokenizer(tokenizer).ids(text, "all") == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_tokenizer_without_words_is_cut_where_no_token_goes_on() -> None:
    assert _cut(_sentencepiece())
    assert not _cut(_sentencepiece("of\u2581the"))


@pytest.mark.parametrize("given_first", [True, False])
def test_a_text_is_whole_where_its_beginning_gets_a_mark(given_first) -> None:
    tokenizer = _sentencepiece()
    scheme = normalizers.Prepend("\u2581")
    both = [scheme, normalizers.Replace(" ", "\u2581")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(both if given_first else both[::-1])
    assert not _cut(tokenizer)


def test_a_text_is_whole_where_a_token_takes_spaces_along_or_holds_them() -> None:
    for token in (AddedToken("<mask>", lstrip=True), AddedToken("of the", normalized=False)):
        tokenizer = _sentencepiece()
        tokenizer.add_tokens([token])
        assert not _cut(tokenizer)


def test_short_words_are_kept_and_forgotten_before_they_are_too_many(monkeypatch) -> None:
    monkeypatch.setattr("swift.template.offset_tokenizer.WORDS_CACHED", 3)
    backend = _tokenizer("gpt2").backend_tokenizer
    known = Vocabulary(backend)
    for word in ("a", "b", "a", "c" * (LONG_WORD + 1), "d"):
        assert known[word] == split_points.encode(backend, word)
    assert set(known) == {"a", "b", "d"}
    assert known["e"].ids and set(known) == {"e"}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    "text",
    [
        " ".join(TEXTS) * 400,
        "x" * 150_000,
        "中文" * 70_000,
        f"{TEXTS[0]} " * 900 + "=" * 140_000 + f"\n{TEXTS[1]}" * 900,
        ("word " * 3000 + "<|im_end|>\n") * 12,
    ],
    ids=["words", "one word", "no spaces", "a long word between", "marks"],
)
def test_long_texts_have_the_tokens_of_the_whole(split: str, text: str) -> None:
    tokenizer = _tokenizer(split)
    words = OffsetTokenizer(tokenizer)
    assert "".join(split_points.blocks(text)) == text
    if not words.has_special(text):
        assert words.ids(text, "none") == tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    else:
        assert words.ids(text, "none") == words.encode(text, "none").ids
    assert words.ids(text, "all") == words.encode(text, "all").ids


@pytest.mark.parametrize("split", SPLITS)
@settings(max_examples=60, deadline=None)
@given(text=(LETTERS | PIECES.map("".join)).map(lambda text: text * 20))
def test_the_bound_of_a_text_is_never_above_its_tokens(split, text) -> None:
    tokenizer = _tokenizer(split)
    assert TokenLowerBound(tokenizer)(text, 10**9) <= len(tokenizer(text).input_ids)


def test_the_bound_tells_much_of_a_long_text_and_nothing_where_parts_are_dropped() -> None:
    tokenizer = _tokenizer("gpt2")
    assert TokenLowerBound(tokenizer)("x" * 100_000, 10**9) > 1000
    assert TokenLowerBound(_sentencepiece())("x" * 100_000, 10**9) == 0, "unknown letters become one token"
