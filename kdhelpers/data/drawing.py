"""Drawings for the generated samples: objects, textures, retinas and heads, with and without an anomaly."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """y and x of every pixel, from -1 to 1."""
    return np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")


def clouds(rng: np.random.Generator, height: int, width: int, cells: int = 6) -> np.ndarray:
    """Smooth noise from -1 to 1."""
    coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def ellipse(height: int, width: int, cy: float, cx: float, ry: float, rx: float, turn: float = 0.0) -> np.ndarray:
    """1 inside, 0 outside, with a soft edge of about one pixel."""
    y, x = grid(height, width)
    y, x = y - cy, x - cx
    y, x = y * math.cos(turn) - x * math.sin(turn), y * math.sin(turn) + x * math.cos(turn)
    return np.clip((1 - np.hypot(y / ry, x / rx)) * min(height * ry, width * rx) / 2 + 0.5, 0, 1)


def blob(rng: np.random.Generator, height: int, width: int, cy: float, cx: float, radius: float) -> np.ndarray:
    """An ellipse with a wavy outline."""
    ry, rx = radius * rng.uniform(0.7, 1.2, 2)
    shape = ellipse(height, width, cy, cx, ry, rx, rng.uniform(0, math.pi))
    return np.clip((shape + 0.35 * clouds(rng, height, width, 9) - 0.25) * 4, 0, 1) * (shape > 0)


def scratch(rng: np.random.Generator, height: int, width: int, cy: float, cx: float, thick: int) -> np.ndarray:
    """A broken line of three pieces."""
    picture = Image.new("L", (width, height))
    angle, points = rng.uniform(0, math.pi), []
    for step in (-0.45, -0.15, 0.15, 0.45):
        across = rng.uniform(-0.06, 0.06)
        y, x = cy + step * math.sin(angle) + across, cx + step * math.cos(angle) - across
        points.append(((x + 1) / 2 * width, (y + 1) / 2 * height))
    ImageDraw.Draw(picture).line(points, 255, thick, joint="curve")
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(0.6))) / 255


def mix(picture: np.ndarray, colour, shape: np.ndarray) -> np.ndarray:
    """Blend `colour` into `picture`, (h, w, 3) or (h, w), with the weights `shape`."""
    shape = shape[..., None] if picture.ndim == 3 else shape
    return picture * (1 - shape) + np.asarray(colour, float) * shape


def oval(picture: np.ndarray, colour, *where: float) -> np.ndarray:
    """Blend `colour` into `picture` in an `ellipse`; where: its centre, radii and rotation."""
    return mix(picture, colour, ellipse(*picture.shape[:2], *where))


def to_image(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(picture), 0, 255).astype(np.uint8))


def bottle(rng: np.random.Generator) -> np.ndarray:
    cy, cx = rng.uniform(-0.03, 0.03, 2)
    picture = np.full((128, 128, 3), 236.0)
    for radius, colour in ((0.86, (70, 48, 30)), (0.74, (104, 70, 40)), (0.6, (44, 32, 24)), (0.3, (26, 20, 16))):
        picture = oval(picture, np.array(colour) + rng.uniform(-4, 4), cy, cx, radius, radius)
    return mix(picture, (190, 160, 130), 0.7 * ellipse(128, 128, cy - 0.4, cx - 0.5, 0.1, 0.14, 0.8))


def carpet(rng: np.random.Generator) -> np.ndarray:
    y, x = grid(128, 128)
    turn, phase = rng.uniform(-0.02, 0.02), rng.uniform(0, 2 * math.pi, 2)
    weave = np.sin(40 * (y + turn * x) + phase[0]) * np.sin(40 * (x - turn * y) + phase[1])
    return np.rint(128 + 14 * weave + 6 * clouds(rng, 128, 128, 5))[..., None] + np.array((6.0, 0, -4))


def cookie(rng: np.random.Generator) -> np.ndarray:
    height, width = ((180, 240), (240, 180), (150, 200))[rng.integers(3)]
    picture = np.array((150.0, 165, 175)) + 8 * clouds(rng, height, width, 4)[..., None]
    ry, rx = 0.66 * min(height, width) / np.array((height, width))
    dough = np.array((200.0, 150, 90)) + 14 * clouds(rng, height, width, 12)[..., None]
    picture = oval(picture, dough, *rng.uniform(-0.05, 0.05, 2), ry, rx)
    for angle in np.arange(5) * 2 * math.pi / 5 + rng.uniform(0, 1):
        chip = 0.55 * ry * math.sin(angle), 0.55 * rx * math.cos(angle), 0.12 * ry, 0.12 * rx
        picture = oval(picture, (160, 110, 60), *chip)
    return picture


def retina(rng: np.random.Generator, height: int, width: int, kind: str) -> np.ndarray:
    y, x = grid(height, width)
    line = 0.1 * np.cos(2 * x + rng.uniform(-0.5, 0.5)) + rng.uniform(-0.1, 0.1)
    at = rng.uniform(-0.4, 0.4)
    if kind == "CNV":
        line = line - 0.35 * np.exp(-(((x - at) / 0.2) ** 2))
    if kind == "DRUSEN":
        line = line - 0.07 * np.maximum(0, np.cos(14 * (x - at))) * (abs(x) < 0.7)
    picture = 22 + 10 * clouds(rng, height, width, 24)
    for offset, thick, bright in ((-0.42, 0.07, 120), (-0.25, 0.12, 60), (-0.05, 0.09, 90), (0.12, 0.08, 170)):
        picture = picture + bright * np.exp(-(((y - line - offset) / thick) ** 2))
    for dx in (-0.14, 0, 0.13) if kind in ("DME", "Ungood") else ():  # cysts
        picture = oval(picture, 12, -0.2 + rng.uniform(-0.06, 0.06), at + dx, rng.uniform(0.1, 0.16), 0.07)
    return picture


def head(rng: np.random.Generator, anomalous: bool, mri: bool) -> np.ndarray:
    height, width = rng.integers(112, 151, 2)
    folds = 20 * np.abs(clouds(rng, height, width, 14)) if mri else 8 * clouds(rng, height, width, 8)
    picture = oval(np.zeros((height, width)), 150 if mri else 245, 0, 0, 0.9, 0.76)
    picture = oval(picture, (60 if mri else 105) + folds, 0, 0, 0.8, 0.66)
    for side in (-0.12, 0.12):  # the ventricles
        picture = oval(picture, 35, -0.05, side, 0.22, 0.07, -side)
    if anomalous:
        at = rng.uniform(-0.4, 0.4), rng.choice((-1, 1)) * rng.uniform(0.28, 0.4)
        picture = mix(picture, 210 if mri else 190, blob(rng, height, width, *at, rng.uniform(0.16, 0.26)))
    return picture
