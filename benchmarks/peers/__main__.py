"""Training the same adaptor with every framework that can, side by side.

    python -m benchmarks.peers

Each peer is a process in a virtual environment of its own, made when first needed (about 5 GB
together) and kept in --cache; pip's own settings apply, so PIP_EXTRA_INDEX_URL can name PyTorch's
builds without CUDA. All get the same features and start values; a peer has to give our gradients
before it is timed, and the peers take their steps in turns.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.peers.compare import Comparison, Peer
from benchmarks.peers.environments import Environment, Installed, installed
from benchmarks.peers.problem import write_problem
from benchmarks.peers.process import PeerError, PeerProcess, make_graph
from benchmarks.peers.table import as_json, table
from edge_runtime.errors import EdgeError

OURS = Environment("edgetune", ("numpy", "click", "edgetune"), "numpy")
TORCH = Environment("torch", ("torch", "numpy"), "torch")
JAX = Environment("jax", ("jax", "numpy"), "jaxlib")
ORT = Environment(
    "onnxruntime-training",
    ("onnxruntime-training-cpu", "torch", "onnx", "numpy"),
    "onnxruntime-training-cpu",
)
LITERT = Environment("litert", ("ai-edge-litert", "numpy"), "ai-edge-litert")
TENSORFLOW = Environment("tensorflow", ("tensorflow", "numpy"), "tensorflow")
COUNT = click.IntRange(min=1)
PEERS = [
    Peer("edgetune", "edgetune (numpy)", OURS),
    Peer("floor", "two wide products", OURS, has_gradients=False),
    Peer("torch_eager", "PyTorch eager", TORCH),
    Peer("torch_compile", "torch.compile", TORCH),
    Peer("ort_training", "ONNX Runtime training", ORT),
    Peer("jax_jit", "JAX jit", JAX),
    Peer("litert", "LiteRT training", LITERT, graph_environment=TENSORFLOW),
]


@click.command()
@click.option("--tokens", default=197, type=COUNT, show_default=True)
@click.option("--dim", default=768, type=COUNT, show_default=True)
@click.option("--blocks", default=4, type=COUNT, show_default=True)
@click.option("--rank", default=8, type=COUNT, show_default=True)
@click.option("--heads", default=1, type=COUNT, show_default=True)
@click.option("--classes", default=100, type=COUNT, show_default=True)
@click.option("--batch", default=32, type=COUNT, show_default=True)
@click.option("--tile", type=COUNT, help="Our images a pass; default: as in training.")
@click.option("--threads", default=1, type=COUNT, show_default=True)
@click.option(
    "--repeats", default=15, type=COUNT, show_default=True, help="Turns of one step each."
)
@click.option(
    "--cache",
    default=Path("build/peers"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the environments are kept; logs go there too.",
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([peer.name for peer in PEERS[1:]]),
    help="Peers beside ours; all by default.",
)
@click.option("--here", is_flag=True, help="Use this interpreter's packages; install nothing.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds for any one answer.")
@click.option("--json", "json_wanted", is_flag=True, help="Print JSON.")
def main(
    threads: int,
    repeats: int,
    cache: Path,
    only: tuple[str, ...],
    here: bool,
    timeout: float,
    json_wanted: bool,
    **shape: Any,
) -> None:
    """Prints step time, memory and install size of every peer."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"--cache cannot be made: {error}") from None
    peers = [PEERS[0], *(peer for peer in PEERS[1:] if not only or peer.name in only)]

    def install(environment: Environment) -> Installed:
        if here:
            return Installed([], sys.executable, None, None, None)
        return installed(environment, cache)

    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder)

        def start(peer: Peer, environment: Installed) -> PeerProcess:
            module, log = f"benchmarks.peers.trainers.{peer.name}", cache / f"{peer.name}.log"
            if peer.graph_environment is not None:
                python = Path(install(peer.graph_environment).python)
                make_graph(
                    f"{module}_graph", python=python, problem=problem, log=log, seconds=timeout
                )
            return PeerProcess(
                module,
                python=Path(environment.python),
                problem=problem,
                threads=threads,
                log=log,
                seconds=timeout,
            )

        def tell(line: str) -> None:
            click.echo(line, err=True)

        comparison = Comparison(install=install, start=start, folder=problem, tell=tell)
        try:
            write_problem(problem, **shape)
            rows = comparison.run(peers, repeats)
        except (EdgeError, PeerError) as error:
            raise click.ClickException(str(error)) from None
    if json_wanted:
        click.echo(as_json(rows, **shape, threads=threads, repeats=repeats))
    else:
        click.echo(
            "batch {batch}, {tokens} x {dim}, {blocks} blocks, rank {rank}, {heads} head(s), "
            "{classes} classes".format(**shape)
        )
        click.echo(table(rows, turns=repeats, threads=threads))


if __name__ == "__main__":
    main()
