"""Runs `edgetune` inside this process, with whichever click is installed."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from edge_runtime.cli import main


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit status."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """The one line of a refused command: exit status 1, nothing on stdout, no traceback."""
        assert (self.exit_code, self.stdout) == (1, ""), self
        (line,) = self.stderr.splitlines()
        assert line.startswith("Error: "), line
        return line


def edgetune(*arguments: object, stdin: bytes | None = None) -> Outcome:
    """Runs a command; a warning, or an exception that becomes no message, fails the test."""
    separate: dict[str, Any] = {}
    if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2
        separate["mix_stderr"] = False
    runner = CliRunner(**separate)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # numpy's would end on the terminal
        result = runner.invoke(main, [str(a) for a in arguments], stdin, catch_exceptions=False)
    return Outcome(result.exit_code, result.stdout, result.stderr)
