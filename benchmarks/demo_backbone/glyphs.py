"""Seeded generator of formula-made glyph images: no photograph, font or data set is involved.

A class is a random glyph of one to four strokes, each stroke a parametric curve. An instance of
it jitters the curve parameters, bends and warps the glyph, and renders it with a random pen,
colours, background, blur, resolution and noise. The idea of pretraining on images that a formula
makes, with the formula's parameters as the label, is formula-driven supervised learning
(FractalDB, arXiv:2101.08515); the curves and every range below are our own choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

IMAGE_SIZE = 32
TRAIN, HELD_OUT = 0, 1

_SUPERSAMPLE = 2
_POINTS = 28
_KINDS = ("bezier", "arc", "lissajous", "radial")
_CLASS_STREAM, _INSTANCE_STREAM = 11, 13

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Stroke:
    """One curve of a glyph: its family, continuous parameters, integer orders and its place."""

    kind: str
    params: Floats
    orders: tuple[int, int]
    centre: Floats
    scale: float
    filled: bool


@dataclass(frozen=True)
class Glyph:
    """One class: its strokes, and the middle and half extent that bring them into [-1, 1]."""

    strokes: tuple[Stroke, ...]
    middle: Floats
    extent: float


def make_glyph(label: int, seed: int = 0) -> Glyph:
    """Returns class `label` of the family of glyphs numbered `seed`."""
    rng = np.random.default_rng((_CLASS_STREAM, seed, label))
    count = int(rng.choice(4, p=(0.25, 0.35, 0.25, 0.15))) + 1
    strokes = tuple(_make_stroke(rng, count) for _ in range(count))
    points = np.concatenate([_trace(stroke, stroke.params) for stroke in strokes])
    low, high = points.min(axis=0), points.max(axis=0)
    return Glyph(strokes, (low + high) / 2.0, float((high - low).max()) / 2.0)


def render_instance(
    glyph: Glyph, rng: np.random.Generator, variety: float = 1.0
) -> tuple[Pixels, Pixels]:
    """Draws one random instance.

    Returns:
        The (size, size, 3) image and its (size, size) cover, the ink before any degradation.
    """
    mask = _draw_mask(glyph, rng)
    cover = np.asarray(mask.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))
    if rng.random() < variety:
        return _colourise(mask, rng), cover
    grey = (np.clip(_soften(mask, rng), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2), cover


def render_batch(
    glyphs: list[Glyph],
    labels: NDArray[np.int64],
    first_index: int,
    split: int,
    seed: int = 0,
    variety: float = 1.0,
) -> tuple[Pixels, Pixels]:
    """Draws one instance per label, in a fixed way for each (seed, split, first_index + i).

    Args:
        variety: Share of the images that get colours, a ground and noise; the rest is white
            on black.
    """
    images = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
    covers = np.empty((len(labels), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    for offset, label in enumerate(labels):
        rng = np.random.default_rng((_INSTANCE_STREAM, seed, split, first_index + offset))
        images[offset], covers[offset] = render_instance(glyphs[int(label)], rng, variety)
    return images, covers


def draw_prototype(glyph: Glyph, side: int = 16) -> Floats:
    """Draws the undistorted glyph, soft, as (side, side) values from 0 to 1."""
    canvas = IMAGE_SIZE * _SUPERSAMPLE
    mask = Image.new("L", (canvas, canvas), 0)
    draw = ImageDraw.Draw(mask)
    for stroke in glyph.strokes:
        points = (_trace(stroke, stroke.params) - glyph.middle) / glyph.extent
        _draw_stroke(draw, (points * 0.4 + 0.5) * canvas, 6.0, stroke.filled)
    soft = mask.filter(ImageFilter.GaussianBlur(3.0)).resize((side, side), Image.Resampling.BOX)
    return np.asarray(soft, dtype=np.float64) / 255.0


def _make_stroke(rng: np.random.Generator, count: int) -> Stroke:
    kind = _KINDS[int(rng.choice(4, p=(0.4, 0.25, 0.15, 0.2)))]
    size = {"bezier": 2 * int(rng.integers(2, 6)), "arc": 5, "lissajous": 5, "radial": 11}[kind]
    spread = 0.1 if count == 1 else 0.5
    return Stroke(
        kind=kind,
        params=rng.uniform(-1.0, 1.0, size),
        orders=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        centre=rng.uniform(-spread, spread, 2),
        scale=float(rng.uniform(0.75, 1.0) if count == 1 else rng.uniform(0.35, 0.8)),
        filled=kind == "radial" and bool(rng.random() < 0.25),
    )


def _trace(stroke: Stroke, params: Floats) -> Floats:
    """Returns the (points, 2) polyline of a stroke for (jittered) parameters in about [-1, 1]."""
    t = np.linspace(0.0, 1.0, _POINTS)
    if stroke.kind == "bezier":
        curve = _bezier(params.reshape(-1, 2) * 1.2, t)
    elif stroke.kind == "arc":
        curve = _arc(params, t)
    elif stroke.kind == "lissajous":
        curve = _lissajous(params, stroke.orders, t)
    else:
        curve = _radial(params, t)
    return stroke.centre + stroke.scale * curve


def _bezier(control: Floats, t: Floats) -> Floats:
    """Evaluates a Bezier curve of any degree by de Casteljau's scheme."""
    points = np.repeat(control[:, None, :], len(t), axis=1)
    while len(points) > 1:
        points = points[:-1] * (1.0 - t)[None, :, None] + points[1:] * t[None, :, None]
    return points[0]


