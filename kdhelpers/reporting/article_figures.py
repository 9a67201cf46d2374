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
from matplotlib.patches import Patch

from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import only_one
from kdhelpers.experiments.variants import DATASETS, main_notebook
from kdhelpers.files import atomic_write
from kdhelpers.protocols import CLASS_NAMES, GOOD, MVTEC, NUMBERS, PROTOCOLS
from kdhelpers.reporting import figures
from kdhelpers.reporting.ablations import by_seed, variants_frame
from kdhelpers.reporting.framework import show_framework
from kdhelpers.reporting.tables import NAMES

NO_RECORD = "no record"
_WIDTH, _DPI = 7.0, 200  # lengths are in inches on paper
_LEFT, _GAP = 0.25, 0.08  # for the names of rows; between pictures
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
    found = {dataset: _kept(records, results_dir, dataset) for dataset in blocks}
    shown = [record for kept in found.values() for record, _ in kept.values()]
    sheet, y = _sheet("Figure 1: heat maps over test images", title, "image, and map over it", shown)
    for dataset, (columns, rows, most) in blocks.items():
        kept = found[dataset]
        spread = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
        classes = [list(kept)[i] for i in spread]
        chosen = _choose(kept, classes, columns * rows, normal=dataset != "mvtec")
        y = _draw_pictures(sheet, y, dataset, kept, chosen, columns, rows, ("image", "map"))
    return _cut(sheet, y)


@in_style
def figure_6(records: Sequence[dict], results_dir: Path, *, title: str = "") -> Figure:
    """Image, mask and heat map of up to fifteen defects of MVTecAD (Fig. 6), by category and kind.

    First one kind of each category, then the next of each, while there is room. Without pictures an empty frame.
    """
    kept = _kept(records, results_dir, "mvtec")
    shown = [record for record, _ in kept.values()]
    sheet, y = _sheet(
        "Figure 6: localization of MVTecAD's defects", title, "image, mask, and map over the image", shown
    )
    chosen = _choose(kept, list(kept), 15, normal=False)
    return _cut(sheet, _draw_pictures(sheet, y, "mvtec", kept, chosen, 3, 2, ("image", "mask", "map")))


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
    lines = [*_left_out(left_out), *_origin(records, [notebook, "04_mvtec"])]
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
    lines = [*_left_out(left_out), *_origin(records, [notebook, *map(main_notebook, DATASETS[notebook])])]
    return show_variants(
        means, name, variants=variants, groups=list(groups.values()), lines=lines, title=title, width=width
    )


@in_style
def show_variants(
    values: pd.DataFrame,
    name: str,
    *,
    variants: Sequence[str] = (),
    groups: Sequence[str] = (),
    lines: Sequence[str] = (),
    title: str = "",
    width: float = _WIDTH,
) -> Figure:
    """Grouped bars: the mean over seeds, its standard deviation where there are several, and a dot for each seed.

    values: columns group, variant, seed and value, an AUROC in per cent. name: what the figure is. variants, groups:
    their order, by default as in `values`; one without values is "no record". lines: what else is said below the name.
    title: a remark that has to be seen. width: inches. A variant "L_x" is set as a formula.
    """
    variants, groups = (
        list(variants) or list(values["variant"].unique()),
        list(groups) or list(values["group"].unique()),
    )
    figure = plt.figure(figsize=(width, 2.9), layout="constrained")
    axes = figure.add_subplot(ylabel="AUROC (%)")
    if len(values):
        counts = values.groupby(["group", "variant"])["seed"].nunique()
        several = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"
        over = f"mean ± standard deviation over {several} seeds (dots)" if counts.max() > 1 else "one seed"
        lines = [over, *lines]
        _draw_bars(axes, values, variants, groups)
        _set_limits(axes, values)
        _name_groups(axes, groups, width)
    else:
        axes.text(0.5, 0.5, NO_RECORD, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=_GREY)
        axes.set(xticks=[], yticks=[])
    figure.suptitle(_heading(name, title, lines, width), x=0.07 / width, ha="left", fontsize=7)
    plt.close(figure)  # a notebook shows the figure that the cell returns, once
    return figure


