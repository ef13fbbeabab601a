"""Models that jobs serve, or that other servers have: their addresses, and what a client of one writes. No page."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from swift.runs import checkpoints, finding
from swift.studio.dialogues import Served
from swift.studio.folders import Folders
from swift.studio.jobs import LOG, Job, Jobs

if TYPE_CHECKING:
    from swift.infer.remote_chat import RemoteChat

JOB = "job:"
"""Beginning of a Served.url that means a `swift deploy` of the studio, whatever its port is."""
BUNDLED = ("smollm2-135m-agent", "smollm2-135m-instruct")
MODEL_FLAGS = ("--ckpt_dir", "--model", "--model_type", "--model_id_or_path")
READY = re.compile(r"^swift: ready at (\S+)", re.MULTILINE)
HEAD = 1 << 20
"""Bytes of a log in which the address of a server is; requests are logged after it."""
OPENAI = """import openai

client = openai.OpenAI(base_url="{url}", api_key="EMPTY")
reply = client.chat.completions.create(model="{model}",
    messages=[{{"role": "user", "content": "Hello"}}])
print(reply.choices[0].message.content)"""
ANTHROPIC = """import anthropic

client = anthropic.Anthropic(base_url="{url}", api_key="EMPTY")
reply = client.messages.create(model="{model}", max_tokens=256,
    messages=[{{"role": "user", "content": "Hello"}}])
print(reply.content[-1].text)"""


class Server(NamedTuple):
    """A `swift deploy`. `label`: what it serves; `url`: of its API, with /v1, "" until the model is loaded."""

    job: Job
    label: str
    url: str

    @property
    def served(self) -> Served:
        return Served(f"{JOB}{self.job.name}")


def all_servers(jobs: Jobs) -> list[Server]:
    """The one that began last first, ended ones among them."""
    return [of(job) for job in jobs.all() if job.verb == "deploy"]


def of(job: Job) -> Server:
    try:
        with (job.folder / LOG).open("rb") as file:
            ready = READY.search(file.read(HEAD).decode("utf-8", "replace"))
    except OSError:
        ready = None
    return Server(job, label(job.words), ready[1] if ready and job.is_active else "")


def label(words: Sequence[str]) -> str:
    """The model of a command line: its name, or the end of its folder's path."""
    flag = next((flag for flag in MODEL_FLAGS if flag in words[:-1]), None)
    if flag is None:
        return BUNDLED[1]
    value = words[words.index(flag) + 1]
    return "/".join(Path(value).parts[-2:]) if value.startswith("/") else value


def shown(served: Served, jobs: Jobs) -> str:
    """What to call a model."""
    if not served.url.startswith(JOB):
        return served.label
    try:
        return served.model or label(jobs.named(served.url.removeprefix(JOB)).words)
    except ValueError:
        return served.url.removeprefix(JOB)


def address(served: Served, jobs: Jobs, wait: Callable[[float], object] = time.sleep) -> str:
    """The URL of a model's server; waits while the server loads it. Raises OSError if the server has ended."""
    if not served.url.startswith(JOB):
        return served.url
    while True:
        server = of(jobs.named(served.url.removeprefix(JOB)))
        if server.url:
            return server.url
        if not server.job.is_active:
            reason = f": {server.job.reason}" if server.job.reason else ""
            raise OSError(f"the server of {server.label} is {server.job.state}{reason}; start it again")
        wait(0.2)


def connect(served: Served, jobs: Jobs, key: str | None, left_to_server: frozenset[str]) -> RemoteChat:
    """The model. Raises OSError if its server cannot be used, ValueError for a model that it does not serve."""
    from swift.assembly.endpoint import check_url, connect_to

    if not served.url:
        raise ValueError("no model is chosen")
    url = address(served, jobs)
    check_url(url)
    return connect_to(url, served.model, key, left_to_server)


def model_words(text: str, folders: Folders) -> list[str]:
    """What a user typed -> the flags that name a model: a checkpoint, a folder, or a name. Raises ValueError."""
    text = text.strip()
    if not text:
        raise ValueError("name a model or a checkpoint")
    # at most one slash: the name of a model, or its id of a hub
    if text.count("/") < 2 and not text.startswith((".", "/", "~")) and not folders.first.joinpath(text).is_dir():
        return ["--model", text]
    from swift.assembly.checkpoints import checkpoint, is_adapter

    folder = checkpoint(str(folders.inside(text)))
    return ["--ckpt_dir" if is_adapter(folder) or folder.name.startswith("checkpoint-") else "--model", str(folder)]


def choices(folders: Folders) -> list[str]:
    """Models to offer: the last checkpoint of each run, the latest first, and the models that are part of SWIFT."""
    runs = finding.find(folders.named.values()).runs
    last = [found[-1].folder for run in runs if (found := checkpoints.of(run.folder))]
    return [*(folders.short(each) for each in last[:30]), *BUNDLED]


def first_model(url: str) -> str:
    """The first model that a server lists; "" if it lists none, or needs a key."""
    from swift.assembly.endpoint import connect_to

    try:
        return connect_to(url, "", None).model
    except (OSError, ValueError):
        return ""


def snippets(url: str, model: str) -> dict[str, str]:
    """Name of a client -> the text that connects it to a server. `url` ends with /v1."""
    root = url.removesuffix("/v1")
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return {
        "curl": f"curl {url}/chat/completions -H 'Content-Type: application/json' -d {shlex.quote(body)}",
        "Python (openai)": OPENAI.format(url=url, model=model),
        "Python (anthropic)": ANTHROPIC.format(url=root, model=model),
        "Variables of OpenAI clients": f"export OPENAI_BASE_URL={url} OPENAI_API_KEY=EMPTY",
        "Variables of Anthropic clients": (
            f"export ANTHROPIC_BASE_URL={root} ANTHROPIC_AUTH_TOKEN=EMPTY ANTHROPIC_MODEL={shlex.quote(model)}"
        ),
        "swift": f"swift infer --endpoint {url}",
    }
