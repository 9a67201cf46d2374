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

from kdhelpers.data import downloads
from kdhelpers.data.images import Images, read_images, read_masks, resize_arrays
from kdhelpers.data.layouts import FOLDERS, list_files
from kdhelpers.data.listing import Files, subfolders
from kdhelpers.data.split import Split
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
    image_size: int,
    seed: int,
    normal_test: int = NORMAL_TEST,
    test_dir: Path | None = None,
    test_label: str | dict[str, str] | None = None,
    progress: bool = True,
) -> Split:
    """The split of class `cls`, decoded and resized to `image_size` pixels; downloads what it can when it is absent.

    CIFAR-10: resized with Lanczos to image_size·256/224, the centre cropped, ImageNet's mean and standard deviation.
    Everything else: resized bilinearly, RGB in [0, 1]; idx images stay one channel. seed: draws the `normal_test`
    normal test images of the medical data sets, and the good ones that are held out of your own; the other splits
    depend on neither. test_dir, test_label: as `layouts.list_files` has them. Test images are kept for the next class
    or seed of this process: do not change them in place. Raises InputError naming what is wrong and the fix.
    """
    data_dir, test_dir = Path(data_dir).expanduser(), test_dir and Path(test_dir).expanduser()
    cls = resolve_class(dataset, cls, data_dir)
    if image_size < 32:
        raise InputError(f"image size {image_size} is too small: VGG-16 halves it five times; at least 32")
    title = f"{dataset} {cls}" if progress else None
    if _is_binary(dataset, data_dir):
        split = _load_arrays(dataset, cls, data_dir, image_size, title)
    else:
        files = list_files(
            dataset, _folder_of(dataset, cls, data_dir), data_dir, seed, normal_test, test_dir, test_label
        )
        split = _load_files(dataset, cls, data_dir, files, image_size, test_dir, title)
    if len(split.train) < 2:
        raise InputError(f"{dataset} {cls} in {data_dir}: {len(split.train)} training image; at least 2 are needed")
    return split


@reading()
def fingerprint(
    data_dir: Path, *, seed: int, test_dir: Path | None = None, test_label: str | dict[str, str] | None = None
) -> str:
    """`Split.sha256` of your own images, without decoding any: whether they are still those that were recorded."""
    files = list_files("folder", "", data_dir, seed, test_dir=test_dir, test_label=test_label)
    paths = files.train + files.test + [mask for mask in files.masks or [] if mask is not None]
    return _digest(data_dir, test_dir, paths, [_sha256_of(stamp) for stamp in _stamps(paths)])


@lru_cache(maxsize=2**17)
def _sha256_of(stamp: tuple[str, int, int]) -> str:
    return file_sha256(Path(stamp[0]))


@reading()
def status(dataset: str, data_dir: Path | str) -> dict[str, str]:
    """For each class "" when it is there, "download" when `load` will fetch it, else a line: what to get, to where."""
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
    stamps = _stamps(downloads.files(dataset, data_dir))
    arrays, sha256 = _read_arrays(dataset, data_dir, stamps)
    is_cifar = dataset == "cifar10"
    normal = arrays.train[arrays.train_classes == int(cls)]
    train = resize_arrays(normal, size, lanczos=is_cifar, progress=title and f"{title}: training images")
    test = _resized_test(dataset, data_dir, stamps, size, title and f"{dataset}: test images")
    test_file = downloads.test_images(dataset, data_dir).relative_to(data_dir).as_posix()
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
def _read_arrays(dataset: str, data_dir: Path, stamps: tuple) -> tuple[downloads.Arrays, str]:
    arrays = downloads.read(dataset, data_dir)
    return arrays, _digest(data_dir, None, arrays.files, [file_sha256(path) for path in arrays.files])


@lru_cache(maxsize=1)
def _resized_test(dataset: str, data_dir: Path, stamps: tuple, size: int, title: str | None) -> Tensor:
    arrays, _ = _read_arrays(dataset, data_dir, stamps)
    return resize_arrays(arrays.test, size, lanczos=dataset == "cifar10", progress=title)


