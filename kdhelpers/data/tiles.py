"""Tiles of large pictures: overlapping square crops, each resized to the networks' input size."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kdhelpers.data.images import MaskOf, Size, blanked, fit, in_threads, read_picture

OVERLAP = 0.25  # minimum, as a share of a tile's side


def boxes(size: tuple[int, int], tile: int | None) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of the tiles that cover a picture of this (width, height), row by row.

    A tile has `tile` pixels a side, fewer if the picture is smaller; None: the whole picture is a single tile.
    """
    width, height = size
    tile = tile or max(size)

    def starts(length: int) -> list[int]:
        count = 1 + math.ceil(max(0, length - tile) / (tile * (1 - OVERLAP)))
        return [round(start) for start in np.linspace(0, max(0, length - tile), count)]

    return [
        (left, top, min(left + tile, width), min(top + tile, height))
        for top in starts(height)
        for left in starts(width)
    ]


def cut(picture: Image.Image, tile: int | None, size: Size) -> np.ndarray:
    """Cut a picture into tiles, in the order of `boxes`: uint8 (n, 3, h, w)."""
    found = [fit(picture.crop(box), size) for box in boxes(picture.size, tile)]
    return np.stack(found).transpose(0, 3, 1, 2)


def read(
    paths: Sequence[Path], size: Size, tile: int | None, ignored: MaskOf, title: str = "tiles"
) -> tuple[Tensor, np.ndarray]:
    """The tiles of all pictures, uint8 (n, 3, h, w), and the index of each picture's first tile, long (len(paths),)."""

    def each(path: Path) -> np.ndarray:
        return cut(blanked(read_picture(path), ignored(path)), tile, size)

    found = in_threads(each, paths, title)
    first = np.cumsum([0, *(len(tiles) for tiles in found[:-1])])
    return torch.from_numpy(np.concatenate(found)), first


def joined(maps: np.ndarray, size: tuple[int, int], tile: int | None) -> np.ndarray:
    """Join maps of tiles, (n, h, w), to the map of a picture of this (width, height): float32, at tile resolution.

    Where tiles overlap, a tile's weight decreases towards its border, which avoids seams and reduces border effects.
    """
    places = boxes(size, tile)
    left, top, right, bottom = places[0]
    h, w = maps.shape[1:]
    across, down = w / (right - left), h / (bottom - top)
    total = np.zeros((2, round(places[-1][1] * down) + h, round(places[-1][0] * across) + w))
    weight = np.multiply.outer(*(np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in (h, w)))
    for heat, (left, top, _, _) in zip(maps, places, strict=True):
        y, x = round(top * down), round(left * across)
        total[:, y : y + h, x : x + w] += weight * heat, weight
    return (total[0] / total[1]).astype(np.float32)
