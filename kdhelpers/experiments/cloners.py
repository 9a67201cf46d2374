"""Trained cloners as assets of a release."""

import shutil
from pathlib import Path
from zipfile import ZipFile

from kdhelpers.experiments.records import is_made_with

# Main runs, whose notebooks load their cloners, on data whose licence allows copies: a cloner's file has some pictures.
PACKED = ("01_mnist/*", "02_fashion_mnist/*", "04_mvtec/*", "05_retinal_oct/retinal_oct-oct2017-*")


def pack(results_dir: Path, folder: Path) -> list[Path]:
    """Replace `folder` by a zip per source and notebook, to be unpacked in a results folder, and return the zips.

    They contain the cloners in results_dir that belong to the present records, and their predictions.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for pattern in PACKED:
        for cloner in sorted(results_dir.glob(f"cloners/*/full/*/{pattern}.safetensors")):
            _, source, *_, notebook, _ = cloner.relative_to(results_dir).parts
            record = results_dir / "records" / cloner.relative_to(results_dir / "cloners").with_suffix(".json")
            if is_made_with(record, cloner):
                folder.mkdir(parents=True, exist_ok=True)
                with ZipFile(folder / f"{source}-{notebook}.zip", "a") as file:
                    for path in (cloner, cloner.with_suffix(".predictions.csv.gz")):
                        file.write(path, path.relative_to(results_dir))
    return sorted(folder.glob("*.zip"))
