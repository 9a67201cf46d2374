"""Figures 1 and 6 of the article: test images with their maps, from the pictures saved with the cloners."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from safetensors import safe_open
from safetensors.numpy import save as to_bytes

from kdhelpers.experiments import records as results
from kdhelpers.experiments.records import Kind, only_one
from kdhelpers.experiments.variants import main_notebook
from kdhelpers.files import atomic_write
from kdhelpers.protocols import CLASS_NAMES, GOOD, NUMBERS, PROTOCOLS
from kdhelpers.reporting import figures
from kdhelpers.reporting.paper_style import WIDTH, heading, in_style, origin, say_nothing
from kdhelpers.reporting.published import NAMES
from kdhelpers.reporting.text import in_order

Kept = dict[str, tuple[dict, results.Pictures]]  # by class: its record, and the pictures saved with it


@in_style
def figure_1(records: Sequence[dict], results_dir: Path, *, title: str = "") -> Figure:
    """Heat maps over test images (Fig. 1): two rows of MVTecAD, then MNIST and CIFAR-10.

    MVTecAD: one anomalous image of each of up to eight categories. MNIST and CIFAR-10: one normal and one anomalous
    image of each of up to three normal classes. Fewer classes have more images each. No pictures: an empty frame.
    """
    blocks = []
    for dataset, columns, rows, most in (("mvtec", 4, 2, 8), ("mnist", 6, 1, 3), ("cifar10", 6, 1, 3)):
        kept = _kept(records, results_dir, dataset)
        blocks.append((dataset, kept, _choose(kept, most, columns * rows, normal=dataset != "mvtec"), columns, rows))
    return _sheet("Figure 1: heat maps over test images", title, blocks, ("image", "map"))


@in_style
def figure_6(records: Sequence[dict], results_dir: Path, *, title: str = "") -> Figure:
    """Image, mask and heat map of up to fifteen defects of MVTecAD (Fig. 6), by category and kind.

    One kind of each category comes first, then a second kind, while there is room. Without pictures: an empty frame.
    """
    kept = _kept(records, results_dir, "mvtec")
    chosen = _choose(kept, 15, 15, normal=False)
    block = "mvtec", kept, chosen, 3, max(1, -(-len(chosen) // 3))
    return _sheet("Figure 6: localization of MVTecAD's defects", title, [block], ("image", "mask", "map"))


def _sheet(name: str, title: str, blocks: list[tuple], layers: Sequence[str]) -> Figure:
    """Rows of pictures, each with its `layers` side by side. blocks: (data set, kept, chosen, columns, rows) each."""
    shown = [record for _, kept, *_ in blocks for record, _ in kept.values()]
    seeds = ", ".join(map(str, sorted({record["seed"] for record in shown})))
    heat = f"heat from {100 * figures.LOW:g} % (purple) to 100 % (yellow) of a class's maximum"
    lines = [f"{', '.join(layers)}; {heat}; lowest seed with pictures: {seeds}"] if shown else []
    words = heading(name, title, [*lines, *origin(shown, {record["notebook"] for record in shown})])
    heights = [rows * (WIDTH / columns / len(layers) + 0.25) for *_, columns, rows in blocks]
    figure = plt.figure(figsize=(WIDTH, sum(heights) + 0.15 * words.count("\n") + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0)
    figure.suptitle(words, x=0.01, ha="left", fontsize=7)
    parts = np.atleast_1d(figure.subfigures(len(blocks), 1, height_ratios=heights))
    for part, (dataset, kept, chosen, columns, rows) in zip(parts, blocks, strict=True):
        part.supylabel(NAMES[dataset], fontsize=7)
        if not chosen:
            say_nothing(part.subplots(), "no pictures")
            continue
        grid = part.subplots(rows, columns * len(layers), squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for (cls, i), axes in zip(chosen, grid.reshape(-1, len(layers)), strict=False):
            pictures = kept[cls][1]
            axes[0].set_title(_caption(dataset, cls, pictures.kinds[i]), loc="left", fontsize=6, pad=2)
            axes[0].imshow(pictures.pixels[i])
            if "mask" in layers:
                axes[1].imshow(pictures.masks[i], cmap="gray", vmin=0, vmax=1)
            figures.show_heat(axes[-1], pictures.pixels[i], pictures.maps[i], float(pictures.maps.max()))
    return figures.laid_out(figure)


def pictures_of(record: dict, results_dir: Path) -> tuple[Path | None, Path]:
    """The file of a record's pictures, the committed one or else its cloner's, or None; and the former's path."""
    path, *files = (results.path_of(results_dir, name, record, ".json") for name in ("records", "cloners", "pictures"))
    cloner, committed = (file.with_suffix(".safetensors") for file in files)
    return next((file for file in (committed, cloner) if results.is_made_with(path, file)), None), committed


