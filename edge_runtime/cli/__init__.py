"""The `edgetune` command: a group whose commands are named by string and loaded when called.

No command module imports numpy or anything heavier at its top: `--help` stays fast, works with
click alone, and `--threads` can still set BLAS threads before numpy loads.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import click

from edge_runtime import __version__
from edge_runtime.cli.common import load
from edge_runtime.errors import EdgeError

COMMANDS = {
    "export": "export.cli:export",
    "export-adaptor": "export.adaptor_cli:export_adaptor",
    "bundle": "export.bundle_cli:bundle",
    "extract": "edge_runtime.cli.extract:extract",
    "serve": "export.serve.cli:serve",
    "triton-repo": "export.triton.cli:triton_repo",
    "pull": "edge_runtime.cli.pull:pull",
    "plan": "trainer_lite.plan_cli:plan",
    "train": "trainer_lite.cli:train",
    "add-class": "trainer_lite.add_class_cli:add_class",
    "sweep": "trainer_lite.sweep_cli:sweep",
    "evaluate": "edge_runtime.cli.evaluate:evaluate",
    "predict": "edge_runtime.cli.predict:predict",
    "codecs": "trainer_lite.codecs_cli:codecs",
    "transcode": "trainer_lite.transcode_cli:transcode",
    "profile": "trainer_lite.profile_cli:profile",
    "report": "trainer_lite.report_cli:report",
    "calibrate": "trainer_lite.calibrate_cli:calibrate",
    "selftest": "trainer_lite.selftest_cli:selftest",
    "inspect": "edge_runtime.cli.inspect:inspect",
    "verify": "edge_runtime.cli.verify:verify",
}


class LazyGroup(click.Group):
    """Loads a command when it is called; turns errors into one line and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = load(COMMANDS[cmd_name])
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):  # names need not be UTF-8, nor terminals
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except EdgeError as error:
            raise click.ClickException(str(error)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            name = error.filename2 or error.filename
            where = f"{name}: " if name else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from None
        except MemoryError:
            raise click.ClickException("out of memory") from None
        except KeyboardInterrupt:
            click.echo("\nstopped", err=True)
            ctx.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edgetune")
def main() -> None:
    """Teach a small board a new visual task with features from a large frozen backbone.

    \b
    On a server or workstation:
      edgetune export vit_tiny_patch16_224 --out backbone
      edgetune extract photos --backbone backbone --out features
      edgetune serve backbone --features features
    On the device:
      edgetune train features --out adaptor.safetensors
      edgetune predict cat.jpg --adaptor adaptor.safetensors --backbone backbone
    """
