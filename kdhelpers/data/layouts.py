"""Where the image files of each data set lie under DATA_DIR, and how the article splits them (Sec. 4.1)."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdhelpers.data.listing import SUFFIXES, Files, by_kind, find, folder, pictures, subfolders, test_files
from kdhelpers.errors import InputError
from kdhelpers.files import reading
from kdhelpers.protocols import GOOD, NORMAL_TEST

UNKNOWN = "unknown"
LABELS = {GOOD: 0, "bad": 1, UNKNOWN: 2}
"""What a test image is known to be, and how `Files.labels` says it."""
FOLDERS = {  # of your own images, in capital or small letters; any other name is that of a defect
    GOOD: frozenset((GOOD, "ok", "okay", "normal", "pass", "passed", "negative", "healthy", "non-defective")),
    UNKNOWN: frozenset((UNKNOWN, "unlabeled", "unlabelled")),
}
EITHER = frozenset(("no", "yes", "0", "1", "true", "false"))  # no defect, or no good?
HELD_OUT, LEAST_HELD_OUT = 0.2, 10  # of your own good images, for the threshold; but never more than half


_ADVICE = {
    "folder": "put normal images for training in train/good, images to test in test/good and test/<kind of anomaly>, "
    "or in a folder called good (ok, normal ...) beside those of defects, or give a folder of good images only",
    "cifar10": "it needs one folder per class, of the same names, in cifar10/train and cifar10/test",
    "mvtec": "download MVTec AD from www.mvtec.com/company/research/datasets/mvtec-ad and unpack the category there",
    "oct2017": "download OCT2017.tar.gz from data.mendeley.com/datasets/rscbjbr9sj (doi 10.17632/rscbjbr9sj) and "
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
    dataset: str,
    cls: str,
    data_dir: Path,
    seed: int,
    normal_test: int = NORMAL_TEST,
    test_dir: Path | None = None,
    test_label: str | dict[str, str] | None = None,
) -> Files:
    """The files of class `cls`; for cifar10 and mvtec `cls` is the folder's name.

    seed: draws `normal_test` images for test from the normal ones of a medical data set, and from your own good ones
    those that are held out. test_dir, test_label: more pictures to score, for your own images (`_own`).

    Raises InputError saying what is missing, from where to get it and where to put it.
    """
    if dataset == "folder":
        return _own(data_dir, seed, test_dir, test_label)
    if dataset == "mvtec":
        return _inspection(folder(data_dir, "mvtec", cls, advice=_ADVICE["mvtec"]), _ADVICE["mvtec"], True)
    if dataset == "cifar10":
        root, advice = data_dir / "cifar10", _ADVICE["cifar10"]
        train, _ = (pictures(folder(root, part, cls, advice=advice)) for part in ("train", "test"))
        return Files(train, *by_kind(folder(root, "test", advice=advice), cls))
    if dataset == "retinal_oct":
        return _oct2017(data_dir) if cls == "oct2017" else _resc(data_dir)
    return (_head_ct if dataset == "head_ct" else _brain_mri)(data_dir, seed, normal_test)


def kind_of(folder: Path, labels: str | dict[str, str] | None) -> str:
    """GOOD, UNKNOWN or the defect's kind: what a folder of your own images holds, by `labels` or by its name.

    labels: TEST_LABEL; where it is a dict, by the names of folders. Raises InputError for a name that may be either.
    """
    name = folder.name.lower()
    if isinstance(labels, dict) and name in (given := {key.lower(): label for key, label in labels.items()}):
        return folder.name if given[name] == "bad" else given[name]
    if name in EITHER:
        raise InputError(
            f"{folder}: {folder.name!r} may mean good or bad; give TEST_LABEL={{{folder.name!r}: 'good'}}, or 'bad'"
        )
    return next((kind for kind, names in FOLDERS.items() if name in names), folder.name)


def _inspection(root: Path, advice: str, masks_required: bool, labels: str | dict[str, str] | None = None) -> Files:
    """train/good, test/<kind>, ground_truth/<kind>/<stem>_mask.png: MVTec AD's layout, and that of your own images.

    Masks: for every anomalous test image, or, unless required, for none. ground_truth/good is not looked at. Your own
    images, whose masks are not required, need no test folder either, and their folders have more names (`kind_of`).
    """
    own = not masks_required
    train_root = folder(root, "train", advice=advice)
    good = [f for f in subfolders(train_root) if kind_of(f, labels) == GOOD] if own else []
    train = [path for f in good for path in pictures(f)] or pictures(folder(train_root, GOOD, advice=advice))
    tested = masks_required or find(root, "test")
    test, kinds = by_kind(folder(root, "test", advice=advice), GOOD) if tested else ([], [])
    kinds = [kind_of(path.parent, labels) for path in test] if own else kinds
    truth = find(root, "ground_truth")
    folders = [f for f in subfolders(truth) if f.name.lower() not in FOLDERS[GOOD]] if truth else []
    found = {(f.name.lower(), path.name): path for f in folders for path in pictures(f, empty=True)}
    if not found and own:
        return Files(train, test, kinds)
    names = [(path.parent.name.lower(), f"{path.stem}_mask.png") for path in test]
    masks = [None if kind == GOOD else found.pop(name, None) for name, kind in zip(names, kinds, strict=True)]
    for path, kind, mask in zip(test, kinds, masks, strict=True):
        if kind not in (GOOD, UNKNOWN) and mask is None:
            expected = root / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            fix = "draw it, or remove the folder ground_truth" if own else "unpack the category again"
            raise InputError(f"{path}: its mask {expected} is missing; {fix}")
    if found:
        stray = next(iter(found.values()))
        raise InputError(
            f"{stray}: there is no test image for this mask (<name>_mask.png belongs to <name>); remove it"
        )
    return Files(train, test, kinds, masks)


def _own(root: Path, seed: int, test_dir: Path | None, labels: str | dict[str, str] | None) -> Files:
    """Your own images: as in a category of MVTec AD, folders of good and bad ones, or good ones only; TEST_DIR's too.

    Good ones to test are test/good, or where there is no such folder a random part of the good ones.
    """
    if test_dir is not None and test_dir.resolve() == root.resolve():
        raise InputError(f"TEST_DIR {test_dir} is DATA_DIR too: name a folder of other pictures, or leave it out")
    folders = subfolders(root)
    if find(root, "train") or find(root, "test"):
        files = _inspection(root, _ADVICE["folder"], masks_required=False, labels=labels)
    elif any(path.suffix.lower() in SUFFIXES for path in root.iterdir()) or not folders:
        files = Files(pictures(root), [], [])
    else:
        every = root.name.lower() in FOLDERS[GOOD]  # good/lot_1, good/lot_2 ...
        kinds = {path: GOOD if every else kind_of(path, labels) for path in folders}
        good, others = ([(p, k) for p, k in kinds.items() if (k == GOOD) is which] for which in (True, False))
        if not good:
            raise InputError(f"{root}: no folder in it holds good pictures by its name; {_ADVICE['folder']}")
        test = [(path, kind) for place, kind in others for path in pictures(place)]
        train = [path for place, _ in good for path in pictures(place)]
        files = Files(train, [path for path, _ in test], [kind for _, kind in test])
    if GOOD not in files.kinds:
        files = _hold_out(files, seed)
    found = [LABELS.get(kind, LABELS["bad"]) for kind in files.kinds]
    if test_dir is None:
        return replace(files, labels=found)
    test, kinds, more = to_score(test_dir, labels)
    known = {path.resolve() for path in files.train + files.test}
    for path in test:
        if path.resolve() in known:
            raise InputError(f"{path}: is in DATA_DIR and in TEST_DIR; name folders that share no picture")
    masks = files.masks and files.masks + [None] * len(test)
    return replace(files, test=files.test + test, kinds=files.kinds + kinds, masks=masks, labels=found + more)


def _hold_out(files: Files, seed: int) -> Files:
    """A random fifth of the training images, or `LEAST_HELD_OUT`, but no more than half, as normal test images."""
    count = len(files.train)
    held_out = min(max(math.ceil(HELD_OUT * count), LEAST_HELD_OUT), count // 2)
    order = np.random.default_rng(seed).permutation(count)
    test, train = ([files.train[i] for i in sorted(part)] for part in np.split(order, [held_out]))
    masks = files.masks and [None] * len(test) + files.masks
    return replace(files, train=train, test=test + files.test, kinds=[GOOD] * len(test) + files.kinds, masks=masks)


def to_score(root: Path, labels: str | dict[str, str] | None) -> tuple[list[Path], list[str], list[int]]:
    """The pictures of TEST_DIR, the kind of each, and its label: what TEST_LABEL says, or the folders' names.

    Without folders in it, all of its pictures are of the kind that it is called. InputError as `pictures` raises it.
    """
    if not subfolders(root):
        test, name = pictures(root), root.name.lower()
        known = name in FOLDERS[GOOD] | FOLDERS[UNKNOWN] or isinstance(labels, dict)
        kind = kind_of(root, labels) if known else root.name
        label = labels if isinstance(labels, str) else kind if kind == GOOD or isinstance(labels, dict) else UNKNOWN
        return test, [kind] * len(test), [LABELS.get(label, LABELS["bad"])] * len(test)
    if isinstance(labels, str):
        raise InputError(
            f"TEST_LABEL is {labels!r}, and {root} has folders in it, whose names say it: leave TEST_LABEL out, or "
            "name one of the folders as TEST_DIR"
        )
    test, _ = by_kind(root, GOOD)
    kinds = [kind_of(path.parent, labels) for path in test]
    return test, kinds, [LABELS.get(kind, LABELS["bad"]) for kind in kinds]


def _oct2017(data_dir: Path) -> Files:
    advice = _ADVICE["oct2017"]
    root = folder(data_dir, "oct2017", advice=advice)
    train = pictures(folder(root, "train", "NORMAL", advice=advice))
    kinds = {"NORMAL": GOOD, "CNV": "CNV", "DME": "DME", "DRUSEN": "DRUSEN"}
    return test_files(train, {kind: folder(root, "test", name, advice=advice) for name, kind in kinds.items()})


def _resc(data_dir: Path) -> Files:
    advice = _ADVICE["resc"]
    root = folder(data_dir, "resc", advice=advice)
    train = pictures(folder(root, "train", GOOD, advice=advice))
    return test_files(train, {kind: folder(root, "test", kind, advice=advice) for kind in (GOOD, "Ungood")})


def _head_ct(data_dir: Path, seed: int, normal_test: int) -> Files:
    advice = _ADVICE["head_ct"]
    root = folder(data_dir, "head_ct", advice=advice)
    images: dict[int, Path] = {}
    for path in pictures(folder(root, "head_ct", advice=advice)):
        if not path.stem.isdecimal() or int(path.stem) in images:
            raise InputError(f"{path}: its name is not an id of its own as in 000.png; remove it")
        images[int(path.stem)] = path
    table = root / "labels.csv"
    labels = _read_labels(table, advice)
    for number in sorted(images.keys() ^ labels.keys()):
        if number in images:
            raise InputError(f"{images[number]}: {table.name} has no label for id {number}; add it or remove the image")
        raise InputError(f"{table}: there is no image {number:03d}.png for id {number}; add it or remove the label")
    normal, anomalous = ([images[n] for n in sorted(images) if labels[n] == label] for label in (0, 1))
    return _draw(root, normal, anomalous, "hemorrhage", seed, normal_test, [table])


def _read_labels(table: Path, advice: str) -> dict[int, int]:
    if not table.is_file():
        raise InputError(f"{table} is missing; {advice}")
    labels: dict[int, int] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, skipinitialspace=True)
            header = [name.strip() for name in next(rows, [])]
            if header != ["id", "hemorrhage"]:
                raise ValueError(f"the header is {', '.join(header) or 'empty'} instead of id, hemorrhage")
            for row in filter(None, rows):
                number, label = (int(value) for value in row)
                if label not in (0, 1) or number in labels:
                    raise ValueError(f"id {number} is there twice, or its label {label} is neither 0 nor 1")
                labels[number] = label
    except (ValueError, csv.Error) as error:
        raise InputError(f"{table}: {error}; {advice}") from None
    return labels


def _brain_mri(data_dir: Path, seed: int, normal_test: int) -> Files:
    root = folder(data_dir, "brain_mri", advice=_ADVICE["brain_mri"])
    normal, anomalous = (pictures(folder(root, name, advice=_ADVICE["brain_mri"])) for name in ("no", "yes"))
    return _draw(root, normal, anomalous, "tumour", seed, normal_test, [])


def _draw(
    root: Path,
    normal: list[Path],
    anomalous: list[Path],
    kind: str,
    seed: int,
    normal_test: int,
    others: list[Path],
) -> Files:
    """Sec. 4.1: ten random normal images and all anomalous ones for test, the rest of the normal for training."""
    if len(normal) <= normal_test:
        raise InputError(f"{root}: has {len(normal)} normal images, of which {normal_test} go to test; add more")
    order = np.random.default_rng(seed).permutation(len(normal))
    test, train = ([normal[i] for i in sorted(part)] for part in np.split(order, [normal_test]))
    kinds = [GOOD] * len(test) + [kind] * len(anomalous)
    return Files(train, test + anomalous, kinds, others=others)
