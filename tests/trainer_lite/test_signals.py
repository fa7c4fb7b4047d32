"""What the first signal does, and the second."""

from __future__ import annotations

import os
import signal

import pytest

from trainer_lite.signals import StopRequest


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_is_noted_and_a_second_ends_the_process(
    number: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr("os._exit", ended.append)
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop() and stop.exit_code == status and not ended
        os.kill(os.getpid(), number)
        assert ended == [status]
    assert signal.getsignal(number) is before
