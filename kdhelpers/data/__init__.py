"""The data sets: their classes, and their training and test splits as in Sec. 4.1 of the article."""

import hashlib
import json
import os
import re
import warnings
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from torch import Tensor

from kdhelpers.data import downloads, ignore, official, tiles
from kdhelpers.data.images import Images, Size, in_threads, read_images, read_masks, resize_arrays, sides
from kdhelpers.data.layouts import FOLDERS, NOTHING_MORE, Files, Own, cifar_folders, list_files
from kdhelpers.data.listing import safe_name
from kdhelpers.data.split import Split, Tiles
from kdhelpers.errors import InputError, did_you_mean
from kdhelpers.files import file_sha256, reading
from kdhelpers.protocols import CLASS_NAMES, GOOD, MVTEC, NORMAL_TEST, NUMBERS, SETTINGS


@reading()
def classes(dataset: str, data_dir: Path | str) -> tuple[str, ...]:
    """All classes of a data set in the article's order; for folders in place of CIFAR-10, in order of name."""
    if dataset == "cifar10":
        return tuple(cifar_folders(Path(data_dir)) or NUMBERS)
    if dataset == "folder":
        folder = Path(os.path.realpath(Path(data_dir).expanduser()))
        return (safe_name((folder.parent if folder.name.lower() in FOLDERS[GOOD] else folder).name) or "folder",)
    fixed = dict.fromkeys(downloads.IDX, NUMBERS) | dict.fromkeys(("head_ct", "brain_mri"), ("normal",))
    fixed |= {"mvtec": MVTEC, "retinal_oct": ("oct2017", "resc")}
    if dataset not in fixed:
        raise InputError(_unknown("data set", dataset, tuple(SETTINGS)))
    return fixed[dataset]


def resolve_class(dataset: str, name: str | int, data_dir: Path | str) -> str:
    """The class called `name`, ignoring case and punctuation; "airplane" is class "0" of CIFAR-10.

    Raises InputError that lists the allowed names.
    """

    def plain(name: str | int) -> str:
        return re.sub(r"[\W_]+", "", str(name)).lower()

    allowed = classes(dataset, data_dir)
    if name in allowed:
        return name
    names = CLASS_NAMES.get(dataset, ()) if allowed == NUMBERS else ()
    known = {plain(cls): cls for cls in allowed} | {plain(n): cls for n, cls in zip(names, allowed, strict=False)}
    if plain(name) not in known:
        raise InputError(_unknown(f"class of {dataset}", str(name), tuple(dict.fromkeys((*allowed, *names)))))
    return known[plain(name)]


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
) -> Split:
    """Load the split of class `cls`, resized to `image_size` pixels; download MNIST, Fashion-MNIST, CIFAR-10 if absent.

    CIFAR-10: resized with Lanczos to image_size·256/224, centre-cropped, normalised with ImageNet's mean and standard
    deviation. Others: resized bilinearly, RGB in [0, 1]; MNIST and Fashion-MNIST keep one channel. seed: draws the
    `normal_test` normal test images of HeadCT and BrainMRI, and the held-out images of your own; other splits do not
    depend on it. own: options for your own images. Test images of MNIST, Fashion-MNIST and CIFAR-10 are cached for the
    next class: do not change them in place. Raises InputError that names the error and the fix.
    """
    data_dir = Path(data_dir).expanduser()
    cls = resolve_class(dataset, cls, data_dir)
    if min(sides(image_size)) < 32:
        raise InputError(f"image size {image_size} is too small: VGG-16 halves it five times; at least 32")
    if _is_binary(dataset, data_dir):
        split = _load_arrays(dataset, cls, data_dir, image_size)
    else:
        files = list_files(dataset, cls, data_dir, seed, normal_test, own)
        split = _load_files(dataset, cls, data_dir, files, image_size, own)
    if len(split.train) < 2:
        raise InputError(f"{dataset} {cls} in {data_dir}: {len(split.train)} training image; at least 2 are needed")
    return split


@reading()
def fingerprint(data_dir: Path, *, seed: int, own: Own = NOTHING_MORE) -> str:
    """`Split.sha256` of your own images, without decoding them; it shows whether they changed since a record."""
    paths = list_files("folder", "", data_dir, seed, own=own).all
    return _digest(paths, _checksums(paths), data_dir, own)


@reading()
def status(dataset: str, data_dir: Path | str) -> dict[str, str]:
    """Status of each class: "" when present, "download" when `load` will fetch it, else how to get it and where."""
    data_dir = Path(data_dir).expanduser()
    found = dict.fromkeys(classes(dataset, data_dir), "")
    if _is_binary(dataset, data_dir):
        return found if downloads.present(dataset, data_dir) else dict.fromkeys(found, "download")
    for cls in found:
        try:
            list_files(dataset, cls, data_dir, seed=0)
        except InputError as error:
            found[cls] = str(error)
    return found