def _draw_bars(axes: Axes, values: pd.DataFrame, variants: list[str], groups: list[str]) -> None:
    thick = 0.8 / len(variants)
    colours = sns.color_palette("colorblind", len(variants))
    for place, group in enumerate(groups):
        of_group = values[values["group"] == group].sort_values("seed")
        if of_group.empty:
            _say_no_record(axes, place)
            continue
        for number, (variant, colour) in enumerate(zip(variants, colours, strict=True)):
            part = of_group.loc[of_group["variant"] == variant, "value"].to_numpy()
            x = place + (number - (len(variants) - 1) / 2) * thick
            if not len(part):
                _say_no_record(axes, x, rotation=90)
                continue
            axes.bar(x, part.mean(), 0.94 * thick, color=colour)
            if len(part) > 1:
                axes.errorbar(x, part.mean(), part.std(ddof=1), ecolor="black", elinewidth=0.8, capsize=2)
            xs = x + (np.linspace(-0.3, 0.3, len(part)) * thick if len(part) > 1 else 0)
            axes.scatter(xs, part, s=4, color="white", edgecolors="black", linewidths=0.4, zorder=3, clip_on=False)
    is_formula = variants[0].startswith("L_")
    names = [rf"$\mathcal{{L}}_{{{variant[2:]}}}$" if is_formula else variant for variant in variants]
    handles = [Patch(color=colour, label=name) for colour, name in zip(colours, names, strict=True)]
    size = 9 if is_formula else 7  # a subscript is 0.7 of it
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=size, frameon=False)


def _say_no_record(axes: Axes, x: float, rotation: int = 0) -> None:
    place = {"transform": axes.get_xaxis_transform(), "ha": "center", "va": "bottom"}
    axes.text(x, 0.02, NO_RECORD, rotation=rotation, color=_GREY, **place)


def _set_limits(axes: Axes, values: pd.DataFrame) -> None:
    """The axis begins below the shortest bar and says where; at least ten points, and chance if anything is below."""
    spread = values.groupby(["group", "variant"])["value"].agg(["mean", "std"]).fillna({"std": 0})
    low = min(values["value"].min(), (spread["mean"] - spread["std"]).min())
    high = max(values["value"].max(), (spread["mean"] + spread["std"]).max(), 52 if low < 50 else 0)
    end = min(5 * np.ceil((high + 1) / 5), max(100, high + 1))
    start = max(0, 5 * np.floor(min(low - 3, end - 10) / 5))
    step = 5 if end - start <= 40 else 10 if end - start <= 60 else 20
    ticks = np.arange(step * np.ceil(start / step), min(end, 100) + 0.1, step)
    axes.set(ylim=(start, end), yticks=ticks, ylabel="AUROC (%)" + (f", axis from {start:g}" if start else ""))
    if start <= 50 < end:
        axes.axhline(50, color=_GREY, lw=0.8, ls="--", zorder=0.5)
        axes.text(1.005, 50, "chance", transform=axes.get_yaxis_transform(), va="center", color=_GREY)


def _name_groups(axes: Axes, groups: list[str], width: float) -> None:
    slots = max(len(groups), width / 1.75)  # or a single group would fill the width
    middle, half = (len(groups) - 1) / 2, slots / 2 + 0.05
    axes.set(xlim=(middle - half, middle + half))
    axes.set_xticks(range(len(groups)), groups)
    axes.tick_params(axis="x", length=0)
    if 0.06 * max(len(line) for group in groups for line in group.split("\n")) > (width - 0.6) / slots:
        plt.setp(axes.get_xticklabels(), rotation=40, ha="right", rotation_mode="anchor")


def save(figure: Figure, stem: str, folder: Path) -> None:
    """Writes STEM.png, 200 dots an inch, and STEM.pdf; the same figure always gives the same bytes."""
    fixed = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None, "Creator": "kdhelpers"}}
    for suffix, metadata in fixed.items():
        with plt.style.context(["default", _STYLE]), atomic_write(Path(folder, f"{stem}.{suffix}")) as file:
            figure.savefig(file, format=suffix, dpi=_DPI, metadata=metadata)


