"""Gradients, SmoothGrad and guided backprop against Captum; the map against the released code's procedure."""

from copy import deepcopy

import captum.attr
import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from kdhelpers import localization, losses, metrics, networks
from kdhelpers.localization import guided_relu
from kdhelpers.protocols import PROTOCOLS
from kdhelpers.tests.conftest import pools
from kdhelpers.timing import released_code


class Score(nn.Module):
    """The score as the released code writes it out, for Captum to differentiate; S is no child, so its ReLUs stay."""

    def __init__(self, source, cloner, protocol):
        super().__init__()
        self.cloner, self.protocol, self.outside = cloner, protocol, [source]

    def forward(self, x):
        with torch.set_grad_enabled(self.protocol.gradient == "both"):
            s = pools(self.outside[0], x)
        c = pools(self.cloner, x)
        cosine = nn.CosineSimilarity()
        used = range(1, 4) if self.protocol.name == "official" else range(4)
        l_dir = sum(1 - cosine(s[i].flatten(1), c[i].flatten(1)) for i in used)
        l_val = sum(((s[i] - c[i]) ** 2).mean((1, 2, 3)) for i in used)
        lam = self.protocol.lam
        return l_dir + lam * l_val if self.protocol.name == "official" else l_val + lam * l_dir


@pytest.fixture
def case(source, protocol, images):
    """Everything in float64, ReLUs not in place for Captum's sake."""
    cloner = networks.make_cloner(protocol, seed=0).double()
    cloner(images[:].double())  # a trained BatchNorm has moved from its start
    cloner.eval()
    double = deepcopy(source).double()
    plain = Score(deepcopy(double), deepcopy(cloner), protocol)
    for module in [*plain.outside[0], *plain.cloner]:
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return double, cloner, images[:3].double(), plain


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def test_gradients_equal_captum_s(case, protocol):
    source, cloner, x, plain = case
    expected = captum.attr.Saliency(plain).attribute(x.clone(), abs=False)
    assert relative(localization.gradients(source, cloner, x, protocol), expected) < 1e-10
    found = localization.gradients(deepcopy(source).float(), deepcopy(cloner).float(), x.float(), protocol)
    assert relative(found.double(), expected) < 1e-5  # in the precision of a real run, too


def test_guided_backprop_equals_captum_s_and_leaves_nothing_behind(case, protocol):
    source, cloner, x, plain = case
    before = localization.gradients(source, cloner, x, protocol)
    expected = captum.attr.GuidedBackprop(plain).attribute(x.clone())
    found = localization.gradients(source, cloner, x, protocol, relu=guided_relu)
    assert relative(found, expected) < 1e-10
    assert relative(expected, before) > 0.01  # it is something else than gradients
    assert torch.equal(localization.gradients(source, cloner, x, protocol), before)


def test_smoothgrad_equals_captum_s_gradients_averaged_by_hand(case, protocol, monkeypatch):
    assert localization.SMOOTHGRAD_SAMPLES == 50
    monkeypatch.setattr(localization, "SMOOTHGRAD_SAMPLES", 3)
    source, cloner, x, plain = case

    def generators():
        return [torch.Generator().manual_seed(5 + i) for i in range(len(x))]

    found = localization.smoothgrad(source, cloner, x, protocol, generators())
    saliency = captum.attr.Saliency(plain)
    expected = np.zeros(found.shape)
    for i, (image, noise) in enumerate(zip(x, generators(), strict=True)):
        for _ in range(3):
            sigma = 0.05 / (image.max() - image.min())
            noisy = (image + sigma**2 * torch.randn(image.shape, generator=noise, dtype=x.dtype)).unsqueeze(0)
            grey = np.abs(saliency.attribute(noisy, abs=False)[0].numpy()).sum(0)
            top, bottom = np.percentile(grey, 99), grey.min()
            expected[i] += np.clip((grey - bottom) / (top - bottom), 0, 1) / 3
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-12)


def test_smoothgrad_repeats_with_its_seed(source, images, monkeypatch):
    monkeypatch.setattr(localization, "SMOOTHGRAD_SAMPLES", 2)
    protocol, few = PROTOCOLS["official"], images.subset(slice(0, 2))
    cloner = networks.make_cloner(protocol, seed=0).eval()
    maps = [localization.attribution("smoothgrad", source, cloner, few, protocol, seed=s) for s in (1, 1, 2)]
    assert np.array_equal(maps[0], maps[1])
    assert not np.array_equal(maps[0], maps[2])


