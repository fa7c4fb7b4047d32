"""The command `edgetune serve`."""

from __future__ import annotations

from pathlib import Path

import click

from edge_runtime.cli.common import PATH, say

EXTRA = "serve"
LOOPBACK = ("127.", "::1", "localhost")


@click.command(short_help="Serve a backbone over HTTP (Open Inference Protocol).")
@click.argument("backbone", type=PATH, metavar="BACKBONE_DIR")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen at; 0 takes a free one.",
)
@click.option("--name", help="Name of the model.  [default: the backbone's timm name]")
@click.option("--token-file", type=PATH, help="Bearer tokens to ask for, one a line.")
@click.option("--tls-cert", type=PATH, help="Certificate, for HTTPS.")
@click.option("--tls-key", type=PATH, help="Its key.")
@click.option("--features", type=PATH, help="Feature folder to publish for `edgetune pull`.")
@click.option(
    "--basis",
    "bases",
    multiple=True,
    type=PATH,
    help="Adaptor file or feature folder whose basis to offer; may be repeated.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Images computed together, and in one request.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Images that may wait; beyond, requests get 503.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0, 1000),
    default=0.0,
    show_default=True,
    help="Milliseconds that images may wait for company; it pays on accelerators.",
)
@click.option(
    "--max-body",
    type=click.IntRange(min=1),
    default=16 << 20,
    show_default=True,
    help="Bytes of a request's body.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Batches computed at a time; with 1, processors idle between two.",
)
def serve(
    backbone: Path,
    host: str,
    port: int,
    name: str | None,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    features: Path | None,
    bases: tuple[Path, ...],
    max_batch: int,
    max_queue: int,
    max_wait: float,
    max_body: int,
    workers: int,
) -> None:
    """Serve the backbone in BACKBONE_DIR: devices send images and get features.

    It speaks the Open Inference Protocol (KServe v2) over HTTP, binary and JSON, and counts at
    /metrics. One line of JSON a request goes to stderr. SIGTERM and Ctrl-C let what was accepted be
    answered.

    An adaptor that was trained in a basis (`edgetune transcode`) needs fewer bytes an image where
    the server knows that basis: copy the adaptor here and name it with --basis.

    \b
    Examples:
      edgetune serve backbone
      edgetune serve backbone --host 0.0.0.0 --token-file token.txt --features features
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    from edge_runtime.errors import require

    for module in ("starlette", "uvicorn", "prometheus_client"):
        require(module, extra=EXTRA)
    for module, extra in (("onnxruntime", "ort"), ("PIL", "vision")):
        require(module, extra=extra)
    from edge_runtime.backbone import Backbone, processors
    from edge_runtime.features import FeatureFolder
    from edge_runtime.tokens import read_tokens
    from export.serve import http_server, logs
    from export.serve.app import Settings, create_app
    from export.serve.bases import basis_of
    from export.serve.batching import Limits

    opened = Backbone.open(backbone, processors(), spin=False)
    tokens = frozenset(read_tokens(token_file)) if token_file else frozenset()
    published = FeatureFolder.open(features) if features else None
    limits = Limits(max_batch, max(max_queue, max_batch), max_wait / 1000, workers)
    tls = http_server.Certificate(tls_cert, tls_key) if tls_cert and tls_key else None
    bound = http_server.bind(host, port)
    app = create_app(
        opened,
        Settings(limits, max_body, tokens=tokens),
        name,
        published,
        [basis_of(path) for path in bases],
    )
    logs.to_stderr()
    if not tokens and not host.startswith(LOOPBACK):
        say(f"no --token-file: whoever reaches {host} can use this server")
    scheme, port = "https" if tls else "http", bound.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    say(f"serving {app.state.model_name} at {scheme}://{shown}:{port}")
    http_server.run(app, bound, tls)
