"""`edgetune train`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from trainer_lite.options import (
    checkpoint_option,
    configured,
    every_option,
    init_options,
    resume_option,
    training_options,
)

if TYPE_CHECKING:
    from edge_runtime.features import FeatureFolder
    from trainer_lite.checkpoint import Checkpoints
    from trainer_lite.config import TrainConfig
    from trainer_lite.reports import TrainResult


@click.command()
@click.argument("features", type=PATH)
@click.option("--out", required=True, type=PATH, help="The adaptor file to write.")
@training_options
@init_options
@checkpoint_option
@every_option
@resume_option
@force_option
@json_option
def train(
    features: Path,
    out: Path,
    threads: int,
    memory_budget: int | None,
    init: Path | None,
    checkpoint: Path | None,
    every: tuple[int | None, float | None] | None,
    resume: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an adaptor on FEATURES, a folder that `edgetune extract` wrote.

    The file OUT holds the last epoch. Where there is a val split, the epoch that did best on it is
    kept beside it, as OUT with `.best` before its suffix, from the moment it is known. The test
    split, if there is one, is only reported. What `edgetune report` shows of the run is kept as OUT
    with `.history.json` in place of its suffix.

    With --init, the run starts from an adaptor's weights and takes its kind, rank, blocks, heads
    and pool. FEATURES may have more classes than it knows: these start as `edgetune add-class`
    would add them.

    --kind segmentation trains on features with masks, a class for every patch of the image; its
    epochs are compared by the mean IoU of pixels.

    With --checkpoint, a run that was killed goes on when the same command is given again with
    --resume, and ends with the same bytes. SIGTERM and Ctrl-C save and stop; a second one stops at
    once. A run that ends well empties the folder.

    \b
    Examples:
      edgetune train features --out adaptor.safetensors --epochs 60
      edgetune train features --out adaptor.safetensors --checkpoint run --resume
      edgetune train features --init adaptor.safetensors --epochs 5 --out new.safetensors
      edgetune train shapes --out shapes.safetensors --kind segmentation
    """
    if checkpoint is None and (resume or every is not None):
        raise click.UsageError("--every and --resume need --checkpoint, the folder to use")
    set_blas_threads()
    from edge_runtime.atomic import refuse_unwritable
    from edge_runtime.errors import OutputExistsError
    from edge_runtime.features import FeatureFolder
    from trainer_lite.data import sources
    from trainer_lite.outputs import Outputs
    from trainer_lite.reporter import Reporter
    from trainer_lite.stops import InterruptedRunError, StoppedError
    from trainer_lite.trainer import Trainer

    config, start = configured(init, options)
    outputs = Outputs(out, threads=threads, memory_budget=memory_budget)
    refuse_unwritable(out, force=force)
    folder = FeatureFolder.open(features)
    config = config.settled(folder.embed_dim, folder.prefix_tokens)
    checkpoints, stop = None, contextlib.nullcontext(None)
    if checkpoint is not None:
        from trainer_lite.checkpoint import Checkpoints, Every
        from trainer_lite.signals import StopRequest

        stop = StopRequest()  # type: ignore[assignment]
        checkpoints = Checkpoints(
            checkpoint, Every(*(every or ())), resume=resume, force=force, warn=say
        )
    try:
        outputs.refuse_others(config, folder, force=force, resume=resume)
    except OutputExistsError:
        if checkpoints is not None:  # says more: --force would discard a run
            refuse_saved(checkpoints, config, threads, folder)
        raise
    rows = len(sources(config, folder)[0].labels)
    steps = config.epochs * -(-rows // config.batch_size)
    with stop as requested, progress("training", steps) as advance:
        score = "val mIoU" if config.kind == "segmentation" else "val"
        reporter = Reporter(advance, config.epochs, score)
        trainer = Trainer(
            config,
            on_step=reporter.on_step,
            on_epoch=reporter.on_epoch,
            on_best=lambda adaptor: adaptor.save(outputs.best),
            on_warning=say,
            memory_budget=memory_budget,
            threads=threads,
            checkpoints=checkpoints,
            stop_requested=requested,
            start=start,
        )
        try:
            result = trainer.fit(folder)
        except InterruptedRunError as error:
            assert requested is not None
            say(f"{error}" + (f"; --resume goes on from {checkpoint}" if error.saved else ""))
            click.get_current_context().exit(requested.exit_code)
        except StoppedError as error:
            raise type(error)(f"{error}{outputs.keep(error)}") from None
        warning = outputs.write(result)
    if warning:
        say(warning)
    if checkpoints is not None:
        checkpoints.clear()
    summary = summarise(result, checkpoints)
    if as_json:
        emit_json({"adaptor": str(out), "memory_budget_bytes": memory_budget, **summary})
        return
    click.echo(f"{out}: {summary['parameters']} trainable parameters, {result.steps} steps")
    score = score_name(result)
    for name in (f"test_{score}", f"val_{score}", f"best_val_{score}"):
        if summary[name] is not None:
            click.echo(f"{name.replace('_', ' ')}: {summary[name]:.4f}")
    if result.best_epoch is not None:
        click.echo(f"best epoch on val ({summary['best_epoch']}): {outputs.best}")
    if result.skipped_steps:
        click.echo(f"{result.skipped_steps} steps skipped: loss or gradient was not finite")
    click.echo(
        f"{summary['images_per_second']:.0f} images/s, {result.seconds:.1f} s, "
        f"peak RSS {result.peak_rss_bytes / 2**20:.1f} MiB "
        f"(predicted {result.plan.predicted_peak_rss_bytes / 2**20:.1f}"
        + (f", budget {memory_budget / 2**20:.1f})" if memory_budget else ")")
    )
    if checkpoints is not None:
        click.echo(
            f"{checkpoints.written} checkpoints, {checkpoints.seconds:.2f} s, "
            f"{checkpoints.share:.1%} of this process's training time"
        )


def refuse_saved(
    checkpoints: Checkpoints, config: TrainConfig, threads: int, features: FeatureFolder
) -> None:
    """Says what of a saved run does not fit, or that --resume would go on with it."""
    from trainer_lite.provenance import facts_of_run

    checkpoints.open(facts_of_run(config, threads, None, features))
    checkpoints.close()


def score_name(result: TrainResult) -> str:
    """What epochs were compared by."""
    return "mean_iou" if result.adaptor.config.dense else "accuracy"


def summarise(result: TrainResult, checkpoints: Checkpoints | None) -> dict[str, Any]:
    """The run as one JSON object; accuracies and IoUs are fractions."""
    import dataclasses

    last, best, score = result.history[-1], result.best_epoch, score_name(result)
    history = [dataclasses.asdict(report) for report in result.history]
    saved: dict[str, Any] = {}
    pixels: dict[str, Any] = {}
    if result.adaptor.config.dense:
        for report in history:
            report["val_mean_iou"] = report.pop("val_accuracy")
        if result.test is not None:
            pixels["test_pixel_accuracy"] = result.test.accuracy
    if checkpoints is not None:
        saved = {
            "checkpoints_written": checkpoints.written,
            "checkpoint_seconds": checkpoints.seconds,
            "checkpoint_time_share": checkpoints.share,
        }
    return {
        f"test_{score}": None if result.test is None else result.test.score,
        **pixels,
        f"val_{score}": last.val_accuracy,
        f"best_val_{score}": None if best is None else best.val_accuracy,
        "best_epoch": None if best is None else best.epoch,
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "parameters": result.adaptor.config.parameter_count(),
        "epochs": len(result.history),
        "steps": result.steps,
        "skipped_steps": result.skipped_steps,
        "seconds": result.seconds,
        "images_per_second": last.rate,
        "peak_rss_bytes": result.peak_rss_bytes,
        "predicted_peak_rss_bytes": result.plan.predicted_peak_rss_bytes,
        "arena_bytes": result.plan.arena_bytes,
        "tile_images": result.plan.tile_images,
        **saved,
        "history": history,
    }
