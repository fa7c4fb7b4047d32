"""The queue: what is computed together, what waits, what is refused, whose error it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from edge_runtime.errors import DataError
from export.serve.batching import Batcher, BusyError, Limits

Array = np.ndarray[Any, Any]


class Backbone:
    """Doubles numbers while `open`; refuses negative ones; remembers its batches."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.batches: list[list[int]] = []

    def run(self, images: Array) -> Array:
        assert self.open.wait(10)
        self.batches.append([int(i) for i in images])
        if images.min() < 0:
            raise DataError(f"{images.min()} is negative")
        return images * 2


def job(*numbers: int) -> Array:
    return np.array(numbers)


def finish(features: Array) -> list[int]:
    return [int(f) for f in features]


def play(limits: Limits, script: Callable[[Backbone, Batcher], Awaitable[None]]) -> Backbone:
    """Runs a script against a fresh batcher; all must end within ten seconds."""
    backbone = Backbone()

    async def main() -> None:
        batcher = Batcher(backbone.run, limits, lambda images: None)
        await asyncio.wait_for(script(backbone, batcher), 10)
        batcher.close()

    asyncio.run(main())
    return backbone


def submit(batcher: Batcher, *numbers: int) -> asyncio.Task[Any]:
    return asyncio.ensure_future(batcher.submit(job(*numbers), finish))


def test_what_waits_is_computed_together() -> None:
    async def script(backbone: Backbone, batcher: Batcher) -> None:
        tasks = [submit(batcher, *numbers) for numbers in ([1], [2, 3], [4], [5, 6], [7])]
        await asyncio.sleep(0.05)
        assert batcher.waiting == 6
        backbone.open.set()
        assert await asyncio.gather(*tasks) == [[2], [4, 6], [8], [10, 12], [14]]

    assert play(Limits(max_batch=4), script).batches == [[1], [2, 3, 4], [5, 6, 7]]


def test_without_merging_each_request_is_its_own_batch() -> None:
    async def script(backbone: Backbone, batcher: Batcher) -> None:
        backbone.open.set()
        await asyncio.gather(*[submit(batcher, *numbers) for numbers in ([1], [2, 3], [4])])

    found = play(Limits(max_batch=4, merge=False), script)
    assert found.batches == [[1], [2, 3], [4]]


def test_a_full_queue_refuses_and_recovers() -> None:
    async def script(backbone: Backbone, batcher: Batcher) -> None:
        tasks = [submit(batcher, 1), submit(batcher, 2, 3), submit(batcher, 4)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as caught:
            await batcher.submit(job(5), finish)
        assert caught.value.retry_after >= 1
        backbone.open.set()
        await asyncio.gather(*tasks)
        assert await batcher.submit(job(5), finish) == [10]

    play(Limits(max_batch=3, max_queue=3), script)


def test_an_error_reaches_its_own_request_only() -> None:
    async def script(backbone: Backbone, batcher: Batcher) -> None:
        tasks = [submit(batcher, n) for n in (1, 2, -3, 4)]
        backbone.open.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [results[0], results[1], results[3]] == [[2], [4], [8]]
        assert isinstance(results[2], DataError)

    play(Limits(max_batch=4), script)


def test_company_is_waited_for_only_where_there_was_some() -> None:
    async def script(backbone: Backbone, batcher: Batcher) -> None:
        backbone.open.set()
        for number in range(3):  # alone: nothing to wait for
            await asyncio.wait_for(batcher.submit(job(number), finish), 1)
        backbone.open.clear()
        tasks = [submit(batcher, n) for n in (10, 11, 12, 13)]
        await asyncio.sleep(0)
        backbone.open.set()
        await asyncio.gather(*tasks)  # batches of 1 and 3
        late = [submit(batcher, 20)]
        await asyncio.sleep(0.05)
        late += [submit(batcher, 21), submit(batcher, 22)]
        await asyncio.gather(*late)
        await asyncio.wait_for(batcher.submit(job(30), finish), 5)  # nobody comes: goes alone

    found = play(Limits(max_batch=4, max_wait=1.0), script)
    assert found.batches[3:] == [[10], [11, 12, 13], [20, 21, 22], [30]]


def test_a_client_that_has_gone_costs_nothing() -> None:
    async def script(backbone: Backbone, batcher: Batcher) -> None:
        first, gone, last = (submit(batcher, n) for n in (1, 2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        backbone.open.set()
        assert await asyncio.gather(first, last) == [[2], [6]]

    assert play(Limits(), script).batches == [[1], [3]]


def test_workers_compute_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=5)

    def run(images: Array) -> Array:
        both.wait()
        return images

    async def main() -> None:
        batcher = Batcher(run, Limits(workers=2), lambda images: None)
        await asyncio.gather(submit(batcher, 1), submit(batcher, 2))
        batcher.close()

    asyncio.run(main())
