"""Where exactly, and how large: the regions of a map above the pixel threshold, as masks, boxes and raw maps."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from kdhelpers.data.images import upright_size
from kdhelpers.files import atomic_write

COLUMNS = ["image", "x", "y", "width", "height", "area", "peak"]


def boxes(heat: np.ndarray, threshold: float) -> pd.DataFrame:
    """A row for each 8-connected region of a map (h, w) above `threshold`, the hottest first.

    x, y, width, height: of its bounding box, in the map's pixels; area: pixels of the region; peak: its highest value.
    """
    count, numbers, stats, _ = cv2.connectedComponentsWithStats((heat > threshold).astype(np.uint8), connectivity=8)
    rows = [(*map(int, stats[i]), float(heat[numbers == i].max())) for i in range(1, count)]
    return pd.DataFrame(rows, columns=COLUMNS[1:]).sort_values("peak", ascending=False, kind="stable")


def write(
    folder: Path, names: Sequence[str], paths: Sequence[Path], maps: Sequence[np.ndarray], threshold: float
) -> None:
    """Write boxes.csv, in the pictures' pixels, masks/NAME.png (255 above `threshold`) and maps/NAME.npy (float32).

    names: of the files, one for each picture of `paths`. maps: (h, w) each; those in maps/ are as computed, the others
    stretched to the picture. Raises InputError when nothing can be written there.
    """
    found = []
    for name, path, heat in zip(names, paths, maps, strict=True):
        stretched = cv2.resize(heat.astype(np.float32), upright_size(path), interpolation=cv2.INTER_LINEAR)
        found.append(boxes(stretched, threshold).assign(image=str(path)))
        with atomic_write(folder / "masks" / f"{name}.png") as temporary:
            Image.fromarray(np.where(stretched > threshold, 255, 0).astype(np.uint8)).save(temporary, "png")
        with atomic_write(folder / "maps" / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, heat.astype(np.float32))
    with atomic_write(folder / "boxes.csv") as temporary:
        table = pd.concat([pd.DataFrame(columns=COLUMNS), *found])
        table.to_csv(temporary, columns=COLUMNS, index=False, errors="surrogateescape")
