"""Figures 1 and 3 to 6 of the article, in the size they are printed, from records and the pictures kept beside them.

A figure is of one kind of records, and says of which, of which seeds, and in what they deviate from the article.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import only_one
from kdhelpers.experiments.variants import DATASETS, main_notebook
from kdhelpers.files import atomic_write
from kdhelpers.protocols import CLASS_NAMES, GOOD, MVTEC, NUMBERS, PROTOCOLS
from kdhelpers.reporting import figures
from kdhelpers.reporting.ablations import by_seed, variants_frame
from kdhelpers.reporting.epochs import show_epochs
from kdhelpers.reporting.framework import show_framework
from kdhelpers.reporting.published import NAMES

NO_RECORD = "no record"
_WIDTH, _DPI = 7.0, 200  # inches on paper; dots an inch
_GREY = "0.4"
_STYLE = {
    "font.family": "DejaVu Sans",  # which comes with matplotlib: the same letters on every machine
    "font.sans-serif": "DejaVu Sans",
    "font.size": 6.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.composite_image": False,  # or a PDF has the heat's alpha twice
    "pdf.fonttype": 42,
}
in_style = plt.style.context(["default", _STYLE])  # the whole of it: nothing depends on what the session has set
Kept = dict[str, tuple[dict, results.Pictures]]  # by class: its record, and the pictures beside it


@in_style
def figure_1(records: Sequence[dict], results_dir: Path, *, title: str = "") -> Figure:
    """Heat maps over test images (Fig. 1): two rows of MVTecAD, then MNIST and CIFAR-10.

    An anomalous image each of up to eight categories; of MNIST and CIFAR-10 up to three normal classes, each with a
    normal image and an anomalous one; more of each when there are fewer. A data set without pictures is an empty frame.
    """
    blocks = {"mvtec": (4, 2, 8), "mnist": (6, 1, 3), "cifar10": (6, 1, 3)}  # pairs in a row, rows, classes at most
    drawn = []
    for dataset, (columns, rows, most) in blocks.items():
        kept = _kept(records, results_dir, dataset)
        spread = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
        classes = [list(kept)[i] for i in spread]
        drawn.append((dataset, kept, _choose(kept, classes, columns * rows, normal=dataset != "mvtec"), columns, rows))
    return _sheet("Figure 1: heat maps over test images", title, drawn, ("image", "map"))


@in_style
def figure_6(records: Sequence[dict], results_dir: Path, *, title: str = "") -> Figure:
    """Image, mask and heat map of up to fifteen defects of MVTecAD (Fig. 6), by category and kind.

    First one kind of each category, then the next of each, while there is room. Without pictures an empty frame.
    """
    kept = _kept(records, results_dir, "mvtec")
    chosen = _choose(kept, list(kept), 15, normal=False)
    drawn = [("mvtec", kept, chosen, 3, max(1, -(-len(chosen) // 3)))]
    return _sheet("Figure 6: localization of MVTecAD's defects", title, drawn, ("image", "mask", "map"))


def _sheet(name: str, title: str, blocks: list[tuple], layers: Sequence[str]) -> Figure:
    """Pictures in rows, the `layers` of each side by side; blocks: (data set, kept, chosen, columns, rows) each."""
    shown = [record for _, kept, *_ in blocks for record, _ in kept.values()]
    seeds = ", ".join(map(str, sorted({record["seed"] for record in shown})))
    heat = f"heat from {100 * figures.LOW:g} % (purple) to 100 % (yellow) of a class's maximum"
    lines = [f"{', '.join(layers)}; {heat}; lowest recorded seed: {seeds}"] if shown else []
    heading = _heading(name, title, [*lines, *_origin(shown, {record["notebook"] for record in shown})])
    heights = [rows * (_WIDTH / columns / len(layers) + 0.25) for *_, columns, rows in blocks]
    figure = plt.figure(figsize=(_WIDTH, sum(heights) + 0.15 * heading.count("\n") + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=7)
    parts = np.atleast_1d(figure.subfigures(len(blocks), 1, height_ratios=heights))
    for part, (dataset, kept, chosen, columns, rows) in zip(parts, blocks, strict=True):
        part.supylabel(NAMES[dataset], fontsize=7)
        if not chosen:
            _say_no_record(part.subplots())
            continue
        grid = part.subplots(rows, columns * len(layers), squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for (cls, i), axes in zip(chosen, grid.reshape(-1, len(layers)), strict=False):
            pictures = kept[cls][1]
            axes[0].set_title(_caption(dataset, cls, pictures.kinds[i]), loc="left", fontsize=6, pad=2)
            for layer, one in zip(layers, axes, strict=True):
                if layer == "map":
                    figures.show_heat(one, pictures.pixels[i], pictures.maps[i], float(pictures.maps.max()))
                else:
                    image = pictures.pixels[i] if layer == "image" else pictures.masks[i]
                    one.imshow(image, cmap="gray", vmin=0, vmax=1)
    return figures.laid_out(figure)


def figure_3(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC with the last, the last two and the last four critical points (Fig. 3), a group of bars a data set."""
    name, variants = "Figure 3: critical points compared", ("last", "last two", "last four")
    return _by_dataset("11_critical_layers", records, name, variants, title, width=3.5)


