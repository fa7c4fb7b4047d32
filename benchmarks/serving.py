"""The server: what the protocol costs an image, and throughput against onnxruntime called directly.

    python -m benchmarks.serving overhead
    EDGETUNE_TRITON=.venv-triton/bin/python python -m benchmarks.serving triton
    python -m benchmarks.serving throughput backbone

`overhead` serves a graph that computes nothing: 224 x 224 pixels in (151 KB), 197 tokens x 768 in
float16 out (303 KB). `triton` asks the same of Triton, in turns: of the model that `edgetune
triton-repo` writes, which does the same work, and both servers of a constant, which leaves the
protocol alone; tests/triton.py says where Triton is looked for. `throughput` serves a real backbone
to clients that each send one image at a time, and takes turns with a loop over onnxruntime at its
best batch size.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from edge_runtime import formats
from edge_runtime.backbone import Backbone, processors
from edge_runtime.codecs import CODECS
from edge_runtime.http_link import Link
from edge_runtime.inference_client import InferenceClient
from edge_runtime.remote_backbone import RemoteBackbone
from edge_runtime.served_model import Form
from export.triton.repository import Options, write_repository
from tests.edge_runtime.tiny_backbone import manifest
from tests.serving import in_process

Array = np.ndarray[Any, Any]
BATCHES = (1, 2, 4, 8, 16)
CONSTANT_MODEL = """
import numpy as np
import triton_python_backend_utils as triton

FEATURES = np.full((1, 197, 768), 1.5, np.float16)
SCALE = np.ones(1, np.float32)

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        triton.get_input_tensor_by_name(request, "images").as_numpy()
        values = {"features_float16": FEATURES, "scale_float16": SCALE}
        return triton.InferenceResponse([triton.Tensor(*item) for item in values.items()])
