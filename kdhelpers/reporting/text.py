"""Names and numbers in tables."""

from collections.abc import Sequence

import pandas as pd

from kdhelpers.experiments.variants import main_notebook
from kdhelpers.protocols import MVTEC
from kdhelpers.reporting.published import NAMES

NOTHING = "–"
BASELINES = {"mean_brightness": "mean brightness alone", "pca": "PCA of the pixels"}


def main_runs(records: Sequence[dict]) -> list[dict]:
    return [r for r in records if r["notebook"] == main_notebook(r["dataset"])]


def in_order(dataset: str, cls: str) -> tuple[int, int, str]:
    """The key that sorts data sets and classes in the order of the article's tables."""
    return list(NAMES).index(dataset), MVTEC.index(cls) if dataset == "mvtec" and cls in MVTEC else 0, cls


def mean_std(values: pd.Series) -> str:
    known = values.astype(float)
    return number(known.mean(), known.std())


def number(value: float, std: float | None = None, digits: str = ".2f") -> str:
    """The number, with its standard deviation if known; "–" for NaN."""
    if pd.isna(value):
        return NOTHING
    return f"{value:{digits}}" + ("" if pd.isna(std) else f" ± {std:{digits}}")


def as_text(value: object, digits: str = ".2f", nothing: str = NOTHING) -> str:
    """The value of a table's cell; `nothing` stands for a missing one."""
    if isinstance(value, tuple):
        return " × ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if pd.isna(value):
        return nothing
    return format(value, digits) if isinstance(value, float) else str(value)


def either_way(name: str, value: float | None) -> float | None:
    """A baseline's AUROC for comparison; for brightness, the better one of brighter and darker as anomalous."""
    return max(value, 100 - value) if value is not None and name == "mean_brightness" else value


def title_of(name: str) -> str:
    """The display name of a data set, class, method or column."""
    return NAMES.get(name, name.replace("_", " "))
