"""Sorted lists of the image files in folders; any other file there is an error."""

import re
from pathlib import Path

from kdhelpers.errors import InputError

SUFFIXES = frozenset(".png .jpg .jpeg .jfif .bmp .tif .tiff .webp .gif .ppm .pgm .avif .heic .heif".split())
_MASKS = ("label", "anomaly_mask")  # folders beside BMAD's img
_LITTER = ("thumbs.db", "desktop.ini", "__macosx")  # files that operating systems leave behind, besides hidden ones


def pictures(root: Path, *, empty: bool = False) -> list[Path]:
    """The image files in `root`, sorted by name, or in a folder in it called img (BMAD) or as `root` (Kaggle's HeadCT).

    Hidden files, Thumbs.db and desktop.ini are ignored. Raises InputError for anything else that is not an image,
    because ignoring it might silently leave out images, and for an empty folder unless `empty`.
    """
    found = entries(root)
    inner = [path for path in found if path.is_dir() and path.name not in _MASKS]
    alone = len(inner) == 1 and inner[0].name in ("img", root.name) and root.name != "img"
    if alone and not any(path.suffix.lower() in SUFFIXES for path in found):
        return pictures(inner[0], empty=empty)
    for path in found:
        if path.is_dir():
            raise InputError(f"{path}: a folder where image files are expected; move its images up or the folder away")
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            what = f"not an image file ({' '.join(sorted(SUFFIXES))}) or a link that leads nowhere, or to itself"
            raise InputError(f"{path}: {what}; convert it, move it away or remove it")
    if not found and not empty:
        raise InputError(f"{root}: there are no image files in it; put some there, remove the folder, or leave it out")
    return found


def entries(root: Path) -> list[Path]:
    """The entries of `root`, sorted by name, without hidden files and files that systems leave behind."""
    found = (path for path in root.iterdir() if not path.name.startswith(".") and path.name.lower() not in _LITTER)
    return sorted(found)


def safe_name(name: str) -> str:
    """The name with "_" for characters unsafe in file names and for hyphens, the separators in a record's name."""
    return re.sub(r"[^\w.]+", "_", name).strip("._")


def subfolders(root: Path) -> list[Path]:
    """The folders in `root`, sorted by name; none when there is no `root`."""
    return [path for path in entries(root) if path.is_dir()] if root.is_dir() else []


def find(root: Path, *names: str) -> Path:
    """The folder names[0]/names[1]/… in `root`, ignoring case; a missing one as it is called."""
    for name in names:
        found = root / name
        if not found.is_dir():
            found = next((path for path in subfolders(root) if path.name.lower() == name.lower()), found)
        root = found
    return root


def folder(root: Path, *names: str, advice: str) -> Path:
    """The folder names[0]/names[1]/… in `root`, ignoring case; InputError with `advice` when one is missing."""
    for name in names:
        root = find(root, name)
        if not root.is_dir():
            raise InputError(f"{root} is missing; {advice}")
    return root
