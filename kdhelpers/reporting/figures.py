"""The figures of the notebooks: images, loss curves, histograms of scores, heat maps."""

import io
import warnings
from math import ceil
from pathlib import Path
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image, ImageOps

NORMAL, ANOMALOUS, UNLABELED = (sns.color_palette("colorblind")[i] for i in (0, 3, 7))
LABELS = ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS), (2, "unlabeled", UNLABELED))
OWN_LABELS = ((0, "good", NORMAL), (1, "bad", ANOMALOUS), (2, "unlabeled", UNLABELED))  # of your own images
_HEAT = "inferno"
LOW = 0.4  # heat below this share of the maximum is not drawn, as in Fig. 6


def use_style() -> None:
    """Set the style of figures and tables, once per notebook, which then stores figures by `picture_of`, `words_of`."""
    pd.set_option("display.precision", 2, "display.max_colwidth", None)
    sns.set_theme(context="notebook", style="ticks", palette="colorblind", font_scale=0.9)
    plt.rcParams.update({"figure.dpi": 110, "savefig.dpi": 200, "axes.spines.top": False, "axes.spines.right": False})
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # without the line of code
    from IPython import get_ipython  # installed wherever notebooks run

    if shell := get_ipython():
        plt.switch_backend(plt.get_backend())  # load the notebook's backend now: loading it sets how figures are shown
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, picture_of)
        formatters["text/plain"].for_type(Figure, lambda figure, printer, _: printer.text(words_of(figure)))


def picture_of(figure: Figure) -> tuple[bytes, dict[str, str]]:
    """The figure as a PNG of 256 colours, a third of the bytes, and its `words_of` as alternative text {"alt"}."""
    whole = io.BytesIO()
    figure.savefig(whole, format="png", dpi=figure.dpi, bbox_inches="tight")
    return small_png(whole), {"alt": words_of(figure)}


def small_png(file: Path | io.BytesIO) -> bytes:
    """A picture's file as a PNG of 256 colours."""
    picture, few = Image.open(file).convert("RGB"), {"method": Image.Quantize.MAXCOVERAGE, "dither": Image.Dither.NONE}
    if picture.getcolors(1000):  # lines and letters only
        mixed = picture.quantize(256, **few)
    else:
        colours = picture.quantize(255, **few)
        colours.putpalette([*colours.getpalette()[: 3 * 255], 255, 255, 255])
        mixed = picture.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG)  # or heat would show steps
        mixed.paste(255, mask=picture.convert("L").point(lambda bright: 255 * (bright == 255)))  # white stays white
    small = io.BytesIO()
    mixed.save(small, "png", optimize=True)
    return small.getvalue()


def words_of(figure: Figure) -> str:
    """The first line of a figure's label; if it has none, of its title."""
    return (figure.get_label() or figure.get_suptitle() or "figure").split("\n")[0]


def labels_of(dataset: str) -> tuple[tuple[int, str, tuple], ...]:
    """Each label of a test image with its name and colour."""
    return OWN_LABELS if dataset == "folder" else LABELS


def pixels(images, index) -> np.ndarray:
    """The stored pixels of the images at `index`: uint8 (k, h, w, 3)."""
    chosen = images.pixels[index]
    return chosen.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy()


def show_split(split, *, title: str = "") -> Figure:
    """One row each of normal training images, and of normal, anomalous and unlabeled test images."""
    names = labels_of(split.dataset)
    rows = [(f"train,\n{names[0][1]}", split.train, np.arange(len(split.train)), False)]
    for label, name, _ in names:
        members = np.flatnonzero(split.labels == label)
        if len(members):
            rows.append((f"test,\n{name}", split.test, members, label > 0))
    figure, axes = _grid([1] * len(rows), 8, 1.0, above=sum(has_kinds for *_, has_kinds in rows), beside=1.0)
    for line, (name, images, members, has_kinds) in zip(axes, rows, strict=True):
        chosen = np.unique(members[np.linspace(0, len(members) - 1, 8).astype(int)])
        for axis, image, i in zip(line, pixels(images, chosen), chosen, strict=False):
            axis.imshow(image)
            if has_kinds:
                axis.set_title(split.kinds[i].replace("_", "\n"), fontsize=7, pad=2)
        line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    name = split.cls if split.dataset == "folder" else f"{split.dataset} {split.cls}"
    return titled(figure, f"images of {name}", title)


