"""What the commands share: option types, JSON output, progress on a terminal."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edge_runtime.http_link import Link
    from edge_runtime.remote_backbone import RemoteBackbone

PATH = click.Path(path_type=Path)

Command = Callable[..., Any]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout; messages go to stderr."
)
server_option = click.option("--server", help="URL of an inference server, not --backbone.")
link_options = (
    click.option("--token-file", type=PATH, help="File with the server's bearer token."),
    click.option("--ca", type=PATH, help="Certificates to trust (PEM), for https."),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0.1),
        default=60.0,
        show_default=True,
        help="Seconds of silence after which the server counts as lost; then as long again is "
        "spent on repeating.",
    ),
)
force_option = click.option("--force", is_flag=True, help="Replace the output if it exists.")

runtime_option = click.option(
    "--runtime",
    type=click.Choice(["numpy", "onnxruntime", "tflite"]),
    help="Insist on what computes the adaptor.  [default: what its file is for]",
)


def load(name: str) -> Any:
    """What `module:attribute` names: how other packages' code is mounted."""
    module, attribute = name.split(":")
    return getattr(importlib.import_module(module), attribute)


def set_blas_threads(threads: int = 1) -> None:
    """BLAS reads these when numpy loads, so this comes first. Training has threads of its own."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)


def with_link(command: Command) -> Command:
    """Adds the options of commands that talk to a server; `open_link` takes their values."""
    for option in reversed(link_options):
        command = option(command)
    return command


def with_server(command: Command) -> Command:
    """Adds --server and the options of its link; `connect` takes their values."""
    return server_option(with_link(command))


def open_link(url: str, token_file: Path | None, ca: Path | None, timeout: float) -> Link:
    """A link to a server, as the options say."""
    from edge_runtime.http_link import Link
    from edge_runtime.tokens import read_tokens

    token = read_tokens(token_file)[0] if token_file else None
    return Link(url, token=token, ca=ca, timeout=timeout, patience=timeout)


def connect(
    server: str, token_file: Path | None, ca: Path | None, timeout: float
) -> RemoteBackbone:
    """The backbone of a server, as the options name it."""
    from edge_runtime.inference_client import split_url
    from edge_runtime.remote_backbone import RemoteBackbone

    url, model = split_url(server)
    return RemoteBackbone.connect(open_link(url, token_file, ca, timeout), model)


def traffic_note(up: int, down: int, images: int) -> str:
    """Bytes an image on the wire, for people."""
    return f"{round(up / images):,} bytes up and {round(down / images):,} down an image"


def emit_json(content: dict[str, Any]) -> None:
    """Prints one machine-readable result."""
    click.echo(json.dumps(content, allow_nan=False))


def say(message: str) -> None:
    """A message for people: on stderr, so that stdout stays for results."""
    click.echo(message, err=True)


Advance = Callable[[int, str], None]


@contextmanager
def progress(label: str, length: int) -> Iterator[Advance]:
    """A bar on stderr with rate and time left, or nothing where stderr is no terminal.

    Yields `advance(steps, note)`; `note` is shown behind the bar.
    """
    if not sys.stderr.isatty():
        yield lambda steps, note: None
        return
    with click.progressbar(
        length=length, label=label, file=sys.stderr, item_show_func=lambda note: note or ""
    ) as bar:
        yield lambda steps, note: bar.update(steps, note)
