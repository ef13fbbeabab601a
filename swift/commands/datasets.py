"""List and search the registered data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from swift.data import rules
from swift.data.registry import TRAINABLE, Entry, catalogue, near
from swift.flags import flag


@dataclass(frozen=True)
class Config:
    example: ClassVar[str] = "swift datasets agent"

    word: tuple[str, ...] = flag((), positional=True)
    """Words to find in name, hub ids, subsets and tags; none lists all"""
    json: bool = False
    """Print JSON"""
    markdown: bool = False
    """Print the page docs/datasets.md"""
    registry: tuple[str, ...] = ()
    """TOML files with your own data sets"""


def main(cfg: Config) -> None:
    known = catalogue(cfg.registry)
    found = {name: entry for name, entry in known.items() if all(_holds(name, entry, word) for word in cfg.word)}
    if not found:
        raise ValueError(f"no data set matches {' '.join(cfg.word)}{_nearest(cfg.word, known)}")
    if cfg.json:
        print(json.dumps([as_json(name, entry) for name, entry in found.items()], ensure_ascii=False, indent=2))
    elif cfg.markdown:
        print(page(found), end="")
    else:
        print("\n".join(lines(found)))


def as_json(name: str, entry: Entry) -> dict[str, object]:
    return {"name": name, **asdict(entry), "trainable": entry.modality in TRAINABLE}


def lines(entries: Mapping[str, Entry]) -> list[str]:
    """A line per data set: name, rows, hub ids and default subsets."""
    wide = max(map(len, entries))
    found = [f"{'name':<{wide}}  {'rows':>9}  where"]
    for name, entry in entries.items():
        ids = [f"{hub}::{id}" for hub, id in (("MS", entry.ms), ("HF", entry.hf)) if id]
        subsets = [":" + "/".join(entry.read_by_default)] if entry.read_by_default else []
        kind = [f"({entry.modality}: cannot be trained on)"] if entry.modality not in TRAINABLE else []
        where = [*ids, entry.path] if entry.path else ids
        found.append(f"{name:<{wide}}  {_rows(entry):>9}  {' '.join([*where, *subsets, *kind])}")
    return [*found, f"{len(entries)} data sets"]


HEAD = """\
# Data sets

Every name below is a value of `--dataset`: `swift sft --dataset alpaca-en#2000 hh-rlhf-cn:helpful_base_cn`.

| value | meaning |
|---|---|
| `name` or a hub id | the data set; one that is not in the table is read by the shape of its rows |
| `MS::name`, `HF::name` | from ModelScope or Hugging Face only |
| `name:subset/subset` | only these subsets |
| `name#500` | 500 rows, sampled evenly; a number above the size repeats rows |

A data set is looked up locally first: in the ModelScope cache (`$MODELSCOPE_CACHE`, `~/.cache/modelscope`), then in
that of Hugging Face (`$HF_HUB_CACHE`, `$HF_HOME`, `~/.cache/huggingface`). Only then is it downloaded: from ModelScope,
which needs `pip install modelscope`, then from Hugging Face. `USE_HF=1` reverses this order; `SWIFT_OFFLINE=1` disables
downloads. Downloads show their progress and resume where they were interrupted. An incomplete one is never trained on.

Splits that are not for training (`held_out`) are read when the data set is a value of `--val_dataset`. For preference
data, the preferred reply is trained. Data sets with images or audio are listed, but only text can be trained on.

## Your own data sets

A TOML file registers data sets by name; `--registry my.toml` loads it in `swift sft`, `infer`, `data show` and
`datasets`:

```toml
[datasets.tickets]
path = "data/tickets.jsonl"             # relative to this file; or ms = "...", hf = "..."
columns = { frage = "query", antwort = "response" }

[datasets.moods]
hf = "me/moods"
split = ["train"]
held_out = ["test"]
query = "Is this glad or sad? {sentence}"
labels = ["sad", "glad"]                # answers for the numbers in the column "label"

[datasets.chats]
path = "data/chats"
rows = "my_rows.py:chat"                # a function row -> row, list of rows, or None to drop the row
```

`swift/data/datasets.toml` has the same keys and documents each.

## Row formats

Files are JSON lines, JSON (a list, one row, or lines), CSV and Parquet, each also as `.gz` and `.zst`. The keys of a
row determine its format, so one file may mix them:

| format | keys |
|---|---|
| messages | `messages`, `conversations` or `conversation`: a list of `{"role", "content"}` or `{"from", "value"}` |
| prompt and completion | `prompt`, `completion`: two lists of messages, of which the second is trained |
| pairs | `conversation`: a list of `{"human", "assistant"}` |
| question and answer | `query` (`prompt`, `question`, ...), `response` (`answer`, `output`, ...), `history` |
| instruction | `instruction`, `input`, `output` |
| text | `text` or a response alone: plain text to pre-train on |

Each may also have `system` and `tools` (or `functions`). Lists and objects may be given as JSON text. A row with two
different dialogues is `two-dialogues`.

