"""The page on trained adaptors: what their files say, what it lacks; it runs and loads nothing."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.adaptor import Adaptor
from edge_runtime.features import FeatureFolder
from tests.command_line import edgetune
from tests.feature_folders import alter_manifest, write_features
from tests.problems import config_of, random_parameters
from trainer_lite.charts import MOST_POINTS, Curve, curves, matrix, spread, thinned
from trainer_lite.page_parts import Html, name, tag
from trainer_lite.report import MOST_RUNS

EVIL = ["</title><script>alert(1)</script>", "\"><img src=x onerror='alert(1)'>", "&amp; café ‮"]
VOID = {"img", "meta", "wbr"}


class Page(HTMLParser):
    """A page as browsers take it apart: its elements, its text, and whether all were closed."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.opened: list[str] = []
        self.feed(text)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    def check(self) -> None:
        """It runs nothing, loads nothing, its anchors lead somewhere, its drawings are told."""
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids))
        names = {name for name, _ in self.tags}
        assert not names & {"script", "link", "iframe", "object", "base", "form"}
        for element, attributes in self.tags:
            assert not [key for key in attributes if key.startswith("on")], attributes
            for key in ("href", "src"):
                value = attributes.get(key) or "#learning"
                assert value[1:] in ids or value.startswith("data:image/jpeg;base64,"), value
            if element == "img":
                assert attributes["alt"]
        policy = {"http-equiv": "Content-Security-Policy"}
        (found,) = [a for _, a in self.tags if a.get("http-equiv") == policy["http-equiv"]]
        assert str(found["content"]).startswith("default-src 'none'")


