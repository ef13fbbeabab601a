"""--endpoint of `swift data synth`: a model behind a server writes the questions of drafts. Makes no draft.

If a reply does not give every argument, the model is asked once more; after that the template's question stays. The
requests depend on the drafts alone, so that a file of replies makes the same rows again, and a run that broke off goes
on.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from swift.assembly import endpoint
from swift.assembly.reply_cache import Reply, ReplyCache, key_of
from swift.chat import Conversation, Message
from swift.flag_groups import WriterFlags
from swift.synth import briefs, verify, written
from swift.synth.synthesis import Draft
from swift.synth.written import Wanted

if TYPE_CHECKING:
    from swift.infer.remote_chat import RemoteChat

Say = Callable[[str], None]
CHARACTERS = 4
"""Characters of a token, for estimates: of English text with the tokenizers of current models."""
PER_MESSAGE = 8
"""Tokens that a chat template adds to a message, for estimates."""
THOUGHT_TOKENS = 30
REFUSED = 5
"""Requests that a server refuses before it has answered any, after which it is taken to refuse all."""
PROGRESS = 20.0
"""Seconds between two lines about the progress."""
_LEFT_TO_SERVER = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")


class Item(NamedTuple):
    """A question or a thought to be written. `row`: the number of its draft; `turn`: of the user's message there;
    `step`: of the calls after it, for a thought. `check(text)`: why a text is not right, or ""."""

    row: int
    turn: int
    step: int | None
    messages: tuple[Message, ...]
    length: int
    check: Callable[[str], str]


@dataclass
class Written:
    """What the model wrote. `questions`, `thoughts`: counts of those in the rows; `kept`: why the template's words
    stay; `why`: why replies were not right at first, with counts by reason; `examples`: some of them."""

    questions: int = 0
    thoughts: int = 0
    second: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    prompt_tokens: int = 0
    completion_tokens: int = 0


class QuestionWriter:
    """Questions and thoughts by the model of --endpoint. `beside`: the file of the rows."""

    def __init__(self, cfg: WriterFlags, beside: Path, seed: int, say: Say) -> None:
        """Raises ValueError for a URL that is none, OSError if the server is needed and cannot be used."""
        assert cfg.endpoint is not None
        endpoint.check_url(cfg.endpoint)
        self._cfg, self._seed, self._say = cfg, seed, say
        self.cache = ReplyCache(beside.with_name(beside.name + ".replies.jsonl"))
        if self.cache.broken:
            say(f"warning: {self.cache.path}: {self.cache.broken} broken lines are not used")
        self._chat: RemoteChat | None = None
        self._max_tokens: int | None = cfg.endpoint_max_tokens
        self.model = cfg.endpoint_model or self._connected().model
        self.written = Written()
        self._sent = 0

    def items(self, drafts: Sequence[Draft]) -> list[Item]:
        """All that is to be written."""
        return [item for row, draft in enumerate(drafts) for item in _items(draft, row, self._seed)]

    def estimate(self, items: Sequence[Item]) -> None:
        """Prints the number of requests and about how many tokens and how much money they take."""
        distinct = {item.messages: item for item in items}.values()
        missing = [item for item in distinct if self._known(item.messages) is None]
        limit = self._cfg.max_requests
        asked = missing if limit is None else missing[:limit]
        into = sum(_tokens(item.messages) for item in asked)
        out = sum(item.length for item in asked)
        known = len(distinct) - len(missing)
        self._say(
            f"{self.model}: {len(asked):,} requests, about {into:,} tokens of requests and {out:,} of replies "
            f"(more if the model thinks); at most as many again for replies that are not right"
            + (f"; {known:,} are answered in {self.cache.path}" if known else "")
        )
        if len(asked) < len(missing):
            self._say(f"warning: --max_requests {limit} leaves {len(missing) - len(asked):,} questions to templates")
        if self._cfg.price_per_million:
            price, reply_price = self._cfg.price_per_million
            cost = (into * price + out * reply_price) / 1e6
            twice = 2.5 * cost  # the second request contains the first and its reply
            self._say(
                f"estimated cost at these prices: {cost:.3g}, about {twice:.3g} if every question needs two requests"
            )

    def rewrite(
        self, drafts: Sequence[Draft], items: Sequence[Item], overlaps: Callable[[Conversation], str]
    ) -> list[Conversation]:
        """The conversations of the drafts with the model's questions. Raises OSError if the server fails; what it has
        answered is in the file."""
        self._ask_all([item.messages for item in items])
        texts: dict[int, list[tuple[Item, str]]] = {}
        second: list[tuple[Item, tuple[Message, ...]]] = []
        for item in items:
            reply = self._known(item.messages)
            if reply is None or reply.refused:
                self._keep(item, "the server refuses it" if reply else "--max_requests")
            elif reason := item.check(text := written.cleaned(reply.text)):
                self._note(reason, text)
                second.append((item, briefs.again(item.messages, reply.text, reason)))
            else:
                texts.setdefault(item.row, []).append((item, text))
        self._ask_all([messages for _, messages in second])
        for item, messages in second:
            reply = self._known(messages)
            if reply is None or reply.refused:
                self._keep(item, "the server refuses it" if reply else "--max_requests")
            elif reason := item.check(text := written.cleaned(reply.text)):
                self._keep(item, _kind(reason))
            else:
                self.written.second += 1
                texts.setdefault(item.row, []).append((item, text))
        seen: set[tuple[str, ...]] = set()
        return [self._finished(draft, texts.get(row, []), overlaps, seen) for row, draft in enumerate(drafts)]

    def report(self) -> dict[str, Any]:
        """What was written, for the report of the rows. It depends on the rows and the replies, not on the run."""
        found = self.written
        return {
            "model": self.model,
            "questions": found.questions,
            "thoughts": found.thoughts,
            "right_at_the_second_reply": found.second,
            "from_templates": dict(sorted(found.kept.items())),
            "replies_that_were_not_right": found.examples,
            "prompt_tokens": found.prompt_tokens,
            "completion_tokens": found.completion_tokens,
        }

    # --- requests

    def _known(self, messages: Sequence[Message]) -> Reply | None:
        return self.cache.get(key_of(self.model, messages, self._cfg.endpoint_max_tokens))

    def _ask_all(self, wanted: Sequence[Sequence[Message]]) -> None:
        keys = {key_of(self.model, messages, self._cfg.endpoint_max_tokens): messages for messages in wanted}
        missing = [(key, messages) for key, messages in keys.items() if self.cache.get(key) is None]
        if self._cfg.max_requests is not None:
            missing = missing[: self._cfg.max_requests - self._sent]
        self._sent += len(missing)
        if missing:
            self._send(missing)
        replies = [reply for key in keys if (reply := self.cache.get(key))]
        self.written.prompt_tokens += sum(reply.prompt_tokens for reply in replies)
        self.written.completion_tokens += sum(reply.completion_tokens for reply in replies)

    def _send(self, missing: Sequence[tuple[str, Sequence[Message]]]) -> None:
        chat, stop = self._connected(), Event()
        refused: dict[str, str] = {}
        answered, is_first = 0, self.cache.is_empty
        failure: OSError | None = None
        shown = time.monotonic()

        def ask(key: str, messages: Sequence[Message]) -> bool:
            if not stop.is_set():
                self.cache.add(key, self._reply(chat, messages))
            return True

        with ThreadPoolExecutor(self._cfg.endpoint_concurrency) as pool:
            running = {pool.submit(ask, key, messages): key for key, messages in missing}
            try:
                for done in as_completed(running):
                    try:
                        answered += done.result()
                    except Refused as error:
                        refused[running[done]] = str(error)
                        if is_first and not answered and len(refused) >= min(REFUSED, len(missing)):
                            failure = failure or OSError(str(error))
                            stop.set()
                    except OSError as error:
                        failure = failure or error
                        stop.set()
                    if time.monotonic() > shown + PROGRESS:
                        shown = time.monotonic()
                        self._say(f"{answered:,} of {len(missing):,} replies")
            except BaseException:
                stop.set()
                raise
        if failure is not None:
            raise OSError(
                f"{failure}; the replies so far are in {self.cache.path}: the same command goes on from there"
            ) from failure
        for key, reason in refused.items():
            self.cache.add(key, Reply("", refused=reason))

    def _reply(self, chat: RemoteChat, messages: Sequence[Message]) -> Reply:
        limit = self._max_tokens
        try:
            return _reply(chat, messages, limit)
        except Refused as error:
            if limit is None or "max_tokens" not in str(error):
                raise
        self._max_tokens = None  # some models of OpenAI's know this limit under another name only
        return _reply(chat, messages, None)

    def _connected(self) -> RemoteChat:
        if self._chat is None:
            self._chat = endpoint.connect_to(
                str(self._cfg.endpoint), self._cfg.endpoint_model or "", self._cfg.api_key, _LEFT_TO_SERVER
            )
        return self._chat

    # --- what becomes of replies

    def _keep(self, item: Item, reason: str) -> None:
        self.written.kept[f"{'thought' if item.step is not None else 'question'}: {reason}"] += 1

    def _note(self, reason: str, text: str) -> None:
        if len(self.written.examples) < 20:
            self.written.examples.append(f"{text[:200]!r}: {reason}")

    def _finished(
        self,
        draft: Draft,
        texts: Sequence[tuple[Item, str]],
        overlaps: Callable[[Conversation], str],
        seen: set[tuple[str, ...]],
    ) -> Conversation:
        questions = {item.turn: text for item, text in texts if item.step is None}
        thoughts = {(item.turn, item.step or 0): text for item, text in texts if item.step is not None}
        turns = written.with_questions(draft.turns, questions)
        made = _with_texts(draft.conversation, [turn.question for turn in turns], thoughts)
        asked = tuple(turn.question for turn in turns if turn.steps or turn.asked)
        if next(verify.problems(made, turns, draft.offers), None):
            reason = "failed its check with the other turns"
        elif benchmark := overlaps(made):
            reason = f"overlaps with {benchmark}"
        elif questions and asked in seen:
            reason = "the same as another row"
        else:
            seen.add(asked)
            self.written.questions += len(questions)
            self.written.thoughts += len(thoughts)
            return made
        for item, _ in texts:
            self._keep(item, reason)
        return draft.conversation


class Refused(Exception):
    """The server refuses a request because of its content."""


def _reply(chat: RemoteChat, messages: Sequence[Message], max_tokens: int | None) -> Reply:
    """Raises Refused, or OSError if the server fails."""
    import openai

    from swift.engine.sampling import SamplingParams

    text, usage = "", None
    try:
        for delta in chat(messages, params=SamplingParams(max_tokens=max_tokens)):
            text += delta.text
            usage = delta.usage or usage
    except OSError as error:
        if isinstance(error.__cause__, openai.BadRequestError | openai.UnprocessableEntityError):
            raise Refused(str(error)) from error
        raise
    return Reply(text, usage.prompt_tokens if usage else 0, usage.completion_tokens if usage else 0)


def _items(draft: Draft, row: int, seed: int) -> Iterator[Item]:
    has_thoughts = any(
        message.tool_calls and message.content.startswith("Thought: ") for message in draft.conversation.messages
    )
    heard = ""
    for at, turn in enumerate(draft.turns):
        rng = random.Random(f"{seed} {row} {at}")
        heard += f" {turn.question}"
        asked = written.wanted(draft.turns, at)
        if asked is not None:
            messages = briefs.question(asked, rng)
            yield Item(row, at, None, messages, len(turn.question) // CHARACTERS + PER_MESSAGE, _checker(asked))
        for number, step in enumerate(turn.steps):
            if has_thoughts:
                names = [draft.offers[call.function.name].name for call in step]
                check = _thought_checker(names, heard)
                yield Item(row, at, number, briefs.thought(turn.question, step), THOUGHT_TOKENS, check)
            heard += " " + " ".join(map(str, (call.result for call in step)))


def _checker(asked: Wanted) -> Callable[[str], str]:
    return lambda text: written.problem(text, asked)


def _thought_checker(names: Sequence[str], heard: str) -> Callable[[str], str]:
    return lambda text: written.thought_problem(text, names, heard)


def _tokens(messages: Collection[Message]) -> int:
    return sum(len(message.content) // CHARACTERS + PER_MESSAGE for message in messages)


def _kind(reason: str) -> str:
    """A reason without what it is about."""
    for word in ("does not say", "is none of the values", "does not set", "another order", "quotes"):
        if word in reason:
            return {"does not say": "a value is not said", "another order": "values in another order"}.get(
                word, "it says more than the values"
            )
    return reason.split(":")[0]


def _with_texts(
    conversation: Conversation, questions: Sequence[str], thoughts: dict[tuple[int, int], str]
) -> Conversation:
    """The conversation with other messages of the user, one for each turn, and other thoughts before calls."""
    messages: list[Message] = []
    turn, step = -1, 0
    for message in conversation.messages:
        if message.role == "user":
            turn, step = turn + 1, 0
            messages.append(replace(message, content=questions[turn]))
        elif message.tool_calls:
            text = thoughts.get((turn, step))
            messages.append(replace(message, content=f"Thought: {text}\n") if text else message)
            step += 1
        else:
            messages.append(message)
    return replace(conversation, messages=tuple(messages))