def test_one_channel_of_a_flat_gradient_is_zero():
    assert torch.equal(localization.one_channel(torch.zeros(1, 3, 4, 4)), torch.zeros(1, 4, 4))


@pytest.mark.parametrize("gaussian", [True, False])
def test_opening_the_grey_map_is_a_thousand_openings(gaussian):
    rng = np.random.default_rng(0)
    attributions = rng.random((5, 48, 48), dtype=np.float32)
    masks = np.zeros((5, 48, 48), np.float32)
    for i, mask in enumerate(masks):
        mask[5 * i : 5 * i + 12, 10:30] = 1
        attributions[i] += 0.6 * mask
    attributions /= attributions.max()
    masks = np.stack([cv2.GaussianBlur(m, (3, 3), 0) for m in masks])  # soft, as after resizing

    assert localization.ELEMENT.tolist() == [[0, 1, 0], [1, 1, 1], [0, 1, 0]]  # OpenCV's ellipse of 3×3
    found = metrics.pixel_auroc(localization.localization_map(attributions, gaussian=gaussian), masks)
    smooth = np.stack([gaussian_filter(a, sigma=4) for a in attributions]) if gaussian else attributions
    assert found == pytest.approx(released_code.pixel_auroc(smooth, masks), abs=1e-4)
    assert 0.6 < found < 0.999


def test_disagreement_is_the_loss_where_networks_differ_and_falls_off_from_there(protocol):
    """They differ in the upper right corner alone: there the map is its score, and fades as bilinear resizing does."""
    rng = torch.Generator().manual_seed(0)
    a_s, corner = ([torch.rand(2, 8, 2, 2, generator=rng, dtype=torch.float64) for _ in range(4)] for _ in range(2))
    a_c = [torch.where(torch.tensor([[False, True], [False, False]]), c, s) for s, c in zip(a_s, corner, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        found = iter((a_s, a_c))
        points = min(protocol.score_points, protocol.points)
        patch.setattr(localization, "critical_points", lambda network, x, points: next(found)[-points:])
        x = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
        heat = localization.disagreement(None, None, x, protocol)
    expected = losses.score(*([a[:, :, :1, 1:] for a in each] for each in (a_s, a_c)), protocol).view(2, 1, 1)
    fades = torch.tensor([1, 0.75, 0.25, 0], dtype=torch.float64)
    assert torch.allclose(heat, expected * torch.outer(fades, fades.flip(0)), atol=1e-6) and points in (3, 4)


def test_edges_are_where_the_brightness_changes_and_need_no_network(images):
    found = localization.attribution("edges", None, networks.make_cloner(PROTOCOLS["official"], seed=0), images, None)
    for x, edges in zip(images[:], found, strict=True):
        grey = x.double().mean(0).numpy()
        padded = np.pad(grey, 1, mode="reflect", reflect_type="odd")  # so that differences at the border are one-sided
        across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
        np.testing.assert_allclose(edges, np.sqrt(across**2 + down**2) / 2, atol=1e-6)


def test_each_method_has_its_own_maps_and_some_are_stretched_once_more(source, images, protocol, monkeypatch):
    cloner, x = networks.make_cloner(protocol, seed=0).eval(), images[:]
    gradients = [localization.gradients(source, cloner, x, protocol, relu) for relu in (None, guided_relu)]
    plain, guided = map(localization.one_channel, gradients)
    monkeypatch.setattr(localization, "smoothgrad", lambda *_: 0.2 + 0.4 * plain)
    stretched = plain if protocol.renormalise else 0.2 + 0.4 * plain
    for method, expected in (("gradients", plain), ("guided_backprop", guided), ("smoothgrad", stretched)):
        found = localization.attribution(method, source, cloner, images, protocol)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (plain - guided).abs().max() > 0.1


def test_an_unknown_method_is_no_other_one(source, images, protocol):
    with pytest.raises(ValueError, match="'gradient'; there are gradients, "):
        localization.attribution("gradient", source, networks.make_cloner(protocol, seed=0), images, protocol)
