"""`edgetune selftest` passes here, and a machine that is slightly off does not pass."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edge_runtime import ops
from tests.command_line import edgetune
from trainer_lite import golden, selftest
from trainer_lite.selftest import Check


def test_this_machine_passes() -> None:
    result = edgetune("selftest", "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 0
    assert content["passed"]
    assert content["numpy"] == np.__version__
    assert len(content["checks"]) == 40
    assert edgetune("selftest").stdout.count("ok ") == 40


def test_an_exponential_off_by_a_thousandth_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ops.exp_scores

    def off(scores: Any) -> None:
        scores *= 1.001
        exact(scores)

    monkeypatch.setattr(ops, "exp_scores", off)
    result = edgetune("selftest")
    assert result.exit_code == 1
    assert "FAILED gradients (mean, float32, tile 1)" in result.stdout
    assert "off on this machine: ten losses (mean, float64, tile 1)" in result.stderr
    assert "linear" not in result.stderr


def test_what_is_not_a_number_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Check("x", float("nan"), 1.0).passed
    assert not Check("x", float("nan"), 0.0, at_least=True).passed
    monkeypatch.setattr(selftest, "CONFIGS", {"mean": golden.CONFIGS["mean"]})
    monkeypatch.setattr(ops, "exp_scores", lambda scores: scores.fill(np.nan))
    monkeypatch.setattr(selftest, "PLAIN", {})
    result = edgetune("selftest", "--json")
    assert result.exit_code == 1
    assert all(check["found"] is None for check in json.loads(result.stdout)["checks"])
