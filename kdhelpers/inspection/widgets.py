"""A threshold to explore: a picture in every run, and sliders where a person runs the notebook."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from kdhelpers.reporting import figures

_NEAREST = 4  # pictures on either side of the threshold
_STEPS = 200  # of the slider, from the lowest to the highest score


def threshold_slider(
    split,
    maps: np.ndarray | Callable[[np.ndarray], np.ndarray],
    scores: np.ndarray,
    threshold: float,
    title: str = "",
    *,
    top: float | None = None,
    save: Callable[[float], None] | None = None,
) -> None:
    """Display what a threshold calls bad: a picture and, where a person can move them, sliders for it and for images.

    split: a `data.Split`. scores: float (n,), of its test images. maps: float (n, h, w), or a function that computes
    those of the images at the indices given, (k,). top: the map's value that is hottest, None: the highest shown.
    save: is called with the slider's threshold when a person presses the button.
    """
    draw = maps if callable(maps) else lambda index: maps[index]
    display(static(split, draw, scores, threshold, title, top))
    if is_attended():
        try:
            import ipywidgets
        except ImportError:
            print("sliders need ipywidgets: pip install ipywidgets")
        else:
            _sliders(ipywidgets, split, draw, scores, threshold, top, save)


def is_attended() -> bool:
    """True in a notebook that a person runs: its front end then allows requests for input."""
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel else {}
    return bool(request.get("content", {}).get("allow_stdin"))


def static(
    split, draw: Callable, scores: np.ndarray, threshold: float, title: str = "", top: float | None = None
) -> Figure:
    """All scores with the threshold, and the images nearest to it: below it on the left, above it on the right."""
    order = np.argsort(scores, kind="stable")
    first_above = int(np.searchsorted(scores[order], threshold, side="right"))
    nearest = order[max(0, first_above - _NEAREST) : first_above + _NEAREST]
    heat, images = draw(nearest), figures.pixels(split.test, nearest)
    count = len(nearest)
    figure = plt.figure(figsize=(max(6, 1.25 * count), 4.0))
    grid = figure.add_gridspec(2, count, height_ratios=(1.2, 1))
    _strip(figure.add_subplot(grid[0, :]), split, scores, threshold)
    top = top or float(heat.max())
    for column, (i, image, hot) in enumerate(zip(nearest, images, heat, strict=True)):
        axis = figure.add_subplot(grid[1, column])
        _one(axis, split, i, figures.overlay(image, hot, top), scores, threshold)
    return figures.titled(figure, "the threshold, and the images nearest to it", title)


def _sliders(ipywidgets, split, draw, scores: np.ndarray, threshold: float, top: float | None, save) -> None:
    """One image, by the rank of its score, and what the chosen threshold makes of it."""
    order = np.argsort(-scores, kind="stable")
    low, high = float(scores.min()), float(scores.max())
    step = (high - low) / _STEPS or 1.0

    def show(limit: float, rank: int) -> None:
        i = order[rank - 1]
        (hot,), (image,) = draw(np.array([i])), figures.pixels(split.test, np.array([i]))
        figure, (strip, plain, both) = plt.subplots(1, 3, figsize=(9, 2.8), width_ratios=(2, 1, 1))
        _strip(strip, split, scores, limit, chosen=scores[i])
        _one(plain, split, i, image, scores, limit)
        _one(both, split, i, figures.overlay(image, hot, top or float(hot.max())), scores, limit)
        both.set_title("where", fontsize=7, pad=3)
        figure.tight_layout()
        plt.close(figure)
        display(figure)

    span = {"min": low - step, "max": high + step, "step": step}
    limit = ipywidgets.FloatSlider(threshold, **span, description="threshold", readout_format=".4g")
    rank = ipywidgets.IntSlider(1, min=1, max=len(scores), description="image")
    limit.layout.width = rank.layout.width = "36em"
    ipywidgets.interact(show, limit=limit, rank=rank)
    if save:
        button = ipywidgets.Button(description="save this threshold")

        def pressed(_) -> None:
            save(limit.value)
            button.description = f"saved: {limit.value:.4g}"

        button.on_click(pressed)
        display(button)


def _strip(axis, split, scores: np.ndarray, threshold: float, chosen: float | None = None) -> None:
    """A dot for each image, a line for each label, and how many of them are above the threshold."""
    names = []
    for value, name, colour in figures.labels_of(split.dataset):
        mine = scores[split.labels == value]
        if len(mine):
            height = np.full(len(mine), len(names)) + np.linspace(-0.25, 0.25, 7)[np.arange(len(mine)) % 7]
            axis.scatter(mine, height, s=9, color=colour, alpha=0.6, linewidths=0)
            names.append(f"{name}: {np.sum(mine > threshold)} of {len(mine)} above")
    axis.axvline(threshold, color="black", linewidth=1, linestyle="--")
    if chosen is not None:
        axis.axvline(chosen, color="gray", linewidth=3, alpha=0.3)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="score", ylim=(-0.6, len(names) - 0.4))
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_locator(plt.MaxNLocator(nbins=5))


def _one(axis, split, i: int, image: np.ndarray, scores: np.ndarray, threshold: float) -> None:
    axis.imshow(image)
    axis.axis("off")
    bad = scores[i] > threshold
    names = [split.names[i], split.kinds[i]] if split.paths else [split.kinds[i]]
    words = [*(figures.short_name(name, 18) for name in names), f"{scores[i]:.4g}"]
    axis.set_title("\n".join(words), fontsize=7, pad=3, color=figures.ANOMALOUS if bad else "black", parse_math=False)
