"""The data sets: their classes, and the split of each for training and test as in Sec. 4.1 of the article."""

import difflib
import hashlib
import json
import os
import re
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
from torch import Tensor

from kdhelpers.data import downloads, ignore, tiles
from kdhelpers.data.images import Images, Size, read_images, read_masks, resize_arrays, sides
from kdhelpers.data.layouts import FOLDERS, NOTHING_MORE, Files, Own, list_files
from kdhelpers.data.listing import subfolders
from kdhelpers.data.split import Split, Tiles
from kdhelpers.errors import InputError
from kdhelpers.files import file_sha256, reading
from kdhelpers.protocols import CLASS_NAMES, GOOD, MVTEC, NORMAL_TEST, NUMBERS

DATASETS = ("mnist", "fashion_mnist", "cifar10", "mvtec", "retinal_oct", "head_ct", "brain_mri", "folder")


@reading()
def classes(dataset: str, data_dir: Path | str) -> tuple[str, ...]:
    """All classes of a data set, in the article's order; of image folders in place of CIFAR-10, their names sorted."""
    if dataset in downloads.IDX:
        return NUMBERS
    if dataset == "cifar10":
        return tuple(_cifar_folders(Path(data_dir)) or NUMBERS)
    if dataset == "folder":
        folder = Path(os.path.realpath(Path(data_dir).expanduser()))
        return (_safe((folder.parent if folder.name.lower() in FOLDERS[GOOD] else folder).name) or "folder",)
    fixed = {"mvtec": MVTEC, "retinal_oct": ("oct2017", "resc"), "head_ct": ("normal",), "brain_mri": ("normal",)}
    if dataset not in fixed:
        raise InputError(_unknown("data set", dataset, DATASETS))
    return fixed[dataset]


def resolve_class(dataset: str, name: str | int, data_dir: Path | str) -> str:
    """The class that `name` means: case and punctuation do not count, and "airplane" is class "0" of CIFAR-10.

    Raises InputError listing what is allowed.
    """
    allowed = classes(dataset, data_dir)
    known = {_plain(cls): cls for cls in allowed}
    names = CLASS_NAMES.get(dataset, ()) if allowed == NUMBERS else ()
    known |= {_plain(alias): cls for alias, cls in zip(names, allowed, strict=False)}
    if _plain(name) not in known:
        raise InputError(
            _unknown(f"class of {dataset}", str(name), (*allowed, *(n for n in names if n not in allowed)))
        )
    return known[_plain(name)]


@reading()
def load(
    dataset: str,
    cls: str,
    data_dir: Path | str,
    *,
    image_size: Size,
    seed: int,
    normal_test: int = NORMAL_TEST,
    own: Own = NOTHING_MORE,
    progress: bool = True,
) -> Split:
    """The split of class `cls`, decoded and resized to `image_size` pixels; downloads what it can when it is absent.

    CIFAR-10: resized with Lanczos to image_size·256/224, the centre cropped, ImageNet's mean and standard deviation.
    Everything else: resized bilinearly, RGB in [0, 1]; idx images stay one channel. seed: draws the `normal_test`
    normal test images of the medical data sets, and the good ones that are held out of your own; the other splits
    depend on neither. own: of your own images only. Test images are kept for the next class
    or seed of this process: do not change them in place. Raises InputError naming what is wrong and the fix.
    """
    data_dir = Path(data_dir).expanduser()
    cls = resolve_class(dataset, cls, data_dir)
    if min(sides(image_size)) < 32:
        raise InputError(f"image size {image_size} is too small: VGG-16 halves it five times; at least 32")
    title = f"{dataset} {cls}" if progress else None
    if _is_binary(dataset, data_dir):
        split = _load_arrays(dataset, cls, data_dir, image_size, title)
    else:
        files = list_files(dataset, _folder_of(dataset, cls, data_dir), data_dir, seed, normal_test, own)
        split = _load_files(dataset, cls, data_dir, files, image_size, own, title)
    if len(split.train) < 2:
        raise InputError(f"{dataset} {cls} in {data_dir}: {len(split.train)} training image; at least 2 are needed")
    return split


