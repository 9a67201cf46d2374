"""Figure 2 against the networks it draws."""

from torch import nn

from kdhelpers import networks
from kdhelpers.reporting.framework import IMAGE_SIZE, show_framework


def test_the_drawing_says_what_the_networks_are(source, protocol):
    cloner = networks.make_cloner(protocol, 0)
    texts = [text.get_text() for text in show_framework(protocol).axes[0].texts]
    convolutions = [layer for network in (source, cloner) for layer in network if isinstance(layer, nn.Conv2d)]
    assert [int(text) for text in texts if text.isdigit()] == [layer.out_channels for layer in convolutions]
    for row in networks.describe(source, cloner, IMAGE_SIZE):
        shape = " × ".join(map(str, row["channels, height, width"]))
        assert any(text.startswith(f"{row['critical point']}\n{shape}") for text in texts)
    for name, network in (("S", source), ("C", cloner)):
        count = sum(p.numel() for p in network.parameters())
        assert row[f"parameters of {name}"] == count  # up to the last critical point: all
        assert any(f"\n{count:,} parameters" in text for text in texts)
