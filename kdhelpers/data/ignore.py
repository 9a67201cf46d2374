"""IGNORE: regions of your own images that may vary and are not judged, such as a label or a timestamp."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from kdhelpers.data.images import MaskOf, read_picture
from kdhelpers.data.listing import pictures
from kdhelpers.errors import InputError


def reader(ignore: Path | np.ndarray | None) -> MaskOf:
    """A function from a picture's path to its mask ("L", 255 where ignored), or to None if nothing is ignored.

    ignore: the file of one mask for all pictures; a folder with masks NAME.png or NAME_mask.png for pictures called
    NAME; or a mask, uint8 (h, w). Raises InputError for a mask file that marks nothing or everything.
    """
    if ignore is None:
        return lambda path: None
    if isinstance(ignore, np.ndarray):
        return lambda path: Image.fromarray(ignore)
    if not ignore.is_dir():
        mask = read(ignore)
        return lambda path: mask
    masks = {path.stem.removesuffix("_mask"): path for path in pictures(ignore)}
    return lambda path: read(masks[path.stem]) if path.stem in masks else None


def listed(ignore: Path | None, judged: Sequence[Path], *, some: bool = False) -> list[Path]:
    """The files of the masks. Raises InputError unless each one of a folder belongs to one of the pictures `judged`.

    some: True if the folder may also hold masks of other pictures.
    """
    masks = [] if ignore is None else pictures(ignore) if ignore.is_dir() else [ignore]
    stems = [mask.stem.removesuffix("_mask") for mask in masks]
    known, named, given = {path.resolve() for path in judged}, Counter(path.stem for path in judged), Counter(stems)
    for mask, stem in zip(masks, stems, strict=True):
        if mask.resolve() in known:
            raise InputError(f"IGNORE {mask} lies among the pictures: move it to another folder")
        if mask != ignore and (given[stem], named[stem]) != (1, 1) and not (some and named[stem] == 0):
            found = f"{given[stem]} masks and {named[stem]} pictures are called {stem}"
            raise InputError(f"{mask}: {found}; NAME.png or NAME_mask.png must be the one mask of the one picture NAME")
    return masks


def kept(ignore: Path | None) -> Path | np.ndarray | None:
    """IGNORE as a detector stores it: a single mask as uint8 (h, w) instead of its file; a folder or None as given."""
    return np.array(read(ignore)) if ignore and ignore.is_file() else ignore


def read(path: Path) -> Image.Image:
    """Read the mask at `path`: pixels that are not black are ignored."""
    mask = np.asarray(read_picture(path)).any(axis=2)
    if mask.all() or not mask.any():
        what = "everything" if mask.all() else "nothing"
        raise InputError(f"{path}: the mask ignores {what}; paint black what counts, and white what is to be ignored")
    return Image.fromarray(np.where(mask, 255, 0).astype(np.uint8))


def ignored(shape: tuple[int, int], mask: Image.Image | None) -> np.ndarray:
    """The mask at a map's (height, width): bool, True where ignored."""
    if mask is None:
        return np.zeros(shape, bool)
    return np.asarray(mask.resize(shape[::-1], Image.Resampling.NEAREST)) > 0
