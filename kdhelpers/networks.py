"""The source S and the cloner C (Fig. 2), and their activations at the critical points."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from kdhelpers.protocols import Protocol

# The layers of Fig. 2: "M" is 2×2 max-pooling, a number is a 3×3 convolution with that many channels and a ReLU. The
# last convolution before a pool is as wide as the source's, so that the outputs of the pool are comparable.
WIDTHS = {
    "compact": [16, 16, "M", 16, 128, "M", 16, 16, 256, "M", 16, 16, 512, "M", 16, 16, 512, "M"],
    "equal": cfgs["D"],
}


def make_source() -> nn.Sequential:
    """The source S, VGG-16's `features`, with random weights; `data.weights.load_source` sets them."""
    return make_layers(cfgs["D"])


def make_cloner(protocol: Protocol, seed: int) -> nn.Sequential:
    """The untrained cloner C of Fig. 2, or of Sec. 3.3.2 with `protocol.width` "equal"; Xavier-uniform from `seed`.

    The compact one has 343,984 parameters with BatchNorm (official) and 343,728 without (text).
    """
    layers, channels, widths = [], 3, WIDTHS[protocol.width]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for width, following in zip(widths, [*widths[1:], None], strict=True):
            if width == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            conv = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=protocol.bias)
            nn.init.xavier_uniform_(conv.weight)
            layers.append(conv)
            if protocol.batch_norm and following != "M":
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            channels = width
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def critical_points(
    network: nn.Sequential, x: Tensor, points: int = 4, relu: Callable[[Tensor], Tensor] | None = None
) -> list[Tensor]:
    """Activations a^CP at the last `points` of CP1..CP4, the outputs of max-pools 2 to 5 (Sec. 3.2).

    x: float (n, 3, h, w), h and w at least 32. Returns tensors (n, channels, h', w'), shallowest first.
    relu: a function that replaces the network's ReLUs, for guided backprop.
    """
    layers, pooled = list(network), []
    pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    for i in pools:  # Max-pooling and ReLU commute exactly; pooling first leaves the ReLU a quarter of the values.
        layers[i - 1 : i + 1] = layers[i], layers[i - 1]
    for i, layer in enumerate(layers):
        x = relu(x) if relu and isinstance(layer, nn.ReLU) else layer(x)
        if i in pools:
            pooled.append(x)
    return pooled[-points:]


@torch.no_grad()
def describe(source: nn.Sequential, cloner: nn.Sequential, image_size: int) -> list[dict[str, object]]:
    """Fig. 2 as rows, one per critical point: its pool, its activations' shape, and the parameters up to it."""
    x, rows = torch.zeros(1, 3, image_size, image_size, device=next(source.parameters()).device), []
    for number, a_c in enumerate(critical_points(cloner, x), start=1):
        shape = tuple(a_c.shape[1:])
        rows.append({"critical point": f"CP{number}", "max-pool": number + 1, "channels, height, width": shape})
        for network, title in ((source, "S"), (cloner, "C")):
            pools = [i for i, layer in enumerate(network) if isinstance(layer, nn.MaxPool2d)]
            rows[-1][f"parameters of {title}"] = sum(p.numel() for p in network[: pools[number]].parameters())
    return rows
