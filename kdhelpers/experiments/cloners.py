"""Trained cloners as release assets: list them with checksums, and install downloaded ones for the notebooks.

Command line: `python -m kdhelpers.experiments.cloners FOLDER`, see --help.
"""

import argparse
import shutil
from pathlib import Path

import pandas as pd

from kdhelpers import paths
from kdhelpers.errors import InputError, in_one_line
from kdhelpers.experiments.records import record_in
from kdhelpers.files import atomic_write, file_sha256, reading

LIST = "cloners.csv"  # in RESULTS_DIR: file, sha256, bytes, record
_SUFFIXES = (".safetensors", ".predictions.csv.gz")  # of a cloner, and of its scores on the test images


def _assets(results_dir: Path) -> dict[str, tuple[Path, Path]]:
    """Map each asset's name to its file and its record's file in results_dir; skip cloners of another record."""
    found = {}
    for cloner in sorted(results_dir.glob("cloners/*/full/**/*.safetensors")):
        stem = cloner.relative_to(results_dir / "cloners").with_suffix("")
        record = results_dir / "records" / f"{stem}.json"
        if record.is_file() and record.read_text(encoding="utf-8") == record_in(cloner):
            for path in (cloner.with_suffix(suffix) for suffix in _SUFFIXES):
                found["__".join(path.relative_to(results_dir / "cloners").parts)] = path, record
    return found


def table(results_dir: Path) -> str:
    """The content of cloners.csv: a row for each trained cloner that matches its record, and for its predictions."""
    columns, rows = ["file", "sha256", "bytes", "record"], []
    for name, (path, record) in _assets(results_dir).items():
        rows.append((name, file_sha256(path), path.stat().st_size, record.relative_to(results_dir).as_posix()))
    return pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n") if rows else ""


def collect(results_dir: Path, folder: Path) -> int:
    """Replace `folder` by links to all assets under their release names, for an upload; return their number."""
    assets = _assets(results_dir)
    shutil.rmtree(folder, ignore_errors=True)
    for name, (path, _) in assets.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path.absolute())
    return len(assets)


@reading()
def place(folder: Path, results_dir: Path = paths.RESULTS_DIR) -> None:
    """Check downloaded assets in `folder` against cloners.csv in RESULTS_DIR, and copy them to RESULTS_DIR/cloners.

    A notebook then uses the trained cloner of a record and does not train. Raises InputError for a file with another
    checksum, and for a cloner that belongs to another record than the present one.
    """
    listed = pd.read_csv(results_dir / LIST, index_col="file")
    found = [path for path in sorted(folder.iterdir()) if path.name in listed.index]
    if not found:
        raise InputError(f"{folder} has none of the files in {results_dir / LIST}: download some from the release")
    targets = {}
    for path in found:
        if file_sha256(path) != listed["sha256"][path.name]:
            raise InputError(f"{path} is damaged, or of another release: download it again")
        record = results_dir / listed["record"][path.name]
        cloner = results_dir / "cloners" / record.relative_to(results_dir / "records")
        targets[path] = target = cloner.with_suffix(next(suffix for suffix in _SUFFIXES if path.name.endswith(suffix)))
        if target.suffix == ".safetensors" and record.read_text(encoding="utf-8") != record_in(path):
            raise InputError(f"{path} is not the cloner of {record}, which was recorded again: check the record out")
    for path, target in targets.items():
        with atomic_write(target) as temporary:
            shutil.copyfile(path, temporary)
        print(target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kdhelpers.experiments.cloners", description=place.__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder with the downloaded files")
    parser.add_argument("--results", type=Path, metavar="RESULTS_DIR", default=paths.RESULTS_DIR)
    given = parser.parse_args()
    in_one_line(place, given.folder.expanduser(), given.results.expanduser())
