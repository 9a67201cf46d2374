"""Figures 1 to 6 of the article at print size: this module draws the bars of 3 to 5, and AUROC by epoch.

A figure shows records of one kind. Its heading names the kind, the seeds, and the deviations from the article.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from kdhelpers.experiments.records import only_one
from kdhelpers.experiments.variants import DATASETS, main_notebook
from kdhelpers.protocols import LAST_EPOCHS, MVTEC, SETTINGS, protocol_for
from kdhelpers.reporting import figures
from kdhelpers.reporting.ablations import by_seed, variants_frame
from kdhelpers.reporting.comparison import classes_of
from kdhelpers.reporting.framework import show_framework
from kdhelpers.reporting.heat_maps import figure_1, figure_6
from kdhelpers.reporting.paper_style import GREY, NO_RECORD, WIDTH, heading, in_style, origin, save, say_nothing
from kdhelpers.reporting.published import NAMES, reruns
from kdhelpers.reporting.text import main_runs, title_of

PORT, LATE = "Paddle port", 500  # a rerun of `published.reruns`, and the first of its late epochs


def figure_3(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC with the last, the last two and the last four critical points (Fig. 3), one group of bars per data set."""
    name, variants = "Figure 3: critical points compared", ("last", "last two", "last four")
    return _by_dataset("11_critical_layers", records, name, variants, title, width=3.5)


