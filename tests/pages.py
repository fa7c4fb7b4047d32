"""Documentation as a stranger meets it: fenced blocks, and somebody who types them, in order.

Blocks of ```sh, ```console (their `$ ` lines) and ```python are there to be run. One that cannot be
has `<!-- not run: REASON -->` on the line before it; what is only shown is ```text.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.serving import in_process

ROOT = Path(__file__).parents[1]
RUN = ("sh", "console", "python")
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<language>\w*)\n(?P<content>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)
SERVER = re.compile(r"http://(?:server|127\.0\.0\.1):8000")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, why it is not run (or None), and where it begins."""

    language: str
    content: str
    reason: str | None
    line: int

    @property
    def to_run(self) -> bool:
        return self.language in RUN and self.reason is None

    @property
    def script(self) -> str:
        """What is typed: all of it, or in ```console what stands behind `$ `."""
        if self.language != "console":
            return self.content
        typed = re.findall(r"^\$ ((?:.*\\\n)*.*)$", self.content, flags=re.MULTILINE)
        return "".join(f"{command}\n" for command in typed)


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(
            found["language"],
            found["content"],
            found["reason"],
            text.count("\n", 0, found.start()) + 1,
        )
        for found in FENCE.finditer(text)
    ]


class Reader:
    """Types what pages say, in one folder, and keeps the server that they start until the end.

    Args:
        model: what `edgetune export` exports, with random weights, in place of the model that a
            page names: there is no network here. None: the one that it names.
    """

    def __init__(self, folder: Path, model: str | None = None):
        self.folder, self.url = folder, "http://127.0.0.1:8000"
        self.closing = contextlib.ExitStack()
        commands = folder.parent / f"{folder.name}-commands"
        commands.mkdir(parents=True)
        swap = f'"$1" {model}' if model else '"$1" "$2"'
        python = f"exec {shlex.quote(sys.executable)}"
        edgetune = f"{python} -m edge_runtime.cli"
        scripts = {
            "python": f'{python} "$@"',
            "edgetune": f'[ "$1" = export ] && {edgetune} {swap} --random-weights "${{@:3}}"\n'
            f'{edgetune} "$@"',
        }
        for name, script in scripts.items():
            (commands / name).write_text(f"#!/bin/bash\n{script}\n")
            (commands / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OPENBLAS_NUM_THREADS": "1",
        }

    def read(self, block: Block) -> str:
        """Does what a block says; what it printed."""
        return (
            self.python(block.content) if block.language == "python" else self.shell(block.script)
        )

    def shell(self, script: str) -> str:
        """Runs lines of a shell, which ends at the first that fails; a server goes on."""
        for arguments in re.findall(r"^edgetune serve (.*)$", script, flags=re.MULTILINE):
            self.serve(shlex.split(arguments, comments=True))
        rest = re.sub(r"^edgetune serve .*$", "", script, flags=re.MULTILINE)
        return self._run(["bash", "-euo", "pipefail", "-c", SERVER.sub(self.url, rest)])

    def python(self, code: str) -> str:
        """Runs a program in a process of its own."""
        return self._run([sys.executable, "-c", SERVER.sub(self.url, code)])

    def serve(self, arguments: list[str]) -> None:
        """Starts `edgetune serve` at a free port; later commands find it there."""
        log = self.folder.parent / f"{self.folder.name}-server-log"
        server, _ = self.closing.enter_context(in_process(log, *arguments, folder=self.folder))
        self.url = server.url

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout
