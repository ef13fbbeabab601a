"""Functions of this process as tools: on a thread, with a time limit that Python cannot enforce."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from swift.tools.errors import TimeLimitError


def on_thread(function: Callable[..., object]) -> Callable[[dict[str, Any], float], object]:
    """`(arguments, seconds) -> value`; awaits coroutines.

    A function that exceeds its seconds raises TimeLimitError here and continues on its thread: Python cannot stop it.
    """

    def invoke(arguments: dict[str, Any], seconds: float) -> object:
        values: list[object] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                value = function(**arguments)
                values.append(asyncio.run(value) if inspect.iscoroutine(value) else value)
            except BaseException as error:  # user code may raise anything
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(seconds)
        if errors:
            raise errors[0]
        if not values:
            raise TimeLimitError
        return values[0]

    return invoke
