"""The article's 75 numbers of its own method: what was published, what our records say, and the verdict."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import only_one
from kdhelpers.experiments.variants import METHODS, main_notebook
from kdhelpers.protocols import SEEDS
from kdhelpers.reporting.commands import command_for
from kdhelpers.reporting.published import TABLES, published

OURS = {"ours": "ours", "ours+aug": "augmented"}  # the rows of Tables 2 to 6 that are the article's own method
MEAN = "mean"  # the class of the column with the mean over all others
SLACK = 0.3  # points, beside two standard deviations, within which a cell is `inside`
NEAR = 2.0  # points


def cells(records: Sequence[dict]) -> pd.DataFrame:
    """A row for each published number, in the article's order; without records its place is kept.

    records: of one source, profile and protocol (`kinds.only_one`). Columns: table, dataset, method, class; article and
    article ± as published; ours and ± (mean and standard deviation over seeds, the latter NaN for one seed); seeds (how
    many); difference; `verdict`; deviates (in what, "" for nothing); missing (what a mean lacks); command (what fills
    the cell). Numbers are per cent.
    """
    only_one(records)
    # Any main run of the kind: a variant may have another source.
    like = next((record for record in records if record["variant"] is None), None)
    rows = []
    for table in TABLES:
        numbers = published(table)
        for _, cell in numbers[_is_ours(table, numbers)].iterrows():
            values, used, missing = _values(table, cell, numbers, records)
            ours = float(np.mean(values)) if values else None
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            deviates = _deviations(used, len(values)) if values else ""
            stale = any(map(results.is_stale, used))
            makers = notebook_of(table, cell), _classes(table, cell), _variant(table, cell)
            rows.append(
                {
                    "table": table,
                    "dataset": cell["dataset"],
                    "method": cell["method"],
                    "class": cell["class"],
                    "article": cell["value"],
                    "article ±": cell["std"],
                    "ours": ours,
                    "±": spread,
                    "seeds": len(values),
                    "difference": None if ours is None else ours - cell["value"],
                    "verdict": verdict(ours, spread, cell["value"], cell["std"], deviates, stale),
                    "deviates": deviates,
                    "missing": missing,
                    "command": command_for(*makers, used, like),
                }
            )
    numeric = ["article", "article ±", "ours", "±", "difference"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numeric, float))


def verdict(
    ours: float | None, spread: float | None, value: float, std: float | None, deviates: str, stale: bool = False
) -> str:
    """inside when |Δ| ≤ 2·√(s² + s_published²) + 0.3 points, near when |Δ| ≤ 2 points, off otherwise.

    "–" without a number; "stale" for one that another version had a part in, since this one may not give it; "deviates"
    for one that was not made as the article's. A spread that is not known counts 0.
    """
    if ours is None:
        return "–"
    if stale:
        return "stale"
    if deviates:
        return "deviates"
    both = np.sqrt(np.nan_to_num(float(spread or 0)) ** 2 + np.nan_to_num(float(std or 0)) ** 2)
    difference = abs(ours - value)
    return "inside" if difference <= 2 * both + SLACK else "near" if difference <= NEAR else "off"


def notebook_of(table: int, cell) -> str:
    """The notebook whose records fill a published cell."""
    if table == 1 and cell["class"] != METHODS[0]:
        return "14_interpretability"
    return main_notebook(cell["dataset"])


def value_of(record: dict, table: int, method: str = "", filtered: bool = True) -> float | None:
    """The number of a record that stands in a table of the article, in per cent; None where it is undefined."""
    if table in (1, 4):
        maps = (record["localization"] or {}).get(method or METHODS[0], {})
        return maps.get("gaussian" if filtered else "raw", {}).get("pixel_auroc")
    return record["detection"]["auroc"]


def _is_ours(table: int, numbers: pd.DataFrame) -> pd.Series:
    return numbers["method"].isin(OURS) if table > 1 else pd.Series(True, index=numbers.index)


def _variant(table: int, cell) -> str | None:
    if table == 1:
        return None if cell["class"] == METHODS[0] else cell["class"]
    return "augmented" if cell["method"] == "ours+aug" else None


def _classes(table: int, cell) -> list[str] | None:
    """The classes whose numbers the cell is made of; None: all that its data set has."""
    return None if table == 1 or cell["class"] == MEAN else [cell["class"]]


def _values(table: int, cell, numbers: pd.DataFrame, records: Sequence[dict]) -> tuple[list[float], list[dict], str]:
    """The cell's number by each seed that has all of it, the records behind them, and what is missing of a mean."""
    notebook, variant = notebook_of(table, cell), _variant(table, cell)
    rows = published(3) if table == 1 else numbers  # Table 1 is a mean over the categories that Table 3 names
    row = rows[(rows["dataset"] == cell["dataset"]) & (rows["class"] != MEAN)]
    wanted = _classes(table, cell) or list(dict.fromkeys(row["class"]))
    by_seed: dict[int, dict[str, dict]] = {}
    for record in records:
        if (record["notebook"], record["dataset"], record["variant"]) == (notebook, cell["dataset"], variant):
            if record["class"] in wanted:
                by_seed.setdefault(record["seed"], {})[record["class"]] = record
    values, used, most = [], [], 0
    for seed in sorted(by_seed):
        there = by_seed[seed]
        numbers_of = [
            value_of(there[cls], table, cell["class"] if table == 1 else "", cell["method"] != "without_gaussian")
            for cls in wanted
            if cls in there
        ]
        numbers_of = [number for number in numbers_of if number is not None]
        most = max(most, len(numbers_of))
        if len(numbers_of) == len(wanted):
            values.append(float(np.mean(numbers_of)))
            used += there.values()
    return values, used, f"{most} of {len(wanted)} classes" if not values and len(wanted) > 1 else ""


def _deviations(records: Sequence[dict], seeds: int) -> str:
    found = dict.fromkeys(deviation for record in records for deviation in record["deviations"])
    if seeds != SEEDS:
        found[f"{seeds} seed{'s' * (seeds > 1)} instead of {SEEDS}"] = None
    return "; ".join(found)