def _grid(heights: list[float], columns: int, side: float, *, above: int, beside: float = 0.4):
    """A figure for closely spaced pictures, and its axes (lines, columns) without frames and ticks.

    side: of a picture, in inches. heights: of each line's pictures, as shares of `side`. above: the number of lines
    with titles. beside: room for the names of lines, in inches.
    """
    size = max(4, side * columns + beside), side * sum(heights) + 0.27 * above + 0.3
    shared = {"squeeze": False, "layout": "constrained", "height_ratios": heights}
    figure, axes = plt.subplots(len(heights), columns, figsize=size, **shared)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.05, wspace=0, hspace=0)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def show_losses(records: list[dict], *, title: str = "") -> Figure:
    """The objective and its two terms by epoch, one line per record."""
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), sharex=True)
    names = "objective", r"$\mathcal{L}_{val}$ (Eq. 1)", r"$\mathcal{L}_{dir}$ (Eq. 3)"
    for axis, key, name in zip(axes, ("loss", "loss_val", "loss_dir"), names, strict=True):
        for record in records:
            curve, label = record["training"][key], f"{record['class']} {record['variant'] or ''}".strip()
            axis.plot(range(1, len(curve) + 1), curve, marker="." if len(curve) < 15 else "", label=label)
        values = [value for record in records for value in record["training"][key]]
        axis.set(xlabel="epoch", ylabel=name)
        if max(values) > 10 * min(values) > 0:
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter("")  # the labels of minor ticks would overlap
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    if len(records) > 1:
        axes[-1].legend(fontsize=7, ncols=1 + len(records) // 6, loc="upper left", bbox_to_anchor=(1.02, 1))
    return titled(figure, "training: the objective and its terms by epoch", title)


def show_scores(
    scores: dict[str, tuple[np.ndarray, np.ndarray]],
    *,
    threshold: float | None = None,
    labels: tuple = LABELS,
    title: str = "",
) -> Figure:
    """Histograms of test images' scores by label, one panel per name: (scores (n,), labels (n,)); and a threshold."""
    columns = min(len(scores), 5)
    lines = -(-len(scores) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(max(4.5, columns * 2.4), lines * 2.2), squeeze=False)
    for axis, (name, (score, found)) in zip(axes.flat, scores.items(), strict=False):
        bins = np.histogram_bin_edges(score, bins=40)
        for value, kind, colour in labels:
            if np.any(found == value):
                axis.hist(score[found == value], bins, density=True, color=colour, alpha=0.6, label=kind)
        if threshold is not None:
            axis.axvline(threshold, color="black", linewidth=1, linestyle="--", label="threshold")
        axis.set(title=name, yticks=[], xlabel="score")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=3))
    plt.setp(axes[:, 0], ylabel="density")
    for axis in axes.flat[len(scores) :]:
        axis.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return titled(figure, "scores of the test images", title)


