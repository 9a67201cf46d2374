"""Figure 2: source, cloner, their critical points, and what is computed from them; all sizes read from the networks."""

from dataclasses import dataclass
from math import log2

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.path import Path
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from kdhelpers.networks import make_cloner
from kdhelpers.protocols import PROTOCOLS, Protocol

_SOURCE, _CLONER, _POINTS, _BACK = (sns.color_palette("colorblind")[i] for i in (0, 1, 2, 4))
_INK = (0.25, 0.25, 0.25)
# The axes' unit is the inch on paper, so that boxes stay clear of the texts, whose size is fixed. A formula's subscript
# is 0.7 of its size: 9 points give 6.3.
_WIDTH, _HEIGHT = 7.0, 3.5
_S_ROW, _MIDDLE, _C_ROW, _BACKWARD = 2.62, 1.84, 1.06, 0.3
_LEFT = 0.92  # where the first layer begins
_L = {name: rf"$\mathcal{{L}}_{{{name}}}$" for name in ("val", "dir", "total", "map")}


@dataclass(frozen=True)
class Layer:
    """A convolution or max-pool: the channels of its output, and its height, which is also its width, in pixels."""

    pool: bool
    channels: int
    size: int


@torch.no_grad()
def layers_of(network: nn.Sequential, image_size: int) -> list[Layer]:
    """The convolutions and max-pools of a network that is on the meta device, from a forward pass of one image."""
    x = torch.zeros(1, 3, image_size, image_size, device="meta")
    layers = []
    for module in network.eval():
        x = module(x)
        if isinstance(module, nn.Conv2d):
            layers.append(Layer(False, module.out_channels, x.shape[-1]))
        elif isinstance(module, nn.MaxPool2d):
            layers.append(Layer(True, x.shape[1], x.shape[-1]))
    return layers


def show_framework(image_size: int = 128, protocol: Protocol = PROTOCOLS["official"]) -> Figure:
    """Fig. 2 for images of `image_size` pixels, at least 32, with the protocol's cloner, loss, score and gradient."""
    with torch.device("meta"):  # shapes without values: nothing is computed, and no random number is drawn
        source, cloner = make_layers(cfgs["D"]), make_cloner(protocol, seed=0)
    s, c = layers_of(source, image_size), layers_of(cloner, image_size)
    figure = plt.figure(figsize=(_WIDTH, _HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    middles = _columns(s, c)
    _draw_network(axes, s, middles, _S_ROW, _SOURCE)
    _draw_network(axes, c, middles, _C_ROW, _CLONER)
    kind = f"{'BatchNorm' if protocol.batch_norm else 'no BatchNorm'}, {'bias' if protocol.bias else 'no bias'}"
    for network, y, name in (
        (source, _S_ROW + 0.48, "source S: VGG-16 of ImageNet, frozen"),
        (cloner, _C_ROW - 0.45, f"cloner C: trained on normal images; {kind}"),
    ):
        count = sum(p.numel() for p in network.parameters())
        _text(axes, middles[-1] + 0.04, y, f"{name}\n{count:,} parameters", ha="right", size=7)
    _draw_points(axes, s, c, middles, protocol)
    _draw_losses(axes, middles[-1], protocol)
    _draw_images(axes, image_size)
    _draw_key(axes)
    _text(axes, 0.08, _HEIGHT - 0.14, f"framework — {image_size} px, protocol {protocol.name}", ha="left", size=8)
    axes.set(xlim=(0, _WIDTH), ylim=(0, _HEIGHT), aspect="equal")
    axes.axis("off")
    plt.close(figure)  # a notebook shows the figure that the cell returns, once
    return figure


def _box(layer: Layer, image_size: int) -> tuple[float, float]:
    """Width and height in inches; the height by the root of the size, or the deepest would be lower than their text."""
    return 0.07 if layer.pool else 0.03 * log2(layer.channels), 0.9 * (layer.size / image_size) ** 0.5


def _columns(s: list[Layer], c: list[Layer]) -> list[float]:
    """The middle of each layer's column in inches; both networks have the same layers in the same order."""
    middles, x = [], _LEFT
    for pair in zip(s, c, strict=True):
        width = max(_box(layer, layer.size)[0] for layer in pair)
        middles.append(x + width / 2)
        x += width + (0.12 if pair[0].pool else 0.035)
    return middles


def _draw_network(axes: Axes, layers: list[Layer], middles: list[float], y: float, colour) -> None:
    """A row of boxes; each convolution with its number of channels."""
    image_size = layers[0].size
    axes.plot([_LEFT, middles[-1]], [y, y], color=_INK, lw=0.8, zorder=1)
    for layer, x in zip(layers, middles, strict=True):
        width, height = _box(layer, image_size)
        _draw_box(axes, x, y, width, height, colour, filled=layer.pool)
        if not layer.pool:
            _text(axes, x, y, str(layer.channels), size=6)


def _draw_box(axes: Axes, x: float, y: float, width: float, height: float, colour, *, filled: bool) -> None:
    face = colour if filled else [1 - 0.3 * (1 - value) for value in colour]
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fc=face, ec=colour, lw=0.8, zorder=2))


