"""The InferenceService of docs/serving.md: a command that exists, and probes that need no token."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest

from edge_runtime.cli import main
from tests.serving import Running
from tests.test_imports import ROOT


def container() -> Any:
    yaml = pytest.importorskip("yaml")
    section = (ROOT / "docs" / "serving.md").read_text().split("### KServe")[1]
    (text,) = re.findall(r"```yaml\n(.*?)```", section.split("\n### ")[0], re.DOTALL)
    (found,) = yaml.safe_load(text)["spec"]["predictor"]["containers"]
    return found


def test_the_container_runs_a_command_that_there_is() -> None:
    found = container()
    assert found["command"] == ["edgetune"]
    name, *arguments = found["args"]
    serve = main.get_command(click.Context(main), name)
    assert serve is not None
    context = serve.make_context(name, list(arguments))
    assert str(context.params["backbone"]) == "/mnt/models"
    assert context.params["host"] == "0.0.0.0" and context.params["token_file"] is not None
    assert context.params["port"] == found["ports"][0]["containerPort"]


def test_the_probes_are_answered_without_a_token(server: Running) -> None:
    pytest.importorskip("starlette")
    from export.serve.gate import OPEN_PATHS

    found = container()
    for probe in ("readinessProbe", "livenessProbe"):
        get = found[probe]["httpGet"]
        assert get["port"] == found["ports"][0]["containerPort"]
        assert get["path"] in OPEN_PATHS
        assert server.request("GET", get["path"])[0] == 200