def _load_arrays(dataset: str, cls: str, data_dir: Path, size: int) -> Split:
    if not downloads.present(dataset, data_dir):
        downloads.fetch(dataset, data_dir)
    files, is_cifar = downloads.files(dataset, data_dir), dataset == "cifar10"
    sha256 = _digest(files, _checksums(files), data_dir)
    arrays, test = _read_arrays(dataset, data_dir, size, sha256)
    normal = arrays.train[arrays.train_classes == int(cls)]
    train = resize_arrays(normal, size, lanczos=is_cifar, title=f"{dataset} {cls}: training images")
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
def _read_arrays(dataset: str, data_dir: Path, size: int, sha256: str) -> tuple[downloads.Arrays, Tensor]:
    """Read the data set and resize its test images, once for all classes while the files' `sha256` is the same."""
    arrays = downloads.read(dataset, data_dir)
    return arrays, resize_arrays(arrays.test, size, lanczos=dataset == "cifar10", title=f"{dataset}: test images")


def _load_files(dataset: str, cls: str, data_dir: Path, files: Files, size: Size, own: Own) -> Split:
    is_cifar, paths = dataset == "cifar10", [image.path for image in files.test]
    title, ignored = f"{dataset} {cls}: ", ignore.reader(own.ignore)
    train = read_images(files.train, size, lanczos=is_cifar, ignored=ignored, title=title + "training images")
    test = read_images(paths, size, lanczos=is_cifar, ignored=ignored, title=title + "test images")
    sums = _checksums(files.all)
    _warn_of_copies(sums, files.train, paths, own.test_dir)
    masks = cut = None
    if own.tile:
        read = partial(tiles.read, size=size, tile=own.tile, ignored=ignored, title=title + "tiles")
        (seen, _), (seen_test, first) = read(files.train), read(paths)
        cut = Tiles(Images(seen), Images(seen_test), first)
    if masked := [i for i, image in enumerate(files.test) if image.mask]:
        masks = np.zeros((len(test), *sides(size)), np.float32)
        pairs = [(files.test[i].mask, paths[i]) for i in masked]
        masks[masked] = read_masks(pairs, size, own=dataset == "folder", title=title + "masks")
    return Split(
        dataset,
        cls,
        Images(train, normalise=is_cifar),
        Images(test, normalise=is_cifar),
        labels=np.array([image.label for image in files.test], np.uint8),
        masks=masks,
        kinds=[image.kind for image in files.test],
        names=[_name(path, data_dir, own) for path in paths],
        sha256=_digest(files.all, sums, data_dir, own),
        deviations=official.deviations(dataset, cls, len(train) + len(test)),
        paths=paths,
        mask_paths=[image.mask for image in files.test],
        notes=files.notes,
        tiles=cut,
    )


def _warn_of_copies(sums: dict[Path, str], train: list[Path], test: list[Path], test_dir: Path | None) -> None:
    given = [path for path in test if test_dir and path.is_relative_to(test_dir)]
    held_out = [path for path in test if not test_dir or not path.is_relative_to(test_dir)]
    for what, originals, among in (
        ("test images that are training images too, which makes them score low", train, test),
        ("images of TEST_DIR that are in DATA_DIR too", held_out, given),
    ):
        original = {sums[path]: path for path in originals}
        copies = [f"{path} = {original[sums[path]]}" for path in among if sums[path] in original]
        if copies:
            more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
            warnings.warn(f"{what}: {', '.join(copies[:3])}{more}", stacklevel=4)


def _is_binary(dataset: str, data_dir: Path) -> bool:
    """True for the authors' own files, present or to be downloaded; False for folders of image files."""
    return dataset in downloads.IDX or dataset == "cifar10" and not cifar_folders(data_dir)


def _name(path: Path, data_dir: Path, own: Own = NOTHING_MORE) -> str:
    """The path relative to DATA_DIR; for files in TEST_DIR or IGNORE, relative to the parent of these."""
    inside = [place.parent for place in (own.test_dir, own.ignore) if place and path.is_relative_to(place)]
    return path.relative_to(inside[0] if inside else data_dir).as_posix()


def _checksums(paths: list[Path]) -> dict[Path, str]:
    return dict(zip(paths, in_threads(file_sha256, paths, "checksums"), strict=True))


def _digest(paths: list[Path], sums: dict[Path, str], data_dir: Path, own: Own = NOTHING_MORE) -> str:
    pairs = sorted((_name(path, data_dir, own), sums[path]) for path in paths)
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _unknown(what: str, given: str, allowed: tuple[str, ...]) -> str:
    return f"unknown {what} {given!r}; allowed are {', '.join(allowed)}{did_you_mean(given, allowed)}"