def _arc(params: Floats, t: Floats) -> Floats:
    """Evaluates an elliptic arc from (two radii, start, sweep, tilt)."""
    radii = 0.65 + 0.35 * params[:2]
    angle = np.pi * (params[2] + (1.1 + 0.9 * params[3]) * t)
    points = np.stack([radii[0] * np.cos(angle), radii[1] * np.sin(angle)], axis=1)
    return points @ _rotation(0.5 * np.pi * params[4]).T


def _lissajous(params: Floats, orders: tuple[int, int], t: Floats) -> Floats:
    """Evaluates part of a Lissajous curve from (two amplitudes, phase, start, length)."""
    phase = np.pi * t * (1.2 + 0.8 * params[4]) + np.pi * params[3]
    x = (0.75 + 0.25 * params[0]) * np.sin(orders[0] * phase + np.pi * params[2])
    y = (0.75 + 0.25 * params[1]) * np.sin(orders[1] * phase)
    return np.stack([x, y], axis=1)


def _radial(params: Floats, t: Floats) -> Floats:
    """Evaluates a closed contour whose radius is a short Fourier series of the angle."""
    angle = 2.0 * np.pi * t
    wave = np.zeros_like(t)
    for order in range(1, 6):
        a, b = params[2 * order - 2], params[2 * order - 1]
        wave += (a * np.cos(order * angle) + b * np.sin(order * angle)) / (1.0 + 0.5 * order)
    radius = 0.6 * np.exp(0.45 * wave)
    aspect = np.exp(0.5 * params[10])
    return np.stack([radius * np.cos(angle) * aspect, radius * np.sin(angle) / aspect], axis=1)


def _rotation(angle: float) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def _random_affine(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draws a linear map (scale, aspect, tilt, slant) and a shift."""
    scale = rng.uniform(0.6, 0.9) * np.exp(rng.normal(0.0, 0.12) * np.array([1.0, -1.0]))
    slant = np.array([[1.0, rng.normal(0.0, 0.15)], [0.0, 1.0]])
    linear = _rotation(rng.normal(0.0, 0.2)) @ slant @ np.diag(scale)
    return linear, rng.uniform(-0.12, 0.12, 2)


def _bend(points: Floats, waves: Floats) -> Floats:
    """Displaces points smoothly by one low-frequency wave along each axis."""
    phase = points[:, ::-1] * waves[0] + waves[1]
    return points + waves[2] * np.sin(phase)


def _draw_mask(glyph: Glyph, rng: np.random.Generator) -> Image.Image:
    """Draws the glyph in white on black at working resolution."""
    side = IMAGE_SIZE * _SUPERSAMPLE
    jitter = rng.uniform(0.02, 0.12)
    linear, shift = _random_affine(rng)
    waves = np.stack([rng.uniform(1.5, 3.5, 2), rng.uniform(0, 6.3, 2), rng.normal(0, 0.06, 2)])
    pen = rng.uniform(2.0, 9.0)
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    for stroke in glyph.strokes:
        params = stroke.params + rng.normal(0.0, jitter, len(stroke.params))
        points = (_trace(stroke, params) - glyph.middle) / glyph.extent
        points = _bend(points, waves) @ linear.T + shift
        pixels = (points * 0.5 + 0.5) * side
        _draw_stroke(draw, pixels, pen * rng.uniform(0.85, 1.15), stroke.filled)
    return mask


def _draw_stroke(draw: ImageDraw.ImageDraw, pixels: Floats, pen: float, filled: bool) -> None:
    """Draws one polyline with round ends, or fills it."""
    path = [(float(x), float(y)) for x, y in pixels]
    if filled:
        draw.polygon(path, fill=255)
        return
    draw.line(path, fill=255, width=max(1, round(pen)), joint="curve")
    r = pen / 2.0
    for x, y in (path[0], path[-1]):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)


def _soften(mask: Image.Image, rng: np.random.Generator) -> Floats:
    """Brings the mask to image size, often through a lower resolution or a blur."""
    choice = rng.random()
    if choice < 0.45:
        side = int(rng.integers(8, 25))
        mask = mask.resize((side, side), Image.Resampling.BOX)
        mask = mask.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    else:
        if choice < 0.8:
            mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3.0)))
        mask = mask.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    return np.asarray(mask, dtype=np.float64) / 255.0


def _random_colours(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draws ink and paper colours of at least a third of the range apart; half of them grey."""
    low = rng.uniform(0.0, 0.35)
    high = rng.uniform(low + 0.35, 1.0)
    pair = np.repeat(np.array([[low], [high]]), 3, axis=1)
    if rng.random() < 0.5:
        pair = np.clip(pair + rng.uniform(-0.2, 0.2, (2, 3)), 0.0, 1.0)
    return (pair[0], pair[1]) if rng.random() < 0.5 else (pair[1], pair[0])


def _colourise(mask: Image.Image, rng: np.random.Generator) -> Pixels:
    """Blends ink over a sloping paper colour, then adds noise."""
    cover = _soften(mask, rng)[:, :, None]
    ink, paper = _random_colours(rng)
    axis = np.linspace(-1.0, 1.0, IMAGE_SIZE)
    slope = rng.normal(0.0, 0.06, 2)
    ground = paper + (slope[0] * axis[:, None] + slope[1] * axis[None, :])[:, :, None]
    image = ground + (ink - ground) * cover
    noise = max(0.0, float(rng.uniform(-0.08, 0.08)))
    if noise > 0.0:
        image = image + rng.normal(0.0, noise, (IMAGE_SIZE, IMAGE_SIZE, 1))
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
