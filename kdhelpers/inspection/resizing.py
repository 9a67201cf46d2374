"""Pillow's resizing and painting of pictures as torch operators, which can be exported."""

import numpy as np
import torch
from torch import Tensor

from kdhelpers.data.images import GREY, Size, sides

_UNIT = 2**22  # Pillow's filter weights are multiples of its inverse


def blanked(pixels: Tensor, mask: np.ndarray) -> Tensor:
    """`data.images.blanked` of pictures (n, h, w, 3): grey where the mask, uint8 of any (h', w'), is not black."""
    rows, columns = (_nearest(pixels.shape[1 + i], side) for i, side in enumerate(mask.shape))
    ignored = torch.from_numpy(mask > 0)[rows][:, columns].unsqueeze(-1)
    return torch.where(ignored, torch.tensor(GREY, dtype=torch.uint8), pixels)


def _nearest(length: int, side: int) -> Tensor:
    """The index, below `side`, of the pixel nearest to each of `length` pixels, with Pillow's sum of equal steps."""
    at = torch.arange(length, dtype=torch.float64)
    step = side / (at.amax(0) + 1)  # a tensor, because lengths vary in the graph
    return torch.where(at == 0, step / 2, step).cumsum(0).long().clamp(max=side - 1)


def resized(pixels: Tensor, size: Size) -> Tensor:
    """Pictures (n, h, w, 3) resized exactly as by Pillow's antialiased bilinear filter: whole float32 (n, *size, 3).

    Pillow rounds after each of its two passes. The horizontal pass comes first, unless the height shrinks by more than
    twice as many pixels as the width. Double precision is exact for the products and sums, whole numbers up to 2³⁹.
    """
    x = pixels.permute(0, 3, 1, 2).double()
    (down, rows), (across, columns) = (_triangles(x.shape[2 + i], side) for i, side in enumerate(sides(size)))
    x = torch.where(
        rows > 2 * columns.clamp(min=0),
        _rounded(_rounded(down @ x) @ across.T),
        _rounded(down @ _rounded(x @ across.T)),
    )
    return x.float().permute(0, 2, 3, 1)


def _triangles(length: int, size: int) -> tuple[Tensor, Tensor]:
    """The weights (size, length) of a triangular filter, in units of 1 / _UNIT, and by how many pixels the length
    shrinks. The filter is as wide as two pixels of the coarser grid."""
    at = torch.arange(length, dtype=torch.float64)
    before = at.amax(0) + 1  # a tensor, because lengths vary in the graph
    scale = before / size
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    weights = (1 - (at + 0.5 - centre.unsqueeze(1)).abs() / scale.clamp(min=1)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True) * _UNIT + 0.5).floor(), before - size


def _rounded(sums: Tensor) -> Tensor:
    return (sums / _UNIT + 0.5).floor()
