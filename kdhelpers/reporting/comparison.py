"""The article's 75 numbers for its own method: the published value, ours, and the verdict."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import is_stale, only_one
from kdhelpers.experiments.variants import main_notebook
from kdhelpers.protocols import METHODS, MVTEC, NUMBERS, SEEDS
from kdhelpers.reporting.commands import command_for
from kdhelpers.reporting.published import TABLES, published

OWN = {  # the article's own method: the ending of its rows' titles
    "ours": "",
    "ours+aug": ", augmented",
    "without_gaussian": ", without gaussian",
    "with_gaussian": ", with gaussian",
}
MEAN = "mean"  # the class of a mean over all classes
RESC = {"table": 5, "dataset": "retinal_oct", "method": "ours", "class": "resc"}  # no number of the article's own
SLACK = 0.3  # points that a cell `inside` may differ beyond two standard deviations
NEAR = 2.0  # points


def cells(records: Sequence[dict], of: int | None = None) -> pd.DataFrame:
    """One row per published number, in the article's order, with or without records.

    records: of one kind. of: one table, where 5 ends with ours on RESC; None for the article's numbers of all tables.
    Columns: table, dataset, method, class; article and article ± (as published); ours and ± (mean and standard
    deviation over seeds; ± is NaN for one seed); seeds (count); difference; `verdict`; deviates (the deviations or "");
    missing (for an incomplete mean, how many classes have records, or ""); command (reruns or fills the cell). Numbers
    are in per cent.
    """
    only_one(records)
    paper = pd.concat(published(table).assign(table=table) for table in (TABLES if of is None else [of]))
    paper = paper[paper["method"].isin(OWN)].rename(columns={"value": "article", "std": "article ±"})
    if of == 5:
        paper = pd.concat([paper, pd.DataFrame([RESC])])
    rows = []
    for cell in paper[["table", "dataset", "method", "class", "article", "article ±"]].to_dict("records"):
        single = cell["table"] > 1 and cell["class"] != MEAN  # Table 1 is a mean over the categories
        wanted = [cell["class"]] if single else list(classes_of(cell["dataset"]))
        found, values = recorded_numbers(records, cell, wanted)
        means = values.dropna().mean(axis=1)
        used = [record for record in found if record["seed"] in means.index]
        deviates = dict.fromkeys(deviation for record in used for deviation in record["deviations"])
        if 0 < len(means) != SEEDS:
            deviates[f"{len(means)} seed{'s' * (len(means) > 1)} instead of {SEEDS}"] = None
        words, most = "; ".join(deviates), max(values.notna().sum(axis=1), default=0)
        cell |= {"ours": means.mean(), "±": means.std(), "seeds": len(means)}
        cell["difference"] = cell["ours"] - cell["article"]
        numbers = cell["ours"], cell["±"], cell["article"], cell["article ±"]
        cell |= {"verdict": verdict(*numbers, words, any(map(is_stale, used))), "deviates": words}
        cell["missing"] = "" if len(means) or single else f"{most} of {len(wanted)} classes"
        notebook, _, variant = place_of(cell)
        cell["command"] = command_for(notebook, wanted if single else None, variant, used, records)
        rows.append(cell)
    return pd.DataFrame(rows)


def verdict(
    ours: float | None, spread: float | None, value: float, std: float | None, deviates: str, stale: bool = False
) -> str:
    """inside when |Δ| ≤ 2·√(s² + s_published²) + 0.3 points, near when |Δ| ≤ 2 points, off otherwise.

    "–" without numbers; "stale" when a record of another version contributed, "deviates" when the runs deviate from
    the article's. An unknown spread counts as 0.
    """
    if pd.isna(ours):
        return "–"
    if stale or deviates:
        return "stale" if stale else "deviates"
    if pd.isna(value):
        return "–"
    both = np.hypot(*np.nan_to_num(np.array([spread, std], float)))
    difference = abs(ours - value)
    return "inside" if difference <= 2 * both + SLACK else "near" if difference <= NEAR else "off"


def classes_of(dataset: str) -> tuple[str, ...]:
    """The classes that the article's means average."""
    return MVTEC if dataset == "mvtec" else NUMBERS


def place_of(cell: Mapping) -> tuple[str, str, str | None]:
    """Notebook, data set and variant of the records that fill a published cell."""
    if cell["table"] == 1 and cell["class"] != METHODS[0]:
        return "14_interpretability", cell["dataset"], cell["class"]
    return main_notebook(cell["dataset"]), cell["dataset"], "augmented" if cell["method"] == "ours+aug" else None


def value_of(record: dict, table: int, method: str = METHODS[0], filtered: bool = True) -> float | None:
    """The number of a record that a table of the article reports, in per cent; None where it is undefined."""
    if table in (1, 4):
        maps = (record["localization"] or {}).get(method, {})
        return maps.get("gaussian" if filtered else "raw", {}).get("pixel_auroc")
    return record["detection"]["auroc"]


def recorded_numbers(records: Sequence[dict], cell: Mapping, classes: Sequence[str]) -> tuple[list[dict], pd.DataFrame]:
    """The records of `classes` with a number for a cell's table row, by seed, and these numbers, seeds × classes."""
    place, filtered = place_of(cell), cell["method"] != "without_gaussian"
    method = cell["class"] if cell["table"] == 1 else METHODS[0]
    rows = [
        (r["seed"], r["class"], value_of(r, cell["table"], method, filtered), r)
        for r in sorted(records, key=lambda r: r["seed"])
        if (r["notebook"], r["dataset"], r["variant"]) == place and r["class"] in classes
    ]
    frame = pd.DataFrame(rows, columns=["seed", "class", "value", "record"]).dropna(subset="value")
    values = frame.astype({"value": float}).pivot(index="seed", columns="class", values="value")
    return frame["record"].tolist(), values.reindex(columns=classes)
