"""Flags of the conversations that SWIFT makes itself. Does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

from swift.flags import flag


def _check_shares(group: object, names: Sequence[str]) -> None:
    for name in names:
        if not 0 <= (value := vars(group)[name]) <= 1:
            raise ValueError(f"--{name} {value:g}: must be a share from 0 to 1")


@dataclass(frozen=True)
class MaskingFlags:
    """Names and descriptions of the catalogue's functions"""

    masked_names: float = 0.12
    """Share of conversations whose function names say nothing, so that descriptions have to be read"""
    masked_parameters: float = 0.08
    """Share of conversations whose parameter names say nothing"""
    short_descriptions: float = 0.2
    """Share of conversations with the first sentence of each description only"""
    bare_parameters: float = 0.12
    """Share of conversations without descriptions of parameters"""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        _check_shares(self, [each.name for each in fields(self)])


@dataclass(frozen=True)
class SynthFlags:
    """Synthesis"""

    rows: int = flag(2000, alias=("n",))
    """Number of conversations"""
    own_share: float = 0.6
    """Share of the conversations with your tools; the others use the catalogue's"""
    kinds: dict[str, float] = flag({})
    """Shares of the kinds of rounds, as JSON: {"one": 0.3, "no_tool": 0.2}; kinds that are left out keep theirs"""
    one_round_share: float = 0.5
    """Share of conversations with one round only; the others have 2 to --max_rounds"""
    max_rounds: int = 5
    """Maximum rounds in a conversation. Further rounds with the same tools cost few tokens"""
    same_tools: int = 1
    """Conversations in a row that offer the same functions in the same way. `swift sft --group_by_prefix true` computes
    what they have in common once, so an hour of training sees more of them"""
    direct_questions: float = 0.35
    """Share of the English rounds of the catalogue's functions whose questions say every value in full, such as "with
    base = 10 and height = 5", instead of the questions written by hand; for rounds that begin with a request"""
    chinese: float = 0.12
    """Share of conversations in Chinese, of functions that have Chinese questions"""
    text_share: float = 0.1
    """Share of conversations in ReAct text with the tools in the system prompt, as in the tutorial; the others pass
    tools and calls as values, for every tool-call format"""
    thoughts: float = 0.0
    """Share of the other conversations whose replies begin with a thought, for ReAct formats"""
    max_tools_offered: int = 16
    """Maximum functions of the catalogue in a conversation"""
    masking: MaskingFlags = MaskingFlags()
    functions: Literal["train", "held_out"] = "train"
    """Functions of the catalogue to use: held_out are those of domains that are never trained on, for evaluation"""
    catalogue: tuple[str, ...] = flag(("swift",), commas=True)
    """Catalogues of functions: swift, and botocore or google-api-python-client where that package is installed, whose
    service descriptions are read for names, types and choices; the sentences are SWIFT's"""
    services: tuple[str, ...] = flag((), commas=True)
    """Services of botocore and google-api-python-client, such as s3 or calendar; none takes about twenty common ones"""
    service_functions: int = 40
    """Most functions of each service"""
    phrasings: Literal["all", "train", "held_out"] = "all"
    """Questions for your tools: all, those for training, or the fifth that these leave out, for evaluation: a round
    each, in which only the first reply is asked for"""
    check_overlap: tuple[str, ...] = flag((), commas=True)
    """Files of rows that no conversation may repeat, beside the installed benchmarks, which are always checked"""
    examples: str | None = None
    """JSON lines with your own phrasings: {"tool": ..., "question": ..., "arguments": {...}}"""
    seed: int = 42
    """Seed of everything that is drawn"""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range."""
        if self.rows < 1:
            raise ValueError(f"--rows {self.rows}: must be 1 or more")
        if self.max_tools_offered < 1:
            raise ValueError(f"--max_tools_offered {self.max_tools_offered}: must be 1 or more")
        if self.same_tools < 1:
            raise ValueError(f"--same_tools {self.same_tools}: must be 1 or more")
        if self.max_rounds < 1:
            raise ValueError(f"--max_rounds {self.max_rounds}: must be 1 or more")
        if self.max_rounds == 1 and self.one_round_share != SynthFlags.one_round_share:
            raise ValueError(f"--one_round_share {self.one_round_share:g} has no effect with --max_rounds 1")
        if self.service_functions < 1:
            raise ValueError(f"--service_functions {self.service_functions}: must be 1 or more")
        if not self.catalogue:
            raise ValueError("--catalogue: name a catalogue: swift, botocore, google-api-python-client")
        _check_shares(self, ["own_share", "one_round_share", "direct_questions", "chinese", "text_share", "thoughts"])


@dataclass(frozen=True)
class WriterFlags:
    """Model that writes the questions"""

    endpoint: str | None = None
    """URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1, whose model writes the questions, and the
    thoughts of --thoughts; none takes them from templates. Replies are kept in FILE.replies.jsonl beside --out"""
    endpoint_model: str | None = None
    """Name of the model there; none means the first that the server lists"""
    api_key: str | None = None
    """API key for --endpoint; by default the environment's SWIFT_API_KEY"""
    endpoint_concurrency: int = 8
    """Requests at a time"""
    endpoint_max_tokens: int = 512
    """Maximum tokens of a reply, with its reasoning if the model thinks"""
    max_requests: int | None = None
    """Most requests to send in this run; questions that are left keep their template's words"""
    price_per_million: tuple[float, ...] = ()
    """Prices of a million tokens, of requests and of replies, to estimate the cost with: 0.15 0.6"""
    dry_run: bool = False
    """Print the number of requests and the estimated tokens and cost, and stop; nothing is asked and no row written"""

    def __post_init__(self) -> None:
        """Raises ValueError for values out of range, and for flags without effect."""
        if self.endpoint is None:
            for item in fields(self):
                if getattr(self, item.name) != item.default:  # our own fields, by their names
                    raise ValueError(f"--{item.name} has no effect without --endpoint")
        for name in ("endpoint_concurrency", "endpoint_max_tokens", "max_requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} {value}: must be 1 or more")
        if self.price_per_million and (len(self.price_per_million) != 2 or min(self.price_per_million) < 0):
            raise ValueError("--price_per_million: give two prices of 0 or more, of requests and of replies: 0.15 0.6")
