"""Requests that arrive together go through the backbone together.

While a batch is computed, requests wait in a queue of bounded length. When a worker is free, what
waits is the next batch, whole requests in their order. By default it goes at once: then a worker is
never idle, and answers travel while others are computed. Where large batches pay, it may wait for
company, a bounded time, and only until it is as large as the last one: a single client never waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from edge_runtime.errors import EdgeError

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]
Finish = Callable[[Array], Any]

MAX_RETRY_SECONDS = 60


class BusyError(EdgeError):
    """The queue is full; `retry_after` is in whole seconds."""

    def __init__(self, retry_after: int):
        super().__init__(f"the server is busy; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """Bounds of the queue, in images and seconds."""

    max_batch: int = 16
    max_queue: int = 256
    max_wait: float = 0.0
    workers: int = 1
    merge: bool = True
    """False where images get other bits in another batch: each request is then its own batch."""


@dataclass(frozen=True)
class Job:
    """One request: its images, what its features become, and who waits for that."""

    images: Array
    finish: Finish
    future: asyncio.Future[Any]
    arrived: float


class Batcher:
    """Runs jobs in batches, in threads; call from one event loop only.

    Args:
        run: features of images; may raise EdgeError, which only the job it belongs to will see.
        on_batch: hears the size of every batch.
    """

    def __init__(self, run: Run, limits: Limits, on_batch: Callable[[int], None]):
        self._run, self._limits, self._on_batch = run, limits, on_batch
        self._pool = ThreadPoolExecutor(limits.workers, thread_name_prefix="backbone")
        self._idle = limits.workers
        self._queue: deque[Job] = deque()
        self._last_batch = 0
        self._seconds_per_image = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return sum(len(job.images) for job in self._queue)

    async def submit(self, images: Array, finish: Finish) -> Any:
        """What `finish`, called in a worker, makes of the features of `images`.

        Raises:
            BusyError: the queue is full.
            EdgeError: what `run` or `finish` raise for these images.
        """
        if self.waiting + len(images) > self._limits.max_queue:
            raise BusyError(self._retry_after())
        loop = asyncio.get_running_loop()
        job = Job(images, finish, loop.create_future(), time.monotonic())
        self._queue.append(job)
        self._dispatch()
        try:
            return await job.future
        finally:
            if not job.future.done():
                job.future.cancel()

    def close(self) -> None:
        """Waits for running batches; no job may come after it."""
        self._pool.shutdown()

    def _dispatch(self) -> None:
        """Starts batches while there are idle workers and jobs that need not wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        while self._idle and self._queue:
            patience = self._patience()
            if patience > 0:
                self._timer = loop.call_later(patience, self._dispatch)
                return
            batch = self._take()
            if not batch:
                continue
            self._idle -= 1
            self._last_batch = sum(len(job.images) for job in batch)
            self._on_batch(self._last_batch)
            running = loop.run_in_executor(self._pool, self._compute, batch)
            running.add_done_callback(partial(self._deliver, batch))

    def _patience(self) -> float:
        """Seconds for which what is in the queue should still wait for company."""
        enough = min(self._last_batch, self._limits.max_batch) if self._limits.merge else 0
        if self.waiting >= enough:
            return 0.0
        return self._queue[0].arrived + self._limits.max_wait - time.monotonic()

    def _take(self) -> list[Job]:
        """The jobs of the next batch; those whose client has gone are dropped."""
        batch: list[Job] = []
        images = 0
        while self._queue:
            job = self._queue[0]
            if batch and (
                not self._limits.merge or images + len(job.images) > self._limits.max_batch
            ):
                break
            self._queue.popleft()
            if not job.future.cancelled():
                batch.append(job)
                images += len(job.images)
        return batch

    def _compute(self, batch: list[Job]) -> tuple[list[Any], float]:
        """(result or exception of each job, seconds); runs in a worker."""
        start = time.monotonic()
        results = self._results(batch)
        return results, time.monotonic() - start

    def _results(self, batch: list[Job]) -> list[Any]:
        try:
            if len(batch) == 1:
                return [batch[0].finish(self._run(batch[0].images))]
            features = self._run(np.concatenate([job.images for job in batch]))
            ends = np.cumsum([len(job.images) for job in batch])
            parts = np.split(features, ends[:-1])
            return [job.finish(part) for job, part in zip(batch, parts)]
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [result for job in batch for result in self._results([job])]  # to find whose it is

    def _deliver(self, batch: list[Job], running: asyncio.Future[tuple[list[Any], float]]) -> None:
        self._idle += 1
        results, seconds = running.result()
        self._seconds_per_image = seconds / sum(len(job.images) for job in batch)
        for job, result in zip(batch, results):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        self._dispatch()

    def _retry_after(self) -> int:
        """Seconds until the queue should be empty."""
        seconds = self.waiting * self._seconds_per_image / self._limits.workers
        return min(max(1, math.ceil(seconds)), MAX_RETRY_SECONDS)
