"""One image through the same adaptor in numpy, onnxruntime and TFLite: latency and memory.

    python -m benchmarks.inference --repeats 300

All start from the feature as it is stored and sent (float16 and its scale) and end with
probabilities, on one thread. Latencies are taken in one process, in turn, so that a drifting
machine hits all; the ratio is the median of the pairwise ratios. Memory is of a process of its own
for each, that has predicted a hundred images; and again with what a board's whole job loads:
Pillow, which decodes an image, and an HTTP client.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

GRAPHS = {"onnxruntime": "onnx", "tflite": "tflite"}
NEEDED = {"onnxruntime": "onnxruntime", "tflite": "ai_edge_litert"}


@click.command()
@click.option("--adaptor", type=click.Path(path_type=Path), help="Instead of one made up.")
@click.option("--tokens", default=197, show_default=True)
@click.option("--dim", default=768, show_default=True)
@click.option("--blocks", default=4, show_default=True)
@click.option("--rank", default=8, show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--quantize", default="none", show_default=True, help="Of the graphs' weights.")
@click.option("--repeats", default=300, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--memory-of", type=click.Path(path_type=Path), hidden=True)
@click.option("--whole-job", is_flag=True, hidden=True)
def main(
    adaptor: Path | None,
    quantize: str,
    repeats: int,
    as_json: bool,
    memory_of: Path | None,
    whole_job: bool,
    **shape: int,
) -> None:
    """Prints a line a runtime."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if memory_of is not None:
        click.echo(json.dumps(memory(memory_of, whole_job)))
        return
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        files = write_all(Path(folder), adaptor, quantize, **shape)
        result = {name: {"bytes": path.stat().st_size} for name, path in files.items()}
        for name, timed in latencies(files, repeats).items():
            result[name].update(timed)
        for name, path in files.items():
            result[name]["rss_mib"] = resident(path)
            result[name]["rss_whole_job_mib"] = resident(path, "--whole-job")
    if as_json:
        click.echo(json.dumps(result))
        return
    for name, row in result.items():
        click.echo(f"{name:12} " + "  ".join(f"{key} {value}" for key, value in row.items()))


def write_all(
    folder: Path,
    given: Path | None,
    quantize: str,
    *,
    tokens: int,
    dim: int,
    blocks: int,
    rank: int,
    classes: int,
) -> dict[str, Path]:
    """The adaptor and its graphs, by runtime; those whose runtime is not installed are left out."""
    import numpy as np

    from edge_runtime.adaptor import Adaptor
    from edge_runtime.config import AdaptorConfig
    from export.adaptor import export_adaptor
    from trainer_lite.parameters import ParameterSet

    if given is None:
        config = AdaptorConfig(
            "attention", tokens, 1, dim, classes, rank, blocks, 1, "mean", 1e-6, 4.0
        )
        parameters = ParameterSet(config, np.float32)
        parameters.initialise(0)
        rng = np.random.default_rng(0)
        parameters.values["blocks.out"][...] = rng.standard_normal((blocks, rank, dim)) * 0.1
        parameters.values["head.weight"][...] = rng.standard_normal((classes, dim)) * 0.1
        names = [str(index) for index in range(classes)]
        adaptor = Adaptor(config, parameters.values, names, {}, {"codec": "float16"})
    else:
        adaptor = Adaptor.load(given)
    adaptor.save(folder / "adaptor.safetensors")
    files = {"numpy": folder / "adaptor.safetensors"}
    for runtime, kind in GRAPHS.items():
        if importlib.util.find_spec(NEEDED[runtime]) is not None:
            files[runtime] = folder / f"adaptor.{kind}"
            export_adaptor(adaptor, files[runtime], kind, quantize=quantize, codec="float16")
    return files


def question(path: Path) -> Callable[[], Any]:
    """A function that puts one stored feature through the adaptor in `path`.

    Imports no more than prediction does, no random generator least of all: memory is measured.
    """
    import numpy as np

    from edge_runtime.adaptor import Adaptor
    from edge_runtime.codecs import CODECS, decode, encode
    from edge_runtime.runtimes import open_adaptor

    opened: Any = open_adaptor(path)
    config = opened.config
    shape = (1, config.tokens, config.embed_dim)
    uneven = np.sin(np.arange(config.tokens * config.embed_dim, dtype=np.float32) ** 1.5)
    stored, scale = encode(CODECS["float16"], uneven.reshape(shape) * (1.4 * config.input_rms))
    if not isinstance(opened, Adaptor):
        return lambda: opened.predict_stored(stored, scale)
    decoded = np.empty(stored.shape, np.float32)

    def ask() -> Any:
        decode(CODECS["float16"], stored, scale, decoded)
        return opened.predict_proba(decoded)

    return ask


def latencies(files: dict[str, Path], repeats: int) -> dict[str, dict[str, Any]]:
    """Milliseconds an image, and their ratio to onnxruntime's, which must agree with numpy."""
    import statistics

    import numpy as np

    from benchmarks.timing import alternate, median_ratio

    questions = {name: question(path) for name, path in files.items()}
    expected = questions["numpy"]()
    found = {
        name: {"largest_difference": f"{np.abs(ask() - expected).max():.1e}"}
        for name, ask in questions.items()
    }
    seconds = dict(zip(files, alternate(list(questions.values()), repeats)))
    rows: dict[str, dict[str, Any]] = {}
    for name, times in seconds.items():
        rows[name] = {
            "median_ms": round(1e3 * statistics.median(times), 3),
            "p95_ms": round(1e3 * statistics.quantiles(times, n=20)[-1], 3),
            **found[name],
        }
        if "onnxruntime" in seconds:
            ratio = median_ratio(times, seconds["onnxruntime"])
            rows[name]["ratio_to_onnxruntime"] = round(ratio, 3)
    return rows


def resident(path: Path, *options: str) -> float:
    """MiB that a process of its own holds after it has predicted a hundred images."""
    import subprocess

    command = [sys.executable, "-m", "benchmarks.inference", "--memory-of", str(path), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr.strip())
    return round(json.loads(done.stdout) / 2**20, 1)


def memory(path: Path, whole_job: bool) -> int:
    """Resident bytes of this process with everything loaded."""
    from edge_runtime.memory import rss_bytes

    if whole_job:
        import PIL.Image

        from edge_runtime.plain_http import http_client

        http_client(secure=False)

        file = io.BytesIO()
        PIL.Image.new("RGB", (320, 240)).save(file, "JPEG")
        PIL.Image.open(file).convert("RGB").resize((224, 224))
    ask = question(path)
    for _ in range(100):
        ask()
    return rss_bytes()


if __name__ == "__main__":
    main()
