"""The layout of each data set under DATA_DIR, and the article's split of its files (Sec. 4.1)."""

import math
import os
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from kdhelpers.data import downloads, ignore
from kdhelpers.data.listing import SUFFIXES, entries, find, folder, pictures, safe_name, subfolders
from kdhelpers.errors import InputError
from kdhelpers.files import file_sha256, reading
from kdhelpers.protocols import CLASS_NAMES, GOOD, NORMAL_TEST, NUMBERS

UNKNOWN = "unknown"
LABELS = {GOOD: 0, "bad": 1, UNKNOWN: 2}
"""The labels of test images; every other kind is bad."""
FOLDERS = {  # names of folders of your own images, in any case; any other name is a defect's
    GOOD: frozenset((GOOD, "ok", "okay", "normal", "pass", "passed", "negative", "healthy", "non-defective")),
    UNKNOWN: frozenset((UNKNOWN, "unlabeled", "unlabelled")),
}
EITHER = frozenset(("no", "yes", "0", "1", "true", "false"))  # ambiguous: "no" may mean "no defect" or "not good"
HELD_OUT, LEAST_HELD_OUT = 0.2, 10  # share and minimum of your own good images held out for the threshold; at most half


class TestImage(NamedTuple):
    """kind: `GOOD`, or the name of the anomaly; label: a value of `LABELS`; mask: the ground truth, if any."""

    path: Path
    kind: str = GOOD
    label: int = 0
    mask: Path | None = None


class Own(NamedTuple):
    """Options for your own images."""

    test_dir: Path | None = None  # a folder of more pictures to score
    test_label: str | dict[str, str] | None = None  # their label, one of `LABELS`, or labels of folders by name
    ignore: Path | None = None  # a mask of regions that are not judged, or a folder of masks: `data.ignore`
    tile: int | None = None  # the side of a tile in pixels: `data.tiles`


NOTHING_MORE = Own()


class Files(NamedTuple):
    """The files of one split; others: labels.csv of HeadCT, or the masks of IGNORE; notes: lines for `describe`."""

    train: list[Path]
    test: list[TestImage]
    others: list[Path] = []
    notes: tuple[str, ...] = ()

    @property
    def all(self) -> list[Path]:
        masks = [image.mask for image in self.test if image.mask]
        return [*self.train, *(image.path for image in self.test), *masks, *self.others]


_ADVICE = {
    "folder": "put normal images for training in train/good, images to test in test/good and test/<kind of anomaly>, "
    "or in a folder called good (ok, normal ...) beside those of defects, or give a folder of good images only",
    "cifar10": "it needs one folder per class, of the same names, in cifar10/train and cifar10/test",
    "mvtec": "download MVTec AD from www.mvtec.com/company/research/datasets/mvtec-ad and unpack the category there",
    "oct2017": "download OCT2017.tar.gz from data.mendeley.com/datasets/rscbjbr9sj/2 (doi 10.17632/rscbjbr9sj.2) and "
    "unpack it as oct2017/train/NORMAL, oct2017/test/NORMAL, oct2017/test/CNV ...",
    "resc": "get RESC as arranged by github.com/DorisBao/BMAD and put it as resc/train/good, resc/test/good and "
    "resc/test/Ungood",
    "head_ct": "download www.kaggle.com/datasets/felipekitamura/head-ct-hemorrhage and put it as head_ct/labels.csv "
    "and head_ct/head_ct/000.png ...",
    "brain_mri": "download www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection and put it as "
    "brain_mri/no and brain_mri/yes",
}


