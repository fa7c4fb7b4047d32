"""With a token, nothing is said to those who have none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_runtime.errors import FormatError
from edge_runtime.tokens import read_tokens
from tests.serving import Running, in_thread

TOKENS = frozenset({"correct-horse", "second"})
PATHS = [
    ("GET", "/"),
    ("GET", "/v2"),
    ("GET", "/v2/models/tiny"),
    ("GET", "/v2/models/other"),
    ("GET", "/v2/models/tiny/ready"),
    ("POST", "/v2/models/tiny/infer"),
    ("POST", "/v2/repository/index"),
    ("GET", "/metrics"),
    ("GET", "/backbone/manifest.json"),
    ("GET", "/nothing"),
    ("DELETE", "/v2"),
    ("GET", "/v2/health/live/"),
]


@pytest.fixture(scope="module")
def guarded(backbone_folder: Path) -> Iterator[Running]:
    from edge_runtime.backbone import Backbone
    from export.serve.app import Settings, create_app

    app = create_app(Backbone.open(backbone_folder, 1), Settings(tokens=TOKENS))
    with in_thread(app) as running:
        yield running


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer correct-hors",
        "Bearer correct-horsee",
        "Basic correct-horse",
        "correct-horse",
        "Bearer correct-horse second",
    ],
)
def test_without_a_token_every_answer_is_the_same(header: str | None, guarded: Running) -> None:
    headers = {} if header is None else {"Authorization": header}
    answers = set()
    for method, path in PATHS:
        status, found, body = guarded.request(method, path, headers=headers)
        assert found["www-authenticate"] == "Bearer"
        answers.add((status, body))
    assert answers == {
        (
            401,
            json.dumps({"error": "a valid bearer token is needed"}, separators=(",", ":")).encode(),
        )
    }


@pytest.mark.parametrize("token", sorted(TOKENS))
def test_each_token_opens(token: str, guarded: Running) -> None:
    for kind in ("Bearer", "bearer"):
        status, _, _ = guarded.request("GET", "/v2", headers={"Authorization": f"{kind} {token}"})
        assert status == 200


def test_probes_need_no_token_and_learn_nothing(guarded: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        status, _, body = guarded.request("GET", path)
        assert status == 200 and b"tiny" not in body


def test_a_token_file_has_a_token_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("one\n\n  two-2._~+/==  \n")
    assert read_tokens(path) == ["one", "two-2._~+/=="]
    for bad in ("", " \n", "token\nü", "quote'"):
        path.write_text(bad)
        with pytest.raises(FormatError, match="expected a token a line"):
            read_tokens(path)
    path.write_bytes(b"a" * (1 << 17))
    with pytest.raises(FormatError, match="expected a token a line"):
        read_tokens(path)
    with pytest.raises(FormatError, match="no such file"):
        read_tokens(tmp_path / "missing")
