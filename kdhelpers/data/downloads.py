"""MNIST, Fashion-MNIST and CIFAR-10 as their authors publish them: fetched, unpacked and read."""

import gzip
import hashlib
import os
import pickle
import shutil
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from kdhelpers.data.fetching import alone, checksum, differs, download, in_one_line, part_of
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
        return [folder(dataset, data_dir) / name for name in _batch_sums()]
    return [folder(dataset, data_dir) / name.removesuffix(".gz") for name, _ in IDX[dataset].resources]


def present(dataset: str, data_dir: Path) -> bool:
    """True when all of the data set's own files are there; whether they are sound, `read` will see."""
    return all(path.is_file() for path in files(dataset, data_dir))


def test_images(dataset: str, data_dir: Path) -> Path:
    """The one of its files that holds the test images."""
    return folder(dataset, data_dir) / ("test_batch" if dataset == "cifar10" else "t10k-images-idx3-ubyte")


def fetch(dataset: str, data_dir: Path) -> None:
    """Downloads what the data set (12, 31 or 170 MB) lacks and unpacks it once its MD5 is right.

    Archives that lie there already, put by hand, are unpacked instead, and stay. No file is at its place before it is
    whole. Raises InputError saying what to fetch, where from and where to, or naming the archive that is damaged.
    """
    if dataset not in _PAGES:
        raise InputError(f"{dataset!r} is none of the data sets that can be downloaded: {', '.join(_PAGES)}")
    place = folder(dataset, data_dir)
    if dataset == "cifar10":
        cifar, archives_in = datasets.CIFAR10, place.parent
        archives = [(cifar.filename, cifar.tgz_md5, [cifar.url])]
    else:
        archives_in = place
        archives = [(n, md5, [mirror + n for mirror in IDX[dataset].mirrors]) for n, md5 in IDX[dataset].resources]
    names = ", ".join(name for name, _, _ in archives)
    get = f"fetch {names} from {_PAGES[dataset]} and put {'them' if len(archives) > 1 else 'it'} in {archives_in}"
    try:
        with alone(archives_in / dataset):
            for name, md5, urls in archives:
                missing = [path for path in files(dataset, data_dir) if not path.is_file()]
                if dataset != "cifar10":
                    missing = [path for path in missing if f"{path.name}.gz" == name]
                if missing:
                    _unpack(archives_in / name, md5, urls, missing, get)
    except OSError as error:
        where = error.filename or archives_in
        raise InputError(f"{dataset} cannot be written to {where} ({error.strerror or error})") from None


def _unpack(archive: Path, md5: str, urls: list[str], wanted: list[Path], get: str) -> None:
    """Brings the files `wanted` out of the archive, and the archive from the network where it is not there."""
    by_hand = archive.is_file()
    if not by_hand:
        download(urls, archive, "md5", md5, get)
    elif (found := checksum(archive, "md5")) != md5:
        raise InputError(f"{archive} is damaged: {differs('md5', found, md5)}; remove it and run again, or {get}")
    if archive.suffixes[-2:] != [".tar", ".gz"]:
        with gzip.open(archive) as file:
            _write(file, wanted[0])
    else:
        # Only these files, under our own names: nothing in the archive decides where anything is written.
        named = {f"{path.parent.name}/{path.name}": path for path in wanted}
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                if member.isfile() and member.name in named:
                    _write(tar.extractfile(member), named.pop(member.name))
        if named:
            raise InputError(f"{archive} holds no {', '.join(named)}; remove it and run again")
    if not by_hand:
        archive.unlink()


def _write(content: BinaryIO, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    with part_of(to).open("wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part_of(to), to)


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
            raise InputError(f"{path} is damaged: {differs('md5', found, md5)}; {way_out}")
        if path.name != datasets.CIFAR10.meta["filename"]:
            # Unpickling can run code. These are the very bytes that were compared, not the file read a second time.
            batches[path.name] = pickle.loads(content, encoding="latin1")
    parts = []
    for names in (datasets.CIFAR10.train_list, datasets.CIFAR10.test_list):
        pixels = np.concatenate([batches[name]["data"] for name, _ in names]).reshape(-1, 3, 32, 32)
        parts += [pixels.transpose(0, 2, 3, 1), np.concatenate([batches[name]["labels"] for name, _ in names])]
    return Arrays(*parts, files=paths)


if __name__ == "__main__":  # fetches a data set, before many runs need it
    if len(sys.argv) != 3:
        sys.exit("usage: python -m kdhelpers.data.downloads DATASET DATA_DIR")
    in_one_line(fetch, sys.argv[1], Path(sys.argv[2]).expanduser())