def figure_4(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC on MVTecAD with the compact and the large cloner (Fig. 4), by category and as the mean over them."""
    notebook, name = "12_cloner_size", "Figure 4: size of the cloner, on MVTecAD"
    frame, left_out = variants_frame(notebook, records)
    means = by_seed(frame)
    frame = frame.dropna(subset="auroc").assign(group=frame["class"].map(title_of), value=frame["auroc"])
    groups = [title_of(cls) for cls in MVTEC if cls in set(frame["class"])]
    has_mean = len(groups) > 1 and len(means) > 0
    if has_mean:
        groups.append(f"mean of {means['classes'].iloc[0]}")
        frame = pd.concat([frame, means.assign(group=groups[-1])])
    lines = origin(records, [notebook, "04_mvtec"], left_out)
    width = min(WIDTH, 2.8 + 0.3 * len(groups))
    figure = _bars(frame, ("compact", "equal size"), groups, name, title, lines, width)
    if has_mean:
        figure.axes[0].axvline(len(groups) - 1.5, color="0.8", lw=0.6)
    return figure


def figure_5(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC with each term of the loss alone and with both (Fig. 5), one group of bars per data set."""
    return _by_dataset("13_loss_terms", records, "Figure 5: terms of the loss", ("L_dir", "L_val", "L_total"), title)


def _by_dataset(notebook, records: Sequence[dict], name: str, variants, title: str, width: float = WIDTH) -> Figure:
    frame, left_out = variants_frame(notebook, records)
    means = by_seed(frame)
    groups = {dataset: NAMES[dataset] for dataset in DATASETS[notebook]}
    for dataset, count in means.groupby("dataset")["classes"].first().items():
        every = len(classes_of(dataset))
        some = "" if count == every else f" of {every}"
        groups[dataset] += "\n" + ("mean of " if count > 1 else "") + f"{count}{some} classes"
    means = means.assign(group=means["dataset"].map(groups))
    lines = origin(records, [notebook, *map(main_notebook, DATASETS[notebook])], left_out)
    return _bars(means, variants, list(groups.values()), name, title, lines, width)


@in_style
def _bars(
    values: pd.DataFrame, variants, groups: list[str], name: str, title: str, lines: list[str], width: float
) -> Figure:
    """Grouped bars: the mean over seeds, the standard deviation of several seeds, and a dot per seed.

    values: columns group, variant, seed and value (AUROC in per cent). variants, groups: in drawing order; "no record"
    marks those without values. name, title, lines: of the heading. width: in inches. "L_x" is typeset as a formula.
    """
    figure, axes = plt.subplots(figsize=(width, 2.9), layout="constrained")
    if values.empty:
        say_nothing(axes)
    else:
        counts = values.groupby(["group", "variant"])["seed"].nunique()
        several = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"
        over = f"mean ± standard deviation over {several} seeds (dots)" if counts.max() > 1 else "one seed"
        lines = [over, *lines]
        formula = {v: rf"$\mathcal{{L}}_{{{v[2:]}}}$" if v.startswith("L_") else v for v in variants}
        values = values.assign(variant=values["variant"].map(formula)).sort_values(["group", "variant", "seed"])
        shared = {"x": "group", "y": "value", "hue": "variant", "order": groups, "hue_order": list(formula.values())}
        bars = {"errorbar": "sd", "err_kws": {"linewidth": 0.8, "color": "black"}, "capsize": 0.1, "saturation": 1}
        sns.barplot(values, **shared, ax=axes, palette="colorblind", dodge=True, **bars)
        dots = {"dodge": True, "jitter": False, "size": 2, "linewidth": 0.4, "edgecolor": "black", "legend": False}
        sns.stripplot(values, **shared, ax=axes, palette=["white"] * len(variants), **dots)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
        there = set(zip(values["group"], values["variant"], strict=True))
        for place, group in enumerate(groups):
            missing = [i for i, variant in enumerate(formula.values()) if (group, variant) not in there]
            for i in missing if len(missing) < len(variants) else [(len(variants) - 1) / 2]:
                x = place + (i - (len(variants) - 1) / 2) * 0.8 / len(variants)
                below = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom", "color": GREY}
                axes.text(x, 0.02, NO_RECORD, rotation=90 * (len(missing) < len(variants)), **below)
        _set_limits(axes, values["value"].min(), values["value"].max())
        axes.tick_params(axis="x", length=0)
        if 0.06 * max(map(len, "\n".join(groups).split("\n"))) > (width - 0.6) / len(groups):
            plt.setp(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    figure.suptitle(heading(name, title, lines, width), x=0.07 / width, ha="left", fontsize=7)
    return figures.laid_out(figure)


def _set_limits(axes, low: float, high: float) -> None:
    """Start the axis below the lowest seed and label where. Draw chance (50 %) if in view, as it is for lower seeds."""
    high = max(high, 52 if low < 50 else 0)
    end = min(100.5, 5 * np.ceil((high + 2) / 5))
    start = max(0, 5 * np.floor(min(low - 3, end - 10) / 5))
    axes.set(ylim=(start, end), xlabel="", ylabel="AUROC (%)" + (f", axis from {start:g}" if start else ""))
    if start <= 50 < end:
        axes.axhline(50, color=GREY, lw=0.8, ls="--", zorder=0.5)
        axes.text(1.005, 50, "chance", transform=axes.get_yaxis_transform(), va="center", color=GREY)


@in_style
def show_epochs(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC of MVTecAD's screw by epoch, one line per seed, with marks at its last, its best and its last ten epochs.

    The best epoch is chosen on the test set, among the scored epochs: every tenth one and the last ten. The last ten
    are marked at their mean. A band shows the range of the late epochs in the logs of the Paddle port.
    """
    only_one(records)
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    found = [r for r in main_runs(records) if (r["dataset"], r["class"]) == ("mvtec", "screw")]
    curves = sorted((r["seed"], r["detection"]["auroc_by_epoch"]) for r in found if r["detection"]["auroc_by_epoch"])
    marks, lines = [], origin(found, ["04_mvtec"])
    for number, (seed, curve) in enumerate(curves):
        epochs, auroc = np.transpose(curve)
        best, last, mean = np.argmax(auroc), epochs[-LAST_EPOCHS:], auroc[-LAST_EPOCHS:].mean()
        axes.plot(epochs, auroc, color=f"C{number}", linewidth=1, label=f"seed {seed}")
        axes.plot(epochs[best], auroc[best], "*", color=f"C{number}", markersize=9)
        axes.plot(epochs[-1], auroc[-1], "o", color=f"C{number}", markersize=4)
        axes.plot(last, np.full_like(last, mean), color="black", linewidth=2)
        marks.append((mean, auroc[-1], auroc[best]))
    if marks:
        port = reruns(3).query("`class` == 'screw'").set_index("who")["value"].astype(float)
        band = [LATE, SETTINGS["mvtec"].epochs], port[f"{PORT}, lowest"], port[f"{PORT}, highest"]
        axes.fill_between(*band, color="0.9", zorder=0, label=f"{PORT}, epochs from {LATE} on")
        axes.set(xlabel="epoch", ylabel="image AUROC (%)")
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        mean, last, best = np.mean(marks, axis=0)
        words = f"mean of the last ten (black) {mean:.2f}, last epoch (dot) {last:.2f}"
        words += f", best on the test set (star) {best:.2f}: choosing it adds {best - mean:.2f}"
        lines = [words, *lines]
    else:
        say_nothing(axes)
    figure.suptitle(heading("AUROC by epoch, MVTecAD, screw", title, lines), x=0.01, ha="left", fontsize=7)
    return figures.laid_out(figure)


def write_all(records: Sequence[dict], results_dir: Path, folder: Path, *, title: str = "") -> dict[str, Figure]:
    """Draw Figures 1 to 6 and AUROC by epoch, `save` each to `folder`; returns them by name, "figure_1" … "epochs"."""
    kind = only_one(records)
    made = {
        "figure_1": figure_1(records, results_dir, title=title),
        "figure_2": show_framework(protocol_for(kind.protocol if kind else "official", "mvtec")),
        **{f.__name__: f(records, title=title) for f in (figure_3, figure_4, figure_5)},
        "figure_6": figure_6(records, results_dir, title=title),
        "epochs": show_epochs(records, title=title),
    }
    for stem, figure in made.items():
        save(figure, stem, folder)
    return made
