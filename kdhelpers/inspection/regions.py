"""The regions of maps above the pixel threshold, written as bounding boxes, masks and raw maps."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import maximum

from kdhelpers.data.images import upright_size
from kdhelpers.files import atomic_write

COLUMNS = ["image", "mask", "x", "y", "width", "height", "area", "peak"]


def boxes(heat: np.ndarray, threshold: float) -> pd.DataFrame:
    """One row per 8-connected region of a map (h, w) above `threshold`, sorted by descending peak.

    x, y, width, height: its bounding box, in the map's pixels; area: its number of pixels; peak: its highest value.
    """
    count, numbers, stats, _ = cv2.connectedComponentsWithStats((heat > threshold).astype(np.uint8), connectivity=8)
    peaks = np.array(maximum(heat, numbers, range(1, count)), np.float64)
    found = pd.DataFrame(stats[1:], columns=COLUMNS[2:-1]).assign(peak=peaks)
    return found.sort_values("peak", ascending=False, kind="stable")


def write(folder: Path, found: Iterable[tuple[str, Path | str, np.ndarray]], threshold: float) -> None:
    """Write boxes.csv (in the pictures' pixels), masks/NAME.png (255 above `threshold`), maps/NAME.npy (float32).

    found: NAME, picture and map (h, w) of each; maps/ stores the maps as computed, boxes and masks are of the map
    stretched to the picture. Raises InputError when `folder` cannot be written to.
    """
    tables = []
    for name, path, heat in found:
        stretched = cv2.resize(heat.astype(np.float32), upright_size(path), interpolation=cv2.INTER_LINEAR)
        tables.append(boxes(stretched, threshold).assign(image=str(path), mask=f"masks/{name}.png"))
        with atomic_write(folder / "masks" / f"{name}.png") as temporary:
            Image.fromarray(np.where(stretched > threshold, 255, 0).astype(np.uint8)).save(temporary, "png")
        with atomic_write(folder / "maps" / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.save(file, heat.astype(np.float32))
    with atomic_write(folder / "boxes.csv") as temporary:
        pd.concat(tables).to_csv(temporary, columns=COLUMNS, index=False, errors="surrogateescape")
