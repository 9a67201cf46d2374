"""Figure 2: source, cloner, critical points, loss and map, with all sizes read from the networks."""

from collections.abc import Iterator
from math import log2
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path

from kdhelpers.protocols import Protocol

IMAGE_SIZE = 128  # pixels
_SOURCE, _CLONER, _POINTS, _BACK = (sns.color_palette("colorblind")[i] for i in (0, 1, 2, 4))
_INK = (0.25, 0.25, 0.25)
# The axes' unit is the inch on paper, so that boxes do not overlap texts, whose size is fixed.
_WIDTH, _HEIGHT = 7.0, 3.5
_S_ROW, _MIDDLE, _C_ROW, _BACKWARD = 2.6, 1.84, 1.08, 0.34
_LEFT = 0.92  # left edge of the first layer
_FORMULA = 9  # points; a subscript has 0.7 of that, which is above 6
_VAL, _DIR, _TOTAL = (rf"\mathcal{{L}}_{{{name}}}" for name in ("val", "dir", "total"))


class _Layer(NamedTuple):
    """A convolution or max-pool: the channels of its square output, and the side in pixels."""

    is_pool: bool
    channels: int
    size: int

    @property
    def box(self) -> tuple[float, float]:
        """Width and height in inches. The height follows the root of the size, to leave room for the deepest's text."""
        return 0.07 if self.is_pool else 0.05 + 0.02 * log2(self.channels), 0.9 * (self.size / IMAGE_SIZE) ** 0.5


def _layers(protocol: Protocol) -> Iterator[tuple[list[_Layer], int]]:
    """Yield for S, then C: its convolutions and max-pools, from a forward pass, and its number of parameters."""
    import torch  # here, because tables and the report do not need it
    from torch import nn

    from kdhelpers.networks import make_cloner, make_source

    with torch.device("meta"), torch.no_grad():  # shapes without values: nothing is computed
        for network in (make_source(), make_cloner(protocol, seed=0)):
            x, layers = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE), []
            for module in network.eval():
                x = module(x)
                if isinstance(module, nn.Conv2d | nn.MaxPool2d):
                    layers.append(_Layer(isinstance(module, nn.MaxPool2d), x.shape[1], x.shape[-1]))
            yield layers, sum(p.numel() for p in network.parameters())


@plt.style.context("default")  # independent of the session's settings
def show_framework(protocol: Protocol) -> Figure:
    """Fig. 2 for images of `IMAGE_SIZE` pixels, with the protocol's cloner, loss, score and gradient."""
    (s, s_count), (c, c_count) = _layers(protocol)
    figure = plt.figure(figsize=(_WIDTH, _HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    middles, right = [], _LEFT  # both networks have the same layers in the same order: one column per pair
    for pair in zip(s, c, strict=True):
        width = max(layer.box[0] for layer in pair)
        middles.append(right + width / 2)
        right += width + (0.12 if pair[0].is_pool else 0.035)
    _draw_network(axes, s, middles, _S_ROW, _SOURCE)
    _draw_network(axes, c, middles, _C_ROW, _CLONER)
    _draw_points(axes, s, c, middles, protocol.score_points)
    _draw_losses(axes, middles[-1], protocol)
    _draw_images(axes)
    of_s = f"source S: VGG-16 features, frozen\n{s_count:,} parameters"
    norm = "BatchNorm" if protocol.batch_norm else "no BatchNorm"
    of_c = f"cloner C: trained on normal images\n{c_count:,} parameters (no bias, {norm})"
    figure.set_label(f"framework (Fig. 2) — {IMAGE_SIZE} px, protocol {protocol.name}")
    _text(axes, middles[-1] + 0.04, _S_ROW + 0.5, of_s, "right", 7)
    _text(axes, middles[-1] + 0.04, _C_ROW - 0.41, of_c, "right", 7)
    _text(axes, 0.08, _HEIGHT - 0.13, figure.get_label(), "left", 8)
    axes.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT), aspect="equal")
    axes.axis("off")
    plt.close(figure)  # a notebook shows the figure that its cell returns
    return figure


def _draw_network(axes, layers: list[_Layer], middles: list[float], y: float, colour) -> None:
    """Draw a row of boxes with the number of channels of each convolution, and above S the sizes in pixels."""
    axes.plot([_LEFT, middles[-1]], [y, y], color=_INK, lw=0.8, zorder=1)
    for i, (layer, x) in enumerate(zip(layers, middles, strict=True)):
        _draw_box(axes, x, y, *layer.box, colour, filled=layer.is_pool)
        if not layer.is_pool:
            _text(axes, x, y, str(layer.channels), size=6)
        if y == _S_ROW and not layer.is_pool and (i == 0 or layers[i - 1].is_pool):
            last = next(j for j in range(i, len(layers)) if layers[j].is_pool) - 1
            above = y + layer.box[1] / 2 + 0.08
            _text(axes, (x + middles[last]) / 2, above, f"{layer.size} × {layer.size}", size=6)


def _draw_box(axes, x: float, y: float, width: float, height: float, colour, *, filled: bool) -> None:
    face = colour if filled else [1 - 0.3 * (1 - value) for value in colour]
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fc=face, ec=colour, lw=0.8, zorder=2))


