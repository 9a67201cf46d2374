"""MNIST, Fashion-MNIST and CIFAR-10 as their authors publish them: downloaded by torchvision, and read."""

import hashlib
import os
import pickle
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import numpy as np
from filelock import FileLock, Timeout
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from kdhelpers.errors import InputError
from kdhelpers.files import NO_ROOM, network_timeout

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
        return [folder(dataset, data_dir) / name for name in _batch_sums()]
    return [folder(dataset, data_dir) / name.removesuffix(".gz") for name, _ in IDX[dataset].resources]


def present(dataset: str, data_dir: Path) -> bool:
    """True when all of the data set's own files are there; whether they are sound, `read` will see."""
    return all(path.is_file() for path in files(dataset, data_dir))


def test_images(dataset: str, data_dir: Path) -> Path:
    """The one of its files that holds the test images."""
    return folder(dataset, data_dir) / ("test_batch" if dataset == "cifar10" else "t10k-images-idx3-ubyte")


def fetch(dataset: str, data_dir: Path) -> None:
    """Download what the data set (12, 31 or 170 MB) lacks, with torchvision's URLs and MD5.

    Archives that were put in place by hand are unpacked instead when their MD5 is right. Everything arrives in a
    temporary folder, so that an interruption leaves no incomplete file in place; a second process waits for the first.
    Raises InputError saying what to fetch, from where and where to put it.
    """
    if dataset not in _PAGES:
        raise InputError(f"{dataset!r} cannot be downloaded; {', '.join(_PAGES)} can")
    place = folder(dataset, data_dir)
    archives_in = place.parent if dataset == "cifar10" else place
    names = [datasets.CIFAR10.filename] if dataset == "cifar10" else [name for name, _ in IDX[dataset].resources]
    get = f"fetch {', '.join(names)} from {_PAGES[dataset]} and put it in {archives_in}"
    try:
        archives_in.mkdir(parents=True, exist_ok=True)
        with _lock(archives_in / f".{dataset}.lock"), tempfile.TemporaryDirectory(dir=archives_in) as temporary:
            if present(dataset, data_dir):  # another process was faster
                return
            root = Path(temporary, "cifar10" if dataset == "cifar10" else "")
            arrived = folder(dataset, Path(temporary))
            (root if dataset == "cifar10" else arrived).mkdir(parents=True, exist_ok=True)
            for name in names:
                if (archives_in / name).is_file():
                    shutil.copy(archives_in / name, (root if dataset == "cifar10" else arrived) / name)
            with network_timeout():
                (datasets.CIFAR10 if dataset == "cifar10" else IDX[dataset])(root, download=True)
            place.mkdir(exist_ok=True)
            for path in files(dataset, data_dir):
                if not path.is_file():
                    os.replace(arrived / path.name, path)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise InputError(f"there is no room for {dataset} in {archives_in}: make room there") from None
        if isinstance(error, URLError | EOFError) or error.filename is None:
            raise InputError(f"{dataset} could not be downloaded ({_reason(error)}): {get}") from error
        raise InputError(f"{dataset} cannot be written to {error.filename} ({error.strerror or error})") from None
    except (RuntimeError, ValueError, EOFError, tarfile.TarError) as error:  # torchvision's, for what is damaged
        raise InputError(f"{dataset} could not be downloaded ({_reason(error)}): {get}") from error


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{path.parent}: waiting for another process that downloads", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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


def _batch_sums() -> dict[str, str]:
    """The names of CIFAR-10's files and their MD5."""
    cifar = datasets.CIFAR10
    return {cifar.meta["filename"]: cifar.meta["md5"]} | dict(cifar.train_list + cifar.test_list)


def _read_batches(data_dir: Path) -> Arrays:
    paths, batches = files("cifar10", data_dir), {}
    for path, md5 in zip(paths, _batch_sums().values(), strict=True):
        content = path.read_bytes()
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5:
            way_out = "remove it to have it downloaded again"
            raise InputError(f"{path} is damaged: MD5 {found} found, {md5} expected; {way_out}")
        if path.name != datasets.CIFAR10.meta["filename"]:
            # Unpickling can run code. These are the very bytes that were compared, not the file read a second time.
            batches[path.name] = pickle.loads(content, encoding="latin1")
    parts = []
    for names in (datasets.CIFAR10.train_list, datasets.CIFAR10.test_list):
        pixels = np.concatenate([batches[name]["data"] for name, _ in names]).reshape(-1, 3, 32, 32)
        parts += [pixels.transpose(0, 2, 3, 1), np.concatenate([batches[name]["labels"] for name, _ in names])]
    return Arrays(*parts, files=paths)