@reading()
def list_files(
    dataset: str, cls: str, data_dir: Path, seed: int, normal_test: int = NORMAL_TEST, own: Own = NOTHING_MORE
) -> Files:
    """The files of class `cls`.

    seed: draws the `normal_test` normal test images of HeadCT and BrainMRI, and the held-out images of your own.
    own: options for your own images (`_own`). Raises InputError naming what is missing, its source and its place.
    """
    name = cls if dataset == "retinal_oct" else dataset
    inside = partial(folder, data_dir, advice=_ADVICE[name])
    if name == "folder":
        return _own(data_dir, seed, own)
    if name == "mvtec":
        return _inspection(inside(name, cls), name)
    if name == "cifar10":
        folders = cifar_folders(data_dir)
        train, normal = pictures(inside(name, "train", folders[cls])), inside(name, "test", folders[cls])
        class_of = {folder: cls for cls, folder in folders.items()} | {normal.name: GOOD}
        return Files(train, _in_folders(normal.parent, lambda place: class_of.get(place.name, place.name)))
    if name in ("oct2017", "resc"):
        normal, *anomalies = ("NORMAL", "CNV", "DME", "DRUSEN") if name == "oct2017" else (GOOD, "Ungood")
        train = pictures(inside(name, "train", normal))
        folders = {inside(name, "test", normal): GOOD} | {inside(name, "test", kind): kind for kind in anomalies}
        return Files(train, _of_kinds(folders))
    root = inside(name)
    if name == "head_ct":
        normal, anomalous = _head_ct(root, pictures(inside(name, name)))
        kind, others = "hemorrhage", [root / "labels.csv"]
    else:
        normal, anomalous = (pictures(inside(name, part)) for part in ("no", "yes"))
        kind, others = "tumour", []
    if len(normal) <= normal_test:
        raise InputError(f"{root}: has {len(normal)} normal images, of which {normal_test} go to test; add more")
    drawn, train = _draw(normal, normal_test, seed)
    return Files(train, [*map(TestImage, drawn), *(TestImage(path, kind, LABELS["bad"]) for path in anomalous)], others)


def kind_of(folder: Path, labels: str | dict[str, str] | None) -> str:
    """The kind of images in a folder of your own, from `labels` or its name: GOOD, UNKNOWN or the defect's name.

    labels: TEST_LABEL; only a dict, by folder name, is used. Raises InputError for a name that may mean good or bad.
    """
    name = folder.name.lower()
    if isinstance(labels, dict) and name in (given := {key.lower(): label for key, label in labels.items()}):
        return folder.name if given[name] == "bad" and name not in LABELS else given[name]
    if name in EITHER:
        fix = f"give TEST_LABEL={{{folder.name!r}: 'good'}}, or 'bad'"
        raise InputError(f"{folder}: {folder.name!r} may mean good or bad; {fix}")
    return next((kind for kind, names in FOLDERS.items() if name in names), folder.name)


def cifar_folders(data_dir: Path) -> dict[str, str]:
    """The folder of each class when image folders replace CIFAR-10's own files; otherwise empty."""
    root = data_dir.expanduser() / "cifar10"
    if downloads.folder("cifar10", root.parent).is_dir():
        return {}
    folders = {path.name.lower(): path.name for path in subfolders(root / "train")}
    if folders.keys() == set(CLASS_NAMES["cifar10"]):
        return {number: folders[name] for number, name in zip(NUMBERS, CLASS_NAMES["cifar10"], strict=True)}
    found = {safe_name(name): name for name in sorted(folders.values())}
    if len({name.lower() for name in found}) < len(folders) or folders.keys() & {GOOD, UNKNOWN}:
        why = f"a reserved name ({GOOD}, {UNKNOWN}), or two have names that are too similar ({', '.join(found)})"
        raise InputError(f"{root / 'train'}: a class there has {why}; rename one")
    return found


def _of_kinds(folders: dict[Path, str]) -> list[TestImage]:
    images = [(path, kind) for place, kind in folders.items() for path in pictures(place)]
    return [TestImage(path, kind, LABELS.get(kind, LABELS["bad"])) for path, kind in images]


def _folders(root: Path, fix: str = "") -> list[Path]:
    """The folders in `root`; InputError for pictures beside them."""
    for path in entries(root):
        if path.suffix.lower() in SUFFIXES or path.is_symlink() and not path.exists():
            where = f"beside the folders of {root.name}, or is a link that leads nowhere, or to itself"
            raise InputError(f"{path}: lies {where}; {fix or f'move it to {root / GOOD} or another one, or remove it'}")
    return subfolders(root)