def _draw_points(axes, s: list[_Layer], c: list[_Layer], middles: list[float], score_points: int) -> None:
    """Draw CP1 to CP4, each between the two pools whose outputs it compares, on the line that leads to the losses."""
    pools = [i for i, layer in enumerate(s) if layer.is_pool][-4:]
    axes.plot([middles[pools[0]], middles[-1] + 0.44], [_MIDDLE] * 2, color=_POINTS, lw=1.2, zorder=1)
    for name, i in zip(("CP1", "CP2", "CP3", "CP4"), pools, strict=True):
        ends = _S_ROW - s[i].box[1] / 2, _C_ROW + c[i].box[1] / 2
        style, use = ("-", "") if i in pools[-score_points:] else ("--", "\ntraining only")
        axes.plot([middles[i]] * 2, ends, color=_POINTS, lw=1.2, ls=style, zorder=1)
        _text(axes, middles[i], _MIDDLE, f"{name}\n{s[i].channels} × {s[i].size} × {s[i].size}{use}", frame=_POINTS)


def _draw_losses(axes, x: float, protocol: Protocol) -> None:
    """Draw the way from the critical points to the score, and from the score back to the pixels."""
    first, second = (_VAL, _DIR) if protocol.order == "val + lambda * dir" else (_DIR, _VAL)
    total = rf"{first} + \lambda\,{second}"
    lam = "λ calibrated" if protocol.lam is None else f"λ = {protocol.lam:g}"
    way = "S and C" if protocol.gradient == "both" else "C only"
    fork, terms, join, end = x + 0.44, x + 0.72, x + 1.0, _WIDTH - 0.54
    for term, equation, up in ((_VAL, 1, 0.3), (_DIR, 3, -0.3)):
        y = _MIDDLE + up
        _arrow(axes, [(fork, _MIDDLE), (fork, y), (terms - 0.17, y)], _POINTS)
        axes.plot([terms, join, join], [y, y, _MIDDLE], color=_INK, lw=1, zorder=1)
        _text(axes, terms, y, f"${term}$", size=_FORMULA, frame=_INK)
        _text(axes, terms, y + up * 0.63, f"Eq. {equation}")
    _arrow(axes, [(join, _MIDDLE), (end - 0.38, _MIDDLE)], _INK)
    _arrow(axes, [(end, _MIDDLE), (end, _C_ROW + 0.2)], _INK)
    _arrow(axes, [(end, _C_ROW), (end, _BACKWARD), (0.64, _BACKWARD)], _BACK)
    _text(axes, end, _MIDDLE, f"${_TOTAL} =$\n${total}$", size=_FORMULA, frame=_INK)
    _text(axes, end, _MIDDLE + 0.3, f"Eq. 4, {lam}")
    _text(axes, end, _C_ROW, f"score: ${_TOTAL}$\nat CP{5 - protocol.score_points} to CP4", size=_FORMULA, frame=_INK)
    gradient = rf"$\Lambda = \partial{_TOTAL}/\partial x$ (Eq. 5), back through {way}"
    opened = r"$L_{map} = (g_\sigma(\Lambda) \ominus B) \oplus B$ (Eq. 6)"
    _text(axes, 4.6, _BACKWARD, gradient, size=_FORMULA, frame=_BACK)
    _text(axes, 1.9, _BACKWARD, opened, size=_FORMULA, frame=_BACK)


def _draw_images(axes) -> None:
    """Draw an example input (a washer with a notch), its localization map, and the key to the boxes."""
    x, y = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 96))
    radius, defect = np.hypot(x, y), np.hypot(x - 0.42, y + 0.4)
    washer = np.where((radius > 0.35) & (radius < 0.8) & (defect > 0.16), 0.45 + 0.2 * x, 0.92)
    for image, middle, colours in ((washer, _MIDDLE, "gray"), (np.exp(-((defect / 0.3) ** 2)), _BACKWARD, "inferno")):
        extent = (0.08, 0.64, middle - 0.28, middle + 0.28)
        axes.imshow(image, cmap=colours, vmin=0, vmax=1, extent=extent)
        axes.add_patch(Rectangle(extent[::2], 0.56, 0.56, fill=False, ec=_INK, lw=0.8))
    for row, up in ((_S_ROW, 0.28), (_C_ROW, -0.28)):
        _arrow(axes, [(0.36, _MIDDLE + up), (0.36, row), (_LEFT, row)], _INK)
    _text(axes, 0.7, _MIDDLE, f"input x\n3 × {IMAGE_SIZE} × {IMAGE_SIZE}", "left")
    _text(axes, 0.08, _BACKWARD + 0.44, "localization\nmap", "left")
    _draw_box(axes, 5.45, 3.16, 0.17, 0.17, _INK, filled=False)
    _text(axes, 5.45, 3.16, "n", size=6)
    _text(axes, 5.62, 3.16, "3 × 3 convolution, ReLU;\nn channels", "left")
    _draw_box(axes, 5.45, 2.86, 0.07, 0.17, _INK, filled=True)
    _text(axes, 5.62, 2.86, "2 × 2 max-pool", "left")


def _text(axes, x: float, y: float, text: str, ha: str = "center", size: float = 6.5, *, frame=None) -> None:
    box = {"boxstyle": "round,pad=0.3", "fc": "white", "ec": frame, "lw": 0.8} if frame else None
    axes.text(x, y, text, size=size, ha=ha, va="center", color="black", bbox=box, zorder=3, linespacing=1.25)


def _arrow(axes, corners: list[tuple[float, float]], colour) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 7, "lw": 1, "zorder": 1}
    axes.add_patch(FancyArrowPatch(path=Path(corners), color=colour, **style))