def figure_4(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC on MVTecAD with the compact and the large cloner (Fig. 4), a group of bars a category, and their mean."""
    notebook, name = "12_cloner_size", "Figure 4: size of the cloner, on MVTecAD"
    frame, left_out = variants_frame(notebook, records)
    frame = frame.dropna(subset="auroc").assign(group=frame["class"].str.replace("_", " "), value=frame["auroc"])
    groups = [cls.replace("_", " ") for cls in _in_order(frame["class"].unique())]
    means = by_seed(frame, "auroc")
    has_mean = len(groups) > 1 and len(means) > 0
    if has_mean:
        groups.append(f"mean of {means['classes'].iloc[0]}")
        frame = pd.concat([frame, means.assign(group=groups[-1])])
    lines = _origin(records, [notebook, "04_mvtec"], left_out)
    figure = show_variants(frame, name, variants=("compact", "equal size"), groups=groups, lines=lines, title=title)
    if has_mean:
        figure.axes[0].axvline(len(groups) - 1.5, color="0.8", lw=0.6)
    return figure


def figure_5(records: Sequence[dict], *, title: str = "") -> Figure:
    """AUROC with either term of the loss and with both (Fig. 5), a group of bars a data set."""
    return _by_dataset("13_loss_terms", records, "Figure 5: terms of the loss", ("L_dir", "L_val", "L_total"), title)


def _by_dataset(
    notebook: str, records: Sequence[dict], name: str, variants, title: str, width: float = _WIDTH
) -> Figure:
    frame, left_out = variants_frame(notebook, records)
    means = by_seed(frame, "auroc")
    groups = {dataset: NAMES[dataset] for dataset in DATASETS[notebook]}
    for dataset, count in means.groupby("dataset")["classes"].first().items():
        every = len(MVTEC if dataset == "mvtec" else NUMBERS)
        some = "" if count == every else f" of {every}"
        groups[dataset] += "\n" + ("mean of " if count > 1 else "") + f"{count}{some} classes"
    means = means.assign(group=means["dataset"].map(groups))
    lines = _origin(records, [notebook, *map(main_notebook, DATASETS[notebook])], left_out)
    return show_variants(
        means, name, variants=variants, groups=list(groups.values()), lines=lines, title=title, width=width
    )


@in_style
def show_variants(
    values: pd.DataFrame,
    name: str,
    *,
    variants: Sequence[str],
    groups: Sequence[str],
    lines: Sequence[str] = (),
    title: str = "",
    width: float = _WIDTH,
) -> Figure:
    """Grouped bars: the mean over seeds, its standard deviation where there are several, and a dot for each seed.

    values: columns group, variant, seed and value, an AUROC in per cent. variants, groups: their order; one without
    values is "no record". name, title, lines: of the heading. width: inches. A variant "L_x" is set as a formula.
    """
    figure, axes = plt.subplots(figsize=(width, 2.9), layout="constrained")
    if values.empty:
        _say_no_record(axes)
    else:
        counts = values.groupby(["group", "variant"])["seed"].nunique()
        several = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"
        over = f"mean ± standard deviation over {several} seeds (dots)" if counts.max() > 1 else "one seed"
        lines = [over, *lines]
        formula = {v: rf"$\mathcal{{L}}_{{{v[2:]}}}$" if v.startswith("L_") else v for v in variants}
        values = values.assign(variant=values["variant"].map(formula)).sort_values(["group", "variant", "seed"])
        shared = {"x": "group", "y": "value", "hue": "variant", "order": groups, "hue_order": list(formula.values())}
        bars = {"errorbar": "sd", "err_kws": {"linewidth": 0.8, "color": "black"}, "capsize": 0.1, "saturation": 1}
        sns.barplot(values, **shared, ax=axes, palette="colorblind", **bars)
        dots = {"dodge": True, "jitter": False, "size": 2, "linewidth": 0.4, "edgecolor": "black", "legend": False}
        sns.stripplot(values, **shared, ax=axes, palette=["white"] * len(variants), **dots)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
        there = set(zip(values["group"], values["variant"], strict=True))
        for place, group in enumerate(groups):
            missing = [i for i, variant in enumerate(formula.values()) if (group, variant) not in there]
            for i in missing if len(missing) < len(variants) else [(len(variants) - 1) / 2]:
                x = place + (i - (len(variants) - 1) / 2) * 0.8 / len(variants)
                below = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom", "color": _GREY}
                axes.text(x, 0.02, NO_RECORD, rotation=90 * (len(missing) < len(variants)), **below)
        _set_limits(axes, values)
        axes.tick_params(axis="x", length=0)
        if 0.06 * max(map(len, "\n".join(groups).split("\n"))) > (width - 0.6) / len(groups):
            plt.setp(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")
    figure.suptitle(_heading(name, title, lines, width), x=0.07 / width, ha="left", fontsize=7)
    return figures.laid_out(figure)


def _say_no_record(axes: Axes) -> None:
    """An empty frame in place of a figure or of a part of it."""
    axes.set(xticks=[], yticks=[], facecolor="0.93")
    axes.text(0.5, 0.5, NO_RECORD, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=_GREY)


def _set_limits(axes: Axes, values: pd.DataFrame) -> None:
    """The axis starts below the lowest seed and says where; chance is drawn where it, or anything below, is in view."""
    low, high = values["value"].min(), values["value"].max()
    high = max(high, 52 if low < 50 else 0)
    end = min(100.5, 5 * np.ceil((high + 2) / 5))
    start = max(0, 5 * np.floor(min(low - 3, end - 10) / 5))
    axes.set(ylim=(start, end), xlabel="", ylabel="AUROC (%)" + (f", axis from {start:g}" if start else ""))
    if start <= 50 < end:
        axes.axhline(50, color=_GREY, lw=0.8, ls="--", zorder=0.5)
        axes.text(1.005, 50, "chance", transform=axes.get_yaxis_transform(), va="center", color=_GREY)


def save(figure: Figure, stem: str, folder: Path) -> None:
    """Writes STEM.png, 200 dots an inch, and STEM.pdf; the same figure always gives the same bytes."""
    fixed = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": "kdhelpers"}}
    for suffix, metadata in fixed.items():
        with plt.style.context(["default", _STYLE]), atomic_write(Path(folder, f"{stem}.{suffix}")) as file:
            figure.savefig(file, format=suffix, dpi=_DPI, metadata=metadata)


def write_all(records: Sequence[dict], results_dir: Path, folder: Path, *, title: str = "") -> dict[str, Figure]:
    """Figures 1 to 6 and AUROC by epoch, by name: "figure_1" ... "epochs"; each written to `folder` by `save`."""
    kind = only_one(records)
    made = {
        "figure_1": figure_1(records, results_dir, title=title),
        "figure_2": show_framework(protocol=PROTOCOLS[kind.protocol if kind else "official"]),
        "figure_3": figure_3(records, title=title),
        "figure_4": figure_4(records, title=title),
        "figure_5": figure_5(records, title=title),
        "figure_6": figure_6(records, results_dir, title=title),
        "epochs": show_epochs(records, title=title),
    }
    for stem, figure in made.items():
        save(figure, stem, folder)
    return made


def _kept(records: Sequence[dict], results_dir: Path, dataset: str) -> Kept:
    """Of each class, in the article's order, the main run with the lowest seed, where it has its pictures beside it."""
    only_one(records)
    of_main = [r for r in records if r["notebook"] == main_notebook(dataset) and r["variant"] is None]
    lowest = {r["class"]: r for r in sorted(of_main, key=lambda r: r["seed"], reverse=True)}
    found = {}
    for cls in _in_order(lowest):
        place = lowest[cls] | {"source_name": lowest[cls]["parameters"]["source_name"]}
        path = results.path_of(results_dir, "cloners", place, ".safetensors")
        if path.is_file():
            found[cls] = lowest[cls], results.load_pictures(path)
    return found


def _choose(kept: Kept, classes: list[str], count: int, *, normal: bool) -> list[tuple[str, int]]:
    """Class and index of up to `count` pictures: the classes in turn, of each its anomalous kinds in turn.

    normal: each class begins with a normal one. They come back sorted.
    """
    of_classes = []
    for number, cls in enumerate(classes):
        kinds = kept[cls][1].kinds
        by_kind = [[i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds) if kind != GOOD]
        turned = by_kind[number:] + by_kind[:number]  # or a 7 would stand beside every digit
        first = [i for i, kind in enumerate(kinds) if normal and kind == GOOD][:1]
        of_classes.append([(cls, i) for i in first + _in_turn(turned)])
    return sorted(_in_turn(of_classes)[:count], key=lambda item: (classes.index(item[0]), item[1]))


def _in_turn(lists: list[list]) -> list:
    """The first of each list, then the second of each, and so on."""
    return [one[turn] for turn in range(max(map(len, lists), default=0)) for one in lists if turn < len(one)]


def _in_order(classes: Iterable[str]) -> list[str]:
    return sorted(classes, key=lambda cls: (MVTEC.index(cls) if cls in MVTEC else -1, cls))


def _origin(records: Sequence[dict], notebooks: Iterable[str], left_out: Sequence[str] = ()) -> list[str]:
    """Lines on what was left out, on the kind of the records, and on how those of `notebooks` deviate."""
    lines, kind = [], only_one(records)
    if left_out:
        lines.append(f"left out, made otherwise than the main run: {len(left_out)}")
    if kind:
        deviations = {d for record in records if record["notebook"] in notebooks for d in record["deviations"]}
        deviations = sorted(d for d in deviations if not d.startswith(("smoke:", "source ")))  # stated anyway
        lines.append("; ".join([f"source {kind.source}, protocol {kind.protocol}", *deviations]))
    return lines


def _heading(name: str, title: str, lines: Iterable[str], width: float = _WIDTH) -> str:
    letters = int(18.5 * width)  # that fit in a line
    first = [f"{name} — {title}"] if title and len(name) + len(title) + 3 <= letters else [name, title]
    return "\n".join(fill(line, letters, break_on_hyphens=False) for line in (*first, *lines) if line)


def _caption(dataset: str, cls: str, kind: str) -> str:
    if dataset == "mvtec":
        return f"{cls}\n{kind}".replace("_", " ")
    names = dict(zip(NUMBERS, CLASS_NAMES[dataset], strict=True))
    normal = names.get(cls, cls)
    return f"{normal}\nnormal" if kind == GOOD else f"{names.get(kind, kind)}\nnormal: {normal}"
