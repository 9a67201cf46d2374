"""Exploring a threshold: a figure in every run, and sliders when a person runs the notebook."""

from collections.abc import Callable, Sequence

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
    maps: np.ndarray | Callable[[np.ndarray], Sequence[np.ndarray]],
    scores: np.ndarray,
    threshold: float,
    title: str = "",
    *,
    top: float | None = None,
    save: Callable[[float], None] | None = None,
) -> None:
    """Display a threshold's verdicts: a figure and, when a person runs the notebook, sliders for threshold and image.

    split: a `data.Split`. scores: float (n,), of its test images. maps: float (n, h, w), or a function from image
    indices to their maps, (h, w) each. top: the map value drawn hottest; None: the maximum. save: called with the
    slider's threshold when its button is pressed.
    """
    draw = maps if callable(maps) else maps.__getitem__
    display(picture(split, draw, scores, threshold, title, top=top))
    kernel = getattr(get_ipython(), "kernel", None)
    if not (kernel and kernel.get_parent("shell").get("content", {}).get("allow_stdin")):  # no person runs the notebook
        return
    import ipywidgets  # needed only here

    order = np.argsort(-scores, kind="stable")
    low, high = float(scores.min()), float(scores.max())
    step = (high - low) / _STEPS or 1.0
    span = {"min": low - step, "max": high + step, "step": step}
    limit = ipywidgets.FloatSlider(threshold, **span, description="threshold", readout_format=".4g")
    rank = ipywidgets.IntSlider(1, min=1, max=len(scores), description="image")
    limit.layout.width = rank.layout.width = "36em"

    @ipywidgets.interact(limit=limit, rank=rank)
    def show(limit: float, rank: int) -> None:
        display(picture(split, draw, scores, limit, chosen=order[rank - 1], top=top))

    if save:
        button = ipywidgets.Button(description="save this threshold")

        def pressed(_) -> None:
            save(limit.value)
            button.description = f"saved: {limit.value:.4g}"

        button.on_click(pressed)
        display(button)


def picture(
    split, draw: Callable, scores: np.ndarray, threshold: float, title: str = "", chosen: int | None = None, top=None
) -> Figure:
    """All scores with the threshold, and the images nearest to it, those below it on the left.

    chosen: the index of one image to show instead, without and with its map.
    """
    order = np.argsort(scores, kind="stable")
    first_above = int(np.searchsorted(scores[order], threshold, side="right"))
    index = order[max(0, first_above - _NEAREST) : first_above + _NEAREST] if chosen is None else np.array([chosen])
    images, heat = figures.pixels(split.test, index), draw(index)
    top = top or float(max(map(np.max, heat)))
    shown = [(i, figures.overlay(image, hot, top)) for i, image, hot in zip(index, images, heat, strict=True)]
    if chosen is not None:
        shown.insert(0, (chosen, images[0]))
    figure = plt.figure(figsize=(max(6, 1.25 * len(shown)), 4.0))
    grid = figure.add_gridspec(2, len(shown), height_ratios=(1.2, 1))
    _strip(figure.add_subplot(grid[0, :]), split, scores, threshold, chosen)
    for column, (i, image) in enumerate(shown):
        axis = figure.add_subplot(grid[1, column])
        axis.imshow(image)
        axis.axis("off")
        names = [split.names[i], split.kinds[i]] if split.paths else [split.kinds[i]]
        words = [*(figures.short_name(name, 18) for name in names), f"{scores[i]:.4g}"]
        colour = figures.ANOMALOUS if scores[i] > threshold else "black"
        axis.set_title("\n".join(words), fontsize=7, pad=3, color=colour, parse_math=False)
    what = "the images nearest to it" if chosen is None else "one image"
    return figures.titled(figure, f"the threshold, and {what}", title)


def _strip(axis, split, scores: np.ndarray, threshold: float, chosen: int | None) -> None:
    """Draw a dot per image in one row per label, with the number of images above the threshold."""
    names = []
    for value, name, colour in figures.labels_of(split.dataset):
        mine = scores[split.labels == value]
        if len(mine):
            height = np.full(len(mine), len(names)) + np.linspace(-0.25, 0.25, 7)[np.arange(len(mine)) % 7]
            axis.scatter(mine, height, s=9, color=colour, alpha=0.6, linewidths=0)
            names.append(f"{name}: {np.sum(mine > threshold)} of {len(mine)} above")
    axis.axvline(threshold, color="black", linewidth=1, linestyle="--")
    if chosen is not None:
        axis.axvline(scores[chosen], color="gray", linewidth=3, alpha=0.3)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel="score", ylim=(-0.6, len(names) - 0.4))
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_locator(plt.MaxNLocator(nbins=5))
