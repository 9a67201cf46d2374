"""The split of one class into training and test images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kdhelpers.data.images import Images


class Tiles(NamedTuple):
    """The tiles of a split's pictures, as input of the networks."""

    train: Images
    test: Images
    first: np.ndarray  # long (n_test,): the index in `test` of each test image's first tile

    def worst(self, scores: np.ndarray) -> np.ndarray:
        """Reduce the scores of tiles, (k, len(test)), to the highest score of each test image, (k, n_test)."""
        return np.maximum.reduceat(scores, self.first, axis=1)


@dataclass(frozen=True)
class Split:
    """The images of one class: normal ones to train on, and normal and anomalous ones to test."""

    dataset: str
    cls: str
    train: Images
    test: Images
    labels: np.ndarray  # uint8 (n_test,); 0: normal, 1: anomalous, 2: unknown
    masks: np.ndarray | None  # float32 (n_test, h, w) in [0, 1], soft, zeros for images without one; None: no masks
    kinds: list[str]  # of each test image: "good" for a normal one, otherwise "scratch_head", "3" ...
    names: list[str]  # of each test image: its path in DATA_DIR or beside TEST_DIR, or file[i]
    sha256: str  # of the sorted pairs (path relative to the data folder, SHA-256) of all files used, as JSON
    deviations: tuple[str, ...] = ()  # how these files differ from the article's
    paths: list[Path] = field(default_factory=list)  # of each test image; [] when images are not separate files
    mask_paths: list[Path | None] = field(default_factory=list)  # of each test image; [] as `paths`
    notes: tuple[str, ...] = ()  # lines about your own images that were read, for `own_images.describe`
    tiles: Tiles | None = None  # of your own images with TILE; `train` and `test` then serve display and baselines

    def to(self, device: str | torch.device) -> "Split":
        """The same split with its images on `device`."""
        tiles = self.tiles and Tiles(self.tiles.train.to(device), self.tiles.test.to(device), self.tiles.first)
        return replace(self, train=self.train.to(device), test=self.test.to(device), tiles=tiles)

    def subset(self, index: np.ndarray) -> "Split":
        """The same split with only the test images at `index`, a long array; tiles are dropped."""
        return replace(
            self,
            test=self.test.subset(index),
            labels=self.labels[index],
            masks=None if self.masks is None else self.masks[index],
            kinds=[self.kinds[i] for i in index],
            names=[self.names[i] for i in index],
            paths=[self.paths[i] for i in index if self.paths],
            mask_paths=[self.mask_paths[i] for i in index if self.mask_paths],
            tiles=None,
        )

    def sample_indices(self) -> np.ndarray:
        """Indices of up to eight test images to show: one normal image, then the other kinds in turn."""
        first, by_kind = np.flatnonzero(self.labels == 0)[:1], {}
        for i in np.flatnonzero(self.labels):
            by_kind.setdefault(self.kinds[i], []).append(i)
        turns = [members[turn] for turn in range(8) for members in by_kind.values() if turn < len(members)]
        return np.array([*first, *sorted(turns[: 8 - len(first)])], dtype=int)