def write_all(records: Sequence[dict], results_dir: Path, folder: Path, *, title: str = "") -> dict[str, Figure]:
    """Figures 1 to 6 by name, "figure_1" to "figure_6", each written to `folder` as `save` does."""
    kind = only_one(records)
    made = {
        "figure_1": figure_1(records, results_dir, title=title),
        "figure_2": show_framework(protocol=PROTOCOLS[kind.protocol if kind else "official"]),
        "figure_3": figure_3(records, title=title),
        "figure_4": figure_4(records, title=title),
        "figure_5": figure_5(records, title=title),
        "figure_6": figure_6(records, results_dir, title=title),
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


def _origin(records: Sequence[dict], notebooks: Iterable[str]) -> list[str]:
    """A line that says of which kind the records are, and in what those of `notebooks` deviate from the article."""
    kind = only_one(records)
    deviations = {d for record in records if record["notebook"] in notebooks for d in record["deviations"]}
    deviations = sorted(d for d in deviations if not d.startswith(("smoke:", "source ")))  # which is said anyway
    return ["; ".join([f"source {kind.source}, protocol {kind.protocol}", *deviations])] if kind else []


def _left_out(found: list[str]) -> list[str]:
    return [f"left out, made otherwise than the main run: {len(found)}"] if found else []


def _heading(name: str, title: str, lines: Iterable[str], width: float = _WIDTH) -> str:
    letters = int(18.5 * width)  # that fit in a line
    first = [f"{name} — {title}"] if title and len(name) + len(title) + 3 <= letters else [name, title]
    return "\n".join(fill(line, letters, break_on_hyphens=False) for line in (*first, *lines) if line)


def _sheet(name: str, title: str, note: str, shown: Sequence[dict]) -> tuple[Axes, float]:
    """Axes whose unit is the inch, from the top of the paper, with the heading, and where that ends.

    shown: the records whose pictures will be on it.
    """
    seeds = ", ".join(map(str, sorted({record["seed"] for record in shown})))
    heat = f"heat from {100 * figures.LOW:g} % (purple) to 100 % (yellow) of a class's maximum"
    lines = [f"{note}; {heat}; lowest recorded seed: {seeds}"] if shown else []
    heading = _heading(name, title, [*lines, *_origin(shown, {record["notebook"] for record in shown})])
    sheet = plt.figure(figsize=(_WIDTH, _WIDTH)).add_axes((0, 0, 1, 1))
    sheet.axis("off")
    sheet.text(0.07, -0.07, heading, va="top", fontsize=7)
    sheet.figure.set_label(heading)
    return sheet, -0.16 - 0.12 * len(heading.split("\n"))


def _cut(sheet: Axes, y: float) -> Figure:
    """The figure, as high as what is on it."""
    sheet.figure.set_size_inches(_WIDTH, -y)
    sheet.set(xlim=(0, _WIDTH), ylim=(y, 0))
    plt.close(sheet.figure)
    return sheet.figure


def _draw_pictures(sheet: Axes, y: float, dataset: str, kept: Kept, chosen, columns: int, rows: int, layers) -> float:
    """Pictures in rows from `y` down, the `layers` of each side by side, and where they end; else a frame of `rows`."""
    above = 0.26  # two lines of text
    side = int(_DPI * ((_WIDTH - _LEFT) / columns - _GAP) / len(layers)) / _DPI  # whole dots, or edges are not clean
    step = above + side + _GAP
    rows = -(-len(chosen) // columns) or rows
    for number, (cls, i) in enumerate(chosen):
        left, top = _LEFT + number % columns * (side * len(layers) + _GAP), y - number // columns * step - above
        pictures = kept[cls][1]
        caption = _caption(dataset, cls, pictures.kinds[i])
        sheet.text(left + side * len(layers) / 2, top + 0.03, caption, ha="center", va="bottom")
        for place, layer in enumerate(layers):
            box = (left + place * side, top - side, side - 0.01, side - 0.01)
            axes = sheet.inset_axes(box, transform=sheet.transData)
            axes.axis("off")
            if layer == "map":
                figures.show_heat(axes, pictures.pixels[i], pictures.maps[i], float(pictures.maps.max()))
            else:
                axes.imshow(pictures.pixels[i] if layer == "image" else pictures.masks[i], cmap="gray", vmin=0, vmax=1)
    if not chosen:
        box = (_LEFT, y - rows * step + _GAP, _WIDTH - _LEFT - _GAP, rows * step - _GAP)
        axes = sheet.inset_axes(box, transform=sheet.transData)
        axes.set(xticks=[], yticks=[], facecolor="0.93")
        axes.spines[:].set(visible=True, color="0.7")
        axes.text(0.5, 0.5, NO_RECORD, ha="center", va="center", fontsize=9, color=_GREY)
    middle = y - (rows * step - _GAP + (above if chosen else 0)) / 2
    sheet.text(_LEFT / 2, middle, NAMES[dataset], rotation=90, ha="center", va="center", fontsize=7)
    return y - rows * step


def _caption(dataset: str, cls: str, kind: str) -> str:
    if dataset == "mvtec":
        return f"{cls}\n{kind}".replace("_", " ")
    names = dict(zip(NUMBERS, CLASS_NAMES[dataset], strict=True))
    normal = names.get(cls, cls)
    return f"{normal}\nnormal" if kind == GOOD else f"{names.get(kind, kind)}\nnormal: {normal}"
