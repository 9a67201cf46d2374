"""What is counted is what is computed, plain computes what ours does, and the record is whole. No time is asserted."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kdhelpers import localization, losses, metrics, networks
from kdhelpers.cache import SourceActivations
from kdhelpers.errors import InputError
from kdhelpers.protocols import PROTOCOLS
from kdhelpers.timing import benchmark, running_time
from kdhelpers.timing import released_code as plain

GIVEN = {"PROFILE": "smoke", "PROTOCOL": "official", "SEED": 0, "SOURCE": "untrained", "SIZES": [32], "DEVICE": "cpu"}


@pytest.fixture
def given(tmp_path):
    return GIVEN | {"RESULTS_DIR": str(tmp_path)}


@pytest.fixture
def case(given):
    return running_time.resolve(**given)[0][0]


@pytest.mark.parametrize("size", [32, 64])
def test_operations_are_those_torch_counts(source, protocol, size):
    for network in (source, networks.make_cloner(protocol, seed=0)):
        found = benchmark.operations(network, size)
        x = torch.rand(2, 3, size, size)

        def counted(run):
            with FlopCounterMode(display=False) as flops:
                run()
            return flops.get_total_flops() / (2 * len(x))  # noqa: B023

        assert counted(lambda: network(x)) == found["forward"]  # noqa: B023
        network.requires_grad_(True)
        assert counted(lambda: network(x).sum().backward()) == found["training"]  # noqa: B023
        network.requires_grad_(False)
        x.requires_grad_()
        assert counted(lambda: network(x).sum().backward()) == found["gradient"]  # noqa: B023


# In float32 plain leaves itself by up to 0.006 when only its memory format changes: rounding, which Adam's division by
# the size of a gradient makes steps of. In float64 there is no such thing, and nothing but the arithmetic is compared.
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-9), (torch.float32, 0.02)])
def test_plain_s_losses_are_ours(case, dtype, tolerance):
    found = benchmark.loss_agreement(case, steps=20, dtype=dtype, image_size=64)
    assert len(found["ours"]) == len(found["plain"]) == 20
    np.testing.assert_allclose(found["ours"], found["plain"], rtol=tolerance)
    np.testing.assert_allclose(found["ours"][:2], found["plain"][:2], rtol=1e-4)  # nothing has grown yet
    assert found["ours"][-1] < 0.9 * found["ours"][0]


@pytest.fixture
def trained(source, images):
    """A cloner with a BatchNorm that has moved, and the same in the plain layout."""
    protocol = replace(PROTOCOLS["official"], lam=0.5)
    cloner = networks.make_cloner(protocol, seed=0)
    cloner.train()(images[:])
    return protocol, cloner.eval(), plain.source_of(source), plain.cloner_of(cloner).eval()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_plain_s_scores_are_ours(source, images, trained, batch_size):
    protocol, cloner, plain_source, plain_cloner = trained
    ours = losses.scores(SourceActivations(source, images), cloner, protocol)
    found = plain.scores(plain_source, plain_cloner, images[:], protocol.lam, batch_size)
    np.testing.assert_allclose(found, ours, rtol=1e-4)


def test_plain_s_maps_and_their_auroc_are_ours(source, images, trained):
    protocol, cloner, plain_source, plain_cloner = trained
    ours = localization.maps("gradients", source, cloner, images, protocol, seed=0)["gaussian"]
    found = plain.maps(plain_source, plain_cloner, images[:], protocol.lam)
    opened = np.stack([cv2.morphologyEx(one, cv2.MORPH_OPEN, localization.ELEMENT) for one in found])
    np.testing.assert_allclose(opened, ours, atol=1e-3)
    masks = np.stack([one > np.quantile(one, 0.8) for one in np.roll(found, 5, axis=2)]).astype(np.float32)
    expected = metrics.pixel_auroc(ours, masks)
    assert plain.pixel_auroc(found, masks) == pytest.approx(expected, abs=2e-3)  # a thousand thresholds, not all
    assert 0.3 < expected < 0.99


def test_the_record_is_written_whole_and_found_again(given, tmp_path):
    cases, path = running_time.resolve(**given)
    measured = {case.image_size: benchmark.measure(case, rounds=1) for case in cases}
    machine = benchmark.machine(cases[0].device, small=True)
    article = running_time.whole_article(measured, machine, "official")
    agreement = {"float32": benchmark.loss_agreement(cases[0], steps=2)}
    assert not running_time.is_current(path, cases)
    running_time.write(path, cases, machine, measured, agreement, article)

    assert [found.name for found in path.parent.iterdir()] == [path.name]  # nothing else is left
    record = json.loads(path.read_text())
    assert {"commit", "packages", "threads"} <= record["environment"].keys()
    assert record["measured"]["32"]["training"]["plain"] > 0 and len(record["whole_article"]) == len(article)
    assert running_time.is_current(path, cases)
    assert not running_time.is_current(path, [replace(cases[0], images=17)])

    assert set(running_time.speeds(measured)["px"]) == {32}
    assert "target" not in running_time.targets(measured, machine)  # they are for 128 px
    assert running_time.roofline(measured, machine, title="smoke").axes
    assert (article["basis"] == "extrapolated").sum() > 1
    main = article[article["notebook"] == "01_mnist"].iloc[0]
    assert main["basis"] == "measured" and main["records"] == 100
    assert article.iloc[-1]["ours (h)"] == pytest.approx(article["ours (h)"][:-1].sum())


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("SIZES", [16], "SIZES is .16.: input should be greater than or equal to 32"),
        ("SIZES", 128, "SIZES is 128: input should be a valid list"),
        ("SIZES", [], "SIZES is .."),
        ("CLASSES", ["3"], "unknown parameter CLASSES; 21_running_time has PROFILE, RESULTS_DIR, PROTOCOL"),
    ],
)
def test_a_wrong_value_is_refused(given, name, value, message):
    with pytest.raises(InputError, match=message):
        running_time.from_notebook("21_running_time", given | {name: value})


def test_none_stands_for_the_sizes_of_the_article_s_data(given):
    cases, path = running_time.from_notebook("21_running_time", given | {"PROFILE": "full", "SIZES": None})
    assert [case.image_size for case in cases] == [32, 128, 224]
    assert path.parent.name == "running_time" and path.name.endswith("-full.json") and " " not in path.name
