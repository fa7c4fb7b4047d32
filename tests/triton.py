"""The tritonserver that the package nvidia-pytriton carries: Python backend, processors only.

It is looked for in this environment, or in that of the Python that EDGETUNE_TRITON names, which
also needs numpy < 2, onnxruntime and Pillow. Such a Python is best the system's own: the backend
loads its libpython.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.serving import Running, wait_until

ASKS = (
    "import sys, importlib.util as u; s = u.find_spec('pytriton');"
    "print(s.origin if s else '', '%d.%d' % sys.version_info[:2])"
)


@dataclass(frozen=True)
class Triton:
    """Where Triton's files are, and the Python that its models run in."""

    package: Path
    python: Path
    version: str


def find() -> Triton | None:
    """Triton, where there is one."""
    python = os.environ.get("EDGETUNE_TRITON", sys.executable)
    asked = subprocess.run([python, "-c", ASKS], capture_output=True, text=True)
    origin, _, version = asked.stdout.strip().rpartition(" ")
    return Triton(Path(origin).parent, Path(python).absolute(), version) if origin else None


WHY_NOT = (
    "Triton NOT tried: no nvidia-pytriton here; install the extra [triton] into an environment and "
    "name its python in EDGETUNE_TRITON"
)


@contextlib.contextmanager
def in_process(triton: Triton, repository: Path, work: Path) -> Iterator[Running]:
    """Runs tritonserver on a repository, its log and its copy of the backend in `work`."""
    backends = work / "backends"
    shutil.copytree(triton.package / "tritonserver/backends", backends, dirs_exist_ok=True)
    stub = "triton_python_backend_stub"
    shutil.copy(
        triton.package / "tritonserver/python_backend_stubs" / triton.version / stub,
        backends / "python" / stub,
    )
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    command = [
        str(triton.package / "tritonserver/bin/tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name=edgetune{port}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
    ]
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{triton.python.parent}:{os.environ['PATH']}",  # the backend runs `python3`
        "LD_LIBRARY_PATH": str(triton.package.parent / "nvidia_pytriton.libs"),
    }
    log = work / "triton.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    running = Running(port)

    def ready() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        with contextlib.suppress(OSError):
            return running.request("GET", "/v2/health/ready")[0] == 200
        return False

    try:
        wait_until(ready, 120)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
