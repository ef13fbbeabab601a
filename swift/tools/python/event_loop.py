"""One event loop for all coroutines of a process, on a thread, so that what they share between calls stays valid."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable
from contextlib import suppress
from functools import cache
from typing import NamedTuple


class _Settled(NamedTuple):
    value: object
    error: BaseException | None = None


def result(awaitable: Awaitable[object]) -> object:
    """The value of an awaitable. Raises what it raises."""
    settled = asyncio.run_coroutine_threadsafe(_settle(awaitable), _loop()).result()
    if settled.error is not None:
        raise settled.error
    return settled.value


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=_run, args=(loop,), daemon=True).start()
    return loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        with suppress(BaseException):  # SystemExit of a background task leaves `run_forever`
            loop.run_forever()


async def _settle(awaitable: Awaitable[object]) -> _Settled:
    process = os.getpid()
    try:
        settled = _Settled(await awaitable)
    except BaseException as error:  # user code may raise anything
        settled = _Settled(None, error)
    if os.getpid() != process:
        os._exit(0)  # a fork, in which nobody waits for the value
    return settled
