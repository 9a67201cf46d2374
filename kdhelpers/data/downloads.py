"""MNIST, Fashion-MNIST and CIFAR-10 in their authors' formats, downloaded and read by torchvision."""

import os
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import calculate_md5

from kdhelpers.errors import InputError

IDX = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}
_TIMEOUT = 60  # seconds
BATCHES = datasets.CIFAR10.base_folder
PAGES = {
    "mnist": "yann.lecun.com/exdb/mnist",
    "fashion_mnist": "github.com/zalandoresearch/fashion-mnist",
    "cifar10": "www.cs.toronto.edu/~kriz/cifar.html",
}


class Arrays(NamedTuple):
    """Decoded images, uint8 (n, h, w) or (n, h, w, 3), and their classes, integers (n,)."""

    train: np.ndarray
    train_classes: np.ndarray
    test: np.ndarray
    test_classes: np.ndarray


def folder(dataset: str, data_dir: Path) -> Path:
    """The folder of the data set's own files."""
    return data_dir / "cifar10" / BATCHES if dataset == "cifar10" else data_dir / IDX[dataset].__name__ / "raw"


def files(dataset: str, data_dir: Path) -> list[Path]:
    """The data set's own files."""
    names = _batch_sums() if dataset == "cifar10" else [name.removesuffix(".gz") for name, _ in IDX[dataset].resources]
    return [folder(dataset, data_dir) / name for name in names]


def present(dataset: str, data_dir: Path) -> bool:
    """True when all of the data set's own files exist; `read` checks them."""
    return all(path.is_file() for path in files(dataset, data_dir))


def fetch(dataset: str, data_dir: Path) -> None:
    """Download the data set (12, 31 or 170 MB) with torchvision's URLs and MD5 checksums.

    Archives already in place are unpacked instead if their MD5 is right. The download goes to a temporary folder, so
    that an interruption leaves no incomplete file; a second process waits for the first.
    Raises InputError that names the files to fetch, their source and their place.
    """
    place, is_cifar = folder(dataset, data_dir), dataset == "cifar10"
    archives_in = place.parent if is_cifar else place
    names = [datasets.CIFAR10.filename] if is_cifar else [name for name, _ in IDX[dataset].resources]
    fix = f"fetch {', '.join(names)} from {PAGES[dataset]} and put it in {archives_in}"
    with downloading(dataset, archives_in, fix):
        archives_in.mkdir(parents=True, exist_ok=True)
        lock = FileLock(archives_in / f".{dataset}.lock")
        with lock, tempfile.TemporaryDirectory(dir=archives_in) as temporary:
            if present(dataset, data_dir):  # another process was faster
                return
            arriving = Path(temporary, archives_in.relative_to(data_dir))
            arriving.mkdir(parents=True)
            for path in (archives_in / name for name in names):
                if path.is_file():
                    shutil.copy(path, arriving)
            datasets.CIFAR10(arriving, download=True) if is_cifar else IDX[dataset](temporary, download=True)
            place.mkdir(exist_ok=True)
            for path in files(dataset, data_dir):
                os.replace(Path(temporary, path.relative_to(data_dir)), path)


@contextmanager
def downloading(what: str, place: Path, fix: str) -> Iterator[None]:
    """Turn errors of torchvision and torch.hub during a download to `place` into an InputError with the fix.

    A silent server is such an error: torchvision and torch.hub would wait forever.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    except (OSError, RuntimeError, ValueError, EOFError, tarfile.TarError) as error:
        other = f"or check the network, and that {place} can be written to"
        raise InputError(f"{what} could not be downloaded ({_reason(error)}): {fix}; {other}") from error
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read(dataset: str, data_dir: Path) -> Arrays:
    """Read the data set's own files; raises InputError naming a damaged file."""
    paths = files(dataset, data_dir)
    if dataset == "cifar10":
        for path, md5 in zip(paths, _batch_sums().values(), strict=True):  # unpickling other files might run code
            check_md5(path, md5)
        train, test = (datasets.CIFAR10(data_dir / "cifar10", train=train) for train in (True, False))
        return Arrays(train.data, np.array(train.targets), test.data, np.array(test.targets))
    parts = [_read_idx(path) for path in paths]
    for i in (0, 2):
        if len(parts[i]) != len(parts[i + 1]):
            counts = f"{paths[i].name} has {len(parts[i])} images, {paths[i + 1].name} {len(parts[i + 1])} labels"
            raise InputError(f"{paths[i].parent}: {counts}; remove the two files to have them downloaded again")
    return Arrays(*parts)


def check_md5(path: Path, md5: str) -> None:
    """Raise InputError when a file's MD5 is another one than `md5`."""
    if (found := calculate_md5(path)) != md5:
        raise InputError(f"{path} is damaged: MD5 {found} found, {md5} expected; remove it to have it downloaded again")


def _read_idx(path: Path) -> np.ndarray:
    is_images = "images" in path.name
    try:
        array = (read_image_file if is_images else read_label_file)(str(path)).numpy()
        if array.size == 0 or not is_images and array.max() > 9:
            raise ValueError("not what it should hold")
    except Exception as error:  # a damaged header raises many types of errors
        reason = f"damaged or truncated ({_reason(error)})"
        raise InputError(f"{path}: {reason}; remove it to have it downloaded again") from None
    return array


def _batch_sums() -> dict[str, str]:
    """The names of CIFAR-10's files and their MD5 checksums."""
    cifar = datasets.CIFAR10
    return {cifar.meta["filename"]: cifar.meta["md5"]} | dict(cifar.train_list + cifar.test_list)