def _load_files(
    dataset: str, cls: str, data_dir: Path, files: Files, size: int, test_dir: Path | None, title: str | None
) -> Split:
    is_cifar = dataset == "cifar10"
    train, train_sha = read_images(files.train, size, lanczos=is_cifar, progress=title and f"{title}: training images")
    test, test_sha = _read_test(_stamps(files.test), size, is_cifar, title and f"{dataset}: test images")
    masks, mask_files, mask_sha = _load_masks(files, size, dataset == "folder", title and f"{title}: masks")
    _warn_of_copies(files, train_sha, test_sha, test_dir)
    class_of = {folder: name for name, folder in _cifar_folders(data_dir).items()} if is_cifar else {}
    kinds = [class_of.get(kind, kind) for kind in files.kinds]
    return Split(
        dataset,
        cls,
        Images(train, normalise=is_cifar),
        Images(test, normalise=is_cifar),
        labels=np.array([kind != GOOD for kind in kinds] if files.labels is None else files.labels, np.uint8),
        masks=masks,
        kinds=kinds,
        names=[_name(path, data_dir, test_dir) for path in files.test],
        sha256=_digest(
            data_dir,
            test_dir,
            files.train + files.test + mask_files + files.others,
            [*train_sha, *test_sha, *mask_sha, *(file_sha256(path) for path in files.others)],
        ),
        deviations=("image folders instead of CIFAR-10's own files",) if is_cifar else (),
        paths=files.test,
    )


@lru_cache(maxsize=1)
def _read_test(stamps: tuple, size: int, lanczos: bool, title: str | None) -> tuple[Tensor, list[str]]:
    return read_images([Path(path) for path, *_ in stamps], size, lanczos=lanczos, progress=title)


def _load_masks(
    files: Files, size: int, own: bool, title: str | None
) -> tuple[np.ndarray | None, list[Path], list[str]]:
    if files.masks is None:
        return None, [], []
    anomalous = [i for i, mask in enumerate(files.masks) if mask is not None]
    paths = [files.masks[i] for i in anomalous]
    masks = np.zeros((len(files.test), size, size), np.float32)
    masks[anomalous], sha256 = read_masks(paths, [files.test[i] for i in anomalous], size, own=own, progress=title)
    return masks, paths, sha256


def _warn_of_copies(files: Files, train_sha: list[str], test_sha: list[str], test_dir: Path | None) -> None:
    test = list(zip(files.test, test_sha, strict=True))
    given = [(path, sha) for path, sha in test if test_dir and path.is_relative_to(test_dir)]
    held_out = {sha: path for path, sha in test if (path, sha) not in given}
    for what, there, among in (
        (
            "test images that are training images too, which makes them score low",
            dict(zip(train_sha, files.train, strict=True)),
            test,
        ),
        ("images of TEST_DIR that are in DATA_DIR too", held_out, given),
    ):
        copies = [f"{path} = {there[sha]}" for path, sha in among if sha in there]
        if copies:
            more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
            warnings.warn(f"{what}: {', '.join(copies[:3])}{more}", stacklevel=4)


def _is_binary(dataset: str, data_dir: Path) -> bool:
    """True for files as their authors publish them, in place or to be downloaded; False for folders of image files."""
    if dataset == "cifar10":
        return downloads.folder(dataset, data_dir).is_dir() or not _cifar_folders(data_dir)
    return dataset in downloads.IDX


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


def _name(path: Path, data_dir: Path, test_dir: Path | None) -> str:
    """Relative to DATA_DIR; of a picture in TEST_DIR, relative to the folder that TEST_DIR lies in."""
    inside = test_dir is not None and path.is_relative_to(test_dir)
    return path.relative_to(test_dir.parent if inside else data_dir).as_posix()


def _digest(data_dir: Path, test_dir: Path | None, paths: list[Path], sha256: list[str]) -> str:
    pairs = sorted((_name(path, data_dir, test_dir), sha) for path, sha in zip(paths, sha256, strict=True))
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
