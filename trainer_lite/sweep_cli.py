"""`edgetune sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edge_runtime.cli.common import (
    PATH,
    emit_json,
    force_option,
    json_option,
    progress,
    say,
    set_blas_threads,
)
from trainer_lite.options import every_option, sweep_options


@click.command()
@click.argument("features", type=PATH)
@click.option("--out", required=True, type=PATH, help="The folder to write to.")
@sweep_options
@click.option("--no-halving", is_flag=True, help="Train every run to its end.")
@every_option
@click.option("--resume", is_flag=True, help="Go on with a sweep that was stopped in OUT.")
@force_option
@json_option
def sweep(
    features: Path,
    out: Path,
    lr: list[float] | None,
    rank: list[int],
    seed: list[int],
    weight_decay: list[float],
    no_halving: bool,
    every: tuple[int | None, float | None] | None,
    resume: bool,
    threads: int,
    memory_budget: int | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a grid of runs on FEATURES together, and keep the adaptor that does best on val.

    --lr, --rank, --seed and --weight-decay take several values, with commas between them; each
    combination is a run. All runs of a seed see the same images in the same order and share each
    read, so that together they take less time than one by one; seeds take their turns. Every run
    gives what `edgetune train` gives with its options. As training goes on, the worse half of the
    runs is dropped again and again, by the best accuracy on val so far: of 8 runs, after a quarter,
    half and three quarters of the epochs.

    OUT/best.safetensors is the best adaptor, at the epoch that did best on val, from the moment it
    is known; OUT/sweep.json has every run, OUT/best.history.json what `edgetune report` shows of
    the best. Only the best is tried on the test split, once, at the end. A sweep that was killed
    goes on when the same command is given again with --resume, and ends with the same bytes.
    SIGTERM and Ctrl-C save and stop; a second one stops at once.

    \b
    Examples:
      edgetune sweep features --out swept --lr 1e-3,3e-3 --rank 4,8 --weight-decay 0.05,1
      edgetune sweep features --out swept --lr 1e-3,3e-3,1e-2 --seed 0,1 --no-halving --resume
    """
    set_blas_threads()
    from edge_runtime.features import FeatureFolder
    from trainer_lite.checkpoint import Checkpoints, Every
    from trainer_lite.config import TrainConfig
    from trainer_lite.signals import StopRequest
    from trainer_lite.stops import StoppedError
    from trainer_lite.sweep import Sweep
    from trainer_lite.sweep_report import SweepFiles, table
    from trainer_lite.sweep_state import SweepProgress

    files = SweepFiles(out, threads=threads, memory_budget=memory_budget)
    files.refuse(force=force)
    axes: dict[str, list[Any]] = {"rank": rank, "seed": seed, "weight_decay": weight_decay}
    if lr is not None:
        axes = {"lr": lr, **axes}
    config = TrainConfig(**options)
    folder = FeatureFolder.open(features)
    runs = Sweep(
        config,
        axes,
        halving=not no_halving,
        on_epoch=files.on_epoch,
        on_best=files.on_best,
        on_warning=say,
        memory_budget=memory_budget,
        threads=threads,
        checkpoints=Checkpoints(
            out,
            Every(*(every or ())),
            resume=resume,
            force=force,
            warn=say,
            kind=SweepProgress,
            option="--out",
        ),
    )
    steps = runs.member_epochs * -(-folder.split("train").rows // config.batch_size)
    with StopRequest() as requested, progress("sweeping", steps) as advance:
        runs.on_step, runs.stop_requested = advance, requested
        try:
            result = runs.fit(folder)
        except StoppedError as error:
            kept = files.stopped(error)
            if not requested():
                raise type(error)(f"{error}{kept}") from None
            say(f"{error}{kept}")
            click.get_current_context().exit(requested.exit_code)
    content = files.finished(result)
    assert runs.checkpoints is not None
    runs.checkpoints.clear()
    if as_json:
        emit_json({"adaptor": str(files.best), "memory_budget_bytes": memory_budget, **content})
        return
    for line in table(content):
        click.echo(line)
    click.echo(f"best: {files.best}")
    click.echo(
        f"{result.seconds:.1f} s, peak RSS {result.peak_rss_bytes / 2**20:.1f} MiB "
        f"(predicted {result.plan.predicted_peak_rss_bytes / 2**20:.1f}"
        + (f", budget {memory_budget / 2**20:.1f})" if memory_budget else ")")
    )