def commit_pictures(records: Sequence[dict], results_dir: Path) -> None:
    """Copy the pictures of Figures 1 and 6 from the cloners to RESULTS_DIR/pictures, a few images per class.

    This is limited to data sets whose licence allows it: MNIST (CC BY-SA 3.0) and MVTecAD (CC BY-NC-SA 4.0).
    """
    for dataset in ("mnist", "mvtec"):
        for record, _ in _kept(records, results_dir, dataset).values():
            found, committed = pictures_of(record, results_dir)
            if found != committed:
                with safe_open(found, framework="np") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith("shown.")}  # noqa: SIM118
                    content = to_bytes(tensors, file.metadata())
                with atomic_write(committed) as temporary:
                    temporary.write_bytes(content)


def readme_picture(found: dict[Kind, list[dict]], kind: Kind, results_dir: Path, path: Path) -> None:
    """Write the README's picture, MVTecAD's screw with masks and the maps of each protocol, where they are available.

    found: records by kind. kind: one of the source and profile. The pictures are committed, and all of one seed.
    """
    maps, seed = {}, None
    for protocol in PROTOCOLS:
        of_protocol = found.get(kind._replace(protocol=protocol), [])
        records = [r for r in of_protocol if r["class"] == "screw" and seed in (None, r["seed"])]
        commit_pictures(records, results_dir)
        for record, pictures in _kept(records, results_dir, "mvtec").values():
            maps[f"map, {protocol}"], seed = pictures, record["seed"]
    if maps:
        figure = figures.show_methods(list(maps.values()), list(maps), masks=True, one_scale=True)
        figure.suptitle(f"MVTecAD's screw, seed {seed}: image, mask, and maps over the image", fontsize=10)
        with atomic_write(path) as temporary:
            temporary.write_bytes(figures.picture_of(figure)[0])


def _kept(records: Sequence[dict], results_dir: Path, dataset: str) -> Kept:
    """The main run of each class, in the article's order, with the lowest seed of those whose pictures are there."""
    only_one(records)
    of_main = [r for r in records if r["notebook"] == main_notebook(dataset) and r["variant"] is None]
    found: Kept = {}
    for record in sorted(of_main, key=lambda r: (in_order(dataset, r["class"]), r["seed"])):
        path = pictures_of(record, results_dir)[0]
        if path and record["class"] not in found:
            found[record["class"]] = record, results.load_pictures(path)
    return found


def _choose(kept: Kept, most: int, count: int, *, normal: bool) -> list[tuple[str, int]]:
    """Class and index of up to `count` pictures, sorted: the classes take turns, and so do a class's anomalous kinds.

    most: number of classes, spread over all available ones. normal: True to begin each class with a normal picture.
    """
    spread = np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).round().astype(int))
    classes = [list(kept)[i] for i in spread]
    of_classes = []
    for number, cls in enumerate(classes):
        kinds = kept[cls][1].kinds
        by_kind = [[i for i, k in enumerate(kinds) if k == kind] for kind in dict.fromkeys(kinds) if kind != GOOD]
        turned = by_kind[number:] + by_kind[:number]  # or every digit would have the same anomaly
        first = [kinds.index(GOOD)] if normal and GOOD in kinds else []
        of_classes.append([(number, i) for i in first + _in_turn(turned)])
    return [(classes[number], i) for number, i in sorted(_in_turn(of_classes)[:count])]


def _in_turn(lists: list[list]) -> list:
    """The first of each list, then the second of each, and so on."""
    return [item for turn in zip_longest(*lists) for item in turn if item is not None]


def _caption(dataset: str, cls: str, kind: str) -> str:
    if dataset == "mvtec":
        return f"{cls}\n{kind}".replace("_", " ")
    names = dict(zip(NUMBERS, CLASS_NAMES[dataset], strict=True))
    normal = names.get(cls, cls)
    return f"{normal}\nnormal" if kind == GOOD else f"{names.get(kind, kind)}\nnormal: {normal}"