"""


@click.group()
def main() -> None:
    """Figures of the server."""


@main.command()
@click.option("--count", default=300, show_default=True, help="Requests of each codec.")
@click.option("--embed-dim", default=768, show_default=True, help="384: 303 KB in float32.")
@click.option("--json", "as_json", is_flag=True)
def overhead(count: int, embed_dim: int, as_json: bool) -> None:
    """Milliseconds of a round trip with a graph that computes nothing."""
    image = pixels(1, 224)
    times: dict[str, list[float]] = {name: [] for name in CODECS}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        null = write_null_backbone(Path(folder) / "null", embed_dim=embed_dim)
        with in_process(Path(folder) / "log", null) as (server, _):
            remote = RemoteBackbone.connect(Link(server.url))
            for _ in range(10):
                for name, codec in CODECS.items():
                    up, down = remote.traffic.up, remote.traffic.down
                    remote.encoded(image, codec)
                    sizes[name] = (remote.traffic.up - up, remote.traffic.down - down)
                    times[name] += timed(lambda c=codec: remote.encoded(image, c), count // 10)
    found = {
        name: {
            "ms_median": statistics.median(taken) * 1000,
            "ms_quartile": statistics.quantiles(taken, n=4)[0] * 1000,
            "bytes_up": sizes[name][0],
            "bytes_down": sizes[name][1],
        }
        for name, taken in times.items()
    }
    if as_json:
        click.echo(json.dumps({"machine": machine(), **found}))
        return
    for name, row in found.items():
        click.echo(
            f"{name:8} {row['ms_median']:6.2f} ms median, {row['ms_quartile']:6.2f} first quartile"
            f", {row['bytes_up']:,} bytes up, {row['bytes_down']:,} down"
        )


@main.command()
@click.option("--count", default=600, show_default=True, help="Requests to each server.")
@click.option("--json", "as_json", is_flag=True)
def triton(count: int, as_json: bool) -> None:
    """Milliseconds of a round trip to `edgetune serve` and to Triton, in turns."""
    from tests import triton as tritonserver

    found = tritonserver.find()
    if found is None:
        raise click.ClickException(tritonserver.WHY_NOT)
    codec, image = CODECS["float16"], pixels(1, 224)
    outputs = Form(codec).output_names
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        work = Path(folder)
        null = write_null_backbone(work / "null")
        models, options = work / "models", Options(max_batch=1)
        opened = Backbone.open(null)
        write_repository(opened, models, "python", "ours", options, force=False)
        constant = write_repository(opened, models, "python", "constant", options, force=False)
        (constant / "1" / "model.py").write_text(CONSTANT_MODEL)
        server, _ = stack.enter_context(in_process(work / "log", null))
        module = "benchmarks.constant_server"
        bare, _ = stack.enter_context(in_process(work / "log2", null, module=module))
        other = stack.enter_context(tritonserver.in_process(found, models, work))
        clients = {
            "null model": (
                InferenceClient(Link(server.url)),
                InferenceClient(Link(other.url), "ours"),
            ),
            "constant": (
                InferenceClient(Link(bare.url)),
                InferenceClient(Link(other.url), "constant"),
            ),
        }
        calls = {
            (work_done, server_name): partial(client.infer, {"images": image}, outputs, 1 << 20)
            for work_done, pair in clients.items()
            for server_name, client in zip(("edgetune serve", "Triton"), pair)
        }
        answers = [call().tensors for call in calls.values()]
        for answer in answers:
            for name in outputs:
                assert np.array_equal(answer[name], answers[0][name])
        times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
        for turn in range(30):
            for key in list(calls)[:: 1 if turn % 2 else -1]:
                calls[key]()
                times[key] += timed(calls[key], count // 30)
    medians = {key: statistics.median(taken) * 1000 for key, taken in times.items()}
    result = {
        work_done: {
            **{name: medians[work_done, name] for name in ("edgetune serve", "Triton")},
            "ratio": medians[work_done, "edgetune serve"] / medians[work_done, "Triton"],
        }
        for work_done in clients
    }
    if as_json:
        click.echo(json.dumps({"machine": machine(), "requests": count, "ms_median": result}))
        return
    for work_done, row in result.items():
        click.echo(
            f"{work_done:10} {row['edgetune serve']:6.2f} ms median, Triton {row['Triton']:6.2f} ms"
            f": {row['ratio']:.2f} x"
        )


@main.command()
@click.argument("backbone", type=click.Path(path_type=Path))
@click.option("--clients", default=8, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of each turn.")
@click.option("--turns", default=15, show_default=True)
@click.option("--codec", type=click.Choice(list(CODECS)), default="float16", show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def throughput(
    backbone: Path,
    clients: int,
    seconds: float,
    turns: int,
    codec: str,
    workers: int,
    as_json: bool,
) -> None:
    """Images a second from concurrent clients, as a share of onnxruntime's own best."""
    forms = [
        (Backbone.open(backbone, spin=spin), size) for spin in (True, False) for size in BATCHES
    ]
    rates = [
        statistics.median(rate(direct(*form, seconds / 2)) for _ in range(3)) for form in forms
    ]
    best = forms[rates.index(max(rates))]
    quiet = (forms[-1][0], best[1])  # its threads burn no processor time while they wait
    shown = f"batch {best[1]}{', spinning' if best[0].spin else ''}"
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        in_process(Path(folder) / "log", backbone, "--workers", workers) as (server, process),
    ):
        remotes = [RemoteBackbone.connect(Link(server.url)) for _ in range(clients)]

        def alone() -> dict[str, float]:
            before = time.process_time()
            images, _ = direct(*quiet, seconds / 2)
            cpu = (time.process_time() - before) / images
            return {"rate": rate(direct(*best, seconds)), "cpu": cpu}

        def served() -> dict[str, float]:
            before, own = processor_seconds(process.pid), time.process_time()
            images, elapsed = load(remotes, seconds, codec)
            own = time.process_time() - own
            server_cpu = (processor_seconds(process.pid) - before) / images
            return {"rate": images / elapsed, "cpu": server_cpu, "clients": own / images}

        for turn in range(turns):
            first, second = (alone, served) if turn % 2 else (served, alone)
            found = {first.__name__: first(), second.__name__: second()}
            ratio = found["served"]["rate"] / found["alone"]["rate"]
            rows.append({**found, "ratio": ratio, "cpu": cpu_ratio(found)})
            if not as_json:
                click.echo(
                    f"{found['alone']['rate']:7.2f} images/s directly ({shown}), "
                    f"{found['served']['rate']:7.2f} to {clients} clients, ratio {ratio:.3f}; "
                    f"processor time an image {rows[-1]['cpu']:.3f}"
                )
    result = {
        "ratio_median": statistics.median(row["ratio"] for row in rows),
        "cpu_ratio_median": statistics.median(row["cpu"] for row in rows),
    }
    if as_json:
        click.echo(json.dumps({"machine": machine(), "direct": shown, "turns": rows, **result}))
    else:
        click.echo("medians: {ratio_median:.3f}; {cpu_ratio_median:.3f}".format(**result))


