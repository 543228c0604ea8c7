"""Scenes → pixels, and which pixel belongs to what."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8, UInt8
from PIL import Image

from mami_core.learning.generated.scenes import COLOURS, Ground, Kind, Scene, Thing
from mami_core.learning.generated.shapes import OUTLINES, Grid, checkered, dotted, striped

Canvas = Float32[np.ndarray, "3 h w"]


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A picture, and what is seen where."""

    pixels: UInt8[np.ndarray, "3 size size"]
    owner: Int8[np.ndarray, "size size"]
    """The position of the thing that is seen there; −1 for the first ground, −2 for the second."""


def draw(scene: Scene, seed: int, size: int) -> Drawing:
    """Draw a scene at `size` × `size` pixels; later things cover earlier ones."""
    rng = np.random.default_rng((seed, 2, scene.number))
    canvas, owner = _draw_grounds(rng, scene, size)
    for position, thing in enumerate(scene.things):
        _draw_thing(rng, thing, position, canvas, owner)
    canvas *= _light(rng, size)
    canvas += rng.standard_normal((1, size, size), dtype=np.float32) * rng.uniform(1, 6)
    return Drawing(canvas.clip(0, 255).astype(np.uint8), owner)


def _draw_grounds(rng: np.random.Generator, scene: Scene, size: int) -> tuple[Canvas, Int8[np.ndarray, "h w"]]:
    canvas = _ground(rng, scene.grounds[0], size)
    owner = np.full((size, size), -1, dtype=np.int8)
    if len(scene.grounds) > 1:
        start = round(scene.horizon * size)
        canvas[:, start:] = _ground(rng, scene.grounds[1], size)[:, start:]
        owner[start:] = -2
    return canvas, owner


def _draw_thing(
    rng: np.random.Generator, thing: Thing, position: int, canvas: Canvas, owner: Int8[np.ndarray, "h w"]
) -> None:
    """Blend one thing into the picture, and note where it covers more than half of a pixel."""
    size = canvas.shape[-1]
    radius = thing.radius * size
    reach = math.ceil(1.25 * radius)
    top, left = max(int(thing.y * size) - reach, 0), max(int(thing.x * size) - reach, 0)
    window = (slice(top, int(thing.y * size) + reach + 1), slice(left, int(thing.x * size) + reach + 1))
    height, width = owner[window].shape
    y = ((np.arange(top, top + height, dtype=np.float32) + 0.5) / size - thing.y)[:, None] / thing.radius
    x = ((np.arange(left, left + width, dtype=np.float32) + 0.5) / size - thing.x)[None, :] / thing.radius
    cos, sin = np.float32(math.cos(thing.angle)), np.float32(math.sin(thing.angle))
    u, v = x * cos + y * sin, y * cos - x * sin
    cover = (OUTLINES[thing.kind.shape](u, v) * np.float32(radius) + 0.5).clip(0, 1)
    canvas[:, *window] += cover * (_paint(rng, thing.kind, u, v) - canvas[:, *window])
    owner[window][cover > 0.5] = position


def _paint(rng: np.random.Generator, kind: Kind, u: Grid, v: Grid) -> Canvas:
    """The colours of a thing at its own coordinates."""
    first, second = _shade(rng, kind.colour), _shade(rng, kind.second)
    if kind.shape == "eye":
        return _eye_paint(first, u, v)
    if kind.pattern in ("striped", "dotted", "checkered"):
        pattern = {"striped": striped, "dotted": dotted, "checkered": checkered}[kind.pattern]
        along = v if kind.shape in ("pole", "rectangle", "oval", "leaf") else u
        across = u if along is v else v
        amount = pattern(along, across, float(rng.uniform(3.2, 4.8)))
        return first + amount * (second - first)
    if kind.pattern == "shiny":
        spot = np.exp(-((u + 0.3) ** 2 + (v + 0.35) ** 2) * 7)
        return (first + 20) * (1.1 - 0.45 * np.hypot(u + 0.2, v + 0.25)) + 190 * spot
    if kind.pattern == "fuzzy":
        return first * (1 + 0.38 * rng.standard_normal(u.shape, dtype=np.float32))
    return np.broadcast_to(first, (3, *u.shape))


