"""The repository's folders, and the defaults of DATA_DIR and RESULTS_DIR."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent

IN_REPOSITORY = (_PACKAGE.parent / "notebooks").is_dir()
"""False on Colab, where the package is installed without the repository."""

ROOT = _PACKAGE.parent if IN_REPOSITORY else Path.cwd()
DATA_DIR = ROOT / "data"
RESULTS_DIR = ROOT / "results"
SAMPLES_DIR = DATA_DIR / "samples"
PAPER_DIR = DATA_DIR / "paper" if IN_REPOSITORY else _PACKAGE / "paper"
"""The published numbers; a wheel contains them inside the package."""
