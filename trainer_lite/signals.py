"""SIGTERM and Ctrl-C: the first asks a run to stop where it can be resumed, a second ends it."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context in which those signals are noted; `signal_number` is the first one's."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether there was one."""
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that the signal ended: 130, 143."""
        return 128 + (self.signal_number or 0)

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            os._exit(128 + number)  # files appear whole or not at all, so nothing is damaged
        self.signal_number = number
