"""Names and numbers in tables, and the grouping of records."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import pandas as pd

from kdhelpers.experiments.records import mark, only_one
from kdhelpers.experiments.variants import main_notebook
from kdhelpers.protocols import MVTEC
from kdhelpers.reporting.published import NAMES

NOTHING = "–"


def main_runs(records: Sequence[dict]) -> list[dict]:
    return [r for r in records if r["notebook"] == main_notebook(r["dataset"])]


def groups_of(records: Sequence[dict]) -> Iterator[tuple[dict[str, str], list[dict]]]:
    """Yield names and records of each data set, class and variant, in the order of the article's tables."""
    only_one(records)

    def key(record: dict) -> tuple:
        return *in_order(record["dataset"], record["class"]), record["variant"] or ""

    for (*_, cls, variant), members in groupby(sorted(records, key=key), key):
        group = list(members)
        names = {"data set": title_of(group[0]["dataset"]), "class": title_of(cls) + mark(group), "variant": variant}
        yield names, group


def in_order(dataset: str, cls: str) -> tuple[int, int, str]:
    """The key that sorts data sets and classes in the order of the article's tables."""
    return list(NAMES).index(dataset), MVTEC.index(cls) if dataset == "mvtec" and cls in MVTEC else 0, cls


def mean_std(values: Iterable[float | None]) -> str:
    known = pd.Series(list(values), dtype=float).dropna()
    return number(known.mean(), known.std())


def number(value: float, std: float | None = None, digits: str = ".2f") -> str:
    """The number, with its standard deviation if known; "–" for NaN."""
    if pd.isna(value):
        return NOTHING
    return f"{value:{digits}}" + ("" if pd.isna(std) else f" ± {std:{digits}}")


def title_of(name: str) -> str:
    """The display name of a data set, class, method or column."""
    return NAMES.get(name, name.replace("_", " "))