def _in_folders(root: Path, kind: Callable[[Path], str], fix: str = "") -> list[TestImage]:
    """The test images in the folders of `root`; InputError for pictures beside them, or when there are none."""
    if not (folders := _folders(root, fix)):
        raise InputError(f"{root}: there are no folders of test images in it; add {root / GOOD} and one for each kind")
    return _of_kinds({path: kind(path) for path in folders})


def _inspection(root: Path, dataset: str, labels: str | dict[str, str] | None = None) -> Files:
    """The files in MVTec AD's layout: train/good, test/<kind>, ground_truth/<kind>/<stem>_mask.png.

    Your own images need no test folder; their anomalous test images need masks for all or for none.
    """
    inside, is_mvtec = partial(folder, root, advice=_ADVICE[dataset]), dataset == "mvtec"
    good = [f for f in _folders(inside("train")) if kind_of(f, labels) == GOOD] or [inside("train", GOOD)]
    train = [path for place in good for path in pictures(place)]
    has_test = is_mvtec or find(root, "test").is_dir()
    test = _in_folders(inside("test"), partial(kind_of, labels=labels)) if has_test else []
    truths = [f for f in subfolders(find(root, "ground_truth")) if f.name.lower() not in FOLDERS[GOOD]]
    masks = {(f.name.lower(), path.name): path for f in truths for path in pictures(f, empty=True)}
    if not masks and not is_mvtec:
        return Files(train, test)
    for i, (path, kind, label, _) in enumerate(test):
        name = f"{path.stem}_mask.png"
        mask = None if kind == GOOD else masks.pop((path.parent.name.lower(), name), None)
        if mask is None and label == LABELS["bad"]:
            fix = "unpack the category again" if is_mvtec else "draw it, or remove the folder ground_truth"
            expected = root / "ground_truth" / path.parent.name / name
            raise InputError(f"{path}: its mask {expected} is missing; {fix}")
        test[i] = test[i]._replace(mask=mask)
    for stray in masks.values():
        raise InputError(f"{stray}: there is no test image for this mask (NAME_mask.png belongs to NAME); remove it")
    return Files(train, test)