def page_of(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    page.check()
    drawings = re.findall(r"<svg[^>]*role=\"img\".*?</svg>", text, re.DOTALL)
    for drawing in drawings:
        assert re.match(r"<svg[^>]*><title>[^<]+</title><desc>[^<]+</desc>", drawing), drawing[:200]
    assert not re.search(r"url\(|@import|https?:", text)
    return page


def report(*arguments: object) -> Page:
    """The page of a report that must go well; its --html is the last argument."""
    found = edgetune("report", *arguments)
    assert found.exit_code == 0, found
    return page_of(Path(str(arguments[-1])))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features that are hard to tell apart, and two runs on them: `a`, and `b`, a linear one."""
    root = tmp_path_factory.mktemp("report")
    rows = {"train": 48, "val": 24, "test": 30}
    write_features(root / "features", rows=rows, separation=0.15, classes=3)
    for path, *options in (("a.st", "--rank", 4), ("b.st", "--kind", "linear")):
        train = ("train", root / "features", "--out", root / path, "--epochs", 4, "--batch-size", 8)
        assert edgetune(*train, *options).exit_code == 0
    return root


def test_one_run_with_everything(folder: Path, tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    profile = edgetune("profile", folder / "a.st", "--steps", 1, "--batch-size", 4, "--json")
    (tmp_path / "profile.json").write_text(profile.stdout)
    features, images = folder / "features", tmp_path / "images"
    for path in FeatureFolder.open(features).split("test").paths:
        (images / path).parent.mkdir(parents=True, exist_ok=True)
        pillow.new("RGB", (300, 200), (200, 30, 30)).save(images / path)
    given = ("--features", features, "--images", images, "--profile", tmp_path / "profile.json")
    page = report(folder / "a.st", *given, "--html", tmp_path / "r.html")
    found = json.loads(edgetune("evaluate", folder / "a.st", features, "--json").stdout)
    assert f"{100 * found['accuracy']:.1f} % on test, 30 images" in page.text
    assert "edgetune train" not in page.text and "edgetune profile with a batch of 4" in page.text
    for text in (
        "A training step: ",
        "measured peak RSS",
        "float16 ← trained on",
        "✓ the folder given",
    ):
        assert text in page.text, text
    wrong = 30 - int(np.trace(found["confusion"]))
    pictures = [attributes["src"] for element, attributes in page.tags if element == "img"]
    assert 0 < len(pictures) == min(wrong, 12)
    assert max(len(str(source)) for source in pictures) < 3000
    history = json.loads((folder / "a.history.json").read_text())
    losses = [f"{epoch['train_loss']:.4f}" for epoch in history["epochs"]]
    assert re.search(" .*".join(map(re.escape, losses)), page.text)


def test_the_object_agrees_with_evaluate_and_lists_the_surest_mistakes(
    folder: Path, tmp_path: Path
) -> None:
    features = folder / "features"
    told = edgetune("report", folder / "a.st", folder / "b.st", "--features", features,
                    "--html", tmp_path / "r.html", "--json")  # fmt: skip
    content = json.loads(told.stdout)
    assert [run["letter"] for run in content["runs"]] == ["A", "B"]
    for run in content["runs"]:
        evaluated = json.loads(edgetune("evaluate", run["path"], features, "--json").stdout)
        assert run["evaluation"]["confusion"] == evaluated["confusion"]
        split = FeatureFolder.open(features).split("test")
        probabilities = Adaptor.load(run["path"]).predict_proba(split)
        wrong = probabilities.argmax(axis=1) != split.labels
        surest = np.sort(probabilities.max(axis=1)[wrong])[::-1]
        mistakes = run["evaluation"]["mistakes"]
        assert len(mistakes) == min(12, wrong.sum()) > 0
        np.testing.assert_allclose([m["probability"] for m in mistakes], surest[: len(mistakes)])
        for mistake in mistakes:
            row = split.paths.index(mistake["path"])
            assert split.labels[row] == mistake["label"] != mistake["predicted"]
            assert probabilities[row].argmax() == mistake["predicted"]
    page = page_of(tmp_path / "r.html")
    assert "≠" in page.text and "kind ≠ attention linear" in page.text


def test_names_from_files_are_text_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    features = tmp_path / "features"
    shutil.copytree(folder / "features", features)

    def rename(manifest: Any) -> None:
        manifest["classes"] = EVIL
        manifest["backbone"]["model"] = EVIL[0]
        manifest["codec"] = "float16"

    alter_manifest(features, rename)
    run = tmp_path / "<script>alert(1)<" / '" onload="alert(1).st'
    train = ("train", features, "--out", run, "--epochs", 1, "--batch-size", 8)
    assert edgetune(*train).exit_code == 0
    history = run.with_name(f"{run.stem}.history.json")
    content = json.loads(history.read_text())
    content["versions"]["<script>alert(1)</script>"] = "<img src=x onerror=alert(1)>"
    history.write_text(json.dumps(content))
    page = report(run, run, "--features", features, "--html", tmp_path / "r.html")
    for text in (EVIL[1], "<script>alert(1)</script>", '" onload="alert(1)'):
        assert text in page.text  # all of it, as text
    for element, attributes in page.tags:
        if element == "svg":
            assert set(attributes) <= {"viewbox", "role", "class", "aria-label", "aria-hidden"}


def test_what_is_not_there_is_said_with_the_command_that_gives_it(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copy(folder / "a.st", tmp_path / "bare.st")
    page = report(tmp_path / "bare.st", "--html", tmp_path / "r.html")
    for what, command in (
        ("No curves.", "bare.st --force --rank 4 --epochs 4 --batch-size 8"),
        ("No accuracy by class.", "--features FEATURES"),
        ("No predictions.", "--features FEATURES"),
        ("No memory plan.", "edgetune plan FEATURES --rank 4"),
        ("No times.", "--json > profile.json"),
        ("No totals.", "--features FEATURES"),
    ):
        assert re.search(f"{re.escape(what)}.*{re.escape(command)}", page.text), what
    assert "bare.history.json is not there" in page.text
    assert not [a for _, a in page.tags if a.get("role") == "img"]  # no empty frame
    two = report(folder / "a.st", tmp_path / "bare.st", "--html", tmp_path / "two.html")
    assert "No curves of B." in two.text and "Training loss" in two.text
    page = report(folder / "a.st", "--features", folder / "features", "--html", tmp_path / "3.html")
    assert "No thumbnails." in page.text and "--images DIR" in page.text


def test_a_folder_without_test_is_judged_on_val_and_one_with_neither_is_not(
    folder: Path, tmp_path: Path
) -> None:
    for rows, told in (
        ({"train": 24, "val": 9}, "Of the val split"),
        ({"train": 24}, "has neither a test nor a val split"),
    ):
        features = write_features(tmp_path / f"f{len(rows)}", rows=rows).path
        page = report(
            folder / "a.st", "--features", features, "--html", tmp_path / f"{len(rows)}.html"
        )
        assert told in page.text
        assert "✗ judged here on others" in page.text


def test_refusals_are_one_line(folder: Path, tmp_path: Path) -> None:
    html, features = tmp_path / "r.html", folder / "features"

    def error(*arguments: object) -> str:
        line = edgetune("report", *arguments, "--html", html).error
        assert not html.exists()
        return line

    a, b = folder / "a.st", folder / "b.st"
    assert "no such file" in error(tmp_path / "none.st").lower()
    (tmp_path / "junk.st").write_text("junk")
    assert "junk.st" in error(tmp_path / "junk.st")
    assert "junk.st" in error(a, "--profile", tmp_path / "junk.st")
    assert "is not a feature folder" in error(a, "--features", tmp_path)
    assert "no folder" in error(a, "--features", features, "--images", tmp_path / "none")
    other = write_features(tmp_path / "other", classes=4).path
    assert "a.st: the adaptor knows the classes" in error(a, "--features", other)
    strange = write_features(tmp_path / "strange").path
    alter_manifest(strange, lambda m: m["backbone"].update(identity="00" * 32, k=9))
    assert "b.st: this adaptor was trained on backbone" in error(b, "--features", strange)
    wide = write_features(tmp_path / "wide", tokens=9).path
    assert "features of 5 tokens x 8, these are 9 x 8" in error(a, "--features", wide)
    assert "is not what `edgetune profile --json` writes" in error(
        a, "--profile", folder / "a.history.json"
    )
    told = edgetune("profile", b, "--steps", 1, "--batch-size", 4, "--json").stdout
    (tmp_path / "b.json").write_text(told)
    assert "is the profile of another shape" in error(a, "--profile", tmp_path / "b.json")
    assert f"at most {MOST_RUNS} runs" in error(*[a] * (MOST_RUNS + 1))
    copy = shutil.copy(a, tmp_path / "copy.st")
    same = edgetune("report", copy, "--html", copy, "--force")
    assert "is one of the runs" in same.error and Adaptor.load(copy)
    html.write_text("mine")
    assert "--force" in edgetune("report", a, "--html", html).error
    assert html.read_text() == "mine"
    assert edgetune("report", a, "--html", html, "--force").exit_code == 0
    assert edgetune("report", a).exit_code == 2
    assert edgetune("report", a, "--html", html, "--images", tmp_path).exit_code == 2


def test_thumbnails_come_from_the_folder_alone_and_need_pillow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    from trainer_lite.thumbnails import thumbnail

    inside = tmp_path / "inside"
    inside.mkdir()
    pillow.effect_noise((900, 700), 90).save(inside / "good.png")
    pillow.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (inside / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing more")
    good = thumbnail(inside, "good.png")
    assert good is not None and len(good) < 24_000
    for path in ("../secret.png", str(tmp_path / "secret.png"), "broken.png", "none.png", "."):
        assert thumbnail(inside, path) is None, path
    given = ("--features", folder / "features", "--images", inside)
    page = report(folder / "a.st", *given, "--html", tmp_path / "r.html")
    assert "no readable image of this path in --images" in page.text
    for module in ("PIL", "PIL.Image"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    refused = edgetune("report", folder / "a.st", *given, "--html", tmp_path / "other.html")
    assert "pip install 'edgetune[vision]'" in refused.error


def test_many_classes_and_many_runs_make_no_large_page(tmp_path: Path) -> None:
    classes = 120
    rows = {"train": classes, "test": 6 * classes}
    written = write_features(tmp_path / "f", classes=classes, rows=rows, separation=0.3)
    folder = FeatureFolder.open(written.path)
    config = config_of(tokens=5, embed_dim=8, classes=classes, prefix_tokens=1)
    parameters = random_parameters(config, np.float32)
    run = tmp_path / "a.st"
    Adaptor(config, parameters, folder.classes, folder.backbone).save(run)
    html = tmp_path / "r.html"
    page = report(*[run] * MOST_RUNS, "--features", written.path, "--html", html)
    assert "60 more classes" in page.text
    assert html.stat().st_size < 1_500_000
    assert "identity not known" in page.text


def test_markup_escapes_all_but_markup() -> None:
    assert tag("p", "<b>", Html("<i>x</i>"), [1, None], title='"<') == (
        '<p title="&quot;&lt;">&lt;b&gt;<i>x</i>1</p>'
    )
    assert name("x" * 1000 + "end").endswith("end</bdi>") and len(name("x" * 1000)) < 80


def test_curves_bear_any_run() -> None:
    for values in ([0.5], [0.0, 0.0], [1.0] * 3, [2e-9, 3e5, 1.0], [-1.0, 2.0], [None, 0.25]):
        drawn = curves("t", "d", [Curve(0, "A", values, len(values))])
        assert "nan" not in drawn and "inf" not in drawn
        if all(v is None or 0 <= v <= 1 for v in values):
            assert "%" in curves("t", "d", [Curve(7, "A", values)], fractions=True)
    for wanted in ([5.0], [1, 2, 3.0, 80, 200, 201], [float(x) for x in range(9)]):
        found = spread(wanted, 13, 210)
        assert all(b - a > 12.999 for a, b in zip(found, found[1:])) and found[-1] <= 210.001
    assert spread([10, 50, 60, 90], 13, 210) == [10, 48.5, 61.5, 90]
    points = [(float(x), float(x == 4321)) for x in range(10_000)]
    kept = thinned(points)
    assert len(kept) <= MOST_POINTS and (4321.0, 1.0) in kept
    assert kept[0] == points[0] and kept[-1] == points[-1]
    shades = matrix("t", "d", (np.eye(300, dtype=int) * 3 + 1).tolist())
    assert len(shades) < 20_000 * 16
