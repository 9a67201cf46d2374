"""MNIST, Fashion-MNIST and CIFAR-10 as their authors publish them: fetched and read by torchvision."""

import contextlib
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import check_integrity

from kdhelpers.errors import InputError

IDX = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
BATCHES = datasets.CIFAR10.base_folder
_PAGES = {
    "mnist": "yann.lecun.com/exdb/mnist",
    "fashion_mnist": "github.com/zalandoresearch/fashion-mnist",
    "cifar10": "www.cs.toronto.edu/~kriz/cifar.html",
}


@dataclass(frozen=True)
class Arrays:
    """Decoded images, uint8 (n, h, w) or (n, h, w, 3), and their classes, integers (n,); `files`: where from."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray
    files: list[Path]


def folder(dataset: str, data_dir: Path) -> Path:
    """Where the data set's own files lie."""
    return data_dir / "cifar10" / BATCHES if dataset == "cifar10" else data_dir / IDX[dataset].__name__ / "raw"


def files(dataset: str, data_dir: Path) -> list[Path]:
    """The data set's own files."""
    if dataset == "cifar10":
        cifar = datasets.CIFAR10
        names = [cifar.meta["filename"], *(name for name, _ in cifar.train_list + cifar.test_list)]
        return [folder(dataset, data_dir) / name for name in names]
    return [folder(dataset, data_dir) / name.removesuffix(".gz") for name, _ in IDX[dataset].resources]


def present(dataset: str, data_dir: Path) -> bool:
    """True when all of the data set's own files are there; whether they are sound, `read` will see."""
    return all(path.is_file() for path in files(dataset, data_dir))


def test_images(dataset: str, data_dir: Path) -> Path:
    """The one of its files that holds the test images."""
    return folder(dataset, data_dir) / ("test_batch" if dataset == "cifar10" else "t10k-images-idx3-ubyte")


def fetch(dataset: str, data_dir: Path) -> None:
    """Downloads the data set (12, 31 or 170 MB), checks its MD5, and only then moves it to its place.

    Archives that lie there already, put by hand, are unpacked instead. Raises InputError saying what to fetch, where
    from and where to, when that fails.
    """
    place = folder(dataset, data_dir)
    if dataset == "cifar10":
        archives, archives_in = [datasets.CIFAR10.filename], place.parent
    else:
        archives, archives_in = [name for name, _ in IDX[dataset].resources], place
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as temporary, _timeout(30):
            root = Path(temporary) / "cifar10" if dataset == "cifar10" else Path(temporary)
            copy = folder(dataset, Path(temporary))
            aside = copy.parent if dataset == "cifar10" else copy
            aside.mkdir(parents=True)
            for name in archives:
                if (archives_in / name).is_file():
                    shutil.copy(archives_in / name, aside)
            (datasets.CIFAR10 if dataset == "cifar10" else IDX[dataset])(root, download=True)
            place.mkdir(parents=True, exist_ok=True)
            for path in files(dataset, Path(temporary)):
                os.replace(path, place / path.name)
    except (RuntimeError, OSError, HTTPException, EOFError) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise InputError(
            f"{dataset} could not be downloaded ({reason}): fetch {', '.join(archives)} from {_PAGES[dataset]} "
            f"and put {'them' if len(archives) > 1 else 'it'} in {archives_in}"
        ) from None


def read(dataset: str, data_dir: Path) -> Arrays:
    """Reads the data set's own files; raises InputError naming the file that is damaged."""
    if dataset == "cifar10":
        return _read_batches(data_dir)
    paths = files(dataset, data_dir)
    parts = [_read_idx(path) for path in paths]
    for i in (0, 2):
        if len(parts[i]) != len(parts[i + 1]):
            counts = f"{paths[i].name} has {len(parts[i])} images, {paths[i + 1].name} {len(parts[i + 1])} labels"
            raise InputError(f"{paths[i].parent}: {counts}; remove the two files to have them downloaded again")
    return Arrays(*parts, files=paths)


def _read_idx(path: Path) -> np.ndarray:
    images = "images" in path.name
    try:
        array = (read_image_file if images else read_label_file)(str(path)).numpy()
    except Exception as error:  # a damaged header ends in any of half a dozen kinds
        reason = f" ({' '.join(str(error).split())})" if str(error) else ""
        raise InputError(f"{path}: damaged or truncated{reason}; remove it to have it downloaded again") from None
    if images and (array.ndim != 3 or 0 in array.shape) or not images and (array.size == 0 or array.max() > 9):
        raise InputError(f"{path}: not what it should hold; remove it to have it downloaded again")
    return array


def _read_batches(data_dir: Path) -> Arrays:
    root = data_dir / "cifar10"
    try:
        train, test = (datasets.CIFAR10(root, train=part) for part in (True, False))  # compares every file's MD5
    except RuntimeError:
        cifar = datasets.CIFAR10
        sums = dict(cifar.train_list + cifar.test_list) | {cifar.meta["filename"]: cifar.meta["md5"]}
        damaged = [p for p in files("cifar10", data_dir) if not check_integrity(p, sums[p.name])]
        way_out = f"remove {damaged[0].parent} to have it downloaded again"
        raise InputError(f"{damaged[0]}: missing or damaged (its MD5 differs); {way_out}") from None
    paths = files("cifar10", data_dir)
    return Arrays(train.data, np.array(train.targets), test.data, np.array(test.targets), paths)


@contextlib.contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)  # torchvision sets none, and would wait for a silent server for ever
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


if __name__ == "__main__":  # python -m kdhelpers.downloads DATASET DATA_DIR: fetches it, before many runs need it
    try:
        fetch(sys.argv[1], Path(sys.argv[2]).expanduser())
    except InputError as error:
        sys.exit(f"error: {error}")