def show_methods(
    pictures: list, names: list[str], *, masks: bool = False, one_scale: bool = False, title: str = ""
) -> Figure:
    """One column per test image: a row with the images, then a row per method with the map over each image.

    pictures: `records.Pictures` of the same images, one per name. masks: True for a row of masks below the images.
    one_scale: True for one colour scale for all maps of a method; otherwise each map has its own.
    """
    first, above = pictures[0], ["image", "mask"] if masks else ["image"]
    figure, axes = _grid([1] * (len(above) + len(names)), len(first.pixels), 1.1, above=1)
    for axis, image, kind in zip(axes[0], first.pixels, first.kinds, strict=True):
        axis.imshow(image)
        axis.set_title(kind.replace("_", "\n"), fontsize=7, pad=3)
    if masks:
        for axis, mask in zip(axes[1], first.masks, strict=True):
            axis.imshow(mask, cmap="gray", vmin=0, vmax=1)
    for line, of_method in zip(axes[len(above) :], pictures, strict=True):
        top = float(of_method.maps.max()) if one_scale else None
        for axis, image, heat in zip(line, of_method.pixels, of_method.maps, strict=True):
            show_heat(axis, image, heat, top)
    for line, name in zip(axes, [*above, *names], strict=True):
        line[0].set_ylabel(fill(name, 14), fontsize=9)
    return titled(figure, f"heat maps: {', '.join(names)}", title)


def show_heat(axis, image: np.ndarray, heat: np.ndarray, top: float | None = None) -> None:
    """Draw the image and the map over it, except low heat. top: the map value drawn hottest; None: the maximum."""
    top = top or float(heat.max()) or 1.0
    axis.imshow(image)
    axis.imshow(np.ma.masked_less(heat, LOW * top), cmap=_HEAT, vmin=0, vmax=top, alpha=0.65)


def overlay(image: np.ndarray, heat: np.ndarray, top: float) -> np.ndarray:
    """The picture with its map over it, as `show_heat` draws it: uint8 (h, w, 3).

    image: uint8 (h, w, 3). heat: float (h', w'), stretched to the picture. top: the map value drawn hottest.
    """
    size = image.shape[1], image.shape[0]
    heat = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    colours = 255 * plt.get_cmap(_HEAT)((heat / (top or 1)).clip(0, 1))[..., :3]
    mixed = np.rint(0.35 * image + 0.65 * colours).astype(np.uint8)
    return np.where((heat > LOW * top)[..., None], mixed, image)


def show_sheet(
    images: list[np.ndarray], names: list[str], kinds: list[str], scores: np.ndarray, threshold: float, title: str
) -> Figure:
    """A sheet of pictures, uint8 (h, w, 3) each, with name, kind and score, in colour for those above the threshold."""
    columns = min(6, len(images))
    sides = np.array([np.array(image.shape[:2]) / max(image.shape[:2]) for image in images])
    heights = [sides[first : first + columns, 0].max() for first in range(0, len(images), columns)]
    wide = sides[:, 1].max()
    figure, axes = _grid(heights, columns, 1.5, above=len(heights))
    high = np.repeat(heights, columns)
    for axis, image, above, name, kind, score in zip(axes.flat, images, high, names, kinds, scores, strict=False):
        frame = tuple(ceil(max(image.shape[:2]) * side) for side in (wide, above))  # the names are at one height
        axis.imshow(ImageOps.pad(Image.fromarray(image), frame, color="white", centering=(0.5, 0)))
        words = f"{short_name(name)}\n{short_name(kind, 14)} · {score:.4g}"
        axis.set_title(words, fontsize=7, pad=3, color=ANOMALOUS if score > threshold else "black", parse_math=False)
    return titled(figure, title, "")


def short_name(name: str, most: int = 22) -> str:
    """A file's name for a figure: its end cut off beyond `most` characters, and "?" for unprintable ones."""
    last = "".join(c if c.isprintable() else "?" for c in Path(name).name)
    return last if len(last) <= most else f"{last[: most - 1]}…"


def titled(figure: Figure, title: str, remark: str) -> Figure:
    """The figure with its title and a remark, laid out and closed."""
    figure.suptitle(title + (f" — {remark}" if remark else ""), fontsize=10)
    if figure.get_layout_engine() is None:
        figure.tight_layout()
    return laid_out(figure)


def laid_out(figure: Figure) -> Figure:
    """The figure with its layout fixed, and closed: a notebook shows the figure that its cell returns."""
    for _ in range(2):  # the first pass guesses sizes
        figure.draw_without_rendering()
    figure.set_layout_engine("none")  # or each drawing would change the layout a little
    plt.close(figure)
    return figure