def _eye_paint(colour: Float32[np.ndarray, "3 1 1"], u: Grid, v: Grid) -> Canvas:
    """White, with an iris of the given colour and a black pupil."""
    apart = np.hypot(u, v)
    return np.where(apart < 0.18, np.float32(15), np.where(apart < 0.42, colour, np.float32(240)))


def _ground(rng: np.random.Generator, ground: Ground, size: int) -> Canvas:
    """A whole picture of one ground."""
    first, second = _shade(rng, ground.colour), _shade(rng, ground.second)
    if ground.surface in ("stripes", "checks", "dots"):
        pattern = {"stripes": striped, "checks": checkered, "dots": dotted}[ground.surface]
        u, v = _coordinates(size, ground.angle if ground.surface == "stripes" else 0.2 * (ground.angle - 1.5))
        return first + pattern(u, v, float(rng.uniform(7, 14))) * (second - first)
    if ground.surface == "blurry":
        return first + 0.6 * _smooth(rng, 5, 5, size).clip(0, 1) * (second - first) + 20 * _smooth(rng, 3, 3, size)
    return first * (1 + _texture(rng, ground.surface, size))


def _texture(rng: np.random.Generator, surface: str, size: int) -> Grid:
    """How much brighter than its colour a surface is at each pixel, as a share; −1 is black."""
    _, v = _coordinates(size, 0.0)
    u = v.T
    match surface:
        case "sky":
            return 0.35 * _smooth(rng, 4, 3, size).clip(0, 1.5) + 0.25 * v
        case "night":
            return np.where(_smooth(rng, 40, 40, size) > 1.9, np.float32(5.8), np.float32(-0.2))
        case "grass":
            return 0.35 * _smooth(rng, size // 5, size // 2, size) + 0.12 * _smooth(rng, 6, 6, size)
        case "leaves":
            return 0.75 * (np.abs(_smooth(rng, 14, 14, size)) - 0.6).clip(-0.6, 0.5)
        case "water":
            ripples = np.sin(40 * v + 3 * _smooth(rng, 8, 4, size))
            return 0.2 * ripples + 0.12 * _smooth(rng, 30, 8, size)
        case "sand":
            return 0.12 * rng.standard_normal((size, size), dtype=np.float32) + 0.06 * _smooth(rng, 6, 4, size)
        case "snow":
            return 0.05 * _smooth(rng, 5, 5, size) - 0.04
        case "brick":
            return _bricks(rng, u, v)
        case "wood":
            return 0.22 * np.sin(26 * u + 5 * _smooth(rng, 2, 5, size)) + 0.08 * _smooth(rng, 4, 50, size)
        case "stone":
            return 0.22 * _smooth(rng, 7, 7, size) + 0.16 * _smooth(rng, 30, 30, size)
        case "fur":
            return 0.4 * _smooth(rng, size // 9, size // 2, size) - 0.1
    return 0.04 * _smooth(rng, 3, 3, size)


def _bricks(rng: np.random.Generator, u: Grid, v: Grid) -> Grid:
    down = (v + 1) * rng.uniform(4, 7)
    across = (u + 1) * rng.uniform(2, 3.5) + 0.5 * (np.floor(down) % 2)
    mortar = (down % 1 < 0.14) | (across % 1 < 0.07)
    tint = np.sin(12.9898 * np.floor(down) + 78.233 * np.floor(across))
    return np.where(mortar, 0.55, 0.15 * tint).astype(np.float32)


def _coordinates(size: int, angle: float) -> tuple[Grid, Grid]:
    """U and v from −1 to 1 over the picture, turned clockwise."""
    along = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    x, y = along[None, :], along[:, None]
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _smooth(rng: np.random.Generator, rows: int, columns: int, size: int) -> Grid:
    """Smooth noise of about unit variance with `rows` × `columns` independent values."""
    coarse = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return 1.3 * np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))


def _shade(rng: np.random.Generator, colour: str) -> Float32[np.ndarray, "3 1 1"]:
    """One of the many colours that the name stands for."""
    base = np.array(COLOURS[colour], dtype=np.float32)
    varied = base * rng.uniform(0.86, 1.12) + rng.normal(0, 6, 3).astype(np.float32)
    return varied.astype(np.float32)[:, None, None]


def _light(rng: np.random.Generator, size: int) -> Grid:
    """Light that falls from one side."""
    u, _ = _coordinates(size, float(rng.uniform(0, 2 * math.pi)))
    return (1 + rng.uniform(0, 0.18) * u).astype(np.float32)
