"""Figure 2 against the networks it draws."""

import pytest
from torch import nn

from kdhelpers import networks
from kdhelpers.reporting.framework import show_framework


def texts_of(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("image_size", [32, 128])
def test_the_drawing_says_what_the_networks_are(source, protocol, image_size):
    cloner = networks.make_cloner(protocol, 0)
    texts = texts_of(show_framework(image_size, protocol))
    convolutions = [layer for network in (source, cloner) for layer in network if isinstance(layer, nn.Conv2d)]
    assert [int(text) for text in texts if text.isdigit()] == [layer.out_channels for layer in convolutions]
    for row in networks.describe(source, cloner, image_size):
        shape = " × ".join(map(str, row["channels, height, width"]))
        assert any(text.startswith(f"{row['critical point']}\n{shape}") for text in texts)
    for network in (source, cloner):
        count = f"\n{sum(p.numel() for p in network.parameters()):,} parameters"
        assert any(count in text for text in texts)
