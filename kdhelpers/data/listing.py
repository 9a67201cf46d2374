"""The image files in folders, sorted, and nothing else: what does not belong there is an error."""

from dataclasses import dataclass, field
from pathlib import Path

from kdhelpers.errors import InputError
from kdhelpers.protocols import GOOD

SUFFIXES = frozenset(".png .jpg .jpeg .jfif .bmp .tif .tiff .webp .gif .ppm .pgm".split())


_LITTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))  # what systems leave behind; hidden files aside


@dataclass(frozen=True)
class Files:
    """The files of one split. kinds: of each test image, `GOOD` for a normal one. masks: of each test image, None for
    a normal one or one of TEST_DIR; None altogether without ground truth. others: files read beside the images. labels:
    of each test image, as in `LABELS`; None where the kinds say it, bad being every one but `GOOD`.
    """

    train: list[Path]
    test: list[Path]
    kinds: list[str]
    masks: list[Path | None] | None = None
    others: list[Path] = field(default_factory=list)
    labels: list[int] | None = None


def by_kind(root: Path, normal: str) -> tuple[list[Path], list[str]]:
    there = [path for path in root.iterdir() if not _is_litter(path)]
    for path in sorted(there):
        _refuse_dead_link(path)
    loose = [path for path in there if path.suffix.lower() in SUFFIXES]
    if loose:
        raise InputError(
            f"{min(loose)}: lies beside the folders of {root.name}; move it to {root / GOOD} or another one"
        )
    folders = subfolders(root)
    if not folders:
        raise InputError(f"{root}: there are no folders of test images in it; add {root / GOOD} and one for each kind")
    files = test_files([], {GOOD if f.name.lower() == normal.lower() else f.name: f for f in folders})
    return files.test, files.kinds


def test_files(train: list[Path], folders: dict[str, Path]) -> Files:
    test = [(path, kind) for kind, folder in folders.items() for path in pictures(folder)]
    return Files(train, [path for path, _ in test], [kind for _, kind in test])


def subfolders(root: Path) -> list[Path]:
    """The folders in `root`, hidden ones and __MACOSX aside, sorted by name; none when there is no `root`."""
    if not root.is_dir():
        return []
    found = (path for path in root.iterdir() if path.is_dir() and not _is_litter(path))
    return sorted(found, key=lambda path: path.name)


def pictures(root: Path, *, empty: bool = False) -> list[Path]:
    """The image files in `root`, sorted by name; of a folder that holds but `img`, those in there.

    Hidden files, Thumbs.db and desktop.ini are passed over. Anything else that is not an image, a folder or an unknown
    suffix, raises InputError: to leave it out silently might leave out images. So does an empty folder, unless `empty`.
    """
    entries = sorted((path for path in root.iterdir() if not _is_litter(path)), key=lambda path: path.name)
    for path in entries:
        _refuse_dead_link(path)
        if path.is_dir():
            if path.name == "img" and root.name != "img":  # BMAD's layout: img and, beside it, label
                return pictures(path)
            raise InputError(f"{path}: a folder where image files are expected; move its images up or the folder away")
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            raise InputError(f"{path}: not an image file ({' '.join(sorted(SUFFIXES))}); convert it or move it away")
    if not entries and not empty:
        raise InputError(f"{root}: there are no image files in it; put some there, remove the folder, or leave it out")
    return entries


def _refuse_dead_link(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: a link that leads nowhere, or to itself; mend it or remove it")


def _is_litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _LITTER


def find(root: Path, name: str) -> Path | None:
    """The folder `name` in `root`, in capital or small letters."""
    if (root / name).is_dir():
        return root / name
    return next((path for path in subfolders(root) if path.name.lower() == name.lower()), None)


def folder(root: Path, *names: str, advice: str) -> Path:
    for name in names:
        found = find(root, name)
        if found is None:
            raise InputError(f"{root / name} is missing; {advice}")
        root = found
    return root