@reading()
def fingerprint(data_dir: Path, *, seed: int, own: Own = NOTHING_MORE) -> str:
    """`Split.sha256` of your own images, without decoding any: whether they are still those that were recorded."""
    files = list_files("folder", "", data_dir, seed, own=own)
    paths = [*files.train, *files.others, *(path for image in files.test for path in (image.path, image.mask) if path)]
    return _digest({Path(stamp[0]): _sha256_of(stamp) for stamp in _stamps(paths)}, data_dir, own)


@lru_cache(maxsize=2**17)
def _sha256_of(stamp: tuple[str, int, int]) -> str:
    return file_sha256(Path(stamp[0]))


@reading()
def status(dataset: str, data_dir: Path | str) -> dict[str, str]:
    """Of each class "" when present, "download" when `load` will fetch it, else what to get and where to put it."""
    data_dir = Path(data_dir).expanduser()
    found = {}
    for cls in classes(dataset, data_dir):
        if _is_binary(dataset, data_dir):
            found[cls] = "" if downloads.present(dataset, data_dir) else "download"
            continue
        try:
            list_files(dataset, _folder_of(dataset, cls, data_dir), data_dir, seed=0)
            found[cls] = ""
        except InputError as error:
            found[cls] = str(error)
    return found


def _load_arrays(dataset: str, cls: str, data_dir: Path, size: int, title: str | None) -> Split:
    if not downloads.present(dataset, data_dir):
        downloads.fetch(dataset, data_dir)
    files, is_cifar = downloads.files(dataset, data_dir), dataset == "cifar10"
    arrays, test, sha256 = _read_arrays(dataset, data_dir, _stamps(files), size, title and f"{dataset}: test images")
    normal = arrays.train[arrays.train_classes == int(cls)]
    train = resize_arrays(normal, size, lanczos=is_cifar, progress=title and f"{title}: training images")
    (test_file,) = (_name(path, data_dir) for path in files if path.name in ("test_batch", "t10k-images-idx3-ubyte"))
    return Split(
        dataset,
        cls,
        Images(train, normalise=is_cifar),
        Images(test, normalise=is_cifar),
        labels=(arrays.test_classes != int(cls)).astype(np.uint8),
        masks=None,
        kinds=[GOOD if str(c) == cls else str(c) for c in arrays.test_classes],
        names=[f"{test_file}[{i}]" for i in range(len(test))],
        sha256=sha256,
    )


@lru_cache(maxsize=1)
def _read_arrays(
    dataset: str, data_dir: Path, stamps: tuple, size: int, title: str | None
) -> tuple[downloads.Arrays, Tensor, str]:
    """The data set's images, its test images resized, and its fingerprint; once for all classes."""
    arrays = downloads.read(dataset, data_dir)
    test = resize_arrays(arrays.test, size, lanczos=dataset == "cifar10", progress=title)
    return arrays, test, _digest({Path(path): file_sha256(Path(path)) for path, *_ in stamps}, data_dir)


def _load_files(dataset: str, cls: str, data_dir: Path, files: Files, size: Size, own: Own, title: str | None) -> Split:
    is_cifar, paths = dataset == "cifar10", [image.path for image in files.test]
    how = {"lanczos": is_cifar, "ignored": ignore.reader(own.ignore), "progress": title and f"{title}: training images"}
    train, sha256 = read_images(files.train, size, **how)
    test_title = title and f"{dataset}: test images"
    test, test_sha = _read_test(_stamps(paths), size, is_cifar, own.ignore, _stamps(files.others), test_title)
    sha256 |= test_sha
    _warn_of_copies(files.train, paths, sha256, own.test_dir)
    masks = cut = None
    if own.tile:
        parts = [tiles.read(part, size, own.tile, how["ignored"], title) for part in (files.train, paths)]
        cut = Tiles(Images(parts[0][0]), Images(parts[1][0]), parts[1][1])
    if masked := [i for i, image in enumerate(files.test) if image.mask]:
        masks = np.zeros((len(test), *sides(size)), np.float32)
        pairs = [(files.test[i].mask, paths[i]) for i in masked]
        masks[masked], mask_sha = read_masks(pairs, size, own=dataset == "folder", progress=title and f"{title}: masks")
        sha256 |= mask_sha
    class_of = {folder: name for name, folder in _cifar_folders(data_dir).items()} if is_cifar else {}
    return Split(
        dataset,
        cls,
        Images(train, normalise=is_cifar),
        Images(test, normalise=is_cifar),
        labels=np.array([image.label for image in files.test], np.uint8),
        masks=masks,
        kinds=[class_of.get(image.kind, image.kind) for image in files.test],
        names=[_name(path, data_dir, own) for path in paths],
        sha256=_digest(sha256 | {path: file_sha256(path) for path in files.others}, data_dir, own),
        deviations=("image folders instead of CIFAR-10's own files",) if is_cifar else (),
        paths=paths,
        tiles=cut,
    )


