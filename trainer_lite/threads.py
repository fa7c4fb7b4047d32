"""Work side by side in threads: numpy gives up Python's lock inside its operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.errors import BudgetError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Task = tuple[Any, ...]  # a function and its arguments

_pool: ThreadPoolExecutor | None = None
_size = 0


def side_by_side(tasks: Sequence[Task]) -> list[Any]:
    """Calls every task, the first in this thread, and returns what they return, in order.

    An exception in any of them is raised once all have ended.

    Raises:
        BudgetError: the system gives no more threads.
    """
    if len(tasks) == 1:
        (function, *arguments) = tasks[0]
        return [function(*arguments)]
    try:
        futures = [_threads(len(tasks) - 1).submit(_quietly, *task) for task in tasks[1:]]
    except RuntimeError as error:
        raise BudgetError(f"{error}; a limit on this process is reached, use --threads 1") from None
    try:
        (function, *arguments) = tasks[0]
        first = function(*arguments)
    finally:
        for future in futures:
            future.exception()  # waits
    return [first, *(future.result() for future in futures)]


def _quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """numpy's error state is each thread's own; what overflows is found out by the caller."""
    with np.errstate(all="ignore"):
        return function(*arguments)


def _threads(count: int) -> ThreadPoolExecutor:
    """At least so many threads, kept from call to call: a new thread costs memory."""
    global _pool, _size
    if _pool is None or count > _size:
        from concurrent.futures import ThreadPoolExecutor  # 1 MB that one thread does without

        _pool, _size = ThreadPoolExecutor(count, thread_name_prefix="lane"), count
    return _pool