def cpu_ratio(found: dict[str, dict[str, float]]) -> float:
    """Processor time an image of onnxruntime in a loop, over that of the server and its clients.

    What the throughput's ratio would be on these processors with nothing else on them.
    """
    return found["alone"]["cpu"] / (found["served"]["cpu"] + found["served"]["clients"])


def processor_seconds(process: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rate(done: tuple[int, float]) -> float:
    """Images a second."""
    return done[0] / done[1]


def load(remotes: list[RemoteBackbone], seconds: float, codec: str) -> tuple[int, float]:
    """(images, seconds) of so many clients together, each sending one image after the other."""
    image = pixels(1, remotes[0].preprocessing.size)
    end = time.monotonic() + seconds

    def client(remote: RemoteBackbone) -> int:
        count = 0
        while time.monotonic() < end:
            remote.encoded(image, CODECS[codec])
            count += 1
        return count

    begin = time.monotonic()
    with ThreadPoolExecutor(len(remotes)) as pool:
        count = sum(pool.map(client, remotes))
    return count, time.monotonic() - begin


def direct(backbone: Backbone, batch: int, seconds: float) -> tuple[int, float]:
    """(images, seconds) of onnxruntime in a loop."""
    images = pixels(batch, backbone.preprocessing.size)
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        backbone._session.run(["features"], {"images": images})
        count += batch
    return count, time.monotonic() - begin


def timed(call: Callable[[], object], count: int) -> list[float]:
    """Seconds of each of `count` calls."""
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return times


def pixels(count: int, size: int) -> Array:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "processors": processors(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def write_null_backbone(folder: Path, tokens: int = 197, embed_dim: int = 768) -> Path:
    """A backbone folder whose graph repeats a constant, for each image."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Shape", ["images"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "one"], ["batch"]),
        helper.make_node("Concat", ["batch", "map"], ["wanted"], axis=0),
        helper.make_node("Expand", ["value", "wanted"], ["features"]),
    ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "map": np.array([tokens, embed_dim]),
        "value": np.float32(1.5),
    }
    graph = helper.make_graph(
        nodes,
        "null",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 224, 224, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", "t", "d"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    data = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    content = manifest(data)
    content.update(tokens=tokens, embed_dim=embed_dim, model="null")
    content["preprocessing"] = {**content["preprocessing"], "size": 224, "resize": 224}
    parts = {key: content[key] for key in ("k", "preprocessing", "graph_version")}
    content["identity"] = formats.identity(
        {**parts, "weights_sha256": content["weights"]["sha256"]}
    )
    folder.mkdir(parents=True)
    (folder / "backbone.onnx").write_bytes(data)
    formats.write_json(folder / formats.MANIFEST, content)
    return folder


if __name__ == "__main__":
    main()
