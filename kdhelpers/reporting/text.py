"""How tables write names and numbers, and how they group records."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdhelpers.experiments.records import only_one
from kdhelpers.experiments.variants import main_notebook
from kdhelpers.protocols import MVTEC
from kdhelpers.reporting.published import NAMES

NOTHING = "–"


def main_runs(records: Sequence[dict]) -> list[dict]:
    return [r for r in records if r["notebook"] == main_notebook(r["dataset"])]


def is_main_or_14(record: dict) -> bool:
    return record["notebook"] in (main_notebook(record["dataset"]), "14_interpretability")


def groups_of(records: Sequence[dict]) -> list[tuple[tuple, list[dict]]]:
    """Records by (data set, class, variant), in the order of the article's tables."""
    only_one(records)
    groups: dict[tuple, list[dict]] = {}
    for record in records:
        groups.setdefault((record["dataset"], record["class"], record["variant"]), []).append(record)
    order = {dataset: i for i, dataset in enumerate(NAMES)}
    return sorted(groups.items(), key=lambda item: (order[item[0][0]], *in_order(*item[0][:2]), str(item[0][2] or "")))


def in_order(dataset: str, cls: str) -> tuple[int, str]:
    """The key that sorts classes as the article's tables have them."""
    return (MVTEC.index(cls) if dataset == "mvtec" and cls in MVTEC else 0, cls)


def mean_std(values) -> str:
    known = [float(value) for value in values if value is not None and not np.isnan(value)]
    return number(np.mean(known), np.std(known, ddof=1) if len(known) > 1 else None) if known else NOTHING


def number(value: float, std: float | None) -> str:
    return f"{value:.2f}" + ("" if std is None or np.isnan(std) else f" ± {std:.2f}")


def title_of(name: str) -> str:
    """A data set, class, method or column in words."""
    return NAMES.get(name, name.replace("_", " "))


def without_empty(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.drop(columns=column) if len(frame) and (frame[column] == "").all() else frame