def _own(root: Path, seed: int, own: Own) -> Files:
    """Your own images: in MVTec AD's layout, in folders of good and bad ones, or good ones only; plus TEST_DIR's.

    The good test images are those in test/good. Without any, a random fifth of the good images is held out, at least
    `LEAST_HELD_OUT` but at most half; byte-identical copies of good images are then left out.
    """
    test_dir, labels, notes = own.test_dir, own.test_label, []
    if test_dir is not None and test_dir.resolve() == root.resolve():
        raise InputError(f"TEST_DIR {test_dir} is DATA_DIR too: name a folder of other pictures, or leave it out")
    if find(root, "train").is_dir() or find(root, "test").is_dir():
        train, test, *_ = _inspection(root, "folder", labels)
        given = [Path(os.path.realpath(place)) for place in (test_dir, own.ignore) if place]
        read = [find(root, name) for name in ("train", "test", "ground_truth")]
        for path in [*entries(root), *(place for place in subfolders(read[0]) if kind_of(place, labels) != GOOD)]:
            is_given = any(place.is_relative_to(os.path.realpath(path)) for place in given)
            pictured = any(inner.suffix.lower() in SUFFIXES for inner in (path, *path.rglob("*")))
            if path not in read and not is_given and pictured:
                raise InputError(f"{path}: is not read; move it to train/good, to test/<kind>, or out of {root}")
    elif any(path.suffix.lower() in SUFFIXES for path in root.iterdir()) or not subfolders(root):
        train, test = pictures(root), []
    else:
        every = root.name.lower() in FOLDERS[GOOD]  # such as good/lot_1, good/lot_2
        images = _in_folders(root, lambda path: GOOD if every else kind_of(path, labels))
        train = [image.path for image in images if image.kind == GOOD]
        test = [image for image in images if image.kind != GOOD]
        if not train:
            raise InputError(f"{root}: no folder in it holds good pictures, judging by its name; {_ADVICE['folder']}")
    if all(image.kind != GOOD for image in test):
        # A copy in training would lower the score of its held-out twin, and with it the threshold.
        distinct = list({file_sha256(path): path for path in train}.values())
        if len(distinct) < 3:
            raise InputError(f"{root}: {len(distinct)} distinct good images; 3 are needed, 1 of them for the threshold")
        if copies := len(train) - len(distinct):
            notes.append(f"byte-identical copies of good images, left out: {copies}")
        count = min(max(math.ceil(HELD_OUT * len(distinct)), LEAST_HELD_OUT), len(distinct) // 2)
        held_out, train = _draw(distinct, count, seed)
        test = [*map(TestImage, held_out), *test]
    notes += [f"  {place}: {count} good" for place, count in Counter(str(path.parent) for path in train).items()]
    known = {path.resolve() for path in [*train, *(image.path for image in test)]}
    more = [] if test_dir is None else to_score(test_dir, labels)
    if shared := known.intersection(image.path.resolve() for image in more):
        raise InputError(f"{min(shared)}: is in DATA_DIR and in TEST_DIR; name folders that share no picture")
    paths = [*train, *(image.path for image in test + more)]
    if (masks := ignore.listed(own.ignore, paths)) not in ([], [own.ignore]):
        notes.append(f"IGNORE: {len(masks)} of {len(paths)} images have a mask")
    return Files(train, test + more, masks, tuple(notes))


def to_score(root: Path, labels: str | dict[str, str] | None) -> list[TestImage]:
    """The pictures in TEST_DIR, labelled by TEST_LABEL or else by the names of their folders.

    Without subfolders, TEST_DIR's name is their kind; without TEST_LABEL, their label is then good or unknown.
    Raises InputError as `pictures` does, and for a single TEST_LABEL with subfolders.
    """
    if subfolders(root):
        if isinstance(labels, str):
            fix = "leave TEST_LABEL out, or name one of the folders as TEST_DIR"
            raise InputError(f"TEST_LABEL is {labels!r}, but {root} has folders, whose names are the labels: {fix}")
        return _in_folders(root, partial(kind_of, labels=labels), "move the folders away, or name one of them")
    name = root.name.lower()
    named = isinstance(labels, dict) and name in map(str.lower, labels)
    kind = kind_of(root, labels) if named or name in FOLDERS[GOOD] | FOLDERS[UNKNOWN] else root.name
    label = labels if isinstance(labels, str) else kind if named or kind == GOOD else UNKNOWN
    return [TestImage(path, kind, LABELS.get(label, LABELS["bad"])) for path in pictures(root)]


def _head_ct(root: Path, paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """The normal and the anomalous images among 000.png, 001.png …, according to labels.csv."""
    images: dict[int, Path] = {}
    for path in paths:
        if not path.stem.isdecimal() or int(path.stem) in images:
            raise InputError(f"{path}: its name is not a unique id such as 000.png; remove it")
        images[int(path.stem)] = path
    table = root / "labels.csv"
    if not table.is_file():
        raise InputError(f"{table} is missing; {_ADVICE['head_ct']}")
    try:
        found = pd.read_csv(table, skipinitialspace=True, index_col=False, dtype=int)
        if list(found) != ["id", "hemorrhage"]:
            raise ValueError(f"the header is {', '.join(found)}")
        labels = found.set_index("id")["hemorrhage"]
        for number in labels.index[labels.index.duplicated() | ~labels.isin((0, 1))]:
            raise ValueError(f"id {number} is there twice, or its label is neither 0 nor 1")
    except ValueError as error:
        reason = f"empty, or not a table of id, hemorrhage ({error})"
        raise InputError(f"{table}: {reason}; {_ADVICE['head_ct']}") from None
    for number in sorted(images.keys() ^ set(labels.index)):
        lacks = f"label for id {number}, {images[number].name}" if number in images else f"image {number:03d}.png"
        raise InputError(f"{table}: there is no {lacks}; add it or remove the other")
    normal, anomalous = ([images[n] for n in sorted(images) if labels[n] == label] for label in (0, 1))
    return normal, anomalous


def _draw(paths: list[Path], count: int, seed: int) -> tuple[list[Path], list[Path]]:
    """`count` random paths, and the others, both in the given order."""
    parts = np.split(np.random.default_rng(seed).permutation(len(paths)), [count])
    drawn, others = ([paths[i] for i in sorted(part)] for part in parts)
    return drawn, others