@lru_cache(maxsize=1)
def _read_test(
    stamps: tuple, size: Size, lanczos: bool, ignored: Path | None, ignored_stamps: tuple, title: str | None
) -> tuple[Tensor, dict[Path, str]]:
    """The test images, once for all classes and seeds that share them."""
    paths = [Path(path) for path, *_ in stamps]
    return read_images(paths, size, lanczos=lanczos, ignored=ignore.reader(ignored), progress=title)


def _warn_of_copies(train: list[Path], test: list[Path], sha256: dict[Path, str], test_dir: Path | None) -> None:
    given = dict.fromkeys(path for path in test if test_dir and path.is_relative_to(test_dir))
    held_out = [path for path in test if path not in given]
    for what, originals, among in (
        ("test images that are training images too, which makes them score low", train, test),
        ("images of TEST_DIR that are in DATA_DIR too", held_out, given),
    ):
        original = {sha256[path]: path for path in originals}
        copies = [f"{path} = {original[sha256[path]]}" for path in among if sha256[path] in original]
        if copies:
            more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
            warnings.warn(f"{what}: {', '.join(copies[:3])}{more}", stacklevel=4)


def _is_binary(dataset: str, data_dir: Path) -> bool:
    """True for files as their authors publish them, in place or to be downloaded; False for folders of image files."""
    return dataset in downloads.IDX or dataset == "cifar10" and not _cifar_folders(data_dir)


def _cifar_folders(data_dir: Path) -> dict[str, str]:
    """The folder of each class where image folders stand in for CIFAR-10; empty where they do not."""
    root = data_dir.expanduser() / "cifar10"
    if downloads.folder("cifar10", data_dir.expanduser()).is_dir():
        return {}
    folders = {path.name.lower(): path.name for path in subfolders(root / "train")}
    if folders.keys() == set(CLASS_NAMES["cifar10"]):
        return {number: folders[name] for number, name in zip(NUMBERS, CLASS_NAMES["cifar10"], strict=True)}
    names = sorted(folders.values())
    for name in names:
        if name.lower() == GOOD or sum(_safe(name).lower() == _safe(other).lower() for other in names) > 1:
            raise InputError(
                f"{root / 'train' / name}: no name to tell a class by (or too like another one); rename it"
            )
    return {_safe(name): name for name in names}


def _folder_of(dataset: str, cls: str, data_dir: Path) -> str:
    return _cifar_folders(data_dir)[cls] if dataset == "cifar10" else cls


def _stamps(paths: list[Path]) -> tuple[tuple[str, int, int], ...]:
    """What tells a cache that a file has changed."""
    found = ((path, path.stat()) for path in paths)
    return tuple((str(path), stat.st_mtime_ns, stat.st_size) for path, stat in found)


def _name(path: Path, data_dir: Path, own: Own = NOTHING_MORE) -> str:
    """Relative to DATA_DIR; of a picture in TEST_DIR or IGNORE, relative to the folder that this lies in."""
    inside = [place.parent for place in (own.test_dir, own.ignore) if place and path.is_relative_to(place)]
    return path.relative_to(inside[0] if inside else data_dir).as_posix()


def _digest(sha256: dict[Path, str], data_dir: Path, own: Own = NOTHING_MORE) -> str:
    pairs = sorted((_name(path, data_dir, own), sha) for path, sha in sha256.items())
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _safe(name: str) -> str:
    """The name with what a file name, or the hyphens of a record's, could trip over made "_"."""
    return re.sub(r"[^\w.]+", "_", name).strip("._")


def _plain(name: str | int) -> str:
    return re.sub(r"[\W_]+", "", str(name)).lower()


def _unknown(what: str, given: str, allowed: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(given.lower(), [name.lower() for name in allowed], n=1)
    suggestion = [f"; did you mean {name!r}?" for name in allowed if close and name.lower() == close[0]]
    return f"unknown {what} {given!r}; allowed are {', '.join(allowed)}{''.join(suggestion[:1])}"
