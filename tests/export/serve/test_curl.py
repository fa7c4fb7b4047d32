"""curl is enough to talk to the server, in JSON and in binary."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.edge_runtime.tiny_backbone import EMBED_DIM, SIZE, TOKENS, write_image
from tests.serving import Running

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
DOCUMENT = Path(__file__).parents[3] / "docs" / "serving.md"


def curl(*arguments: str) -> bytes:
    return subprocess.run(["curl", "-sS", *arguments], check=True, capture_output=True).stdout


def test_the_documents_command(server: Running, tmp_path: Path) -> None:
    write_image(tmp_path / "cat.png", 1)
    (tmp_path / "cat.jpg").write_bytes((tmp_path / "cat.png").read_bytes())
    (command,) = re.findall(r"```sh\n(curl .*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    command = command.replace("http://127.0.0.1:8000", server.url).replace("NAME", "tiny")
    found = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    (output,) = json.loads(found)["outputs"]
    assert (output["name"], output["shape"]) == ("features", [1, TOKENS, EMBED_DIM])


def test_binary(server: Running, tmp_path: Path) -> None:
    pixels = np.ones((1, SIZE, SIZE, 3), np.uint8).tobytes()
    entry = {"name": "images", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3]}
    text = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(pixels)}}]})
    (tmp_path / "request").write_bytes(text.encode() + pixels)
    header = f"Inference-Header-Content-Length: {len(text)}"
    url = f"{server.url}/v2/models/tiny/infer"
    found = curl("-H", header, "--data-binary", f"@{tmp_path / 'request'}", url)
    assert len(json.loads(found)["outputs"][0]["data"]) == TOKENS * EMBED_DIM
