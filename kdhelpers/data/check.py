"""Check that the data sets are complete, by the official counts and, for MNIST and CIFAR-10, by checksums.

Command line: `python -m kdhelpers.data.check [DATA_DIR]`; the exit code is 1 unless each is complete or absent.
"""

import argparse
import sys
from pathlib import Path

from kdhelpers import paths
from kdhelpers.data import downloads
from kdhelpers.data.layouts import list_files
from kdhelpers.data.listing import find, pictures, subfolders
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.files import reading
from kdhelpers.protocols import GOOD

_MVTEC = """
    bottle 209 20 63, cable 224 58 92, capsule 219 23 109, carpet 280 28 89, grid 264 21 57, hazelnut 391 40 70,
    leather 245 32 92, metal_nut 220 22 93, pill 267 26 141, screw 320 41 119, tile 230 33 84, toothbrush 60 12 30,
    transistor 213 60 40, wood 247 19 60, zipper 240 32 119
"""  # numbers of images in train/good, in test/good, and of defects, each with a mask
COUNTS = {  # numbers of images (and masks) in the folders that the notebooks read; *: all but good
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "cifar10": {"train/*": 50_000, "test/*": 10_000},
    "mvtec": {
        f"{category}/{place}": int(count)
        for category, train, good, bad in map(str.split, _MVTEC.split(","))
        for place, count in {"train/good": train, "test/good": good, "test/*": bad, "ground_truth/*": bad}.items()
    },
    "oct2017": {"train/NORMAL": 26_315} | {f"test/{kind}": 250 for kind in ("NORMAL", "CNV", "DME", "DRUSEN")},
    "head_ct": {"head_ct": 200},
    "brain_mri": {"no": 98, "yes": 155},
}
_MD5 = {  # of MNIST's unpacked files; torchvision has those of archives and of CIFAR-10's files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@reading()
def check(dataset: str, data_dir: Path) -> str:
    """One line: complete, absent, missing N of M and where, N more than the official M, or damaged and how."""
    expected = COUNTS[dataset]
    parts = list(dict.fromkeys(place.partition("/")[0] for place in expected))  # the categories of MVTec AD
    try:
        found = {place: _count(find(data_dir, dataset), place) for place in expected}
        paths = downloads.files(dataset, data_dir) if dataset in downloads.PAGES else []
        gone = [path.name for path in paths if not path.is_file()]
        if 0 < len(gone) < len(paths):
            return f"missing {len(gone)} of {len(paths)} files: {', '.join(gone)}"
        if paths and not gone:
            arrays = downloads.read(dataset, data_dir)
            found = dict(zip(expected, (len(arrays.train), len(arrays.test)), strict=True))
        if not any(found.values()):
            return "absent"
        if lacks := {place: number - found[place] for place, number in expected.items() if found[place] < number}:
            where = ", ".join(f"{number} in {place}" for place, number in [*lacks.items()][:3])
            more = " …" if len(lacks) > 3 else ""
            whole = [part for part in parts if part not in {place.partition("/")[0] for place in lacks}]
            complete = f"; complete are {', '.join(whole)}" if whole else ""
            return f"missing {sum(lacks.values())} of {sum(expected.values())}: {where}{more}{complete}"
        if (surplus := sum(found.values()) - sum(expected.values())) > 0:
            return f"{surplus} more than the official {sum(expected.values())}"
        for path in paths if dataset == "mnist" else ():
            downloads.check_md5(path, _MD5[path.name])
        if dataset not in downloads.PAGES:
            for part in parts if dataset == "mvtec" else [""]:
                list_files(dataset, part, data_dir, seed=0)  # labels and masks belong to the images
    except InputError as error:
        return f"damaged: {error}"
    return "complete"


def _count(root: Path, place: str) -> int:
    """The number of image files in a place of COUNTS."""
    for name in place.removesuffix("/*").split("/"):
        root = find(root, name)
    folders = [f for f in subfolders(root) if f.name.lower() != GOOD] if place.endswith("/*") else [root]
    return sum(len(pictures(folder, empty=True)) for folder in folders if folder.is_dir())


def main(data_dir: Path) -> None:
    """Print one line for each data set; exit with code 1 unless each is complete or absent."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: name the folder that holds the data sets")
    wrong = False
    for dataset in COUNTS:
        state = check(dataset, data_dir)
        wrong |= state not in ("complete", "absent")
        print(f"{dataset:14} {state}", flush=True)
    sys.exit(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.data.check", description=__doc__)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", nargs="?", default=paths.DATA_DIR)
    in_one_line(main, parser.parse_args().data_dir.expanduser())
