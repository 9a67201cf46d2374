"""The article's 75 numbers for its own method: the published value, ours, and the verdict."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import is_stale, only_one
from kdhelpers.experiments.variants import METHODS, main_notebook
from kdhelpers.protocols import MVTEC, NUMBERS, SEEDS
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


def cells(records: Sequence[dict], of: Sequence[int] = TABLES, resc: bool = False) -> pd.DataFrame:
    """One row per published number, in the article's order, with or without records.

    records: of one kind. of: the tables. resc: True to end Table 5 with ours on RESC. Columns: table, dataset, method,
    class; article and article ± (as published); ours and ± (mean and standard deviation over seeds; ± is NaN for one
    seed); seeds (count); difference; `verdict`; deviates (the deviations, or ""); missing (for an incomplete mean, how
    many classes have records, or ""); command (reruns or fills the cell). Numbers are in per cent.
    """
    only_one(records)
    paper = pd.concat(published(table).assign(table=table) for table in of)
    paper = paper[paper["method"].isin(OWN)].rename(columns={"value": "article", "std": "article ±"})
    if resc and 5 in of:
        paper = pd.concat([paper, pd.DataFrame([RESC])])
    rows = []
    for cell in paper[["table", "dataset", "method", "class", "article", "article ±"]].to_dict("records"):
        table = cell["table"]
        single = table > 1 and cell["class"] != MEAN  # Table 1 is a mean over the categories
        wanted = [cell["class"]] if single else list(classes_of(cell["dataset"]))
        found, values = recorded(records, table, cell)
        values = values.reindex(columns=wanted)
        means = values.dropna().mean(axis=1)
        used = [r for r in found if r["seed"] in means.index and r["class"] in wanted]
        deviates = dict.fromkeys(deviation for record in used for deviation in record["deviations"])
        if 0 < len(means) != SEEDS:
            deviates[f"{len(means)} seed{'s' * (len(means) > 1)} instead of {SEEDS}"] = None
        words, most = "; ".join(deviates), max(values.notna().sum(axis=1), default=0)
        cell |= {"ours": means.mean(), "±": means.std(), "seeds": len(means)}
        cell["difference"] = cell["ours"] - cell["article"]
        numbers = cell["ours"], cell["±"], cell["article"], cell["article ±"]
        cell["verdict"] = verdict(*numbers, words, any(map(is_stale, used)))
        cell["deviates"] = words
        cell["missing"] = "" if len(means) or single else f"{most} of {len(wanted)} classes"
        notebook, _, variant = place_of(table, cell)
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


def place_of(table: int, cell: Mapping) -> tuple[str, str, str | None]:
    """Notebook, data set and variant of the records that fill a published cell."""
    if table == 1 and cell["class"] != METHODS[0]:
        return "14_interpretability", cell["dataset"], cell["class"]
    return main_notebook(cell["dataset"]), cell["dataset"], "augmented" if cell["method"] == "ours+aug" else None


def value_of(record: dict, table: int, method: str = METHODS[0], filtered: bool = True) -> float | None:
    """The number of a record that a table of the article reports, in per cent; None where it is undefined."""
    if table in (1, 4):
        maps = (record["localization"] or {}).get(method, {})
        return maps.get("gaussian" if filtered else "raw", {}).get("pixel_auroc")
    return record["detection"]["auroc"]


def recorded(records: Sequence[dict], table: int, cell: Mapping) -> tuple[list[dict], pd.DataFrame]:
    """The records of a published cell's table row, sorted by seed, and a frame of their numbers, seeds × classes."""
    place = place_of(table, cell)
    found = [r for r in records if (r["notebook"], r["dataset"], r["variant"]) == place]
    method, filtered = cell["class"] if table == 1 else METHODS[0], cell["method"] != "without_gaussian"
    numbers = [(r["seed"], r["class"], value_of(r, table, method, filtered)) for r in found]
    frame = pd.DataFrame(numbers, columns=["seed", "class", "value"]).astype({"value": float})
    return sorted(found, key=lambda r: r["seed"]), frame.pivot(index="seed", columns="class", values="value")
