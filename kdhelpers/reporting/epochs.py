"""Image AUROC over the epochs of a training: what choosing the epoch on the test set is worth."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdhelpers.experiments.records import only_one
from kdhelpers.protocols import LAST_EPOCHS, SETTINGS
from kdhelpers.reporting import figures
from kdhelpers.reporting.paper_style import in_style
from kdhelpers.reporting.published import NAMES, reruns
from kdhelpers.reporting.text import main_runs

PORT, LATE = "Paddle port", 500  # of `published.reruns`; its late epochs start there


def by_epoch(records: Sequence[dict], dataset: str, cls: str) -> pd.DataFrame:
    """A row for each seed of a class's main run: seed, last, mean (of the last ten), best, best epoch; in per cent.

    "best" is the highest AUROC among the scored epochs, every tenth one and the last ten: chosen on the test set.
    """
    only_one(records)
    rows = []
    for seed, epochs, auroc in _curves(records, dataset, cls):
        best = int(np.argmax(auroc))
        rows.append((seed, auroc[-1], np.mean(auroc[-LAST_EPOCHS:]), auroc[best], epochs[best]))
    return pd.DataFrame(rows, columns=["seed", "last", "mean", "best", "best epoch"])


@in_style
def show_epochs(records: Sequence[dict], dataset: str = "mvtec", cls: str = "screw", *, title: str = "") -> Figure:
    """AUROC by epoch, a line for each seed, with its last and its best epoch and the mean of the last ten marked.

    Where the port to another framework has logs of the class, the range of its late epochs is a band.
    """
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    marks = by_epoch(records, dataset, cls)
    for number, (seed, epochs, auroc) in enumerate(_curves(records, dataset, cls)):
        row, colour, last = marks.iloc[number], f"C{number}", epochs[-LAST_EPOCHS:]
        axes.plot(epochs, auroc, color=colour, linewidth=1, label=f"seed {seed}")
        axes.plot(row["best epoch"], row["best"], "*", color=colour, markersize=9)
        axes.plot(epochs[-1], row["last"], "o", color=colour, markersize=4)
        axes.plot(last, [row["mean"]] * len(last), color="black", linewidth=2)
    port = reruns(3).query("`class` == @cls and dataset == @dataset").set_index("who")["value"].astype(float)
    if f"{PORT}, lowest" in port.index:
        band = [LATE, SETTINGS[dataset].epochs], port[f"{PORT}, lowest"], port[f"{PORT}, highest"]
        axes.fill_between(*band, color="0.9", zorder=0, label=f"{PORT}, epochs from {LATE} on")
    axes.set(xlabel="epoch", ylabel="image AUROC (%)")
    if len(marks):
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        mean = marks[["last", "mean", "best"]].mean()
        words = (
            f"mean of the last ten (black) {mean['mean']:.2f}, last epoch (dot) {mean['last']:.2f}, "
            f"best on the test set (star) {mean['best']:.2f}: choosing it adds {mean['best'] - mean['mean']:.2f}"
        )
        axes.set_title(words, fontsize=7, loc="left")
    name = NAMES[dataset] + (f", {cls}".replace("_", " ") if cls != "normal" else "")
    return figures.titled(figure, f"AUROC by epoch, {name}", title)


def _curves(records: Sequence[dict], dataset: str, cls: str) -> list[tuple[int, tuple, tuple]]:
    """Seed, epochs and AUROC of each main run of a class that has an AUROC."""
    found = [r for r in main_runs(records) if (r["dataset"], r["class"], r["variant"]) == (dataset, cls, None)]
    curves = sorted((r["seed"], r["detection"]["auroc_by_epoch"]) for r in found if r["detection"]["auroc_by_epoch"])
    return [(seed, *zip(*curve, strict=True)) for seed, curve in curves]
