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
from kdhelpers.data.official import COUNTS
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.files import reading
from kdhelpers.protocols import GOOD

PACKED = "packed: unpacked when first needed"
_MD5 = {  # of MNIST's unpacked files; torchvision has those of archives and of CIFAR-10's files
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@reading()
def check(dataset: str, data_dir: Path) -> str:
    """One line: complete, absent, packed, missing N of M and where, N more than the official M, or damaged and how."""
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
            if paths:
                return PACKED if [*paths[0].parent.glob("*.gz"), *paths[0].parent.parent.glob("*.gz")] else "absent"
            if not subfolders(find(data_dir, dataset)):
                return "absent"
            list_files(dataset, parts[0] if dataset == "mvtec" else "", data_dir, seed=0)  # says what is not in place
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
    """The number of image files in a place of `official.COUNTS`."""
    root = find(root, *place.removesuffix("/*").split("/"))
    folders = [f for f in subfolders(root) if f.name.lower() != GOOD] if place.endswith("/*") else [root]
    return sum(len(pictures(folder, empty=True)) for folder in folders if folder.is_dir())


def main(data_dir: Path) -> None:
    """Print one line for each data set; exit with code 1 unless each is complete or absent."""
    if not data_dir.is_dir():
        raise InputError(f"{data_dir} is not a folder: name the folder that holds the data sets")
    wrong = False
    for dataset in COUNTS:
        state = check(dataset, data_dir)
        wrong |= state not in ("complete", "absent", PACKED)
        print(f"{dataset:14} {state}", flush=True)
    sys.exit(wrong)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.data.check", description=__doc__)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", nargs="?", default=paths.DATA_DIR)
    in_one_line(main, parser.parse_args().data_dir.expanduser())
