"""The training step against one written out plainly, with the source inside the step as in the released code."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdhelpers import networks, training
from kdhelpers.cache import SourceActivations
from kdhelpers.experiments import runner
from kdhelpers.protocols import LAST_EPOCHS, PROTOCOLS
from kdhelpers.tests.conftest import pools

OFFICIAL = PROTOCOLS["official"]


def fit(source, images, protocol, *, epochs, test=None, seed=0, cache="auto", **options):
    cloner = networks.make_cloner(protocol, seed)
    known = SourceActivations(source, images, cache=cache)
    test = None if test is None else SourceActivations(source, test)
    return training.fit(known, cloner, protocol, epochs=epochs, batch_size=4, seed=seed, test=test, **options), cloner


@pytest.mark.parametrize("points", [4, 2])
def test_the_step_equals_a_plain_one(source, images, points):
    found, cloner = fit(source, images, replace(OFFICIAL, points=points), epochs=3)

    plain = networks.make_cloner(OFFICIAL, 0)
    optimiser = torch.optim.Adam(plain.parameters(), lr=0.001)
    order, curve = torch.Generator().manual_seed(0), []
    for _ in range(3):
        plain.train()
        losses = []
        for batch in torch.randperm(7, generator=order).split(4):
            x = images.pixels[batch] / 255
            mse, cosine = nn.MSELoss(), nn.CosineSimilarity()
            total = 0
            for real, predicted in zip(pools(source, x)[-points:], pools(plain, x)[-points:], strict=True):
                total = total + (1 - cosine(predicted.flatten(1), real.flatten(1))).mean() + 0.01 * mse(predicted, real)
            optimiser.zero_grad()
            total.backward()
            optimiser.step()
            losses.append(total.item() * len(batch))
        curve.append(sum(losses) / 7)

    assert found.loss == pytest.approx(curve, rel=1e-4)
    assert found.loss[-1] < found.loss[0]
    assert len(found.loss_val) == len(found.loss_dir) == 3
    assert found.loss == pytest.approx([d + 0.01 * v for v, d in zip(found.loss_val, found.loss_dir, strict=True)])
    for mine, theirs in zip(cloner.parameters(), plain.parameters(), strict=True):
        # Where a gradient is all rounding, Adam turns its sign into a step: less than one after six.
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_the_last_ten_epochs_are_scored(source, images):
    few = images.subset(slice(0, 3))
    assert fit(source, few, OFFICIAL, epochs=2, test=images)[0].scores.shape == (2, 7)
    assert fit(source, few, OFFICIAL, epochs=12, test=images)[0].scores.shape == (LAST_EPOCHS, 7)
    assert fit(source, few, OFFICIAL, epochs=21, test=images)[0].scored == [10, *range(12, 22)]


def test_text_calibrates_lambda_and_stops_when_converged(source, images):
    still = replace(PROTOCOLS["text"], learning_rate=0.0)
    found, _ = fit(source, images, still, epochs=100, test=images)
    assert found.protocol.lam > 0
    assert len(found.loss) == 3 * LAST_EPOCHS  # twenty to see that nothing moves, ten to report on
    assert found.scored == [10, 20, *range(21, 31)]
    assert np.ptp(found.scores, axis=0).max() == 0
    assert len(fit(source, images, still, epochs=25)[0].loss) == 25  # the protocol's epochs are a maximum
    assert training.has_converged([1.0] * 10 + [0.991] * 10) and not training.has_converged([1.0] * 10 + [0.989] * 10)
    assert not training.has_converged([1.0] * 10 + [0.5] * 4 + [1.0] * 6)  # means, not medians


def test_the_total_loss_decides_when_training_has_converged(source, images, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "has_converged", seen.append)
    assert fit(source, images, PROTOCOLS["text"], epochs=2)[0].loss == seen[-1]


@pytest.mark.parametrize("rate, loss", [(0.1, r"\d\S*e\+"), (1e30, "(inf|nan)")])
def test_a_loss_that_explodes_stops_naming_epoch_and_step(source, images, rate, loss):
    with pytest.raises(FloatingPointError, match=f"epoch 1, step 2: the loss is {loss}"):
        fit(source, images, replace(OFFICIAL, learning_rate=rate, batch_norm=False), epochs=3)


def test_both_networks_see_the_augmented_images(source, images):
    flipped = replace(images, pixels=images.pixels.flip(3))
    ways = (flipped, None), (images, lambda x: x.flip(3))
    expected, found = (fit(source, seen, OFFICIAL, epochs=2, augment=a)[0].loss for seen, a in ways)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_seed_decides_the_augmentation(source, images):
    drawn = []
    for seed in (0, 1, 0):
        fit(source, images, OFFICIAL, epochs=1, seed=seed, augment=lambda x: drawn.append(torch.rand(1).item()) or x)
    first, other, again = drawn[:2], drawn[2:4], drawn[4:]
    assert first == again and not set(first) & set(other)


def test_no_graph_has_work_on_the_cpu_in_it(source, images, monkeypatch):
    monkeypatch.setattr(training.graphs, "usable", lambda _: True)
    monkeypatch.setattr(training.graphs, "GraphedStep", lambda *_: pytest.fail("a graph"))
    for options in ({"augment": lambda x: x}, {"cache": "host"}):
        fit(source, images, OFFICIAL, epochs=1, **options)


def test_augmentation_turns_and_scales_each_image_within_its_limits():
    x = torch.zeros(64, 3, 64, 64)
    x[..., 28:36, 50:58] = 1  # a mark 22 pixels from the middle, that moves with the image
    torch.manual_seed(0)
    moved = training.random_affine(runner.DEGREES, runner.SCALE)(x)
    assert moved.shape == x.shape
    height, width = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    y, x_ = ((moved[:, 0] * side).sum((1, 2)) / moved[:, 0].sum((1, 2)) for side in (height, width))
    angles, scales = torch.rad2deg(torch.atan2(y, x_)), torch.hypot(y, x_) / 22
    assert -21 < angles.min() < -17 and 17 < angles.max() < 21
    assert 0.89 < scales.min() < 0.92 and 1.03 < scales.max() < 1.06


class Operations(TorchDispatchMode):
    """Counts what is dispatched, but for views and what the profiler and the allocator add."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name()
        if not (operation.is_view or name.startswith(("aten::detach", "aten::empty", "profiler::"))):
            self.found[name] += 1
        return operation(*args, **(kwargs or {}))


def test_a_step_waits_for_nothing_and_takes_few_operations(source, images):
    cloner, known = networks.make_cloner(OFFICIAL, 0), SourceActivations(source, replace(images, normalise=True))
    step = partial(training.train_step, known, cloner, OFFICIAL, training.make_optimiser(cloner, OFFICIAL), None)
    counts = []
    for steps in (1, 1, 2):  # the first makes Adam's moments
        with Operations() as count:
            training.train_one_epoch(step, cloner, torch.arange(2 * steps), 2)
        counts.append(count.found)
    assert sum((counts[2] - counts[1]).values()) <= 200
    assert not any(name.startswith(("aten::_local_scalar", "aten::item", "aten::nonzero")) for name in counts[2])