def _draw_points(axes: Axes, s: list[Layer], c: list[Layer], middles: list[float], protocol: Protocol) -> None:
    """CP1 to CP4, each between the two pools whose outputs it compares, on the line that leads to the losses."""
    pools = [i for i, layer in enumerate(s) if layer.pool][-4:]
    trained = pools[-protocol.points :]
    scored = trained[-protocol.score_points :]
    axes.plot([middles[trained[0]], middles[-1] + 0.42], [_MIDDLE] * 2, color=_POINTS, lw=1.2, zorder=1)
    for name, i in zip(("CP1", "CP2", "CP3", "CP4"), pools, strict=True):
        ends = _S_ROW - _box(s[i], s[0].size)[1] / 2, _C_ROW + _box(c[i], c[0].size)[1] / 2
        style, use = ("-", "") if i in scored else ("--", "\ntraining only") if i in trained else (":", "\nunused")
        axes.plot([middles[i]] * 2, ends, color=_POINTS, lw=1.2, ls=style, zorder=1)
        shape = f"{s[i].channels} × {s[i].size} × {s[i].size}"
        _text(axes, middles[i], _MIDDLE, f"{name}\n{shape}{use}", frame=_POINTS)


def _draw_losses(axes: Axes, x: float, protocol: Protocol) -> None:
    """From the critical points to the score, and from the score back to the pixels."""
    points = min(protocol.points, protocol.score_points)
    used = "CP4" if points == 1 else f"CP{5 - points} to CP4"
    weighed = {"val + lambda * dir": ("val", "dir"), "dir + lambda * val": ("dir", "val")}[protocol.order]
    total = f"{_L[weighed[0]]} + λ {_L[weighed[1]]}" if protocol.terms == "total" else _L[protocol.terms]
    lam = "" if protocol.terms != "total" else "\nλ: one scale" if protocol.lam is None else f"\nλ = {protocol.lam:g}"
    fork, terms, right = x + 0.42, x + 0.78, _WIDTH - 0.52
    for name, equation, up in (("val", 1, 0.3), ("dir", 3, -0.3)):
        y = _MIDDLE + up
        _arrow(axes, [(fork, _MIDDLE), (fork, y), (terms - 0.22, y)], _POINTS)
        _arrow(axes, [(terms, y), (right, y), (right, y - up * 0.2)], _INK)
        _text(axes, terms, y, f"{_L[name]}\nEq. {equation}", frame=_INK, size=9)
    _text(axes, right, _MIDDLE, f"{_L['total']} (Eq. 4) =\n{total}{lam}", frame=_INK, size=9)
    _text(axes, right, _C_ROW, f"score of x =\n{_L['total']} at\n{used}", frame=_INK, size=9)
    _arrow(axes, [(right, _MIDDLE - 0.3), (right, _C_ROW + 0.3)], _INK)
    _arrow(axes, [(right, _C_ROW - 0.3), (right, _BACKWARD), (0.66, _BACKWARD)], _BACK)
    way = "S and C" if protocol.gradient == "both" else "C only"
    gradient = rf"$\Lambda = \partial${_L['total']}$/\partial x$ (Eq. 5), back through {way}"
    _text(axes, 4.6, _BACKWARD, gradient, frame=_BACK, size=9)
    opening = rf"{_L['map']}$ = (g_\sigma(\Lambda) \ominus B) \oplus B$ (Eq. 6)"
    _text(axes, 1.9, _BACKWARD, opening, frame=_BACK, size=9)


def _draw_images(axes: Axes, image_size: int) -> None:
    """Stand-ins for the input, a washer with a notch, and for its localization map."""
    x, y = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 96))
    radius, defect = np.hypot(x, y), np.hypot(x - 0.42, y + 0.4)
    washer = np.where((radius > 0.35) & (radius < 0.8) & (defect > 0.16), 0.45 + 0.2 * x, 0.92)
    heat = np.exp(-((defect / 0.3) ** 2))
    for image, middle, colours in ((washer, _MIDDLE, "gray"), (heat, _BACKWARD, "inferno")):
        extent = (0.08, 0.64, middle - 0.28, middle + 0.28)
        axes.imshow(image, cmap=colours, vmin=0, vmax=1, extent=extent)
        axes.add_patch(Rectangle(extent[::2], 0.56, 0.56, fill=False, ec=_INK, lw=0.8))
    for row, up in ((_S_ROW, 0.28), (_C_ROW, -0.28)):
        _arrow(axes, [(0.36, _MIDDLE + up), (0.36, row), (_LEFT, row)], _INK)
    _text(axes, 0.7, _MIDDLE, f"input x\n3 × {image_size} × {image_size}", ha="left")


def _draw_key(axes: Axes) -> None:
    x = _WIDTH - 1.5
    _draw_box(axes, x, 3.14, 0.2, 0.15, _INK, filled=False)
    _text(axes, x, 3.14, "n", size=6)
    _text(axes, x + 0.18, 3.14, "3 × 3 convolution, ReLU:\nn channels", ha="left")
    _draw_box(axes, x, 2.84, 0.07, 0.15, _INK, filled=True)
    _text(axes, x + 0.18, 2.84, "2 × 2 max-pool", ha="left")


def _text(axes: Axes, x: float, y: float, text: str, *, size=6.5, ha="center", frame=None) -> None:
    box = {"boxstyle": "round,pad=0.25", "fc": "white", "ec": frame, "lw": 0.8} if frame else None
    axes.text(x, y, text, size=size, ha=ha, va="center", color="black", bbox=box, zorder=3, linespacing=1.25)


def _arrow(axes: Axes, corners: list[tuple[float, float]], colour) -> None:
    arrow = FancyArrowPatch(path=Path(corners), arrowstyle="-|>", mutation_scale=7, color=colour, lw=1, zorder=1)
    arrow.set(fill=True, joinstyle="miter")
    axes.add_patch(arrow)