**Tools** are a list of objects, a list of JSON texts, or the JSON text of a list; `function` and `parameters` within
may be JSON text too. **Calls** are `tool_calls` or `function_call` of the assistant, or a message of role `tool_call`
(`function_call`) with the call in its content or in its own `name` and `arguments`. Each may be an object, a list, or
JSON text; `[]` and `null` mean no call. Arguments written as text are trained byte for byte. If a question has tools, a
response that is a list of calls is read as these calls. A `refusal` is the text of the assistant.

**Loss weights.** Keys of a message select which replies are trained, and with which weight:

| key of a message | values | meaning |
|---|---|---|
| `loss`, `train`, `training`, `trainable`, `train_on` | true or 1, false or 0 | true: trained; false: not |
| `mask` | true or 1, false or 0 | true: **not** trained |
| `weight`, `loss_scale`, `loss_weight` | a number from 0 on | the loss of the message is multiplied by it |

A message may have several of them unless they contradict each other (`bad-weight`). A message that is not trained has
weight 0, whatever its number is. Questions and tool results are never trained, so a weight on one is
`weight-on-prompt`.

**Reasoning.** What the assistant thinks before it answers or calls is the `reasoning_content` of its message, or a key
next to `response` or `output`. `reasoning`, `thinking` and `reasoning_text` are synonyms, and so are content parts of
the types `thinking` and `reasoning`:

```json
{"query": "2 + 2?", "reasoning": "Two more.", "response": "4"}
{"messages": [{"role": "user", "content": "2 + 2?"},
              {"role": "assistant", "reasoning_content": "Two more.", "content": "4"}]}
```

The model's own chat template decides how reasoning is rendered. `<think>...</think>` in a content stays there byte for
byte. Two different reasoning texts in one message are `two-thoughts`, reasoning of the user or a tool is
`thought-on-prompt`, reasoning after the content of its turn is `late-thought`, and hidden reasoning
(`redacted_thinking`) is `not-text`. Several parts are joined, each on a line of its own.

Messages may use harmony's channels: `analysis` is the reasoning of the next assistant message, `commentary` and `final`
are its content, and a message with a `recipient` is a call. A message of role `developer` is the system prompt.

```json
{"messages": [{"role": "user", "content": "2 + 2?"},
              {"role": "assistant", "channel": "analysis", "content": "Two more."},
              {"role": "assistant", "channel": "final", "content": "4"}]}
```

**Variables of the chat template** are in `chat_template_kwargs`; `enable_thinking` may also be a key of its own. A
value that is not an object, or neither true nor false, is `bad-variables`.

```json
{"query": "2 + 2?", "response": "4", "enable_thinking": false, "chat_template_kwargs": {"reasoning_effort": "low"}}
```

Any other non-empty key of a row (except `id`), message or call is ignored. `swift data lint` and `swift sft` report
each once, as the warning `unread-key` with its count and first place; the row is trained on.

**JSON** follows RFC 8259: `NaN`, `Infinity` and numbers beyond a double are `bad-json` (`bad-arguments` in a call),
half of a surrogate pair (`\\ud83d`) in any text or key is `lone-surrogate`, and a duplicate key of an object is
`duplicate-key`.

**Parquet.** A struct has the keys of all rows, and null where a row lacks one. Such a null cannot be told from a
written one, so a null in a struct means that the key is absent, at every depth. Nulls in lists, maps and JSON text
stay. A struct also loses the order of a row's keys and may turn 5 into 5.0: where that matters, write tools and
arguments as JSON text.

**CSV.** The separator is the comma, semicolon, tab or vertical bar that splits the header into the most columns (or the
one after `sep=`); a separator other than the comma is reported.

**Encoding.** Text is UTF-8, with or without a byte order mark. A row with an invalid byte is `not-utf8`; the other rows
are read. A file in UTF-16, or a JSON list in GB18030, is rejected with one line.

A row that the template or the tool-call format rejects is `unrendered`, one that is too long is `length`.

{RULES}
## All data sets

`rows` is the number of rows to train on after the data set's own filter, as last counted; the subsets are those that
are read by default.
"""


def page(entries: Mapping[str, Entry]) -> str:
    table = ["| name | ModelScope | Hugging Face | subsets read | rows | about |", "|---|---|---|---|---:|---|"]
    for name, entry in entries.items():
        about = ", ".join([*([entry.modality] if entry.modality != "text" else []), *entry.tags])
        cells = [f"`{name}`", entry.ms, entry.hf, ", ".join(entry.read_by_default), _rows(entry), about]
        table.append(f"| {' | '.join(cells)} |".replace("|  |", "| |"))
    return "\n".join([HEAD.replace("{RULES}", rules.page()), *table, "", f"{len(entries)} data sets.", ""])


def _rows(entry: Entry) -> str:
    return f"{entry.size:,}" if entry.size else ""


def _holds(name: str, entry: Entry, word: str) -> bool:
    texts = (name, *entry.ids, entry.path, *entry.subsets, *entry.tags, entry.modality)
    return any(word.lower() in text.lower() for text in texts)


def _nearest(words: tuple[str, ...], known: Mapping[str, Entry]) -> str:
    return next(filter(None, (near(word, known) for word in words)), "")
