"""Names and numbers in tables, and records as a frame."""

from collections.abc import Iterable, Sequence

import pandas as pd

from kdhelpers.experiments.records import STALE, is_stale, only_one
from kdhelpers.experiments.variants import main_notebook
from kdhelpers.protocols import MVTEC
from kdhelpers.reporting.published import NAMES

NOTHING = "–"
MARK = {True: f" {STALE}", False: ""}  # after a name or number, by whether a record behind it is stale


def main_runs(records: Sequence[dict]) -> list[dict]:
    return [r for r in records if r["notebook"] == main_notebook(r["dataset"])]


def frame_of(records: Sequence[dict]) -> pd.DataFrame:
    """One row per record of a kind, in the order of the article's tables; also `stale`, and "" for the main run.

    A number inside a record has a column like "detection.auroc". Raises InputError for records of several kinds.
    """
    only_one(records)
    rows = [record | {"variant": record["variant"] or "", "stale": is_stale(record)} for record in records]
    rows.sort(key=lambda row: (*in_order(row["dataset"], row["class"]), row["variant"]))
    return pd.json_normalize(rows)


def mean_by(frame: pd.DataFrame, by: list[str], titles: dict[str, str]) -> pd.DataFrame:
    """One row of text per group: the mean ± standard deviation of columns, by their titles; of "seed", the count.

    frame: of `frame_of`. by: "dataset", "class" and more; a class with a stale record is marked.
    """
    if frame.empty:
        return frame
    groups = frame.groupby(by, sort=False)
    columns = {title: (name, "size" if name == "seed" else mean_std) for name, title in titles.items()}
    table = groups.agg(mark=("stale", "any"), **columns).reset_index()
    table["class"] = table["class"].map(title_of) + table.pop("mark").map(MARK)
    return table.assign(dataset=table["dataset"].map(title_of)).rename(columns={"dataset": "data set"})


def in_order(dataset: str, cls: str) -> tuple[int, int, str]:
    """The key that sorts data sets and classes in the order of the article's tables."""
    return list(NAMES).index(dataset), MVTEC.index(cls) if dataset == "mvtec" and cls in MVTEC else 0, cls


def mean_std(values: Iterable[float | None]) -> str:
    known = pd.Series(list(values), dtype=float)
    return number(known.mean(), known.std())


def number(value: float, std: float | None = None, digits: str = ".2f") -> str:
    """The number, with its standard deviation if known; "–" for NaN."""
    if pd.isna(value):
        return NOTHING
    return f"{value:{digits}}" + ("" if pd.isna(std) else f" ± {std:{digits}}")


def title_of(name: str) -> str:
    """The display name of a data set, class, method or column."""
    return NAMES.get(name, name.replace("_", " "))
